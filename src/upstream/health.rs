//! The health of a backend: what requests saw (passive) and what probes saw (active).
//!
//! Passive: after `unhealthy_after` failures in a row it rests, twice as long each time; then one request
//! tries it (half open) while the others stay away. A rest ends with the answer to a request that was sent after
//! it began, the trial or another; what was sent before says nothing about now. One caller alone takes it from
//! nobody else: its failures are those of a row only together with another's ([`super::callers`] keeps that
//! caller away), unless it could not be reached at all. Active: probes that fail in a row take it out until
//! enough succeed. Atomics only, since every request asks.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::{Moment, millis};
use crate::settings::fault::Faults;
use crate::settings::units::Span;

/// Probes more frequent than this are a load.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// `backends.NAME.health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "BackendHealth")]
pub struct Written {
    /// Where probes ask, such as `/health`; empty for a TCP connection.
    pub path: String,
    /// Time between two probes; 0 for none.
    pub interval: Span,
    /// How long a probe may take.
    pub timeout: Span,
    /// Failures in a row, of requests or of probes, after which it is left alone.
    pub unhealthy_after: u32,
    /// Good probes in a row after which it is used again.
    pub healthy_after: u32,
    /// How long it rests after failed requests; twice as long each time.
    pub rest: Span,
    /// The longest rest, also when the backend itself asks for a longer one.
    pub max_rest: Span,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            path: String::new(),
            interval: Span(Duration::ZERO),
            timeout: Span::secs(2),
            unhealthy_after: 3,
            healthy_after: 2,
            rest: Span::secs(10),
            max_rest: Span::secs(300),
        }
    }
}

/// The compiled section.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Where probes ask; `None` for a TCP connection.
    pub path: Option<Box<str>>,
    /// Time between two probes; `None` for none.
    pub interval: Option<Duration>,
    /// How long a probe may take.
    pub timeout: Duration,
    pub(super) unhealthy_after: u32,
    healthy_after: u32,
    rest: Duration,
    pub(super) max_rest: Duration,
}

impl Settings {
    /// How long the rest after so many rests in a row is.
    pub(super) fn rest_after(&self, rests: u32) -> Duration {
        self.rest.saturating_mul(1 << rests.min(20)).min(self.max_rest)
    }
}

impl Written {
    /// Compiles the section of the backend `name`.
    pub fn compile(self, name: &str, faults: &mut Faults) -> Option<Settings> {
        let at = |key: &str| format!("backends.{name}.health.{key}");
        let mut good = true;
        let mut fault = |key: &str, message: String, hint: &str| {
            faults.add(at(key), message, hint);
            good = false;
        };
        if !self.path.is_empty()
            && (!self.path.starts_with('/') || !self.path.bytes().all(|b| b.is_ascii_graphic()))
        {
            fault(
                "path",
                format!("'{}' is not a path", self.path),
                "write it like /health, or leave it empty",
            );
        }
        if self.interval.limit().is_some_and(|interval| interval < LEAST_INTERVAL) {
            fault(
                "interval",
                format!("{} is too short", self.interval),
                "write 100ms or more, or 0 for none",
            );
        }
        if self.timeout.0.is_zero() {
            fault("timeout", "a probe needs time".into(), "write a time such as 2s");
        }
        for (key, count) in [("unhealthy_after", self.unhealthy_after), ("healthy_after", self.healthy_after)]
        {
            if count == 0 {
                fault(key, "0 is not a number of times in a row".into(), "write 1 or more");
            }
        }
        if self.rest.0.is_zero() || self.rest.0 > self.max_rest.0 {
            let message = format!("{} is not between 0 and max_rest ({})", self.rest, self.max_rest);
            fault("rest", message, "write a time such as 10s");
        }
        good.then(|| Settings {
            path: (!self.path.is_empty()).then(|| self.path.into()),
            interval: self.interval.limit(),
            timeout: self.timeout.0,
            unhealthy_after: self.unhealthy_after,
            healthy_after: self.healthy_after,
            rest: self.rest.0,
            max_rest: self.max_rest.0,
        })
    }
}

/// Whether a backend should be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Yes.
    Up,
    /// By one request, to see whether it has recovered ([`Health::take_trial`]).
    Trial,
    /// Only when nobody else is left.
    Out,
}

/// A request at a backend, as its health sees it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The mark of its caller; never 0 or [`SEVERAL`].
    pub caller: u64,
    /// When the backend was chosen for it.
    pub sent: Moment,
    /// The claim of a trial ([`Health::take_trial`]); `None` for any other request.
    pub trial: Option<u64>,
}

/// Stands for more than one caller.
pub const SEVERAL: u64 = u64::MAX;

