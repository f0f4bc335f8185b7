//! One fill for many requests: who asks the backend, and who waits for what that brings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry::{Occupied, Vacant};
use tokio::sync::watch;
use tokio::time::timeout;

use super::key::Id;

/// How long a request waits for another one's fill. A slow client of that one keeps no other longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// For how long a request does not wait where the last answer was not stored.
const HOPELESS: Duration = Duration::from_secs(60);
/// How many such places are remembered.
const HOPELESS_MOST: u64 = 16 << 10;

/// All fills and confirmations under way.
#[derive(Debug)]
pub(super) struct Flights {
    open: Arc<DashMap<Id, Shared>>,
    hopeless: moka::sync::Cache<Id, ()>,
}

#[derive(Clone, Debug)]
struct Shared {
    ended: watch::Receiver<()>,
    is_slow: Arc<AtomicBool>,
}

/// What a request that has found nothing does.
#[derive(Debug)]
pub enum Seat {
    /// It asks the backend, and others wait for it.
    First(Flight),
    /// It waits for the one that asks.
    Wait(Waiting),
    /// It asks for itself.
    Alone,
}

/// A request that others wait for, until this is dropped.
#[derive(Debug)]
pub struct Flight {
    id: Id,
    open: Arc<DashMap<Id, Shared>>,
    _ended: watch::Sender<()>,
}

/// A wait for another request.
#[derive(Debug)]
pub struct Waiting(Shared);

impl Flights {
    pub(super) fn new() -> Self {
        let hopeless = moka::sync::Cache::builder().max_capacity(HOPELESS_MOST).time_to_live(HOPELESS);
        Self { open: Arc::default(), hopeless: hopeless.build() }
    }

    /// Finds the place of a request.
    pub(super) fn board(&self, id: &Id) -> Seat {
        if self.hopeless.contains_key(id) {
            return Seat::Alone;
        }
        let first = || {
            let (sender, ended) = watch::channel(());
            let shared = Shared { ended, is_slow: Arc::default() };
            (Flight { id: *id, open: Arc::clone(&self.open), _ended: sender }, shared)
        };
        match self.open.entry(*id) {
            Occupied(other) if other.get().is_slow.load(Relaxed) => Seat::Alone,
            Occupied(other) => Seat::Wait(Waiting(other.get().clone())),
            Vacant(place) => {
                let (flight, shared) = first();
                place.insert(shared);
                Seat::First(flight)
            }
        }
    }

    /// Remembers whether answers are stored here: nobody waits for one that will not be.
    pub(super) fn hope(&self, id: &Id, is_stored: bool) {
        if is_stored {
            self.hopeless.invalidate(id);
        } else {
            self.hopeless.insert(*id, ());
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.open.remove(&self.id);
    }
}

impl Waiting {
    /// Waits until the other request has ended. Returns false if that takes too long; then no other one waits for it, either.
    pub async fn ended(mut self) -> bool {
        let has_ended = timeout(PATIENCE, self.0.ended.changed()).await.is_ok();
        self.0.is_slow.store(!has_ended, Relaxed);
        has_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn others_wait_until_the_first_has_ended_and_not_for_one_that_is_slow() {
        let flights = Flights::new();
        let Seat::First(first) = flights.board(&[1; 32]) else { panic!("the first one waits") };
        assert!(matches!(flights.board(&[2; 32]), Seat::First(_)));
        let Seat::Wait(second) = flights.board(&[1; 32]) else { panic!("the second one asks") };
        let second = tokio::spawn(second.ended());
        tokio::task::yield_now().await;
        drop(first);
        assert!(second.await.unwrap());
        let Seat::First(_slow) = flights.board(&[1; 32]) else { panic!("nobody asks") };
        let Seat::Wait(waiting) = flights.board(&[1; 32]) else { panic!("two ask") };
        assert!(!waiting.ended().await);
        assert!(matches!(flights.board(&[1; 32]), Seat::Alone));
    }

    #[test]
    fn nobody_waits_for_what_is_not_stored() {
        let flights = Flights::new();
        flights.hope(&[1; 32], false);
        assert!(matches!(flights.board(&[1; 32]), Seat::Alone));
        flights.hope(&[1; 32], true);
        assert!(matches!(flights.board(&[1; 32]), Seat::First(_)));
    }
}
