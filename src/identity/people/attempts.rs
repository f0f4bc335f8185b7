//! Failed attempts to log in: five a minute for an account, and for an address.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ids::ClientNetwork;

/// Failures of one account or address in [`WINDOW`], after which it has to wait.
const MOST: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// How often windows without a failure are removed.
const PRUNE: Duration = Duration::from_secs(10);

/// What failures are counted by: `false` for an account, and a number that few others have. Accounts with the same number wait
/// for each other; so the table is bounded, and nobody can push another one out of it.
type Slot = (bool, u16);

/// Counts attempts. Unknown names count as known ones do, so that an answer does not tell them apart.
#[derive(Debug)]
pub struct Attempts {
    hasher: RandomState,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    windows: HashMap<Slot, [Option<Instant>; MOST]>,
    pruned: Instant,
}

/// An attempt, which counts as a failure until it is forgiven.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    slots: [Slot; 2],
    at: Instant,
}

impl Default for Attempts {
    fn default() -> Self {
        let table = Table { windows: HashMap::new(), pruned: Instant::now() };
        Self { hasher: RandomState::new(), table: Mutex::new(table) }
    }
}

impl Attempts {
    /// Begins an attempt. It counts at once, so that many at the same time are no more than one after the other.
    ///
    /// # Errors
    /// There were too many; how long to wait.
    pub fn begin(&self, account: &str, address: IpAddr) -> Result<Attempt, Duration> {
        self.begin_at(account, address, Instant::now())
    }

    fn begin_at(&self, account: &str, address: IpAddr, now: Instant) -> Result<Attempt, Duration> {
        let number = |hash: u64| (hash >> 48) as u16;
        let network = ClientNetwork::of(address).as_u64();
        let slots =
            [(false, number(self.hasher.hash_one(account))), (true, number(self.hasher.hash_one(network)))];
        let mut table = self.table.lock();
        table.prune(now);
        for slot in slots {
            let window = table.windows.entry(slot).or_default();
            let oldest = window.iter().copied().min().flatten();
            if let Some(oldest) = oldest.filter(|oldest| now < *oldest + WINDOW) {
                return Err(oldest + WINDOW - now);
            }
        }
        for slot in slots {
            // The oldest, or a free one.
            if let Some(place) = table.windows.entry(slot).or_default().iter_mut().min() {
                *place = Some(now);
            }
        }
        Ok(Attempt { slots, at: now })
    }

    /// Takes back an attempt that was none: the password was right.
    pub fn forgive(&self, attempt: Attempt) {
        let mut table = self.table.lock();
        for slot in attempt.slots {
            let window = table.windows.get_mut(&slot);
            if let Some(place) =
                window.and_then(|window| window.iter_mut().find(|at| **at == Some(attempt.at)))
            {
                *place = None;
            }
        }
    }
}

impl Table {
    fn prune(&mut self, now: Instant) {
        if now < self.pruned + PRUNE {
            return;
        }
        self.pruned = now;
        self.windows.retain(|_, window| window.iter().flatten().any(|at| now < *at + WINDOW));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn five_failures_a_minute_for_an_account_whatever_the_address() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for from in 0..5 {
            assert!(
                attempts.begin_at("ada", address(from), start + Duration::from_secs(from.into())).is_ok()
            );
        }
        let later = start + Duration::from_secs(10);
        assert_eq!(attempts.begin_at("ada", address(9), later).unwrap_err(), Duration::from_secs(50));
        assert!(attempts.begin_at("ada", address(9), start + WINDOW).is_ok(), "the first is a minute ago");
        assert!(attempts.begin_at("ada", address(9), start + WINDOW).is_err(), "the second is not");
    }

    #[test]
    fn five_failures_a_minute_for_an_address_whatever_the_account() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for name in ["a", "b", "c", "d", "e"] {
            assert!(attempts.begin_at(name, HOME, start).is_ok());
        }
        assert!(attempts.begin_at("f", HOME, start).is_err());
        assert!(attempts.begin_at("f", address(1), start).is_ok());
    }

    #[test]
    fn who_knows_the_password_never_waits() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for _ in 0..100 {
            attempts.forgive(attempts.begin_at("ada", HOME, start).unwrap());
        }
    }

    #[test]
    fn many_names_and_addresses_take_a_bounded_memory() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for n in 0..200_000_u32 {
            let _ = attempts.begin_at(&n.to_string(), n.to_be_bytes().into(), start);
        }
        assert!(attempts.table.lock().windows.len() <= 2 << 16);
        assert!(attempts.begin_at("x", HOME, start + WINDOW + PRUNE).is_ok());
        assert_eq!(attempts.table.lock().windows.len(), 2);
    }
}
