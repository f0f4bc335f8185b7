//! The state of replication on this instance, and how sessions are opened through the store.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::announcements::Announcements;
use super::event_queue::EventQueue;
use super::name_resolution::UnresolvedNames;
use super::pending_orders::PendingOrders;
use super::replay_log::ReplayLog;
use super::share_schedule::Flushed;
use super::store_health::{OwnKey, StoreHealth};
use crate::clock::{Moment, millis};
use crate::ids::Uid;
use crate::redis::{LinkError, OnUnavailable};
use crate::session::core::event::Event;
use crate::session::core::manager::Manager;
use crate::session::core::replication::Opening;
use crate::session::core::request::{Denied, SessionRequest};
use crate::session::core::session::Session;
use crate::session::settings::Settings;
use crate::session::store::redis::{Admitted, Ended, Lifetimes};
use crate::session::store::{RedisStore, StoreError};
use crate::session::views::kill_order::KillOrder;
use crate::session::views::session_view::SessionView;
use crate::session::views::state::EndReason;

/// How often an admission is retried after the session it joined turned out to be over.
const TRIES: usize = 3;
/// The clock of Redis counts as the one of this instance if they differ by less. Round trips are shorter, so that the
/// times that one instance compares do not move against each other.
const SAME_CLOCK_MS: u64 = 1000;
/// The most tasks that wait.
const TASKS: usize = 16_384;

/// Shares the sessions of this instance with others, through Redis.
pub struct Replicator {
    pub(super) store: Arc<RedisStore>,
    /// When this instance started, in milliseconds since 1970.
    pub(super) started_ms: u64,
    pub(super) rejects_alone: AtomicBool,
    /// Milliseconds between two writes of a share that changes.
    pub(super) flush_ms: AtomicU64,
    /// The shortest idle gap that requests asked for, in milliseconds.
    pub(super) gap_ms: AtomicU64,
    /// True if `retention` is longer than when the documents of ended sessions were written.
    pub(super) retains_longer: AtomicBool,
    /// The number of the last share, and the version of the last write of any share.
    pub(super) shares: AtomicU32,
    pub(super) versions: AtomicU64,
    pub(super) work: mpsc::Sender<SyncTask>,
    pub(super) tasks: Mutex<Option<mpsc::Receiver<SyncTask>>>,
    pub(super) feed: EventQueue,
    pub(super) announcements: Announcements,
    /// The stamps of the documents in Redis that this instance has, by `DocumentSet`; `None` if they must be compared.
    pub(super) client_keys_seen: Mutex<[Option<String>; 3]>,
    /// The last write of each share.
    pub(super) flushed: tokio::sync::Mutex<HashMap<u32, Flushed>>,
    /// Shares that are being closed.
    pub(super) closing_shares: Mutex<HashSet<u32>>,
    /// Orders lifted while the store was unavailable.
    pub(super) lifted: Mutex<Vec<Arc<KillOrder>>>,
    /// Orders that the store or other instances have not received.
    pub(super) pending_orders: Mutex<PendingOrders>,
    /// True if messages of other instances may have been missed: all orders are to be read again.
    pub(super) missed: AtomicBool,
    /// Starts the next sync at once.
    pub(super) wake: Notify,
    /// Orders that the store had lost and that were written again.
    pub(super) lost_orders: AtomicU64,
    pub(super) health: StoreHealth,
    /// Names that were killed while the store was unavailable.
    pub(super) unresolved_names: Mutex<UnresolvedNames>,
    pub(super) replay_log: Mutex<ReplayLog>,
    /// How far the search for ended sessions without a record has come; `None` at the beginning.
    pub(super) walked_to: Mutex<Option<Uid>>,
    /// Admissions that were decided without the store.
    pub(super) fallbacks: AtomicU64,
    pub(super) synced: AtomicBool,
    /// Milliseconds by which the clock of Redis is ahead of the one of this instance.
    skew_ms: AtomicI64,
}

/// Work that is done at once. A task that does not fit in the queue is not lost: each sync writes active sessions,
/// each reap closes ended ones.
pub(super) enum SyncTask {
    /// List a session that was opened here, or write the share of one that was joined.
    Open(Arc<Session>),
    /// Write the end of a session that still has open legs.
    End(Arc<Session>),
    /// Close a share.
    Close(Arc<Session>),
}