/// The health of one backend.
#[derive(Debug, Default)]
pub struct Health {
    /// Failed requests in a row.
    failures: AtomicU32,
    /// Whose they are: 0 for nobody's, the mark of a caller, or [`SEVERAL`].
    failures_of: AtomicU64,
    /// Rests in a row.
    rests: AtomicU32,
    /// When the present rest began, in milliseconds of the clock.
    rests_since: AtomicU64,
    /// Until when it rests, in milliseconds of the clock; 0 while it does not. During a trial the moment from
    /// which another request may try.
    rests_until: AtomicU64,
    /// The caller to whom it said `Retry-After` last, and until when.
    told: AtomicU64,
    told_until: AtomicU64,
    /// Probes say that it is down.
    down: AtomicBool,
    /// Probes in a row: above 0 good ones, below 0 bad ones.
    probes: AtomicI64,
}

impl Health {
    /// Whether it should be asked now.
    pub fn state(&self, now: Moment) -> State {
        if self.down.load(Relaxed) {
            return State::Out;
        }
        match self.rests_until.load(Relaxed) {
            0 => State::Up,
            until if now.as_millis() < until => State::Out,
            _ => State::Trial,
        }
    }

    /// Claims the trial of a backend whose rest is over; one request gets it. When nothing is heard of it
    /// for the length of a rest, another one may try.
    pub fn take_trial(&self, settings: &Settings, now: Moment) -> Option<u64> {
        let until = self.rests_until.load(Relaxed);
        let next = now.as_millis().saturating_add(millis(settings.rest));
        let is_over = until != 0 && until <= now.as_millis();
        let taken = is_over && self.rests_until.compare_exchange(until, next, Relaxed, Relaxed).is_ok();
        taken.then_some(next)
    }

    /// Gives a trial back of which nothing was learnt (its client went away, say): another request may try.
    pub fn give_back_trial(&self, trial: u64) {
        // A failure means that its rest is not this trial's any more.
        let _ = self.rests_until.compare_exchange(trial, 1, Relaxed, Relaxed);
    }

