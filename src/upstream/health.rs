//! Health of a backend: outlier ejection by the results of requests (passive) and probes (active).
//!
//! Passive: `unhealthy_after` consecutive failures eject the backend, for twice as long each time. When the time is
//! over, one request is let through (half open) while the others still avoid the backend. A response to any request
//! sent after the ejection began ends it; responses to older requests are ignored.
//!
//! One client cannot take a backend from the others: an ejection needs failures of two callers that differ in principal
//! and in network, because credentials are made up easily, and with `auth: inject` no backend ever checks them. The same
//! holds for `Retry-After` and for failed half-open requests. [`super::callers`] keeps a caller away that fails alone.
//! A failed connection counts for everyone, because no caller causes it.
//!
//! Active: consecutive failed probes take the backend out until enough probes succeed.
//!
//! An operator drains a backend: it gets no new request until it is undrained.
//! The state is all atomics, because every request reads it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reporters::{Caller, Reporters};
use crate::clock::{Moment, millis};
use crate::ids::ClientNetwork;
use crate::settings::fault::Faults;
use crate::settings::units::DurationText;

/// Shortest interval between probes; more frequent ones would load the backend.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// `backends.NAME.health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "BackendHealth")]
pub struct BackendHealthConfig {
    /// Path of the probe request, such as `/health`; empty to only open a TCP connection.
    pub path: String,
    /// Time between two probes; 0 disables them.
    pub interval: DurationText,
    /// Timeout of a probe.
    pub timeout: DurationText,
    /// Consecutive failures, of requests or of probes, after which the backend is ejected.
    pub unhealthy_after: u32,
    /// Consecutive successful probes after which the backend is used again.
    pub healthy_after: u32,
    /// How long the backend is ejected after failed requests; doubled each time.
    pub eject_for: DurationText,
    /// The longest ejection, also when the backend asks for a longer one with `Retry-After`.
    pub max_eject: DurationText,
}

impl Default for BackendHealthConfig {
    fn default() -> Self {
        Self {
            path: String::new(),
            interval: DurationText(Duration::ZERO),
            timeout: DurationText::secs(2),
            unhealthy_after: 3,
            healthy_after: 2,
            eject_for: DurationText::secs(10),
            max_eject: DurationText::secs(300),
        }
    }
}

/// The compiled section.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Path of the probe request; `None` to only open a TCP connection.
    pub path: Option<Box<str>>,
    /// Time between two probes; `None` when the backend is not probed.
    pub interval: Option<Duration>,
    /// Timeout of a probe.
    pub timeout: Duration,
    pub(super) unhealthy_after: u32,
    healthy_after: u32,
    eject_for: Duration,
    pub(super) max_eject: Duration,
}

impl Settings {
    /// Returns the length of the next ejection after this many consecutive ones.
    pub(super) fn ejection_time(&self, ejections: u32) -> Duration {
        self.eject_for.saturating_mul(1 << ejections.min(20)).min(self.max_eject)
    }
}

impl BackendHealthConfig {
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
        if self.eject_for.0.is_zero() || self.eject_for.0 > self.max_eject.0 {
            let message = format!("{} is not between 0 and max_eject ({})", self.eject_for, self.max_eject);
            fault("eject_for", message, "write a time such as 10s");
        }
        good.then(|| Settings {
            path: (!self.path.is_empty()).then(|| self.path.into()),
            interval: self.interval.limit(),
            timeout: self.timeout.0,
            unhealthy_after: self.unhealthy_after,
            healthy_after: self.healthy_after,
            eject_for: self.eject_for.0,
            max_eject: self.max_eject.0,
        })
    }
}

/// Whether requests may be sent to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// They may.
    Up,
    /// One request may, to find out whether the backend has recovered ([`Health::claim_half_open`]).
    HalfOpen,
    /// Only when every other backend is ejected too.
    Ejected,
    /// They may not: an operator has drained the backend.
    Drained,
}

/// One attempt of a request at a backend.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Who sends it.
    pub caller: Caller,
    /// When the backend was chosen for it.
    pub sent: Moment,
    /// The claim returned by [`Health::claim_half_open`]; `None` for any other request.
    pub half_open: Option<u64>,
}

