//! What an instance of a fleet may take from one rate without asking, and what it has taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::bucket::{Bucket, Rate};

static WRITERS: AtomicU64 = AtomicU64::new(0);

/// Until when what was granted to this instance holds, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Lease(Arc<AtomicU64>);

impl Lease {
    /// Whether grants hold.
    pub(super) fn holds(&self, now: u64) -> bool {
        now < self.0.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, until: u64) {
        self.0.store(until, Ordering::Release);
    }
}

/// The instance's part of a rate that a fleet shares.
#[derive(Debug)]
pub(super) struct Share {
    /// Identifies this counter among all of this instance.
    pub(super) writer: u64,
    /// Units taken in all; less than before when some were given back.
    pub(super) own: i64,
    /// How much of that the store knows.
    pub(super) saved: i64,
    /// How much may be taken beyond that.
    pub(super) granted: i64,
    /// What the store has refused last.
    pub(super) refused: Option<RefusedUnits>,
    /// Whether the store may think that more is granted than is.
    pub(super) must_tell: bool,
    /// Whether something was taken since the last beat.
    pub(super) was_used: bool,
    /// The instance's part of the rate while the store does not answer, since when that is so.
    alone: (u64, Bucket),
}

/// Units that the store has refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct RefusedUnits {
    /// How many.
    pub(super) cost: u64,
    /// Until when that is repeated, in milliseconds.
    pub(super) until: u64,
    /// When there is room, in milliseconds.
    pub(super) ready_at: u64,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            writer: WRITERS.fetch_add(1, Ordering::Relaxed),
            own: 0,
            saved: 0,
            granted: 0,
            refused: None,
            must_tell: false,
            was_used: false,
            alone: (0, Bucket::default()),
        }
    }
}

impl Share {
    fn unsaved(&self) -> i64 {
        self.own.saturating_sub(self.saved)
    }

    /// Whether the store has to be told of something.
    pub(super) fn is_changed(&self) -> bool {
        self.must_tell || self.unsaved() != 0
    }

    /// What is left of the grant. What was given back is not part of it: the level may be over the burst.
    pub(super) fn left(&self) -> u64 {
        u64::try_from(self.granted.saturating_sub(self.unsaved().max(0))).unwrap_or(0)
    }

    /// Takes units from the grant, if there are enough.
    pub(super) fn take(&mut self, cost: u64) -> bool {
        let is_granted = self.left() >= cost;
        if is_granted {
            self.add(signed(cost));
        }
        is_granted
    }

    /// Counts units that are taken, or given back.
    pub(super) fn add(&mut self, units: i64) {
        self.own = self.own.saturating_add(units);
        if units < 0 {
            self.refused = None;
        }
        self.was_used = true;
    }

    /// Gives up what is left of the grant.
    pub(super) fn give_up(&mut self) {
        self.granted = self.unsaved().max(0);
    }

    /// Takes units while the store has not answered `since` then: an equal part of the rate for each instance. The part begins
    /// without room, because the instances may have used all there was. Returns the wait.
    ///
    /// # Errors
    /// There is no room within `ahead` milliseconds: those until there is, or `None` if there never is.
    pub(super) fn take_alone(
        &mut self,
        rate: &Rate,
        instances: u64,
        cost: u64,
        (since, now, ahead): (u64, u64, u64),
    ) -> Result<u64, Option<u64>> {
        let part = rate.part(instances).filter(|part| cost <= part.burst()).ok_or(None)?;
        if self.alone.0 != since {
            self.alone = (since, Bucket::full(&part, since));
        }
        let wait = self.alone.1.take_ahead(&part, cost, now, ahead).map_err(Some)?;
        self.add(signed(cost));
        Ok(wait)
    }
}

/// Units are below 2^53.
pub(super) fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_can_be_taken_once_and_what_is_given_back_again() {
        let mut share = Share { granted: 10, ..Share::default() };
        assert!(share.take(6) && !share.take(5) && share.left() == 4);
        share.add(-2);
        assert!(share.take(6) && share.left() == 0 && share.is_changed());
        (share.saved, share.granted) = (10, 3);
        share.give_up();
        assert_eq!((share.left(), share.granted), (0, 0));
        share.add(-3);
        share.give_up();
        assert_eq!(share.left(), 0, "what was given back is told first");
    }

    #[test]
    fn alone_an_instance_has_its_part_and_begins_without_room() {
        let rate = Rate::new(60, 30, 60_000).unwrap();
        let mut share = Share::default();
        let alone = |share: &mut Share, cost, now| share.take_alone(&rate, 3, cost, (5000, now, 0));
        assert_eq!(alone(&mut share, 1, 5000), Err(Some(3000)));
        assert_eq!(alone(&mut share, 1, 8000), Ok(0));
        assert_eq!(alone(&mut share, 1, 8000), Err(Some(3000)));
        assert_eq!(alone(&mut share, 11, 100_000), Err(None), "its part of the burst is 10");
        assert_eq!(alone(&mut share, 10, 100_000), Ok(0));
        assert_eq!(share.own, 11);
        // A second outage begins anew.
        assert_eq!(share.take_alone(&rate, 3, 1, (200_000, 200_000, 0)), Err(Some(3000)));
    }
}
