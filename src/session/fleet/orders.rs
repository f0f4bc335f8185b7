//! Kill orders of the whole fleet: written where all can read them, heeded here whoever wrote them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Fleet;
use crate::clock::Moment;
use crate::ids::{SessionKey, Uid};
use crate::redis::LinkError;
use crate::session::book::{BlockMode, KillOrder};
use crate::session::live::Live;
use crate::session::manager::Manager;
use crate::session::model::EndReason;
use crate::session::store::redis::Stood;

/// A kill waits so long for its order to be written before it cuts what is open here.
const WRITTEN: Duration = Duration::from_millis(20);
/// Changes are looked up again this far back: Redis may have noted them a little late.
const OVERLAP_MS: u64 = 5_000;
/// Sessions whose orders are read in one round trip.
const CHUNK: usize = 256;

/// A kill order on its way to all others.
pub(in crate::session) struct Telling(tokio::task::JoinHandle<Result<u64, LinkError>>);

impl Manager {
    /// Writes an order where all can read it, and tells them. Returns when it is written, or when waiting
    /// any longer would hold up the cut.
    pub(in crate::session) async fn spread(&self, order: &Arc<KillOrder>) -> Option<Telling> {
        let fleet = self.fleet.as_ref()?;
        if !fleet.is_up() {
            fleet.tell_later(order.key());
            return None;
        }
        let (store, order) = (fleet.store.clone(), order.clone());
        let now_ms = self.clock.unix_millis(self.clock.now());
        let (written, wait) = tokio::sync::oneshot::channel();
        let telling = tokio::spawn(async move {
            store.order(&order, now_ms, true).await?;
            // Nobody waits any more when this took too long.
            let _ = written.send(());
            store.tell_kill(&order.key()).await
        });
        let _ = tokio::time::timeout(WRITTEN, wait).await;
        Some(Telling(telling))
    }

    /// How many instances heard of the order; the one that gave it at least.
    pub(in crate::session) async fn heard(&self, order: &KillOrder, telling: Option<Telling>) -> u64 {
        let (Some(fleet), Some(Telling(telling))) = (&self.fleet, telling) else { return 1 };
        let fault = match telling.await {
            Ok(Ok(heard)) => return heard.max(1),
            Ok(Err(fault)) => fault,
            Err(fault) => LinkError::Away(fault.to_string()),
        };
        // It stands in the book, and is written when the store is back; it may be written by now, with
        // nobody told.
        tracing::error!(%fault, "a kill order did not reach the other instances yet");
        fleet.tell_later(order.key());
        self.store_lost(fleet, &fault);
        1
    }

