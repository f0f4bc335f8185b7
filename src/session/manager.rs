//! The manager: the only writer of sessions. This file holds its parts and what all its duties share;
//! the duties are `admit.rs`, `kill.rs`, `reaper.rs` and `query.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::book::{Book, KillOrder};
use super::census::Census;
use super::cut::CutReason;
use super::event::{Event, Listener, Served};
use super::fleet::Fleet;
use super::live::{Closed, End, Inner, Live};
use super::model::EndReason;
use super::registry::Registry;
use super::settings::Settings;
use super::sibling::Siblings;
use super::starts::Starts;
use super::stats::Stats;
use super::store::SessionStore;
use crate::clock::Clock;
use crate::ids::{BackendName, LegId};
use crate::summary::RequestSummary;

/// Events a slow reader of the feed may lag behind before it loses some.
const FEED: usize = 1024;
/// The record of an ended session waits so long for its last leg to settle.
pub(super) const SETTLE: Duration = Duration::from_millis(250);

/// How often a listener that is behind is asked again.
const PACE: Duration = Duration::from_millis(2);

/// All sessions of this instance.
pub struct Manager {
    pub(super) settings: ArcSwap<Settings>,
    pub(super) clock: Clock,
    pub(super) store: Arc<dyn SessionStore>,
    /// This instance's part among others; none when it is the only one.
    pub(super) fleet: Option<Arc<Fleet>>,
    /// Other processes of this gateway, during an upgrade.
    pub(super) siblings: Siblings,
    listener: Arc<dyn Listener>,
    /// Whether the listener is to be told of each leg.
    tells_legs: bool,
    feed: broadcast::Sender<Arc<Event>>,
    /// Active sessions.
    pub(super) live: Registry,
    /// Ended sessions whose last snapshot is not yet in the store.
    pub(super) closing: Registry,
    pub(super) book: Book,
    pub(super) census: Census,
    pub(super) starts: Starts,
    pub(super) totals: Mutex<Stats>,
    pub(super) kills: AtomicU64,
    pub(super) closed: AtomicBool,
    legs: AtomicU64,
    shown_as: ArcSwap<HashMap<BackendName, Arc<str>>>,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager").field("active", &self.census.active()).finish_non_exhaustive()
    }
}

impl Manager {
    /// A manager without sessions.
    pub fn new(
        settings: Settings,
        clock: Clock,
        store: Arc<dyn SessionStore>,
        listener: Arc<dyn Listener>,
    ) -> Arc<Self> {
        Self::build(settings, clock, store, None, listener)
    }

    /// A manager that plays its part in a fleet.
    pub fn in_fleet(
        settings: Settings,
        clock: Clock,
        fleet: Fleet,
        listener: Arc<dyn Listener>,
    ) -> Arc<Self> {
        fleet.reconfigure(&settings);
        let store = fleet.store().clone();
        Self::build(settings, clock, store, Some(Arc::new(fleet)), listener)
    }

