//! The manager: the only writer of sessions. This file has its fields and what its operations share; the operations
//! are in `admit.rs`, `kill.rs`, `reap.rs` and `query.rs`.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::broadcast;

use super::active_counts::ActiveCounts;
use super::client_keys::ClientKeyStore;
use super::cut::CutReason;
use super::event::{Event, Listener, ServedLeg};
use super::findings::FindingLog;
use super::kill_orders::KillOrders;
use super::registry::Registry;
use super::replication::{Local, Replication};
use super::session::{Closed, End, Inner, Session};
use super::start_rate::StartLimiter;
use super::upgrade_peers::UpgradePeers;
use crate::clock::Clock;
use crate::ids::{BackendName, LegId};
use crate::session::settings::Settings;
use crate::session::store::SessionStore;
use crate::session::views::instance_view::InstanceView;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::state::EndReason;
use crate::session::views::stats::Stats;
use crate::summary::RequestSummary;

/// Events that a slow reader of the feed may lag behind before it loses some.
const FEED: usize = 1024;
/// How long the record of an ended session waits for its last leg to settle.
pub(in crate::session) const SETTLE: Duration = Duration::from_millis(250);

/// How often a listener that is behind is checked again.
const PACE: Duration = Duration::from_millis(2);

/// All sessions of this instance.
pub struct Manager {
    pub(super) settings: ArcSwap<Settings>,
    pub(super) clock: Clock,
    pub(super) store: Arc<dyn SessionStore>,
    /// Connects this instance with others.
    pub(super) replication: Arc<dyn Replication>,
    /// Other processes of this gateway, during an upgrade.
    pub(super) upgrade_peers: UpgradePeers,
    pub(super) listener: Arc<dyn Listener>,
    /// True if the listener receives each leg.
    wants_legs: bool,
    feed: broadcast::Sender<Arc<Event>>,
    /// Active sessions.
    pub(super) active: Registry,
    /// Ended sessions whose last view is not yet in the store.
    pub(super) closing: Registry,
    pub(super) kill_orders: KillOrders,
    pub(super) active_counts: ActiveCounts,
    pub(super) start_limiter: StartLimiter,
    pub(super) totals: Mutex<Stats>,
    pub(super) kills: AtomicU64,
    pub(super) closed: AtomicBool,
    legs: AtomicU64,
    backend_urls: ArcSwap<HashMap<BackendName, Arc<str>>>,
    pub(super) client_keys: OnceLock<Arc<dyn ClientKeyStore>>,
    pub(super) findings: FindingLog,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager").field("active", &self.active_counts.active()).finish_non_exhaustive()
    }
}

impl Manager {
    /// A manager without sessions that shares nothing with other instances.
    pub fn new(
        settings: Settings,
        clock: Clock,
        store: Arc<dyn SessionStore>,
        listener: Arc<dyn Listener>,
    ) -> Arc<Self> {
        Self::build(settings, clock, store, Arc::new(Local), listener)
    }