    /// Ends an incarnation that is not live here: whoever has it will hear, and if nobody has it any more
    /// its record is written all the same.
    pub(in crate::session) async fn end_elsewhere(&self, order: &Arc<KillOrder>, uid: Uid) {
        let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.is_up()) else { return };
        let key = order.key();
        let note = self.end_note(EndReason::Killed, Some(order.clone()));
        if let Err(fault) = fleet.store.end(&key, uid, &note, None).await {
            tracing::warn!(%fault, "a killed session was not ended in the store");
        }
        self.look_soon(fleet, &key, uid).await;
    }

    /// Tells all that an order was lifted; later, if the store is away.
    pub(in crate::session) async fn spread_lifting(&self, order: &Arc<KillOrder>) {
        let Some(fleet) = &self.fleet else { return };
        let now_ms = self.clock.unix_millis(self.clock.now());
        let spread = async {
            fleet.store.lift(order, now_ms).await?;
            fleet.store.tell_kill(&order.key()).await
        };
        let done =
            if fleet.is_up() { spread.await } else { Err(LinkError::Away("not connected".to_owned())) };
        if let Err(fault) = done {
            tracing::warn!(%fault, "a lifted kill order is told to the other instances later");
            fleet.lifted.lock().unwrap_or_else(PoisonError::into_inner).push(order.clone());
        }
    }

    /// Does what stands in the store against a session: what is new is written into the book and carried
    /// out, what was lifted is struck out.
    pub(in crate::session) fn heed(&self, key: &SessionKey, stood: Vec<Stood>) {
        let now = self.clock.now();
        let unreadable = stood.iter().any(|what| matches!(what, Stood::Unreadable { .. }));
        if !unreadable {
            self.book.strike_unreadable(key);
        }
        for what in stood {
            match what {
                Stood::Order(order) => {
                    let (scope, session_id) = (key.scope.clone(), key.id.clone());
                    if let Some(legs_cut) = self.take_order(KillOrder { scope, session_id, ..order }) {
                        tracing::debug!(session_id = %key.id, legs_cut, "a kill order of the fleet was carried out");
                    }
                }
                Stood::Lifted { agent, rev } => self.lift_until(key, agent.as_ref(), rev),
                Stood::Unreadable { agent } => {
                    let order = Arc::new(self.unreadable(key, agent, now));
                    self.book.take(&order);
                }
            }
        }
    }

    /// Refuses a session as long as nobody can read what stands against it.
    fn unreadable(&self, key: &SessionKey, agent: Option<crate::ids::AgentId>, now: Moment) -> KillOrder {
        KillOrder {
            session_id: key.id.clone(),
            scope: key.scope.clone(),
            agent,
            descendants: Vec::new(),
            uid: Uid::fresh(),
            reason: "its kill order in the shared store cannot be read".to_owned(),
            by: "elida".to_owned(),
            at: self.clock.wall(now),
            mode: BlockMode::UntilResumed,
            until: None,
            expires: None,
            rev: 0,
        }
    }

    /// Reads the orders against one session.
    pub(super) async fn look_at_orders(&self, fleet: &Fleet, key: SessionKey) -> Result<(), LinkError> {
        let stood = fleet.store.stood(std::slice::from_ref(&key)).await?;
        stood.into_iter().for_each(|stood| self.heed(&key, stood));
        Ok(())
    }

    /// Reads the orders that changed since the last time; gives the time for the next one.
    pub(super) async fn look_at_changes(&self, fleet: &Fleet, since_ms: u64) -> Result<u64, LinkError> {
        let (now_ms, changed) = fleet.store.changed(since_ms.saturating_sub(OVERLAP_MS)).await?;
        for chunk in changed.chunks(CHUNK) {
            let stood = fleet.store.stood(chunk).await?;
            chunk.iter().zip(stood).for_each(|(key, stood)| self.heed(key, stood));
        }
        Ok(now_ms)
    }

    /// Makes book and store agree: what was lifted is lifted there, what stands there is heeded, and what
    /// stands in the book and is missing there is written again, because a store that was away may have
    /// forgotten it. An order is never forgotten for being missing. An order against a session that is live
    /// here is found even if nobody told of it.
    pub(super) async fn settle_orders(&self, fleet: &Fleet) -> Result<u64, LinkError> {
        let lifted: Vec<_> = fleet.lifted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = self.clock.now();
        let now_ms = self.clock.unix_millis(now);
        for order in &lifted {
            fleet.store.lift(order, now_ms).await?;
            fleet.store.tell_kill(&order.key()).await?;
            let mut lifted = fleet.lifted.lock().unwrap_or_else(PoisonError::into_inner);
            lifted.retain(|other| !Arc::ptr_eq(other, order));
        }
        let seen_ms = self.look_at_changes(fleet, 0).await?;
        for orders in self.book.all(now).chunks(CHUNK) {
            let keys: Vec<SessionKey> = orders.iter().map(|order| order.key()).collect();
            let stood = fleet.store.stood(&keys).await?;
            for (order, stood) in orders.iter().zip(stood) {
                let there = |what: &Stood| match what {
                    Stood::Order(known) => known.agent == order.agent && known.rev >= order.rev,
                    Stood::Lifted { agent, rev } => *agent == order.agent && *rev >= order.rev,
                    Stood::Unreadable { .. } => true,
                };
                let missing = order.rev > 0 && !stood.iter().any(there);
                self.heed(&order.key(), stood);
                if missing {
                    fleet.store.order(order, now_ms, false).await?;
                    fleet.store.tell_kill(&order.key()).await?;
                }
            }
        }
        let untold = fleet.untold.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for key in &untold {
            fleet.store.tell_kill(key).await?;
        }
        fleet.untold.lock().unwrap_or_else(PoisonError::into_inner).retain(|key| !untold.contains(key));
        for keys in self.live.collect(|live| Some(live.key().clone())).chunks(CHUNK) {
            let stood = fleet.store.stood(keys).await?;
            keys.iter().zip(stood).for_each(|(key, stood)| self.heed(key, stood));
        }
        Ok(seen_ms)
    }

    /// What a message about an incarnation's end asks for.
    pub(super) async fn look_at_end(&self, fleet: &Fleet, key: &SessionKey) -> Result<(), LinkError> {
        for live in self.live.by_id(key.id.as_str()).into_iter().filter(|live| live.key() == key) {
            if let Some(note) = fleet.store.ended(key, live.uid()).await? {
                self.end_as(&live, note);
            }
        }
        Ok(())
    }

    /// Ends a session here as it ended in the store.
    pub(super) fn end_as(&self, live: &Arc<Live>, note: crate::session::doc::EndNote) {
        self.end(live, note.reason, note.order, |_, _| true);
    }
}