/// The health of one backend.
#[derive(Debug, Default)]
pub struct Health {
    /// Consecutive failed requests.
    failures: AtomicU32,
    /// Whose requests failed.
    failures_of: Reporters,
    /// Consecutive ejections.
    ejections: AtomicU32,
    /// Start of the current ejection, in milliseconds of the clock.
    ejected_since: AtomicU64,
    /// End of the current ejection, in milliseconds of the clock; 0 when not ejected. While half open, the time from
    /// which another request may be let through.
    ejected_until: AtomicU64,
    /// The network whose half-open request failed last while no other network's did, and until when that network is not
    /// given the next one, in milliseconds of the clock.
    failed_alone: AtomicU64,
    failed_alone_until: AtomicU64,
    /// Who received `Retry-After`, and the end of that time.
    told: Reporters,
    told_until: AtomicU64,
    /// The probes have failed.
    down: AtomicBool,
    /// An operator has drained the backend.
    drained: AtomicBool,
    /// Consecutive probe results: above 0 successes, below 0 failures.
    probes: AtomicI64,
}

impl Health {
    /// Returns whether requests of this network may be sent to the backend now.
    pub fn state(&self, network: ClientNetwork, now: Moment) -> HealthState {
        if self.is_drained() {
            return HealthState::Drained;
        }
        if self.down.load(Relaxed) {
            return HealthState::Ejected;
        }
        match self.ejected_until.load(Relaxed) {
            0 => HealthState::Up,
            until if now.as_millis() < until => HealthState::Ejected,
            _ if self.has_failed_alone(network, now) => HealthState::Ejected,
            _ => HealthState::HalfOpen,
        }
    }

    /// Returns true while the half-open slot is for other networks than this one.
    fn has_failed_alone(&self, network: ClientNetwork, now: Moment) -> bool {
        now.as_millis() < self.failed_alone_until.load(Relaxed)
            && self.failed_alone.load(Relaxed) == network.as_u64()
    }

    /// Claims the half-open slot of a backend whose ejection is over. Only one request gets it; if it reports no result
    /// within `eject_for`, another request may claim the slot.
    pub fn claim_half_open(&self, settings: &Settings, now: Moment) -> Option<u64> {
        let until = self.ejected_until.load(Relaxed);
        let next = now.as_millis().saturating_add(millis(settings.eject_for));
        let is_over = until != 0 && until <= now.as_millis();
        let taken = is_over && self.ejected_until.compare_exchange(until, next, Relaxed, Relaxed).is_ok();
        taken.then_some(next)
    }

    /// Releases the half-open slot when the request told nothing about the backend, for instance because its client left.
    pub fn release_half_open(&self, half_open: u64) {
        // Fails when another request has claimed the slot, or an ejection has begun or ended, since.
        let _ = self.ejected_until.compare_exchange(half_open, 1, Relaxed, Relaxed);
    }

    /// Records a response to a request sent at `sent`. Returns true when that ended an ejection.
    pub fn answered(&self, sent: Moment) -> bool {
        if !self.failures_of.is_empty() {
            self.forget_failures();
        }
        if self.ejected_until.load(Relaxed) == 0 || sent.as_millis() <= self.ejected_since.load(Relaxed) {
            return false;
        }
        self.ejections.store(0, Relaxed);
        self.failed_alone_until.store(0, Relaxed);
        self.ejected_until.swap(0, Relaxed) != 0
    }

    /// Records a failed request. Returns the length of the ejection if this failure caused one. `unreached` means that
    /// no connection was made, which no caller can cause. Requests that were sent before the current ejection, or fail
    /// during it, are ignored.
    pub fn failed(
        &self,
        attempt: Attempt,
        unreached: bool,
        settings: &Settings,
        now: Moment,
    ) -> Option<Duration> {
        let until = self.ejected_until.load(Relaxed);
        // A claim that another request has taken over, or that a response has ended, counts as an ordinary request.
        let is_half_open = attempt.half_open.is_some_and(|half_open| half_open == until);
        let is_old = until != 0 && attempt.sent.as_millis() <= self.ejected_since.load(Relaxed);
        if is_old || (!is_half_open && until > now.as_millis()) {
            return None;
        }
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if unreached {
            self.failures_of.add_several();
        }
        let is_confirmed = self.failures_of.add(attempt.caller);
        if is_half_open && !is_confirmed {
            let length = settings.ejection_time(self.ejections.load(Relaxed));
            self.fails_alone(attempt, now.as_millis().saturating_add(millis(length)));
            return None;
        }
        if !is_half_open && failures >= settings.unhealthy_after && !is_confirmed {
            // One more failure, of an independent caller, ejects the backend.
            self.failures.store(settings.unhealthy_after - 1, Relaxed);
            return None;
        }
        if !is_half_open && failures < settings.unhealthy_after {
            return None;
        }
        self.forget_failures();
        let length = settings.ejection_time(self.ejections.fetch_add(1, Relaxed));
        self.ejected_since.store(now.as_millis(), Relaxed);
        self.ejected_until.store(now.as_millis().saturating_add(millis(length)), Relaxed);
        Some(length)
    }

