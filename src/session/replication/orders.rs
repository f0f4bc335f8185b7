//! Applies kill orders of all instances: from messages, from the set of changes, and by walking through the set.
//! Orders that the store has lost are written again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::TryStreamExt;

use super::order_broadcast::AT_ONCE;
use super::replicator::Replicator;
use crate::clock::{Moment, millis};
use crate::ids::{SessionKey, Uid};
use crate::redis::LinkError;
use crate::redis::signals::Hint;
use crate::session::core::manager::Manager;
use crate::session::core::session::Session;
use crate::session::store::redis::{ChangedSession, Cursor, OrderEntry, order_in_message};
use crate::session::views::kill_order::{BlockMode, KillOrder};

/// Changes are read again this far back, because Redis may have recorded them late.
const OVERLAP_MS: u64 = 5_000;
/// Sessions whose orders are read in one round trip.
pub(super) const CHUNK: usize = 256;
/// Round trips that are under way at once while the orders of all active sessions are read.
const CHUNKS: usize = 8;
/// Changes read in one round trip.
const PAGE: usize = 1024;
/// Pages of changes read at once; the walk finds the rest.
const PAGES: usize = 4;
/// An order that expires this soon is not written again: by the clock of the store it may have expired.
const ENDING: Duration = Duration::from_secs(5);

/// An order in a message that is not new.
pub(super) struct AlreadyKnown;

impl Replicator {
    /// Applies the entries in the store about a session: new orders are recorded and carried out, lifted ones are
    /// removed.
    pub(super) fn apply_orders(&self, core: &Manager, key: &SessionKey, entries: Vec<OrderEntry>) {
        let now = core.clock().now();
        let unreadable = entries.iter().any(|what| matches!(what, OrderEntry::Unreadable { .. }));
        if !unreadable {
            core.kill_orders().remove_unreadable(key);
        }
        for what in entries {
            match what {
                OrderEntry::Order(order) => {
                    let (scope, session_id) = (key.scope.clone(), key.id.clone());
                    let order = KillOrder { scope, session_id, ..order };
                    if self.has_pending_lift(&order) {
                        continue;
                    }
                    if let Some(legs_cut) = core.take_order(order) {
                        tracing::debug!(session_id = %key.id, legs_cut, "a kill order of the fleet was carried out");
                    }
                }
                OrderEntry::Lifted { agent, of, .. } => core.lift_until(key, agent.as_ref(), of),
                OrderEntry::Unreadable { agent } => {
                    let order = Arc::new(self.unreadable(core, key, agent, now));
                    core.kill_orders().record_remote(&order);
                }
            }
        }
    }

    /// The order against the whole session among these entries, unless it was lifted here. By the clock of this
    /// instance it may be over.
    pub(super) fn order_against(&self, key: &SessionKey, entries: &[OrderEntry]) -> Option<Arc<KillOrder>> {
        let whole = entries.iter().find_map(OrderEntry::against_whole)?.clone();
        let order = KillOrder { scope: key.scope.clone(), session_id: key.id.clone(), ..whole };
        (!self.has_pending_lift(&order)).then(|| Arc::new(order))
    }

    /// A placeholder that refuses a session while its orders cannot be read.
    fn unreadable(
        &self,
        core: &Manager,
        key: &SessionKey,
        agent: Option<crate::ids::AgentId>,
        now: Moment,
    ) -> KillOrder {
        KillOrder {
            session_id: key.id.clone(),
            scope: key.scope.clone(),
            agent,
            descendants: Vec::new(),
            uid: Uid::fresh(),
            reason: "its kill order in the shared store cannot be read".to_owned(),
            by: "elida".to_owned(),
            at: core.clock().wall(now),
            mode: BlockMode::UntilResumed,
            until: None,
            principal_key: None,
            expires: None,
            rev: 0,
        }
    }

    /// Reads and applies the orders against these sessions.
    pub(super) async fn reload_orders_of(
        &self,
        core: &Manager,
        keys: &[SessionKey],
    ) -> Result<(), LinkError> {
        let entries = self.store.order_entries(keys).await?;
        keys.iter().zip(entries).for_each(|(key, entries)| self.apply_orders(core, key, entries));
        Ok(())
    }