    fn build(
        settings: Settings,
        clock: Clock,
        store: Arc<dyn SessionStore>,
        fleet: Option<Arc<Fleet>>,
        listener: Arc<dyn Listener>,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings: ArcSwap::from_pointee(settings),
            clock,
            store,
            fleet,
            siblings: Siblings::default(),
            tells_legs: listener.wants_legs(),
            listener,
            feed: broadcast::Sender::new(FEED),
            live: Registry::new(),
            closing: Registry::new(),
            book: Book::default(),
            census: Census::default(),
            starts: Starts::default(),
            totals: Mutex::default(),
            kills: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            legs: AtomicU64::new(0),
            shown_as: ArcSwap::default(),
        })
    }

    /// Takes new settings; they hold from the next admission and the next reaping on.
    pub fn reconfigure(&self, settings: Settings) {
        if let Some(fleet) = &self.fleet {
            fleet.reconfigure(&settings);
        }
        self.settings.store(Arc::new(settings));
    }

    /// Tells what a record shows for a backend (its URL); an unknown one is shown by its name.
    pub fn show_backends(&self, shown_as: HashMap<BackendName, Arc<str>>) {
        self.shown_as.store(Arc::new(shown_as));
    }

    /// The live feed. A reader that falls behind loses the oldest events and is told how many
    /// (`RecvError::Lagged`).
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.feed.subscribe()
    }

    /// The clock sessions live by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn next_leg(&self) -> LegId {
        LegId(self.legs.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(super) fn publish(&self, event: Event) {
        self.listener.hear(&event);
        if self.feed.receiver_count() > 0 || self.fleet.is_some() {
            let event = Arc::new(event);
            if let Some(fleet) = &self.fleet {
                fleet.tell(&event);
            }
            // The last reader may have left just now; nobody misses the event then.
            let _unread = self.feed.send(event);
        }
    }

    /// Waits while the listener is behind, as long as there is patience.
    pub(super) async fn pace(&self, patience: &mut Duration) {
        while self.listener.is_behind() && !patience.is_zero() {
            tokio::time::sleep(PACE).await;
            *patience = patience.saturating_sub(PACE);
        }
    }

    /// Shows in the feed what happened at another instance.
    pub(super) fn show(&self, event: &str) {
        if self.feed.receiver_count() == 0 {
            return;
        }
        match serde_json::from_str(event) {
            Ok(event) => drop(self.feed.send(Arc::new(event))),
            Err(fault) => tracing::debug!(%fault, "an event of another instance cannot be read"),
        }
    }

    /// Ends a session if `only_if` holds at that moment: no leg joins it any more, its open legs are
    /// cut, and its record follows when the last of them has settled. Gives how many were cut; `None`
    /// when it had ended before or may not end.
    pub(super) fn end(
        &self,
        live: &Arc<Live>,
        reason: EndReason,
        order: Option<Arc<KillOrder>>,
        only_if: impl FnOnce(&Live, &Inner) -> bool,
    ) -> Option<usize> {
        let cuts = live.end(End { at: self.clock.now(), reason, order }, only_if)?;
        self.census.release(live);
        // In this order, so that it can be found at every moment.
        self.closing.insert(live.clone());
        self.live.remove(live);
        let why = match reason {
            EndReason::Killed => CutReason::Killed,
            EndReason::Shutdown => CutReason::Shutdown,
            _ => CutReason::TimedOut,
        };
        for cut in &cuts {
            cut.cut(why);
        }
        if cuts.is_empty() {
            self.finish(live);
        } else if let Some(fleet) = self.fleet.as_ref().filter(|_| reason != EndReason::Shutdown) {
            fleet.ended(live);
        }
        Some(cuts.len())
    }

    /// Closes a leg, and writes the record when an ended session waited for it.
    pub(super) fn close(&self, live: &Arc<Live>, leg: LegId, summary: Option<&RequestSummary>) {
        let usage = if self.tells_legs { summary.and_then(|summary| summary.usage) } else { None };
        let closed = live.close(leg, summary, self.tells_legs, self.clock.now());
        let Some(Closed { kept, was_last }) = closed else { return };
        if let Some(kept) = kept {
            self.listener.hear_leg(Served { uid: live.uid(), kept, usage });
        }
        if was_last {
            self.finish(live);
        }
    }

    /// Takes a leg out of its session uncounted, and writes the record when an ended session waited for it.
    pub(super) fn withdraw(&self, live: &Arc<Live>, leg: LegId, bytes_in: u64) {
        if live.withdraw(leg, bytes_in, self.clock.now()) {
            self.finish(live);
        }
    }

    /// Writes the record of an ended session, unless it was written before.
    /// In a fleet it is written when every instance has closed its share.
    pub(super) fn finish(&self, live: &Arc<Live>) {
        if let Some(record) = live.record(&self.clock, |name| self.shown_as(name)) {
            self.totals().add_ended(&record, live.identity().client.as_deref());
            match &self.fleet {
                None => self.publish(Event::Ended(Arc::new(record))),
                Some(fleet) => fleet.settled(live),
            }
        }
    }

    /// What a record shows for a backend.
    pub(super) fn shown_as(&self, name: &BackendName) -> Arc<str> {
        self.shown_as.load().get(name).cloned().unwrap_or_else(|| Arc::from(name.as_str()))
    }

    pub(super) fn totals(&self) -> parking_lot::MutexGuard<'_, Stats> {
        self.totals.lock()
    }
}

#[cfg(test)]
mod tests;