    fn forget_failures(&self) {
        self.failures.store(0, Relaxed);
        self.failures_of.clear();
    }

    /// Gives the half-open slot to other networks until `until`, because nobody has confirmed the failure of this one.
    fn fails_alone(&self, attempt: Attempt, until: u64) {
        let network = attempt.caller.network.as_u64();
        if self.failed_alone.swap(network, Relaxed) == network {
            self.failed_alone_until.fetch_max(until, Relaxed);
        } else {
            self.failed_alone_until.store(until, Relaxed);
        }
        if let Some(half_open) = attempt.half_open {
            self.release_half_open(half_open);
        }
    }

    /// Records a `Retry-After` of `wait`. The first caller to receive one is kept away alone; an independent caller within
    /// that time ejects the backend for all. Returns the length of the ejection in that case.
    pub fn retry_after(
        &self,
        attempt: Attempt,
        wait: Duration,
        settings: &Settings,
        now: Moment,
    ) -> Option<Duration> {
        let wait = wait.min(settings.max_eject);
        let until = now.as_millis().saturating_add(millis(wait));
        if self.told_until.fetch_max(until, Relaxed) <= now.as_millis() {
            self.told.clear();
        }
        if !self.told.add(attempt.caller) {
            if attempt.half_open.is_some() {
                self.fails_alone(attempt, until);
            }
            return None;
        }
        self.told.clear();
        self.ejected_since.store(now.as_millis(), Relaxed);
        self.ejected_until.fetch_max(until, Relaxed);
        Some(wait)
    }

    /// Records the result of a probe. Returns `Some(true)` when the backend is up again, `Some(false)` when it went down,
    /// and `None` when nothing changed.
    pub fn probed(&self, good: bool, settings: &Settings) -> Option<bool> {
        let before = self.probes.load(Relaxed);
        // Probes of one backend never overlap.
        let now = if good { before.max(0) + 1 } else { before.min(0) - 1 };
        self.probes.store(now, Relaxed);
        let down = self.down.load(Relaxed);
        if good && down && now >= i64::from(settings.healthy_after) {
            self.down.store(false, Relaxed);
            self.forget_failures();
            self.ejections.store(0, Relaxed);
            self.failed_alone_until.store(0, Relaxed);
            self.ejected_until.store(0, Relaxed);
            return Some(true);
        }
        if !good && !down && -now >= i64::from(settings.unhealthy_after) {
            self.down.store(true, Relaxed);
            return Some(false);
        }
        None
    }

