//! Failures of single callers at a backend. A caller whose requests fail while others succeed, or that has reached its own
//! rate limit, is kept away from the backend for a while; other callers are not affected.
//!
//! At most [`MOST`] callers are remembered per backend; beyond that, those of the network with the most of them are
//! forgotten, so that a client that makes up credentials displaces nobody else. While none is remembered, a response costs
//! one atomic load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::health::{Attempt, Settings};
use super::reporters::Caller;
use crate::clock::{Moment, millis};
use crate::ids::ClientNetwork;

/// The largest number of callers remembered.
const MOST: usize = 4096;

/// Callers of one backend whose requests failed since their last response.
#[derive(Debug, Default)]
pub struct Callers {
    count: AtomicUsize,
    by_principal: Mutex<HashMap<u64, Tracked>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tracked {
    /// Where its last failure came from.
    network: Option<ClientNetwork>,
    /// Consecutive failed requests.
    failures: u32,
    /// Rests in a row.
    ejections: u32,
    since: Moment,
    until: Moment,
}

impl Callers {
    /// Returns whether this caller should use another backend now.
    pub fn is_kept_away(&self, caller: Caller, now: Moment) -> bool {
        self.count.load(Relaxed) > 0
            && self.map().get(&caller.principal).is_some_and(|found| found.until > now)
    }

    /// Returns the number of callers kept away now.
    pub fn kept_away(&self, now: Moment) -> usize {
        self.map().values().filter(|found| found.until > now).count()
    }

    /// Records a response: the caller is forgotten, unless the request was sent before it was kept away.
    pub fn answered(&self, attempt: Attempt) {
        if self.count.load(Relaxed) == 0 {
            return;
        }
        let mut map = self.map();
        if map
            .get(&attempt.caller.principal)
            .is_some_and(|found| found.until <= found.since || attempt.sent > found.since)
        {
            map.remove(&attempt.caller.principal);
        }
        self.count.store(map.len(), Relaxed);
    }

    /// Records a failed request. Returns how long the caller is kept away, if this failure caused that.
    pub fn failed(&self, attempt: Attempt, settings: &Settings, now: Moment) -> Option<Duration> {
        self.change(attempt.caller, now, |found| {
            if found.until > now {
                return None;
            }
            found.failures += 1;
            if found.ejections == 0 && found.failures < settings.unhealthy_after {
                return None;
            }
            let length = settings.ejection_time(found.ejections);
            (found.failures, found.ejections) = (0, found.ejections.saturating_add(1));
            found.keep_away(length, now);
            Some(length)
        })
    }

    /// Records a `Retry-After` of `wait`. Returns how long the caller is kept away.
    pub fn told(
        &self,
        attempt: Attempt,
        wait: Duration,
        settings: &Settings,
        now: Moment,
    ) -> Option<Duration> {
        let wait = wait.min(settings.max_eject);
        self.change(attempt.caller, now, |found| {
            found.keep_away(wait, now);
            Some(wait)
        })
    }

    /// Applies `change` to a caller.
    fn change(
        &self,
        caller: Caller,
        now: Moment,
        change: impl FnOnce(&mut Tracked) -> Option<Duration>,
    ) -> Option<Duration> {
        let mut map = self.map();
        if map.len() >= MOST && !map.contains_key(&caller.principal) {
            map.retain(|_, found| found.until > now);
        }
        if map.len() >= MOST && !map.contains_key(&caller.principal) {
            let mut crowds: HashMap<ClientNetwork, usize> = HashMap::new();
            for found in map.values().filter_map(|found| found.network) {
                *crowds.entry(found).or_default() += 1;
            }
            let largest = crowds.into_iter().max_by_key(|(_, count)| *count).map(|(network, _)| network);
            map.retain(|_, found| found.network != largest);
        }
        let found = map.entry(caller.principal).or_default();
        found.network = Some(caller.network);
        let changed = change(found);
        self.count.store(map.len(), Relaxed);
        changed
    }

    fn map(&self) -> MutexGuard<'_, HashMap<u64, Tracked>> {
        self.by_principal.lock()
    }
}

impl Tracked {
    fn keep_away(&mut self, length: Duration, now: Moment) {
        self.since = now;
        self.until = self.until.max(Moment::from_millis(now.as_millis().saturating_add(millis(length))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::fault::Faults;
    use crate::upstream::health::BackendHealthConfig;

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(1 + seconds * 1000)
    }

    fn caller(principal: u64) -> Caller {
        Caller { principal, network: ClientNetwork::of([192, 0, 2, 1].into()) }
    }

    fn sent(principal: u64, seconds: u64) -> Attempt {
        Attempt { caller: caller(principal), sent: at(seconds), half_open: None }
    }

    fn settings() -> Settings {
        BackendHealthConfig::default().compile("b", &mut Faults::default()).unwrap()
    }

    #[test]
    fn who_fails_alone_is_kept_away_alone_and_longer_each_time() {
        let (callers, settings) = (Callers::default(), settings());
        let fail = |seconds| callers.failed(sent(1, seconds), &settings, at(seconds));
        assert_eq!((fail(0), fail(0), fail(0)), (None, None, Some(Duration::from_secs(10))));
        assert!(callers.is_kept_away(caller(1), at(9)) && !callers.is_kept_away(caller(2), at(9)));
        assert_eq!((callers.kept_away(at(9)), callers.kept_away(at(10))), (1, 0));
        assert_eq!(fail(9), None, "what fails meanwhile changes nothing");
        assert_eq!(fail(10), Some(Duration::from_secs(20)), "the next one is enough");
        callers.answered(sent(1, 10));
        assert!(callers.is_kept_away(caller(1), at(11)), "that one was sent before");
        callers.answered(sent(1, 12));
        assert!(!callers.is_kept_away(caller(1), at(12)));
        assert_eq!(fail(12), None);
        callers.answered(sent(1, 12));
        assert_eq!((fail(13), fail(13)), (None, None), "an answer begins the count anew");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (callers, settings) = (Callers::default(), settings());
        let tell = |principal, host, seconds| {
            let network = ClientNetwork::of([192, 0, 2, host].into());
            let attempt = Attempt { caller: Caller { principal, network }, ..sent(principal, seconds) };
            callers.told(attempt, Duration::from_secs(100), &settings, at(seconds)).is_some()
        };
        assert!(tell(1, 1, 0) && (2..=MOST as u64).all(|made_up| tell(made_up, 2, 0)));
        assert_eq!(callers.map().len(), MOST);
        assert!(tell(5000, 3, 0), "a newcomer has room");
        assert!(callers.is_kept_away(caller(1), at(1)), "the crowd of one address displaces nobody else");
        assert_eq!(callers.map().len(), 2);
        assert!((6000..5998 + MOST as u64).all(|made_up| tell(made_up, 2, 0)));
        assert_eq!(callers.map().len(), MOST);
        assert!(tell(20_000, 3, 200), "what is over makes room");
        assert_eq!(callers.map().len(), 1);
    }
}
