//! Rates of a fleet: `requests` and `tokens` of all instances together.
//!
//! An instance admits requests from what it was granted of each rate. When that does not suffice, it asks the store, for all
//! rates of the request in one step, and is granted more; so far from the limit most requests need no round trip, and near it
//! each one asks. Grants and levels together never pass the burst, so that no limit is passed. While the store does not
//! answer, `admission.on_unavailable` decides.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex as Lock;
use tokio::sync::watch;
use tracing::warn;

use super::admission::Admission;
use super::ask::Ask;
use super::classes::OnUnavailable;
use super::counters::Counter;
use super::limit::{Limit, Refused, Unit};
use super::share::{Lease, signed};
use super::turns::Turns;
use crate::clock::{Clock, millis};
use crate::redis::LinkError;
use crate::redis::budgets::{LEASE, Mode};
use crate::redis::rates::{RateEntry, RateOutcome, RateStore};

/// How often the instance reports.
const BEAT: Duration = Duration::from_secs(1);
/// How long the end of a lease is mistrusted, because clocks run differently.
const MARGIN: Duration = Duration::from_secs(2);
/// Rates of one call.
const BATCH: usize = 100;
/// How long a refusal of the store is repeated at most: what others hold may be released.
const REPEATED: u64 = 200;
/// How long the last report may take.
const LEAVING: Duration = Duration::from_millis(500);

/// The rates of an instance of a fleet.
#[derive(Debug)]
pub struct FleetRates {
    store: RateStore,
    clock: Clock,
    /// Held during a call.
    turn: Turns<Turn>,
    /// Rates of which the store may know something of this instance.
    known: Lock<HashMap<String, Known>>,
    lease: Lease,
    /// Since when the store has not answered; 0 if it does.
    away_since: AtomicU64,
    /// How many instances there were last.
    instances: AtomicU64,
}

#[derive(Debug, Default)]
struct Turn {
    /// The number of the last call.
    number: u64,
    is_registered: bool,
}

#[derive(Clone, Debug)]
struct Known {
    limit: Arc<Limit>,
    counter: Weak<Counter>,
    unit: Unit,
}

impl FleetRates {
    /// Rates that are shared in `store`.
    pub fn new(store: RateStore, clock: Clock) -> Self {
        Self {
            store,
            clock,
            turn: Turns::default(),
            known: Lock::default(),
            lease: Lease::default(),
            away_since: AtomicU64::new(0),
            instances: AtomicU64::new(1),
        }
    }