    /// Drains the backend, or lets requests be sent to it again. Requests that are open go on.
    pub fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Relaxed);
    }

    /// Returns true while an operator keeps new requests away.
    pub fn is_drained(&self) -> bool {
        self.drained.load(Relaxed)
    }

    /// Returns true when the backend is neither ejected nor down.
    pub fn is_good(&self) -> bool {
        !self.down.load(Relaxed) && self.ejected_until.load(Relaxed) == 0
    }

    /// Returns the remaining time of the current ejection; `None` when there is none.
    pub fn ejected_for(&self, now: Moment) -> Option<Duration> {
        let until = Moment::from_millis(self.ejected_until.load(Relaxed));
        Some(until.since(now)).filter(|rest| !rest.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let written = BackendHealthConfig {
            eject_for: DurationText::secs(10),
            max_eject: DurationText::secs(60),
            ..BackendHealthConfig::default()
        };
        written.compile("b", &mut Faults::default()).unwrap()
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(1 + seconds * 1000)
    }

    const ADA: &str = "ada 192.0.2.1";
    const BOB: &str = "bob 192.0.2.2";

    /// The caller of this credential at this address.
    fn who(caller: &str) -> Caller {
        let (credential, address) = caller.split_once(' ').unwrap();
        Caller {
            principal: crate::upstream::balance::mark(credential),
            network: ClientNetwork::of(address.parse().unwrap()),
        }
    }

    fn sent(caller: &str, at: Moment) -> Attempt {
        Attempt { caller: who(caller), sent: at, half_open: None }
    }

    /// A failure of a request that was sent just now.
    fn fail(health: &Health, caller: &str, now: Moment) -> Option<Duration> {
        health.failed(sent(caller, now), false, &settings(), now)
    }

    /// The failure of the request that is let through after an ejection.
    fn fail_trial(health: &Health, caller: &str, now: Moment) -> Option<Duration> {
        let half_open = health.claim_half_open(&settings(), now);
        assert!(half_open.is_some(), "{caller} may try");
        health.failed(Attempt { half_open, ..sent(caller, now) }, false, &settings(), now)
    }

    fn state(health: &Health, caller: &str, now: Moment) -> HealthState {
        health.state(who(caller).network, now)
    }

    /// A backend that rests from this second on, for ten of them.
    fn ejected(since: u64) -> Health {
        let health = Health::default();
        for caller in [ADA, BOB, ADA] {
            fail(&health, caller, at(since));
        }
        assert_eq!(health.ejected_for(at(since)), Some(Duration::from_secs(10)));
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
        assert_eq!((state(&health, ADA, at(9)), health.is_good()), (HealthState::Ejected, false));
        for _ in 0..100 {
            assert_eq!(fail(&health, BOB, at(9)), None, "what fails meanwhile changes nothing");
        }
        let mut now = 10;
        for rest in [20, 40, 60, 60] {
            assert_eq!(state(&health, ADA, at(now)), HealthState::HalfOpen);
            let half_open = health.claim_half_open(&settings, at(now));
            assert!(half_open.is_some(), "one may try");
            assert_eq!(health.claim_half_open(&settings, at(now)), None, "and no other");
            assert_eq!(state(&health, BOB, at(now)), HealthState::Ejected);
            let attempt = Attempt { half_open, ..sent(ADA, at(now)) };
            assert_eq!(health.failed(attempt, false, &settings, at(now)), None, "Ada alone");
            assert_eq!(fail_trial(&health, BOB, at(now)), Some(Duration::from_secs(rest)));
            now += rest;
        }
        assert!(health.claim_half_open(&settings, at(now)).is_some());
        assert!(health.answered(at(now)));
        assert_eq!((state(&health, ADA, at(now)), health.is_good()), (HealthState::Up, true));
        assert!(!health.answered(at(now)));
        for caller in [ADA, BOB] {
            assert_eq!(fail(&health, caller, at(now)), None, "one failure is forgiven again");
        }
        assert_eq!(fail(&health, ADA, at(now)), Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_trial_that_another_has_decided_is_a_request_like_any_other() {
        let (health, settings) = (ejected(5), settings());
        let stale = health.claim_half_open(&settings, at(15));
        assert!(stale.is_some() && health.claim_half_open(&settings, at(25)).is_some());
        assert!(health.answered(at(25)));
        let attempt = Attempt { half_open: stale, ..sent(ADA, at(15)) };
        assert_eq!(health.failed(attempt, false, &settings, at(26)), None, "one caller alone ejects nobody");
        assert_eq!(state(&health, ADA, at(26)), HealthState::Up);
    }

    #[test]
    fn what_was_sent_before_a_rest_neither_ends_nor_prolongs_it() {
        let (health, settings) = (ejected(5), settings());
        assert!(!health.answered(at(4)) && !health.answered(at(5)));
        assert_eq!((state(&health, ADA, at(6)), health.is_good()), (HealthState::Ejected, false));
        let half_open = health.claim_half_open(&settings, at(15));
        assert_eq!(
            health.failed(sent(BOB, at(4)), false, &settings, at(16)),
            None,
            "no verdict on the trial"
        );
        assert_eq!(state(&health, BOB, at(24)), HealthState::Ejected, "which goes on");
        let attempt = Attempt { half_open, ..sent(ADA, at(15)) };
        assert_eq!(health.failed(attempt, true, &settings, at(17)), Some(Duration::from_secs(20)));
        assert!(health.answered(at(18)), "when all are out it is asked anyway, and answers");
        assert!(health.is_good());
    }

    #[test]
    fn one_client_alone_takes_it_from_nobody() {
        let (health, settings) = (Health::default(), settings());
        for number in 0..100 {
            let made_up = format!("{number} 192.0.2.1");
            assert_eq!(fail(&health, &made_up, at(0)), None, "however many credentials it makes up");
            assert_eq!(
                fail(&health, &format!("0 192.0.2.{number}"), at(0)),
                None,
                "or hosts of one fleet have"
            );
        }
        assert_eq!(state(&health, ADA, at(0)), HealthState::Up);
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
        let (health, settings) = (ejected(0), settings());
        assert!(health.claim_half_open(&settings, at(10)).is_some());
        assert_eq!(state(&health, ADA, at(19)), HealthState::Ejected);
        let second = health.claim_half_open(&settings, at(20)).unwrap();
        health.release_half_open(second);
        assert_eq!(
            state(&health, ADA, at(20)),
            HealthState::HalfOpen,
            "given back, it need not be waited for"
        );
        let third = health.claim_half_open(&settings, at(20)).unwrap();
        assert!(health.answered(at(20)));
        health.release_half_open(third);
        assert_eq!(state(&health, ADA, at(20)), HealthState::Up);
    }

    #[test]
    fn a_trial_of_one_client_prolongs_the_rest_of_its_own_address_only() {
        let health = ejected(0);
        assert_eq!(fail_trial(&health, "eve 192.0.2.3", at(10)), None);
        for other in ["eve 192.0.2.3", "mal 192.0.2.3"] {
            assert_eq!(state(&health, other, at(29)), HealthState::Ejected, "{other}");
        }
        assert_eq!(state(&health, ADA, at(11)), HealthState::HalfOpen, "the others may try at once");
        assert_eq!(state(&health, "mal 192.0.2.3", at(30)), HealthState::HalfOpen);
        assert_eq!(fail_trial(&health, "mal 192.0.2.3", at(30)), None);
        assert_eq!(state(&health, "mal 192.0.2.3", at(49)), HealthState::Ejected);
        let half_open = health.claim_half_open(&settings(), at(31));
        let attempt = Attempt { half_open, ..sent("sam 192.0.2.3", at(31)) };
        let day = Duration::from_secs(86_400);
        assert_eq!(health.retry_after(attempt, day, &settings(), at(31)), None);
        assert_eq!(state(&health, ADA, at(31)), HealthState::HalfOpen, "also when it was told to wait");
        assert!(health.answered(at(31)) && health.is_good());
        assert_eq!(state(&health, "eve 192.0.2.3", at(31)), HealthState::Up);
    }

    #[test]
    fn what_it_asks_of_two_is_for_all_and_capped() {
        let (health, settings) = (Health::default(), settings());
        let day = Duration::from_secs(86_400);
        let asked = |caller, now| health.retry_after(sent(caller, now), day, &settings, now);
        assert_eq!((asked(ADA, at(0)), asked(ADA, at(1)), health.is_good()), (None, None, true));
        assert_eq!(asked("made-up 192.0.2.1", at(1)), None);
        assert_eq!(asked(BOB, at(62)), None, "what Ada was told is over");
        assert_eq!(asked(ADA, at(63)), Some(Duration::from_secs(60)));
        assert_eq!(health.ejected_for(at(63)), Some(Duration::from_secs(60)));
        assert_eq!(
            (state(&health, ADA, at(122)), state(&health, ADA, at(123))),
            (HealthState::Ejected, HealthState::HalfOpen)
        );
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
        assert_eq!(state(&health, ADA, at(0)), HealthState::Up);
    }

    #[test]
    fn faults_name_the_key() {
        let mut faults = Faults::default();
        let written = BackendHealthConfig {
            path: "health".into(),
            interval: DurationText(Duration::from_millis(1)),
            unhealthy_after: 0,
            eject_for: DurationText::secs(600),
            ..BackendHealthConfig::default()
        };
        assert_eq!(written.compile("b", &mut faults), None);
        let told = faults.to_string();
        for key in ["path: 'health'", "interval: 1ms", "unhealthy_after: 0", "eject_for: 10m"] {
            assert!(told.contains(&format!("backends.b.health.{key}")), "{key} in {told}");
        }
    }
}
