//! Kills sessions by a name that was killed while the store was unavailable. At that time it is unknown whether the
//! name matches other sessions, but an operator who was told "killed" must be able to rely on it: they are killed
//! when the store is available again.
//!
//! Each name is searched for about once a second until every instance has had time to write its sessions, and once
//! more then. One sync takes only a part of the names, and of the sessions with one name, so that the heartbeat does
//! not wait for them.
//!
//! A session that was opened after the kill goes on. Both times are ages on the clock of the instance that knows them,
//! counted back from the clock of Redis, so that no clocks of two instances are compared. A session that was opened
//! nobody knows when is killed.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;

use super::order_broadcast::AT_ONCE;
use super::replicator::Replicator;
use super::share_schedule::SYNC_INTERVAL;
use crate::clock::millis;
use crate::ids::{SessionKey, Uid};
use crate::redis::LinkError;
use crate::session::core::kill::{KillError, KillRequest};
use crate::session::core::lookup::{NamedBy, SessionRef};
use crate::session::core::manager::Manager;
use crate::session::settings::Block;
use crate::session::store::SessionStore;
use crate::session::store::redis::{NameCursor, Namesake};
use crate::session::views::kill_order::{BlockMode, KillOrder};
use crate::session::views::state::SessionState;
use crate::settings::units::DurationText;

/// Names searched for in one sync, and how long a sync begins new searches.
const BATCH: usize = 256;
const TIME: Duration = Duration::from_millis(500);
/// Sessions with one name that are killed concurrently.
const KILLS: usize = 8;

/// A name that could not be looked up on all instances, and the order given for it.
#[derive(Clone, Debug)]
pub(super) struct UnresolvedName {
    text: String,
    by: Option<NamedBy>,
    order: Arc<KillOrder>,
    /// Where the search goes on.
    from: NameCursor,
    /// True if this search began when every instance had had time to write its sessions.
    is_last: bool,
    /// When the last search ended.
    searched_at: Option<Instant>,
    /// Sessions that were killed for this name. Each is killed once: what is resumed stays resumed.
    killed: HashSet<SessionKey>,
}

impl UnresolvedName {
    fn is_due(&self) -> bool {
        self.from != NameCursor::default() || self.searched_at.is_none_or(|at| at.elapsed() >= SYNC_INTERVAL)
    }
}

/// The names, in the order in which they are searched for.
#[derive(Debug, Default)]
pub(super) struct UnresolvedNames(VecDeque<UnresolvedName>);

impl UnresolvedNames {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes up to `most` names that are due.
    fn take_due(&mut self, most: usize) -> Vec<UnresolvedName> {
        let (mut due, mut others) = (Vec::new(), VecDeque::with_capacity(self.0.len()));
        for name in self.0.drain(..) {
            if due.len() < most && name.is_due() {
                due.push(name);
            } else {
                others.push_back(name);
            }
        }
        self.0 = others;
        due
    }
}

impl Replicator {
    /// Remembers a name, to kill the other sessions with it when the store is available again.
    pub(super) fn add_unresolved_name(&self, target: SessionRef<'_>, order: &Arc<KillOrder>) {
        self.unresolved_names.lock().0.push_back(UnresolvedName {
            text: target.text().to_owned(),
            by: target.by(),
            order: Arc::clone(order),
            from: NameCursor::default(),
            is_last: false,
            searched_at: None,
            killed: HashSet::new(),
        });
    }

    /// Kills sessions with the remembered names, as far as one sync allows. With `is_trusted` every instance has had
    /// time to write its sessions: a name is forgotten after a search that begins now. Returns true to continue
    /// without a pause.
    pub(super) async fn kill_unresolved_names(
        &self,
        core: &Manager,
        is_trusted: bool,
    ) -> Result<bool, LinkError> {
        let due = self.unresolved_names.lock().take_due(BATCH);
        if due.is_empty() {
            return Ok(false);
        }
        let (begun, has_failed) = (Instant::now(), AtomicBool::new(false));
        let search = async |mut name: UnresolvedName| {
            if begun.elapsed() >= TIME || has_failed.load(Ordering::Relaxed) {
                return (Some(name), Ok(()));
            }
            let done = self.search(core, &mut name, is_trusted).await;
            has_failed.fetch_or(done.is_err(), Ordering::Relaxed);
            match done {
                Ok(is_over) => (Some(name).filter(|_| !is_over), Ok(())),
                Err(fault) => (Some(name), Err(fault)),
            }
        };
        let searched: Vec<_> =
            futures::stream::iter(due).map(search).buffer_unordered(AT_ONCE).collect().await;
        let (left, outcomes): (Vec<_>, Vec<_>) = searched.into_iter().unzip();
        let mut names = self.unresolved_names.lock();
        names.0.extend(left.into_iter().flatten());
        outcomes.into_iter().collect::<Result<(), _>>()?;
        Ok(names.0.iter().any(UnresolvedName::is_due))
    }

