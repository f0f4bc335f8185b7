//! Several instances as one: this instance's part in it.
//!
//! Each instance writes its share of a session under a key of its own, as sums since it joined, so that
//! a write that comes twice or late changes nothing. A session is opened and joined by one script in the
//! store; one that is live here is joined without asking, because whatever another instance did to it is
//! told to us, and looked up again after every gap (docs/adr/0014). Without the store this instance goes
//! on by itself; what it did is written when the store is back.
//!
//! `orders` heeds kills · `namesakes` looks up names that were killed while the store was away ·
//! `shares` writes and closes shares · `burial` those of dead instances ·
//! `recent` is what a copy of the store may lack · `step` is the beat of it all.

mod burial;
mod namesakes;
mod orders;
mod recent;
mod shares;
mod step;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::book::KillOrder;
use super::event::Event;
use super::leg::{Arrival, Denied};
use super::live::{Live, Previous};
use super::manager::Manager;
use super::model::EndReason;
use super::settings::Settings;
use super::snapshot::Snapshot;
use super::store::redis::{Admitted, Ended, Lifetimes};
use super::store::{RedisStore, StoreError};
use crate::clock::{Moment, millis};
use crate::ids::{SessionKey, Uid};
use crate::redis::{LinkError, OnUnavailable};

use recent::Recent;
pub use step::serve;

/// How often an admission tries again after the session it joined turned out to be over.
const TRIES: usize = 3;

/// This instance's part in the fleet.
pub struct Fleet {
    store: Arc<RedisStore>,
    on_unavailable: OnUnavailable,
    flush_interval: Duration,
    /// The number of the last share, and of the last version of any.
    shares: AtomicU32,
    versions: AtomicU64,
    work: mpsc::UnboundedSender<Work>,
    todo: Mutex<Option<mpsc::UnboundedReceiver<Work>>>,
    /// What was flushed last of each share.
    flushed: tokio::sync::Mutex<HashMap<u32, shares::Print>>,
    /// Orders lifted while the store was away.
    lifted: Mutex<Vec<Arc<KillOrder>>>,
    /// Sessions whose orders the others were perhaps not told of.
    untold: Mutex<Vec<SessionKey>>,
    /// Names that were killed while the store was away.
    unresolved: Mutex<Vec<namesakes::Unresolved>>,
    recent: Mutex<Recent>,
    /// Records that were published and are not yet marked as written in the store.
    recording: Mutex<HashSet<Uid>>,
    /// Admissions that were decided without the store.
    fallbacks: AtomicU64,
    synced: AtomicBool,
}

/// What is to be written at once.
enum Work {
    /// A share that is new.
    Flush(Arc<Live>),
    /// A share that is done.
    Close(Arc<Live>),
    /// What the feeds of the other instances show.
    Tell(Arc<Event>),
}

/// How a session that is not live here is opened.
pub(super) enum Opening {
    /// Here alone.
    Own(Option<Previous>),
    /// As the store says.
    Shared {
        /// The incarnation.
        session: Box<Snapshot>,
        /// This instance's share of it.
        share: u32,
        /// Whether it began with this.
        is_new: bool,
    },
}

impl Fleet {
    /// A part in the fleet behind this store.
    pub fn new(store: Arc<RedisStore>, on_unavailable: OnUnavailable, flush_interval: Duration) -> Self {
        let (work, todo) = mpsc::unbounded_channel();
        Self {
            store,
            on_unavailable,
            flush_interval,
            shares: AtomicU32::new(0),
            versions: AtomicU64::new(0),
            work,
            todo: Mutex::new(Some(todo)),
            flushed: tokio::sync::Mutex::default(),
            lifted: Mutex::default(),
            untold: Mutex::default(),
            unresolved: Mutex::default(),
            recent: Mutex::default(),
            recording: Mutex::default(),
            fallbacks: AtomicU64::new(0),
            synced: AtomicBool::new(false),
        }
    }

    /// True while the store is asked.
    pub fn is_up(&self) -> bool {
        self.store.link().is_up()
    }

    /// True once this instance has known every kill order.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// What is wrong with the way to the store, and what to do about it.
    pub fn fault(&self) -> Option<String> {
        self.store.link().fault()
    }

    /// Admissions that were decided without the store.
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    pub(super) fn store(&self) -> &Arc<RedisStore> {
        &self.store
    }

    pub(super) fn reconfigure(&self, settings: &Settings) {
        let active = settings.idle_timeout + settings.retention;
        self.store.live_for(Lifetimes { active, ended: settings.retention });
    }

    fn share_name(&self, share: u32) -> String {
        format!("{}:{share}", self.store.instance())
    }