    /// How long grants hold.
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Takes what a request could not be given from grants: of all rates, or of none.
    ///
    /// # Errors
    /// A rate is used up; what the request has taken in this step is given back.
    pub fn ask<'a>(
        &'a self,
        admission: &'a mut Admission,
        otherwise: OnUnavailable,
    ) -> BoxFuture<'a, Result<(), Refused>> {
        self.take(admission, otherwise).boxed()
    }

    async fn take(&self, admission: &mut Admission, otherwise: OnUnavailable) -> Result<(), Refused> {
        let Some(mut turn) = self.turn.of_request(|| self.store.is_up()).await else {
            return self.take_alone(admission, otherwise);
        };
        let now = self.clock.now().as_millis();
        let ahead = admission.ahead(now);
        let mut asks = admission.asked();
        // Requests that were earlier may have been granted enough for this one.
        asks.retain(|ask| {
            let is_granted = self.lease.holds(now) && ask.take_granted(now);
            if is_granted {
                admission.took(ask, 0, now);
            }
            !is_granted
        });
        if asks.is_empty() {
            return Ok(());
        }
        for ask in &asks {
            ask.check_refused(now, ahead).inspect_err(|_| admission.refuse(ask))?;
        }
        self.remember(&asks);
        // Report what is left of the grants, so that no other request uses it in the meantime.
        let (entries, granted): (Vec<_>, Vec<_>) = asks.iter().map(|ask| ask.freeze(now, ahead)).unzip();
        match self.call(&mut turn, Mode::Ask, &entries).await {
            Ok(RateOutcome::Taken(_, rates)) => {
                let now = self.clock.now().as_millis();
                for (ask, (entry, rate)) in asks.iter().zip(entries.iter().zip(rates)) {
                    ask.taken(entry.own, &rate, now);
                    admission.took(ask, rate.wait, now);
                }
                Ok(())
            }
            Ok(RateOutcome::Refused(place, wait)) => {
                asks.iter().zip(granted).for_each(|(ask, granted)| ask.thaw(granted));
                let ask = &asks[place.min(asks.len() - 1)];
                admission.refuse(ask);
                Err(ask.refused(now, wait, REPEATED))
            }
            // Whether the store has taken it is not known: the next report says what was.
            Ok(RateOutcome::Rebuilding) | Err(_) => self.take_alone(admission, otherwise),
        }
    }

    /// Takes what is asked for without the store.
    fn take_alone(&self, admission: &mut Admission, otherwise: OnUnavailable) -> Result<(), Refused> {
        let now = self.clock.now().as_millis();
        let since = self.is_away(now);
        let (instances, ahead) = (self.instances.load(Ordering::Relaxed), admission.ahead(now));
        let asks = admission.asked();
        self.remember(&asks);
        for ask in &asks {
            let taken = ask.take_alone(otherwise, instances, (since, now, ahead));
            let wait = taken.inspect_err(|_| admission.refuse(ask))?;
            admission.took(ask, wait, now);
        }
        Ok(())
    }

    /// Notes that the store does not answer. Returns since when.
    fn is_away(&self, now: u64) -> u64 {
        let before = self.away_since.compare_exchange(0, now.max(1), Ordering::AcqRel, Ordering::Acquire);
        before.err().unwrap_or(now.max(1))
    }

    fn remember(&self, asks: &[Ask]) {
        let mut known = self.known.lock();
        for ask in asks {
            let Ask { limit, counter, unit, .. } = ask;
            let one = Known { limit: Arc::clone(limit), counter: Arc::downgrade(counter), unit: *unit };
            known.insert(ask.name(), one);
        }
    }

    async fn call(
        &self,
        turn: &mut Turn,
        mode: Mode,
        entries: &[RateEntry],
    ) -> Result<RateOutcome, LinkError> {
        turn.number += 1;
        let until = self.clock.now().as_millis() + millis(LEASE - MARGIN);
        let answer = self.store.call(turn.number, mode, turn.is_registered, entries).await;
        self.turn.called(&answer);
        let (outcome, is_forgotten) = answer.inspect_err(|_| {
            self.is_away(self.clock.now().as_millis());
        })?;
        if is_forgotten {
            warn!("redis has forgotten what this instance has taken of limits: it is written again");
            self.lease.set(0);
            self.each(|counter, one| {
                let mut levels = counter.lock();
                let share = levels.share(one.unit).0;
                (share.granted, share.must_tell) = (0, true);
            });
            turn.is_registered = false;
        }
        match &outcome {
            RateOutcome::Taken(instances, _) => {
                turn.is_registered = mode != Mode::Leave;
                self.instances.store((*instances).max(1), Ordering::Relaxed);
                self.lease.set(until);
                self.away_since.store(0, Ordering::Release);
            }
            RateOutcome::Refused(..) => self.away_since.store(0, Ordering::Release),
            RateOutcome::Rebuilding => {}
        }
        Ok(outcome)
    }

    fn each(&self, work: impl Fn(&Counter, &Known)) {
        for one in self.known.lock().values() {
            if let Some(counter) = one.counter.upgrade() {
                work(&counter, one);
            }
        }
    }

    /// Reports until `stop` is true.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        loop {
            if self.store.is_up() {
                let mut turn = self.turn.lock().await;
                if turn.is_registered || !self.known.lock().is_empty() {
                    // What could not be stored is stored later.
                    let _ = self.report(&mut turn, Mode::Report).await;
                }
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }

    /// Stores what is left at the end of the instance, and gives up all grants.
    pub async fn leave(&self) {
        let last = async {
            let mut turn = self.turn.lock().await;
            self.each(|counter, one| counter.lock().share(one.unit).0.was_used = false);
            match turn.is_registered && self.store.is_up() {
                true => self.report(&mut turn, Mode::Leave).await,
                false => Ok(()),
            }
        };
        if !matches!(tokio::time::timeout(LEAVING, last).await, Ok(Ok(()))) {
            warn!("redis does not answer: other instances wait until the lease of this one ends");
        }
    }

    /// Stores what has changed, and gives up grants that were not used since the last time. The call is made without any
    /// change, too: it keeps the lease.
    async fn report(&self, turn: &mut Turn, mode: Mode) -> Result<(), LinkError> {
        let now = self.clock.now().as_millis();
        let mut changed = Vec::new();
        self.known.lock().retain(|name, one| {
            let Some(counter) = one.counter.upgrade() else { return false };
            let Some((entry, is_idle)) = report_of(name, &counter, one, now) else { return true };
            changed.extend(entry.map(|entry| (entry, counter, one.unit)));
            !is_idle
        });
        let mut batches = changed.chunks(BATCH);
        loop {
            let batch = batches.next().unwrap_or_default();
            let entries: Vec<_> = batch.iter().map(|(entry, ..)| entry.clone()).collect();
            let outcome = self.call(turn, mode, &entries).await?;
            if let RateOutcome::Taken(_, rates) = outcome {
                let now = self.clock.now().as_millis();
                for ((entry, counter, unit), rate) in batch.iter().zip(rates) {
                    let mut levels = counter.lock();
                    let (share, bucket) = levels.share(*unit);
                    // What was taken meanwhile is not in it yet.
                    let more = (share.own - entry.own).max(0).unsigned_abs().saturating_mul(entry.period);
                    bucket.set(rate.level.saturating_add(more), now);
                    (share.saved, share.granted, share.must_tell) = (entry.own, signed(rate.grant), false);
                }
            }
            if batches.len() == 0 {
                return Ok(());
            }
        }
    }
}

/// What is reported of one rate, if anything; and whether nothing needs to be known of it any longer.
fn report_of(name: &str, counter: &Counter, one: &Known, now: u64) -> Option<(Option<RateEntry>, bool)> {
    let (rate, _) = one.limit.rate(one.unit)?;
    let mut levels = counter.lock();
    let (share, bucket) = levels.share(one.unit);
    let was_used = std::mem::take(&mut share.was_used);
    if !was_used && share.left() > 0 {
        share.give_up();
        share.must_tell = true;
    }
    let level = bucket.level(&rate, now);
    let entry = share.is_changed().then(|| RateEntry {
        name: name.to_owned(),
        writer: share.writer,
        count: rate.count(),
        burst: rate.burst(),
        period: rate.period(),
        own: share.own,
        saved: share.saved,
        level,
        keep: share.left(),
        cost: 0,
        ahead: 0,
        most: 0,
    });
    let is_idle = entry.is_none() && share.left() == 0 && level == 0;
    Some((entry, is_idle))
}

#[cfg(test)]
mod tests;