    /// Takes the next step of a search. Returns true if the name need not be searched for any more.
    async fn search(
        &self,
        core: &Manager,
        name: &mut UnresolvedName,
        is_trusted: bool,
    ) -> Result<bool, LinkError> {
        let now = core.clock().now();
        if !core.kill_orders().holds(&name.order, now) {
            // It was lifted, or is over.
            return Ok(true);
        }
        let target = SessionRef::new(&name.text, name.by);
        let mut found = Vec::new();
        if name.from == NameCursor::default() {
            name.is_last = is_trusted;
            if let Some(uid) = target.uid() {
                found.extend(self.active_incarnation(uid).await?);
            }
        }
        let next = match target.id() {
            Some(id) => match self.store.namesakes(id, &name.from).await {
                Ok(page) => {
                    // The age is older than the time of Redis, so a session opened meanwhile counts as before.
                    let age = now.since(core.clock().moment(name.order.at));
                    let killed_ms = page.now_ms.saturating_sub(millis(age));
                    let is_before = |one: &Namesake| one.opened_ms.is_none_or(|opened| opened <= killed_ms);
                    found.extend(page.sessions.into_iter().filter(is_before).map(|one| (one.key, one.uid)));
                    page.next
                }
                Err(LinkError::Refused(why)) => {
                    tracing::warn!(why, id, "sessions with an id that was killed cannot be looked up");
                    None
                }
                Err(away) => return Err(away),
            },
            None => None,
        };
        found.retain(|(key, _)| *key != name.order.key() && !name.killed.contains(key));
        let order = &name.order;
        let kills = futures::stream::iter(found).map(async |(key, uid)| {
            self.kill_by_uid(core, uid, order).await.map(|is_killed| is_killed.then_some(key))
        });
        let kills: Vec<_> = kills.buffer_unordered(KILLS).collect().await;
        name.killed.extend(kills.iter().flatten().flatten().cloned());
        kills.into_iter().collect::<Result<Vec<_>, _>>()?;
        let is_over = next.is_none() && name.is_last;
        name.searched_at = next.is_none().then(Instant::now);
        name.from = next.unwrap_or_default();
        Ok(is_over)
    }

    /// The incarnation with this uid, if it is active.
    async fn active_incarnation(&self, uid: Uid) -> Result<Option<(SessionKey, Uid)>, LinkError> {
        let found = self.store.get(uid).await.map_err(|fault| LinkError::Away(fault.to_string()))?;
        let active = found.filter(|session| session.state == SessionState::Active);
        Ok(active.map(|session| (session.key().clone(), uid)))
    }

    /// Returns true if the session is killed now.
    async fn kill_by_uid(&self, core: &Manager, uid: Uid, order: &KillOrder) -> Result<bool, LinkError> {
        let left =
            order.until.map_or(Duration::ZERO, |until| core.clock().moment(until).since(core.clock().now()));
        if order.mode == BlockMode::Duration && millis(left) == 0 {
            return Ok(false);
        }
        let request = KillRequest {
            reason: order.reason.clone(),
            by: order.by.clone(),
            block: Some(Block { mode: order.mode, duration: DurationText(left) }),
            agent: order.agent.clone(),
            ..KillRequest::default()
        };
        let name = uid.to_string();
        match core.kill(SessionRef::new(&name, Some(NamedBy::Uid)), request).await {
            Ok(killed) => {
                tracing::warn!(
                    session_id = %killed.session_id, %uid,
                    "killed, since its name was killed while redis was away"
                );
                Ok(true)
            }
            Err(KillError::Store(fault)) => Err(LinkError::Away(fault.to_string())),
            Err(KillError::AlreadyEnded { .. } | KillError::UnknownAgent { .. } | KillError::Unknown) => {
                Ok(false)
            }
            Err(fault) => {
                tracing::error!(%fault, %uid, "a session whose name was killed is not killed");
                Ok(false)
            }
        }
    }
}
