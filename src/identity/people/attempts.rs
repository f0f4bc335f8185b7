//! Failed attempts to log in: five a minute for an account, and for an address. One that is under way may fail, so that it takes
//! a place, too, for which others wait.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout_at;

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
    /// Told when an attempt ends.
    ended: Notify,
}

#[derive(Debug)]
struct Table {
    windows: HashMap<Slot, Window>,
    pruned: Instant,
}

/// The attempts of one account or address.
#[derive(Debug, Default)]
struct Window {
    failed: [Option<Instant>; MOST],
    under_way: usize,
}

/// An attempt that is under way; it has failed when it is dropped.
#[derive(Debug)]
pub struct Attempt<'a> {
    attempts: &'a Attempts,
    slots: [Slot; 2],
    at: Instant,
    is_forgiven: bool,
}

/// Why no attempt may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    /// Too many have failed; how long to wait.
    Failed(Duration),
    /// Those under way may fail.
    UnderWay,
}

impl Default for Attempts {
    fn default() -> Self {
        let table = Table { windows: HashMap::new(), pruned: Instant::now() };
        Self { hasher: RandomState::new(), table: Mutex::new(table), ended: Notify::new() }
    }
}

impl Attempts {
    /// Begins an attempt. It counts at once, so that many at the same time are no more than one after the other; while those under
    /// way take all places, it waits for one of them to end.
    ///
    /// # Errors
    /// There were too many, or too many are under way for longer than `patience`; how long to wait.
    pub async fn begin(
        &self,
        account: &str,
        address: IpAddr,
        patience: Duration,
    ) -> Result<Attempt<'_>, Duration> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let mut ended = pin!(self.ended.notified());
            // What ends from here on is noticed.
            ended.as_mut().enable();
            match self.begin_at(account, address, Instant::now()) {
                Ok(attempt) => return Ok(attempt),
                Err(Full::Failed(wait)) => return Err(wait),
                Err(Full::UnderWay) => {}
            }
            timeout_at(deadline, ended).await.map_err(|_| patience)?;
        }
    }

    fn begin_at(&self, account: &str, address: IpAddr, now: Instant) -> Result<Attempt<'_>, Full> {
        let number = |hash: u64| (hash >> 48) as u16;
        let network = ClientNetwork::of(address).as_u64();
        let slots =
            [(false, number(self.hasher.hash_one(account))), (true, number(self.hasher.hash_one(network)))];
        let mut table = self.table.lock();
        table.prune(now);
        for slot in slots {
            table.windows.get(&slot).map_or(Ok(()), |window| window.check(now))?;
        }
        for slot in slots {
            table.windows.entry(slot).or_default().under_way += 1;
        }
        Ok(Attempt { attempts: self, slots, at: now, is_forgiven: false })
    }
}

impl Attempt<'_> {
    /// Ends an attempt that did not fail: the password was right, or was not looked at.
    pub fn forgive(mut self) {
        self.is_forgiven = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut table = self.attempts.table.lock();
        for slot in self.slots {
            let window = table.windows.entry(slot).or_default();
            window.under_way = window.under_way.saturating_sub(1);
            // In place of the oldest, or in a free one.
            if !self.is_forgiven
                && let Some(place) = window.failed.iter_mut().min()
            {
                *place = Some(self.at);
            }
        }
        drop(table);
        self.attempts.ended.notify_waiters();
    }
}

impl Window {
    /// Checks that there is a place for one more attempt.
    fn check(&self, now: Instant) -> Result<(), Full> {
        let recent = |at: &&Instant| now < **at + WINDOW;
        let failed = self.failed.iter().flatten().filter(recent).count();
        match self.failed.iter().flatten().filter(recent).min() {
            Some(oldest) if failed >= MOST => Err(Full::Failed(*oldest + WINDOW - now)),
            _ if failed + self.under_way >= MOST => Err(Full::UnderWay),
            _ => Ok(()),
        }
    }
}

impl Table {
    fn prune(&mut self, now: Instant) {
        if now < self.pruned + PRUNE {
            return;
        }
        self.pruned = now;
        self.windows.retain(|_, window| {
            window.under_way > 0 || window.failed.iter().flatten().any(|at| now < *at + WINDOW)
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

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
        assert_eq!(
            attempts.begin_at("ada", address(9), later).unwrap_err(),
            Full::Failed(Duration::from_secs(50))
        );
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
            attempts.begin_at("ada", HOME, start).unwrap().forgive();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_at_the_same_time_wait_for_each_other_and_fail_no_more_often() {
        let attempts = Attempts::default();
        let begin = || attempts.begin("ada", HOME, Duration::from_secs(5));
        let mut under_way = Vec::new();
        for _ in 0..MOST {
            under_way.push(begin().await.expect("a place"));
        }
        assert_eq!(begin().await.unwrap_err(), Duration::from_secs(5), "none of them has ended");
        let waiting = begin();
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        under_way.pop().expect("one").forgive();
        let next = waiting.await.expect("its place");
        drop(under_way);
        let waiting = begin();
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none(), "four have failed, and one may");
        drop(next);
        assert!(waiting.await.unwrap_err() > Duration::from_secs(50), "five have failed");
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