    /// Carries out the order in a message; `None` if there is none.
    ///
    /// # Errors This instance knows the order, or a newer one: nothing is to be done.
    pub(super) fn carry_out(&self, core: &Manager, hint: &Hint) -> Result<Option<KillOrder>, AlreadyKnown> {
        let Some(order) = hint.order.as_ref().and_then(order_in_message) else { return Ok(None) };
        let Hint { scope, session_id, .. } = hint.clone();
        let order = KillOrder { scope, session_id, ..order };
        if self.has_pending_lift(&order) || core.take_order(order.clone()).is_none() {
            return Err(AlreadyKnown);
        }
        Ok(Some(order))
    }

    /// Reads and applies the orders against a session after an order from a message was carried out, which the store
    /// may not have.
    pub(super) async fn confirm_order(
        &self,
        core: &Manager,
        key: SessionKey,
        order: KillOrder,
    ) -> Result<(), LinkError> {
        let entries = self.store.order_entries(std::slice::from_ref(&key)).await?.pop().unwrap_or_default();
        if !entries.iter().any(|what| covers(what, &order)) {
            // The instance that gave it may end before the store takes it.
            let expires = order.until.map(|until| core.clock().moment(until));
            self.add_pending_order(&Arc::new(KillOrder { expires, ..order }));
        }
        self.apply_orders(core, &key, entries);
        Ok(())
    }

    /// Reads and applies the orders that changed since a time. Returns the time for the next call, and whether all
    /// changes were read.
    async fn read_changes(&self, core: &Manager, since_ms: u64) -> Result<(u64, bool), LinkError> {
        let mut from = Cursor { at_ms: since_ms, passed: 0 };
        let mut now_ms = 0;
        for _ in 0..PAGES {
            let (now, page) = self.store.changed_since(from, PAGE).await?;
            now_ms = now;
            self.compare_clocks(core, now);
            for chunk in page.chunks(CHUNK) {
                self.apply_changed(core, chunk).await?;
            }
            if page.len() < PAGE {
                return Ok((now_ms, true));
            }
            from = from.after(&page, &[]);
        }
        Ok((now_ms, false))
    }