    /// Has the others told of the orders against this session as soon as the store is there.
    fn tell_later(&self, key: SessionKey) {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    /// True when the others were not told of everything yet.
    fn owes(&self) -> bool {
        !self.untold.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
            || !self.lifted.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this written soon, off the path of a request.
    fn later(&self, work: Work) {
        // Fails only when the process ends.
        let _ = self.work.send(work);
    }

    pub(super) fn opened(&self, live: &Arc<Live>) {
        self.later(Work::Flush(live.clone()));
    }

    /// Has the other instances show this in their feeds.
    pub(super) fn tell(&self, event: &Arc<Event>) {
        let is_ours_only = matches!(**event, Event::StoreLost { .. } | Event::StoreBack);
        if !is_ours_only && self.is_up() {
            self.later(Work::Tell(event.clone()));
        }
    }

    pub(super) fn settled(&self, live: &Arc<Live>) {
        self.later(Work::Close(live.clone()));
    }
}

impl Manager {
    /// This instance's part in a fleet, if it is in one.
    pub fn fleet(&self) -> Option<&Arc<Fleet>> {
        self.fleet.as_ref()
    }

    /// The store did not answer: from now on this instance is on its own.
    pub(super) fn store_lost(&self, fleet: &Fleet, why: &LinkError) {
        if fleet.store.link().down() {
            self.publish(Event::StoreLost { why: why.to_string() });
        }
    }

    /// How a session that is not live here is to be opened: one round trip, none while the store is away.
    pub(super) async fn opening(&self, arrival: &Arrival) -> Result<Opening, Denied> {
        match &self.fleet {
            // Apart: its future must not make every request's larger.
            Some(fleet) => Box::pin(self.opening_in(fleet, arrival)).await,
            None => {
                let stored = self.store.latest(&arrival.key).await?;
                Ok(Opening::Own(stored.map(|old| Previous { uid: old.uid, incarnation: old.incarnation })))
            }
        }
    }

    async fn opening_in(&self, fleet: &Fleet, arrival: &Arrival) -> Result<Opening, Denied> {
        for _ in 0..TRIES {
            let now = self.clock.now();
            let share = fleet.shares.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            let proposed = Live::new(arrival.clone(), None, now).snapshot(&self.clock, false);
            if !fleet.is_up() {
                return self.alone(fleet, proposed, share);
            }
            let now_ms = self.clock.unix_millis(now);
            let admitted = fleet.store.admit(proposed.clone(), &fleet.share_name(share), now_ms).await;
            match admitted {
                Ok(Admitted::New(session, stood)) => {
                    self.heed(&arrival.key, stood);
                    return Ok(Opening::Shared { session, share, is_new: true });
                }
                Ok(Admitted::Join(session, last_ms, stood)) => {
                    self.heed(&arrival.key, stood);
                    if !self.ended_meanwhile(fleet, arrival, &session, last_ms, now).await {
                        return Ok(Opening::Shared { session, share, is_new: false });
                    }
                }
                Ok(Admitted::Killed(stood)) => {
                    self.heed(&arrival.key, stood);
                    if let Some(order) = self.book.in_force(&arrival.key, now) {
                        return Err(Denied::Killed { order });
                    }
                }
                Ok(Admitted::Unreadable(key)) => return Err(Denied::Unreadable { key }),
                Err(LinkError::Refused(_)) => {
                    return Err(Denied::Unreadable { key: fleet.store.keys().session(&arrival.key) });
                }
                Err(away) => {
                    self.store_lost(fleet, &away);
                    return self.alone(fleet, proposed, share);
                }
            }
        }
        Err(Denied::Store(StoreError("the session ends as fast as it begins".to_owned())))
    }

    /// Without the store, as the configuration says.
    fn alone(&self, fleet: &Fleet, proposed: Snapshot, share: u32) -> Result<Opening, Denied> {
        fleet.fallbacks.fetch_add(1, Ordering::Relaxed);
        match fleet.on_unavailable {
            // Under the incarnation that was proposed: the store may have taken it, and only its answer was lost.
            OnUnavailable::Memory => Ok(Opening::Shared { session: Box::new(proposed), share, is_new: true }),
            OnUnavailable::Reject => Err(Denied::Store(StoreError("redis is unavailable".to_owned()))),
        }
    }

    /// A session that nobody used for too long is over, though nobody has ended it yet.
    async fn ended_meanwhile(
        &self,
        fleet: &Fleet,
        arrival: &Arrival,
        session: &Snapshot,
        last_ms: u64,
        now: Moment,
    ) -> bool {
        let idle_timeout = self.settings.load().idle_timeout;
        let (limit, reason) = match arrival.idle_gap {
            Some(gap) if gap < idle_timeout => (gap, EndReason::IdleGap),
            _ => (idle_timeout, EndReason::IdleTimeout),
        };
        let since = self.clock.unix_millis(now).saturating_sub(millis(limit));
        if last_ms == 0 || last_ms >= since {
            return false;
        }
        let ended = self.end_in_store(fleet, session.key(), session.uid, reason, Some(since)).await;
        matches!(ended, Ok(Ended::So(_)))
    }

    /// Gives back what was opened in the store for a leg that then was not admitted here, or that found
    /// the session live.
    pub(super) fn not_opened(&self, opening: &Opening, arrival: &Arrival) {
        let (Some(fleet), Opening::Shared { session, share, .. }) = (&self.fleet, opening) else { return };
        if !fleet.is_up() {
            return;
        }
        let (store, key, uid, share) =
            (fleet.store.clone(), arrival.key.clone(), session.uid, fleet.share_name(*share));
        tokio::spawn(async move {
            if let Err(fault) = store.abandon(&key, uid, &share).await {
                tracing::debug!(%fault, "a share was not given back");
            }
        });
    }
}