impl Replicator {
    /// Replicates through this store. `principals` is the principals' key of this instance, and whether it is the
    /// one in the store; `None` if it has a key that is stored nowhere.
    pub fn new(store: Arc<RedisStore>, principals: Option<OwnKey>) -> Self {
        let (work, tasks) = mpsc::channel(TASKS);
        Self {
            store,
            started_ms: u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default(),
            rejects_alone: AtomicBool::new(false),
            flush_ms: AtomicU64::new(1000),
            gap_ms: AtomicU64::new(u64::MAX),
            retains_longer: AtomicBool::new(false),
            shares: AtomicU32::new(0),
            versions: AtomicU64::new(0),
            work,
            tasks: Mutex::new(Some(tasks)),
            feed: EventQueue::new(),
            announcements: Announcements::new(),
            client_keys_seen: Mutex::default(),
            closing_shares: Mutex::default(),
            flushed: tokio::sync::Mutex::default(),
            lifted: Mutex::default(),
            pending_orders: Mutex::default(),
            missed: AtomicBool::new(false),
            wake: Notify::new(),
            lost_orders: AtomicU64::new(0),
            health: StoreHealth::new(principals),
            unresolved_names: Mutex::default(),
            replay_log: Mutex::default(),
            walked_to: Mutex::default(),
            fallbacks: AtomicU64::new(0),
            synced: AtomicBool::new(false),
            skew_ms: AtomicI64::new(0),
        }
    }

    /// True while the store is used.
    pub fn is_up(&self) -> bool {
        self.store.link().is_up()
    }

    /// True once this instance has read all kill orders.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// What is wrong with the connection to the store, and what to do about it.
    pub fn fault(&self) -> Option<String> {
        self.health.refused().or_else(|| self.store.link().fault())
    }

    /// Admissions that were decided without the store.
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    /// Events that were not published to other instances.
    pub fn events_dropped(&self) -> u64 {
        self.feed.dropped()
    }

    pub(super) fn apply_settings(&self, settings: &Settings) {
        let active = settings.idle_timeout + settings.retention;
        if self.store.set_lifetimes(Lifetimes { active, ended: settings.retention }) {
            self.retains_longer.store(true, Ordering::Release);
        }
        if let Some(redis) = settings.redis() {
            self.flush_ms.store(millis(redis.flush_interval()), Ordering::Relaxed);
            let rejects = redis.on_unavailable() == OnUnavailable::Reject;
            self.rejects_alone.store(rejects, Ordering::Relaxed);
        }
    }

    /// Compares the clock of Redis, in milliseconds since 1970, with the one of this instance.
    pub(super) fn compare_clocks(&self, core: &Manager, store_ms: u64) {
        let own_ms = core.clock().unix_millis(core.clock().now());
        let skew_ms = i64::try_from(store_ms).unwrap_or(0) - i64::try_from(own_ms).unwrap_or(0);
        if skew_ms.abs_diff(self.skew_ms.load(Ordering::Relaxed)) >= SAME_CLOCK_MS {
            self.skew_ms.store(skew_ms, Ordering::Relaxed);
        }
    }

    /// A moment on the clock of Redis, in milliseconds since 1970, which other instances can compare with theirs.
    pub(super) fn store_millis(&self, core: &Manager, moment: Moment) -> u64 {
        core.clock().unix_millis(moment).saturating_add_signed(self.skew_ms.load(Ordering::Relaxed))
    }

    /// How often counters are written.
    pub(super) fn flush_interval(&self) -> Duration {
        Duration::from_millis(self.flush_ms.load(Ordering::Relaxed))
    }

    pub(super) fn share_name(&self, share: u32) -> String {
        format!("{}:{share}", self.store.instance())
    }

    /// True if orders or liftings wait to be sent.
    pub(super) fn has_pending_orders(&self) -> bool {
        !self.pending_orders.lock().is_empty() || !self.lifted.lock().is_empty()
    }

    /// Has the next sync read everything again, because messages of other instances may have been missed.
    pub(super) fn missed_messages(&self) {
        self.missed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(super) fn has_missed_messages(&self) -> bool {
        self.missed.load(Ordering::Acquire)
    }

    pub(super) fn replay_log(&self) -> MutexGuard<'_, ReplayLog> {
        self.replay_log.lock()
    }

    /// Queues work that is not on the path of a request.
    pub(super) fn enqueue(&self, work: SyncTask) {
        // If the queue is full, the next sync or reap does it.
        let _ = self.work.try_send(work);
    }
}

impl Replicator {
    /// Takes the link down after the store did not answer: from now on this instance continues alone.
    pub(super) fn store_lost(&self, core: &Manager, why: &LinkError) {
        // Record the reason first, because it is read as soon as the link is down.
        if self.is_up() {
            self.health.lost_link(why);
        }
        if self.store.link().down() {
            core.publish(Event::StoreLost { why: why.to_string() });
        }
    }