    /// Reads and applies the orders of these sessions. Returns the entries that are no longer needed.
    async fn apply_changed<'a>(
        &self,
        core: &Manager,
        page: &'a [ChangedSession],
    ) -> Result<Vec<&'a ChangedSession>, LinkError> {
        let (known, mut over): (Vec<&ChangedSession>, Vec<&ChangedSession>) =
            page.iter().partition(|noted| noted.key.is_some());
        let keys: Vec<SessionKey> = known.iter().filter_map(|noted| noted.key.clone()).collect();
        let now = core.clock().now();
        for ((noted, key), entries) in
            known.into_iter().zip(&keys).zip(self.store.order_entries(&keys).await?)
        {
            let stands = |what: &OrderEntry| match what {
                OrderEntry::Order(order) => order.until.is_none_or(|until| now < core.clock().moment(until)),
                OrderEntry::Lifted { .. } => false,
                OrderEntry::Unreadable { .. } => true,
            };
            let is_over = !entries.iter().any(stands);
            self.apply_orders(core, key, entries);
            // An order that the store has lost is recorded here, and is written again.
            if is_over && !core.kill_orders().has_any(key, now) {
                over.push(noted);
            }
        }
        Ok(over)
    }

    /// Reads and applies the orders that changed since the last call. Returns the time for the next call, and
    /// whether all changes were read.
    pub(super) async fn apply_changes_since(
        &self,
        core: &Manager,
        since_ms: u64,
    ) -> Result<(u64, bool), LinkError> {
        self.read_changes(core, since_ms.saturating_sub(OVERLAP_MS)).await
    }

    /// Reads and applies what this instance may have missed: all orders (of very many, the oldest and the latest)
    /// and those against sessions that are active here. Returns the time for the next call, and whether all changes
    /// were read.
    pub(super) async fn reload_orders(
        &self,
        core: &Manager,
        since_ms: u64,
    ) -> Result<(u64, bool), LinkError> {
        let (mut seen_ms, is_all) = self.read_changes(core, 0).await?;
        if !is_all {
            let since_ms = if since_ms == 0 { seen_ms } else { since_ms.min(seen_ms) };
            seen_ms = self.apply_changes_since(core, since_ms).await?.0;
        }
        let active = core.active_sessions().collect(|session| Some(session.key().clone()));
        futures::stream::iter(active.chunks(CHUNK).map(Ok))
            .try_for_each_concurrent(CHUNKS, async |keys| self.reload_orders_of(core, keys).await)
            .await?;
        Ok((seen_ms, is_all))
    }

    /// Takes the next page of the walk through sessions with orders: applies the orders, and removes expired
    /// entries, and the first `excess` in any case. Returns the next position and the number of sessions seen.
    pub(super) async fn walk_changes(
        &self,
        core: &Manager,
        from: Cursor,
        excess: usize,
    ) -> Result<(Option<Cursor>, usize), LinkError> {
        let (_, page) = self.store.changed_since(from, CHUNK).await?;
        let mut over: Vec<ChangedSession> =
            self.apply_changed(core, &page).await?.into_iter().cloned().collect();
        if excess > 0 {
            over = page.iter().take(excess).cloned().collect();
        }
        let trimmed = if over.is_empty() { 0 } else { self.store.trim_changes(&over).await? };
        // Entries that changed again or recently are still there.
        let trimmed = if trimmed == over.len() as u64 { over.as_slice() } else { &[] };
        let next = (page.len() == CHUNK).then(|| from.after(&page, trimmed));
        Ok((next, page.len()))
    }

    /// Compares orders with the store: orders lifted there are removed here, and orders missing there are written
    /// again, because a lifting outlives its order. Returns how many were lost.
    pub(super) async fn compare_orders(
        &self,
        core: &Manager,
        orders: &[Arc<KillOrder>],
    ) -> Result<u64, LinkError> {
        let keys: Vec<SessionKey> = orders.iter().map(|order| order.key()).collect();
        let entries = self.store.order_entries(&keys).await?;
        let soon = Moment::from_millis(core.clock().now().as_millis() + millis(ENDING));
        let mut missing = Vec::new();
        for ((order, key), entries) in orders.iter().zip(&keys).zip(entries) {
            let is_there = order.rev == 0 || entries.iter().any(|what| covers(what, order));
            self.apply_orders(core, key, entries.clone());
            if !is_there && core.kill_orders().holds(order, soon) {
                missing.push((order, entries));
            }
        }
        let lost = missing.len() as u64;
        futures::stream::iter(missing.into_iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, async |(order, entries)| {
                self.write_order(order, &entries).await
            })
            .await?;
        if lost > 0 {
            self.lost_orders.fetch_add(lost, Ordering::Relaxed);
            tracing::error!(
                lost,
                "redis had lost kill orders that stand (wiped, evicted, or failed over to a copy); they are written \
                 again"
            );
        }
        Ok(lost)
    }

    /// Adds all orders to the set of changes again, because the store has lost it.
    pub(super) async fn record_changes_again(&self, orders: &[Arc<KillOrder>]) -> Result<(), LinkError> {
        let keys: Vec<SessionKey> =
            orders.iter().filter(|order| order.rev > 0).map(|order| order.key()).collect();
        for keys in keys.chunks(CHUNK) {
            self.store.record_changes(keys).await?;
        }
        Ok(())
    }

    /// Applies a message about the end of an incarnation.
    pub(super) async fn apply_remote_end(&self, core: &Manager, key: &SessionKey) -> Result<(), LinkError> {
        for session in
            core.active_sessions().by_id(key.id.as_str()).into_iter().filter(|session| session.key() == key)
        {
            if let Some(note) = self.store.end_of(key, session.uid()).await? {
                self.end_like_store(core, &session, note);
            }
        }
        Ok(())
    }

    /// Ends a session here as it ended in the store.
    pub(super) fn end_like_store(
        &self,
        core: &Manager,
        session: &Arc<Session>,
        note: crate::session::store::share_document::EndNote,
    ) {
        core.end(session, note.reason, note.order, |_, _| true);
    }
}

/// True if the entry is this order, a newer one, or its lifting.
pub(super) fn covers(what: &OrderEntry, order: &KillOrder) -> bool {
    match what {
        OrderEntry::Order(known) => known.agent == order.agent && known.rev >= order.rev,
        OrderEntry::Lifted { agent, of, .. } => *agent == order.agent && *of >= order.rev,
        OrderEntry::Unreadable { .. } => true,
    }
}
