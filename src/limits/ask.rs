//! What an instance asks its fleet for: units of one rate for one request.

use std::sync::Arc;

use super::bucket::Rate;
use super::classes::OnUnavailable;
use super::counters::Counter;
use super::limit::{Limit, Refused, Unit};
use super::share::{RefusedUnits, signed};
use crate::redis::rates::{RateEntry, TakenRate};

/// How many times its cost a request may be granted for others.
const AHEAD: u64 = 64;

/// Units of one rate that a request needs.
#[derive(Debug)]
pub(super) struct Ask {
    /// Its place among what the request holds.
    pub(super) place: usize,
    pub(super) limit: Arc<Limit>,
    pub(super) counter: Arc<Counter>,
    pub(super) unit: Unit,
    pub(super) rate: Rate,
    pub(super) cost: u64,
}

impl Ask {
    /// The name of the rate in the store.
    pub(super) fn name(&self) -> String {
        let levels = self.counter.lock();
        let name = levels.shares.as_ref().map_or("", |shares| &*shares.name);
        serde_json::to_string(&(self.limit.name(), self.unit.name(), self.rate.period(), name))
            .unwrap_or_default()
    }

    /// Takes the units from what was granted meanwhile.
    pub(super) fn take_granted(&self, now: u64) -> bool {
        let mut levels = self.counter.lock();
        let (share, bucket) = levels.share(self.unit);
        let is_granted = share.take(self.cost);
        if is_granted {
            bucket.note(&self.rate, self.cost, now);
        }
        is_granted
    }

    /// Repeats a refusal of the store that is not long ago.
    pub(super) fn check_refused(&self, now: u64, ahead: u64) -> Result<(), Refused> {
        let refused = self.counter.lock().share(self.unit).0.refused;
        match refused {
            Some(RefusedUnits { cost, until, ready_at })
                if self.cost >= cost && now < until && ready_at > now + ahead =>
            {
                Err(self.limit.refused(self.unit, Some(ready_at - now)))
            }
            _ => Ok(()),
        }
    }

    /// The store has refused it, which is repeated for a while.
    pub(super) fn refused(&self, now: u64, wait: u64, repeated: u64) -> Refused {
        let until = now + wait.min(repeated);
        self.counter.lock().share(self.unit).0.refused =
            Some(RefusedUnits { cost: self.cost, until, ready_at: now + wait });
        self.limit.refused(self.unit, Some(wait))
    }

    /// Freezes what is left of the grant. Returns what is to be told to the store, and the grant.
    pub(super) fn freeze(&self, now: u64, ahead: u64) -> (RateEntry, i64) {
        let name = self.name();
        let mut levels = self.counter.lock();
        let (share, bucket) = levels.share(self.unit);
        let granted = share.granted;
        share.give_up();
        share.must_tell = true;
        let entry = RateEntry {
            name,
            writer: share.writer,
            count: self.rate.count(),
            burst: self.rate.burst(),
            period: self.rate.period(),
            own: share.own,
            saved: share.saved,
            level: bucket.level(&self.rate, now),
            keep: 0,
            cost: self.cost,
            ahead,
            most: self.cost.saturating_mul(AHEAD),
        };
        (entry, granted)
    }

    /// Lets the grant be used again, because the store has changed nothing.
    pub(super) fn thaw(&self, granted: i64) {
        self.counter.lock().share(self.unit).0.granted = granted;
    }

    /// The store has taken the units when the instance had taken `own` before.
    pub(super) fn taken(&self, own: i64, stored: &TakenRate, now: u64) {
        let mut levels = self.counter.lock();
        let (share, bucket) = levels.share(self.unit);
        let cost = signed(self.cost);
        share.own = share.own.saturating_add(cost);
        (share.saved, share.granted, share.was_used, share.must_tell) =
            (own.saturating_add(cost), signed(stored.grant), true, false);
        bucket.set(stored.level, now);
    }

    /// Takes the units while the store does not answer. Returns the wait.
    pub(super) fn take_alone(
        &self,
        otherwise: OnUnavailable,
        instances: u64,
        times: (u64, u64, u64),
    ) -> Result<u64, Refused> {
        let now = times.1;
        let mut levels = self.counter.lock();
        let (share, bucket) = levels.share(self.unit);
        let taken = match otherwise {
            OnUnavailable::Share => share.take_alone(&self.rate, instances, self.cost, times),
            OnUnavailable::Refuse => Err(None),
            OnUnavailable::Open => {
                share.add(signed(self.cost));
                Ok(0)
            }
        };
        if taken.is_ok() {
            bucket.note(&self.rate, self.cost, now);
        }
        taken.map_err(|wait| {
            let refused = self.limit.refused(self.unit, wait);
            let allowed = format!("{} to all instances together, and redis does not answer", refused.allowed);
            Refused { allowed, ..refused }
        })
    }
}
