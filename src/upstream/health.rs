//! The health of a backend: what requests saw (passive) and what probes saw (active).
//!
//! Passive: after `unhealthy_after` failures in a row it rests, twice as long each time; then one request
//! tries it (half open) while the others stay away. Active: probes that fail in a row take it out until
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
    unhealthy_after: u32,
    healthy_after: u32,
    rest: Duration,
    max_rest: Duration,
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

/// The health of one backend.
#[derive(Debug, Default)]
pub struct Health {
    /// Failed requests in a row.
    failures: AtomicU32,
    /// Rests in a row.
    rests: AtomicU32,
    /// Until when it rests, in milliseconds of the clock; 0 while it does not.
    rests_until: AtomicU64,
    /// A request tries whether it has recovered.
    on_trial: AtomicBool,
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
    pub fn take_trial(&self, settings: &Settings, now: Moment) -> bool {
        let until = self.rests_until.load(Relaxed);
        let next = now.as_millis().saturating_add(millis(settings.rest));
        let is_over = until != 0 && until <= now.as_millis();
        let taken = is_over && self.rests_until.compare_exchange(until, next, Relaxed, Relaxed).is_ok();
        if taken {
            self.on_trial.store(true, Relaxed);
        }
        taken
    }

    /// It answered; true when it had rested.
    pub fn answered(&self) -> bool {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.rests_until.load(Relaxed) == 0 {
            return false;
        }
        self.rests.store(0, Relaxed);
        self.on_trial.store(false, Relaxed);
        self.rests_until.swap(0, Relaxed) != 0
    }

    /// A request failed at it; how long it rests now, if this was one too many. What fails while it rests
    /// anyway was sent before, and changes nothing.
    pub fn failed(&self, settings: &Settings, now: Moment) -> Option<Duration> {
        let had_trial = self.on_trial.swap(false, Relaxed);
        if !had_trial && self.rests_until.load(Relaxed) > now.as_millis() {
            return None;
        }
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if !had_trial && failures < settings.unhealthy_after {
            return None;
        }
        self.failures.store(0, Relaxed);
        let rests = self.rests.fetch_add(1, Relaxed);
        let length = settings.rest.saturating_mul(1 << rests.min(20)).min(settings.max_rest);
        self.rests_until.store(now.as_millis().saturating_add(millis(length)), Relaxed);
        Some(length)
    }

    /// It asked to be left alone for `wait` (`Retry-After`); how long it is.
    pub fn asked_for_rest(&self, wait: Duration, settings: &Settings, now: Moment) -> Duration {
        let wait = wait.min(settings.max_rest);
        self.on_trial.store(false, Relaxed);
        self.rests_until.fetch_max(now.as_millis().saturating_add(millis(wait)), Relaxed);
        wait
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
            self.answered();
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

    #[test]
    fn it_rests_after_failures_in_a_row_and_longer_each_time() {
        let (health, settings) = (Health::default(), settings());
        assert_eq!(health.failed(&settings, at(0)), None);
        assert_eq!(health.failed(&settings, at(0)), None);
        health.answered();
        assert_eq!(health.failed(&settings, at(0)), None, "an answer begins the count anew");
        assert_eq!(health.failed(&settings, at(0)), None);
        assert_eq!(health.failed(&settings, at(0)), Some(Duration::from_secs(10)));
        assert_eq!((health.state(at(9)), health.is_good()), (State::Out, false));
        for _ in 0..100 {
            assert_eq!(health.failed(&settings, at(9)), None, "what was under way changes nothing");
        }
        let mut now = 10;
        for rest in [20, 40, 60, 60] {
            assert_eq!(health.state(at(now)), State::Trial);
            assert!(health.take_trial(&settings, at(now)), "one may try");
            assert!(!health.take_trial(&settings, at(now)), "and no other");
            assert_eq!(health.state(at(now)), State::Out);
            assert_eq!(health.failed(&settings, at(now)), Some(Duration::from_secs(rest)));
            now += rest;
        }
        assert!(health.take_trial(&settings, at(now)));
        assert!(health.answered());
        assert_eq!((health.state(at(now)), health.is_good()), (State::Up, true));
        assert!(!health.answered());
        for _ in 0..2 {
            assert_eq!(health.failed(&settings, at(now)), None, "one failure is forgiven again");
        }
        assert_eq!(health.failed(&settings, at(now)), Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_trial_of_which_nothing_is_heard_is_given_to_another() {
        let (health, settings) = (Health::default(), settings());
        health.asked_for_rest(Duration::from_secs(5), &settings, at(0));
        assert!(health.take_trial(&settings, at(5)));
        assert_eq!(health.state(at(14)), State::Out);
        assert!(health.take_trial(&settings, at(15)));
    }

    #[test]
    fn what_it_asks_for_is_capped() {
        let (health, settings) = (Health::default(), settings());
        let granted = health.asked_for_rest(Duration::from_secs(86_400), &settings, at(0));
        assert_eq!((granted, health.rests_for(at(0))), (Duration::from_secs(60), Some(granted)));
        assert_eq!((health.state(at(59)), health.state(at(60))), (State::Out, State::Trial));
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