    /// It answered a request that was sent then; true when that ended its rest.
    pub fn answered(&self, sent: Moment) -> bool {
        if self.failures_of.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.failures_of.store(0, Relaxed);
        }
        if self.rests_until.load(Relaxed) == 0 || sent.as_millis() <= self.rests_since.load(Relaxed) {
            return false;
        }
        self.rests.store(0, Relaxed);
        self.rests_until.swap(0, Relaxed) != 0
    }

    /// A request failed at it; how long it rests now, if this was one too many. With `unreached` it could not be
    /// connected to, which no caller can bring about. What was sent before it rested, and what fails while it
    /// rests anyway, changes nothing.
    pub fn failed(
        &self,
        attempt: Attempt,
        unreached: bool,
        settings: &Settings,
        now: Moment,
    ) -> Option<Duration> {
        let until = self.rests_until.load(Relaxed);
        // A claim that another request has taken over, or an answer has ended, is a request like any other.
        let is_trial = attempt.trial.is_some_and(|trial| trial == until);
        let is_old = until != 0 && attempt.sent.as_millis() <= self.rests_since.load(Relaxed);
        if is_old || (!is_trial && until > now.as_millis()) {
            return None;
        }
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        let of_several = self.adds_caller(if unreached { SEVERAL } else { attempt.caller });
        if !is_trial && failures >= settings.unhealthy_after && !of_several {
            // One more, of anybody else's, is enough.
            self.failures.store(settings.unhealthy_after - 1, Relaxed);
            return None;
        }
        if !is_trial && failures < settings.unhealthy_after {
            return None;
        }
        self.failures.store(0, Relaxed);
        self.failures_of.store(0, Relaxed);
        let length = settings.rest_after(self.rests.fetch_add(1, Relaxed));
        self.rests_since.store(now.as_millis(), Relaxed);
        self.rests_until.store(now.as_millis().saturating_add(millis(length)), Relaxed);
        Some(length)
    }

    /// Adds a caller to those whose requests failed in a row; true when they are several.
    fn adds_caller(&self, caller: u64) -> bool {
        match self.failures_of.compare_exchange(0, caller, Relaxed, Relaxed) {
            Ok(_) => caller == SEVERAL,
            Err(of) if of == caller => caller == SEVERAL,
            Err(_) => {
                self.failures_of.store(SEVERAL, Relaxed);
                true
            }
        }
    }

    /// It asked a caller to be left alone for `wait` (`Retry-After`). The first one is asked for itself alone;
    /// when a second one is within that time, all are: how long it rests then.
    pub fn asked_for_rest(
        &self,
        attempt: Attempt,
        wait: Duration,
        settings: &Settings,
        now: Moment,
    ) -> Option<Duration> {
        let wait = wait.min(settings.max_rest);
        let until = now.as_millis().saturating_add(millis(wait));
        let before = (self.told.swap(attempt.caller, Relaxed), self.told_until.swap(until, Relaxed));
        let is_second = before.0 != 0 && before.0 != attempt.caller && before.1 > now.as_millis();
        // `failed` has prolonged the rest of a trial; a backend that does not rest had none.
        let is_trial = attempt.trial.is_some() && self.rests_until.load(Relaxed) != 0;
        if !is_second && !is_trial {
            return None;
        }
        self.rests_since.store(now.as_millis(), Relaxed);
        self.rests_until.fetch_max(until, Relaxed);
        Some(wait)
    }

    /// A probe has ended. `Some(true)` when it is up again with this one, `Some(false)` when it is down now.
    pub fn probed(&self, good: bool, settings: &Settings) -> Option<bool> {
        let before = self.probes.load(Relaxed);
        // Probes of one backend come one after the other.
        let now = if good { before.max(0) + 1 } else { before.min(0) - 1 };
        self.probes.store(now, Relaxed);
        let down = self.down.load(Relaxed);
        if good && down && now >= i64::from(settings.healthy_after) {
            self.down.store(false, Relaxed);
            self.failures.store(0, Relaxed);
            self.failures_of.store(0, Relaxed);
            self.rests.store(0, Relaxed);
            self.rests_until.store(0, Relaxed);
            return Some(true);
        }
        if !good && !down && -now >= i64::from(settings.unhealthy_after) {
            self.down.store(true, Relaxed);
            return Some(false);
        }
        None
    }

    /// True when neither requests nor probes say otherwise.
    pub fn is_good(&self) -> bool {
        !self.down.load(Relaxed) && self.rests_until.load(Relaxed) == 0
    }

    /// How much longer it rests; `None` when it does not.
    pub fn rests_for(&self, now: Moment) -> Option<Duration> {
        let until = Moment::from_millis(self.rests_until.load(Relaxed));
        Some(until.since(now)).filter(|rest| !rest.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let written = Written { rest: Span::secs(10), max_rest: Span::secs(60), ..Written::default() };
        written.compile("b", &mut Faults::default()).unwrap()
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(1 + seconds * 1000)
    }

    const ADA: u64 = 1;
    const BOB: u64 = 2;

    fn sent(caller: u64, at: Moment) -> Attempt {
        Attempt { caller, sent: at, trial: None }
    }

    /// A failure of a request that was sent just now.
    fn fail(health: &Health, caller: u64, now: Moment) -> Option<Duration> {
        health.failed(sent(caller, now), false, &settings(), now)
    }

    /// A backend that rests from this second on, for ten of them.
    fn resting(since: u64) -> Health {
        let health = Health::default();
        for caller in [ADA, BOB, ADA] {
            fail(&health, caller, at(since));
        }
        assert_eq!(health.rests_for(at(since)), Some(Duration::from_secs(10)));
        health
    }

    #[test]
    fn it_rests_after_failures_in_a_row_and_longer_each_time() {
        let (health, settings) = (Health::default(), settings());
        assert_eq!(fail(&health, ADA, at(0)), None);
        assert_eq!(fail(&health, BOB, at(0)), None);
        health.answered(at(0));
        assert_eq!(fail(&health, ADA, at(0)), None, "an answer begins the count anew");
        assert_eq!(fail(&health, BOB, at(0)), None);
        assert_eq!(fail(&health, ADA, at(0)), Some(Duration::from_secs(10)));
        assert_eq!((health.state(at(9)), health.is_good()), (State::Out, false));
        for _ in 0..100 {
            assert_eq!(fail(&health, BOB, at(9)), None, "what fails meanwhile changes nothing");
        }
        let mut now = 10;
        for rest in [20, 40, 60, 60] {
            assert_eq!(health.state(at(now)), State::Trial);
            let trial = health.take_trial(&settings, at(now));
            assert!(trial.is_some(), "one may try");
            assert_eq!(health.take_trial(&settings, at(now)), None, "and no other");
            assert_eq!(health.state(at(now)), State::Out);
            let attempt = Attempt { trial, ..sent(ADA, at(now)) };
            assert_eq!(
                health.failed(attempt, false, &settings, at(now)),
                Some(Duration::from_secs(rest)),
                "the trial of one caller is enough"
            );
            now += rest;
        }
        assert!(health.take_trial(&settings, at(now)).is_some());
        assert!(health.answered(at(now)));
        assert_eq!((health.state(at(now)), health.is_good()), (State::Up, true));
        assert!(!health.answered(at(now)));
        for caller in [ADA, BOB] {
            assert_eq!(fail(&health, caller, at(now)), None, "one failure is forgiven again");
        }
        assert_eq!(fail(&health, ADA, at(now)), Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_trial_that_another_has_decided_is_a_request_like_any_other() {
        let (health, settings) = (resting(5), settings());
        let stale = health.take_trial(&settings, at(15));
        assert!(stale.is_some() && health.take_trial(&settings, at(25)).is_some());
        assert!(health.answered(at(25)));
        let attempt = Attempt { trial: stale, ..sent(ADA, at(15)) };
        assert_eq!(health.failed(attempt, false, &settings, at(26)), None, "one caller alone ejects nobody");
        assert_eq!(health.state(at(26)), State::Up);
    }

    #[test]
    fn what_was_sent_before_a_rest_neither_ends_nor_prolongs_it() {
        let (health, settings) = (resting(5), settings());
        assert!(!health.answered(at(4)) && !health.answered(at(5)));
        assert_eq!((health.state(at(6)), health.is_good()), (State::Out, false));
        let trial = health.take_trial(&settings, at(15));
        assert_eq!(
            health.failed(sent(BOB, at(4)), false, &settings, at(16)),
            None,
            "no verdict on the trial"
        );
        assert_eq!(health.state(at(24)), State::Out, "which goes on");
        let attempt = Attempt { trial, ..sent(ADA, at(15)) };
        assert_eq!(health.failed(attempt, false, &settings, at(17)), Some(Duration::from_secs(20)));
        assert!(health.answered(at(18)), "when all are out it is asked anyway, and answers");
        assert!(health.is_good());
    }

    #[test]
    fn one_caller_alone_takes_it_from_nobody() {
        let (health, settings) = (Health::default(), settings());
        for _ in 0..100 {
            assert_eq!(fail(&health, ADA, at(0)), None);
        }
        assert_eq!(health.state(at(0)), State::Up);
        assert_eq!(
            fail(&health, BOB, at(0)),
            Some(Duration::from_secs(10)),
            "another one has the same to say"
        );
        let unreached = Health::default();
        for rest in [None, None, Some(Duration::from_secs(10))] {
            assert_eq!(unreached.failed(sent(ADA, at(0)), true, &settings, at(0)), rest);
        }
    }

    #[test]
    fn a_trial_of_which_nothing_is_heard_is_given_to_another() {
        let (health, settings) = (resting(0), settings());
        assert!(health.take_trial(&settings, at(10)).is_some());
        assert_eq!(health.state(at(19)), State::Out);
        let second = health.take_trial(&settings, at(20)).unwrap();
        health.give_back_trial(second);
        assert_eq!(health.state(at(20)), State::Trial, "given back, it need not be waited for");
        let third = health.take_trial(&settings, at(20)).unwrap();
        assert!(health.answered(at(20)));
        health.give_back_trial(third);
        assert_eq!(health.state(at(20)), State::Up);
    }

    #[test]
    fn what_it_asks_of_two_is_for_all_and_capped() {
        let (health, settings) = (Health::default(), settings());
        let day = Duration::from_secs(86_400);
        let asked = |caller, now| health.asked_for_rest(sent(caller, now), day, &settings, now);
        assert_eq!((asked(ADA, at(0)), asked(ADA, at(1)), health.is_good()), (None, None, true));
        assert_eq!(asked(BOB, at(62)), None, "what Ada was told is over");
        assert_eq!(asked(ADA, at(63)), Some(Duration::from_secs(60)));
        assert_eq!(health.rests_for(at(63)), Some(Duration::from_secs(60)));
        assert_eq!((health.state(at(122)), health.state(at(123))), (State::Out, State::Trial));
        assert!(!health.answered(at(63)) && health.answered(at(64)));
    }

    #[test]
    fn probes_decide_by_rows() {
        let (health, settings) = (Health::default(), settings());
        let told: Vec<Option<bool>> =
            [false, false, true, false, false, false, false, true, false, true, true]
                .map(|good| health.probed(good, &settings))
                .to_vec();
        let mut expected = vec![None; 11];
        (expected[5], expected[10]) = (Some(false), Some(true));
        assert_eq!(told, expected);
        assert_eq!(health.state(at(0)), State::Up);
    }

    #[test]
    fn faults_name_the_key() {
        let mut faults = Faults::default();
        let written = Written {
            path: "health".into(),
            interval: Span(Duration::from_millis(1)),
            unhealthy_after: 0,
            rest: Span::secs(600),
            ..Written::default()
        };
        assert_eq!(written.compile("b", &mut faults), None);
        let told = faults.to_string();
        for key in ["path: 'health'", "interval: 1ms", "unhealthy_after: 0", "rest: 10m"] {
            assert!(told.contains(&format!("backends.b.health.{key}")), "{key} in {told}");
        }
    }
}