    /// A manager without sessions, with the given store and replication.
    pub(in crate::session) fn build(
        settings: Settings,
        clock: Clock,
        store: Arc<dyn SessionStore>,
        replication: Arc<dyn Replication>,
        listener: Arc<dyn Listener>,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings: ArcSwap::from_pointee(settings),
            clock,
            store,
            replication,
            upgrade_peers: UpgradePeers::default(),
            wants_legs: listener.wants_legs(),
            listener,
            feed: broadcast::Sender::new(FEED),
            active: Registry::new(),
            closing: Registry::new(),
            kill_orders: KillOrders::default(),
            active_counts: ActiveCounts::default(),
            start_limiter: StartLimiter::default(),
            totals: Mutex::default(),
            kills: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            legs: AtomicU64::new(0),
            backend_urls: ArcSwap::default(),
            client_keys: OnceLock::new(),
            findings: FindingLog::default(),
        })
    }

    /// Applies new settings, from the next admission and the next reap on.
    pub fn reconfigure(&self, settings: Settings) {
        self.replication.reconfigure(&settings);
        self.settings.store(Arc::new(settings));
    }

    /// Sets the address that records show for each backend; others are shown by name.
    pub fn set_backend_urls(&self, shown_as: HashMap<BackendName, Arc<str>>) {
        self.backend_urls.store(Arc::new(shown_as));
    }

    /// The event feed. A reader that falls behind loses the oldest events and learns how many
    /// (`RecvError::Lagged`).
    pub fn events(&self) -> broadcast::Receiver<Arc<Event>> {
        self.feed.subscribe()
    }

    /// The clock of the sessions.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// True when other instances may share sessions.
    pub fn is_shared(&self) -> bool {
        self.replication.is_shared()
    }

    /// The name of this instance in a fleet; `None` without one.
    pub fn instance(&self) -> Option<&str> {
        self.replication.instance()
    }

    /// The instances of the fleet that live; none while the store does not answer, and without a fleet.
    pub async fn instances(&self) -> Vec<InstanceView> {
        self.replication.instances().await
    }

    /// True while the session store answers.
    pub fn store_answers(&self) -> bool {
        self.replication.store_answers()
    }

    /// Sessions that are active here.
    pub(in crate::session) fn active_sessions(&self) -> &Registry {
        &self.active
    }

    /// Ended sessions whose last view is not yet in the store.
    pub(in crate::session) fn closing_sessions(&self) -> &Registry {
        &self.closing
    }

    /// The kill orders that this instance knows.
    pub(in crate::session) fn kill_orders(&self) -> &KillOrders {
        &self.kill_orders
    }

    /// The settings in force.
    pub(in crate::session) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    pub(super) fn next_leg(&self) -> LegId {
        LegId(self.legs.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Tells the listener and the feeds, also those of other instances, of an event.
    pub fn publish(&self, event: Event) {
        self.listener.on_event(&event);
        if self.feed.receiver_count() > 0 || self.replication.is_shared() {
            let event = Arc::new(event);
            self.replication.on_event(&event);
            // Fails if the last reader has just left, which is fine.
            let _unread = self.feed.send(event);
        }
    }

    /// Waits while the listener is behind, for at most `patience` in total.
    pub(super) async fn pace(&self, patience: &mut Duration) {
        while self.listener.is_behind() && !patience.is_zero() {
            tokio::time::sleep(PACE).await;
            *patience = patience.saturating_sub(PACE);
        }
    }

    /// Publishes an event of another instance in the feed.
    pub(in crate::session) fn forward_event(&self, event: &str) {
        if self.feed.receiver_count() == 0 {
            return;
        }
        match serde_json::from_str(event) {
            Ok(event) => drop(self.feed.send(Arc::new(event))),
            Err(fault) => tracing::debug!(%fault, "an event of another instance cannot be read"),
        }
    }

    /// Ends a session if `only_if` holds at that moment: no leg joins it any more, its open legs are cut, and its
    /// record follows when the last of them has settled. Returns how many were cut, or `None` if it had already
    /// ended or may not end.
    pub(in crate::session) fn end(
        &self,
        session: &Arc<Session>,
        reason: EndReason,
        order: Option<Arc<KillOrder>>,
        only_if: impl FnOnce(&Session, &Inner) -> bool,
    ) -> Option<usize> {
        let cuts = session.end(End { at: self.clock.now(), reason, order }, only_if)?;
        self.active_counts.release(session);
        // In this order, so that the session can always be found.
        self.closing.insert(session.clone());
        self.active.remove(session);
        let why = match reason {
            EndReason::Killed => CutReason::Killed,
            EndReason::Shutdown => CutReason::Shutdown,
            EndReason::IdleTimeout
            | EndReason::MaxDuration
            | EndReason::CompletedAfter
            | EndReason::IdleGap
            | EndReason::Capacity => CutReason::TimedOut,
        };
        for cut in &cuts {
            cut.cut(why);
        }
        if cuts.is_empty() {
            self.finish(session);
        } else if reason != EndReason::Shutdown {
            self.replication.on_ended(session);
        }
        Some(cuts.len())
    }

    /// Closes a leg, and writes the record if an ended session waited for it.
    pub(in crate::session) fn close(
        &self,
        session: &Arc<Session>,
        leg: LegId,
        summary: Option<&RequestSummary>,
    ) {
        let usage = if self.wants_legs { summary.and_then(|summary| summary.usage) } else { None };
        let closed = session.close(leg, summary, self.wants_legs, self.clock.now());
        let Some(Closed { kept, was_last }) = closed else { return };
        if let Some(kept) = kept {
            self.listener.on_leg(ServedLeg { uid: session.uid(), kept, usage });
        }
        if was_last {
            self.finish(session);
        }
    }

    /// Removes a leg with everything it counted, and writes the record if an ended session waited for it.
    pub(super) fn withdraw(&self, session: &Arc<Session>, leg: LegId, bytes_in: u64) {
        if session.withdraw(leg, bytes_in, self.clock.now()) {
            self.finish(session);
        }
    }

    /// Completes the record of an ended session, once. With replication it is published when every instance has
    /// closed its share.
    pub(in crate::session) fn finish(&self, session: &Arc<Session>) {
        if let Some(record) = session.record(&self.clock, |name| self.backend_url(name)) {
            self.totals().add_ended(&record, session.identity().client.as_deref());
            self.replication.on_settled(self, session, record);
        }
    }

    /// The address that a record shows for a backend.
    pub(in crate::session) fn backend_url(&self, name: &BackendName) -> Arc<str> {
        self.backend_urls.load().get(name).cloned().unwrap_or_else(|| Arc::from(name.as_str()))
    }

    pub(in crate::session) fn totals(&self) -> parking_lot::MutexGuard<'_, Stats> {
        self.totals.lock()
    }
}

#[cfg(test)]
mod tests;