    /// Opens or joins a session that is not active here: one round trip, none while the store is unavailable.
    pub(super) async fn open_session(
        &self,
        core: &Manager,
        request: &SessionRequest,
    ) -> Result<Opening, Denied> {
        if let Some(gap) = request.idle_gap {
            self.gap_ms.fetch_min(millis(gap), Ordering::Relaxed);
        }
        for _ in 0..TRIES {
            let now = core.clock().now();
            let share = self.shares.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            let mut proposed = Session::new(request.clone(), None, now).view(core.clock(), false);
            // Other instances count the request that opens the session before its share is written.
            proposed.request_count = 1;
            if !self.is_up() {
                return self.open_without_store(proposed, share);
            }
            let now_ms = self.store_millis(core, now);
            let admitted = self.store.admit(proposed.clone(), &self.share_name(share), now_ms).await;
            match admitted {
                Ok(Admitted::New(session, entries)) => {
                    self.apply_orders(core, &request.key, entries);
                    return Ok(Opening::Shared { session, share, is_new: true });
                }
                Ok(Admitted::Join(session, last_ms, entries)) => {
                    self.apply_orders(core, &request.key, entries);
                    if !self.end_if_over(core, request, &session, last_ms, now).await {
                        return Ok(Opening::Shared { session, share, is_new: false });
                    }
                    self.release_share(&session, share).await;
                }
                Ok(Admitted::Killed(entries)) => {
                    let stored = self.order_against(&request.key, &entries);
                    self.apply_orders(core, &request.key, entries);
                    if let Some(order) = core.kill_orders().in_force(&request.key, now).or(stored) {
                        return Err(Denied::Killed { order });
                    }
                }
                Ok(Admitted::Unreadable(key)) => return Err(Denied::Unreadable { key }),
                Err(LinkError::Refused(_)) => {
                    return Err(Denied::Unreadable { key: self.store.keys().session(&request.key) });
                }
                Err(away) => {
                    self.store_lost(core, &away);
                    return self.open_without_store(proposed, share);
                }
            }
        }
        Err(Denied::Store(StoreError("the session ended repeatedly while it was being opened".to_owned())))
    }

    /// Opens a session without the store, or refuses it, as configured.
    fn open_without_store(&self, proposed: SessionView, share: u32) -> Result<Opening, Denied> {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
        if self.rejects_alone.load(Ordering::Relaxed) {
            return Err(Denied::Store(StoreError("redis is unavailable".to_owned())));
        }
        // With the proposed uid: the store may have opened it, and only its answer was lost.
        Ok(Opening::Shared { session: Box::new(proposed), share, is_new: true })
    }

    /// Ends a session that has ended here or is due to end, although the store does not say so yet. Returns true if
    /// it is over.
    async fn end_if_over(
        &self,
        core: &Manager,
        request: &SessionRequest,
        session: &SessionView,
        last_ms: u64,
        now: Moment,
    ) -> bool {
        let (key, uid) = (session.key(), session.uid);
        if let Some(note) = self.ended_here(core, key, uid) {
            return self.is_over(core, self.store.end(key, uid, &note, None).await);
        }
        let settings = core.settings();
        let age = now.since(core.clock().moment(session.started_at));
        if settings.max_duration.is_some_and(|max| age >= max) {
            let ended = self.end_in_store(core, key, uid, EndReason::MaxDuration, None).await;
            return self.is_over(core, ended);
        }
        let idle_timeout = settings.idle_timeout;
        let (limit, reason) = match request.idle_gap {
            Some(gap) if gap < idle_timeout => (gap, EndReason::IdleGap),
            _ => (idle_timeout, EndReason::IdleTimeout),
        };
        let since = self.store_millis(core, now).saturating_sub(millis(limit));
        if last_ms == 0 || last_ms >= since {
            return false;
        }
        let ended = self.end_in_store(core, key, uid, reason, Some(since)).await;
        self.is_over(core, ended)
    }

    /// True if it ended, or if the store became unavailable: then it is not joined.
    fn is_over(&self, core: &Manager, ended: Result<Ended, LinkError>) -> bool {
        match ended {
            Ok(Ended::Done(_)) => true,
            Ok(Ended::Busy(_)) | Err(LinkError::Refused(_)) => false,
            Err(away) => {
                self.store_lost(core, &away);
                true
            }
        }
    }

    /// Releases what was opened in the store for a request that was refused here, or that found the session active.
    pub(super) fn release_opening(&self, opening: &Opening, request: &SessionRequest) {
        let Opening::Shared { session, share, .. } = opening else { return };
        if !self.is_up() {
            return;
        }
        let (store, key, uid, share) =
            (self.store.clone(), request.key.clone(), session.uid, self.share_name(*share));
        tokio::spawn(async move {
            if let Err(fault) = store.abandon(&key, uid, &share).await {
                tracing::debug!(%fault, "a share was not given back");
            }
        });
    }
}
