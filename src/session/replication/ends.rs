//! Ends of sessions: written to the store at once, so that the next request opens the next incarnation. The shares
//! follow when their legs have settled.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::replicator::Replicator;
use super::shares::{CLOSING, tolerated};
use crate::clock::millis;
use crate::ids::{SessionKey, Uid};
use crate::redis::LinkError;
use crate::session::core::manager::Manager;
use crate::session::core::replication::Due;
use crate::session::core::session::Session;
use crate::session::store::redis::Ended;
use crate::session::store::share_document::EndNote;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::session_view::SessionView;
use crate::session::views::state::EndReason;

impl Replicator {
    /// Writes the ends of sessions whose legs are still settling, and publishes them.
    pub(super) async fn write_ends(&self, core: &Manager, ended: Vec<Arc<Session>>) {
        futures::stream::iter(ended)
            .for_each_concurrent(CLOSING, async |session| match self.write_end(core, &session).await {
                Ok(()) => {}
                // Closing the share reports the same error.
                Err(LinkError::Refused(why)) => {
                    tracing::debug!(uid = %session.uid(), why, "a session was not ended in the store");
                }
                Err(away) => self.store_lost(core, &away),
            })
            .await;
    }

    async fn write_end(&self, core: &Manager, session: &Session) -> Result<(), LinkError> {
        let Some(note) = self.shared_end_note(core, session) else { return Ok(()) };
        self.store.end(session.key(), session.uid(), &note, None).await?;
        self.store.publish_end(session.key(), session.uid()).await
    }

    /// Writes the ends that happened while the store was unavailable, before any session is admitted through it
    /// again.
    pub(super) async fn rewrite_ends(&self, core: &Manager) -> Result<(), LinkError> {
        let ended = core.closing_sessions().collect(|session| Some(Ok(session.clone())));
        futures::stream::iter(ended)
            .try_for_each_concurrent(CLOSING, async |session: Arc<Session>| {
                tolerated(self.write_end(core, &session).await, session.uid())
            })
            .await
    }

    /// The end of an incarnation that ended here, which the store may not know yet or no longer.
    pub(super) fn ended_here(&self, core: &Manager, key: &SessionKey, uid: Uid) -> Option<EndNote> {
        let closing =
            core.closing_sessions().by_id(key.id.as_str()).into_iter().find(|session| session.uid() == uid);
        if let Some(session) = closing {
            return self.shared_end_note(core, &session);
        }
        let recent = self.replay_log();
        let closed = recent.closed_of(key, uid).and_then(|session| self.shared_end_note(core, &session));
        closed.or_else(|| recent.end_of(uid))
    }

    /// Releases a share of an incarnation that turned out to be over.
    pub(super) async fn release_share(&self, session: &SessionView, share: u32) {
        if !self.is_up() {
            return;
        }
        let name = self.share_name(share);
        if let Err(fault) = self.store.abandon(session.key(), session.uid, &name).await {
            tracing::debug!(%fault, "a share was not given back");
        }
    }

    pub(super) fn end_note_of(&self, core: &Manager, session: &Session) -> Option<EndNote> {
        let inner = session.inner();
        let end = inner.end.as_deref()?;
        Some(EndNote::new(end.reason, core.clock().wall(end.at), end.order.clone()))
    }

    /// The end as other instances see it; `None` if this instance has only left the session.
    pub(super) fn shared_end_note(&self, core: &Manager, session: &Session) -> Option<EndNote> {
        self.end_note_of(core, session).filter(|note| note.reason != EndReason::Shutdown)
    }

    pub(in crate::session) fn end_note(
        &self,
        core: &Manager,
        reason: EndReason,
        order: Option<Arc<KillOrder>>,
    ) -> EndNote {
        EndNote::new(reason, core.clock().wall(core.clock().now()), order)
    }

    /// Ends an incarnation in the store, unless it was active after `since`, and publishes the end.
    pub(in crate::session) async fn end_in_store(
        &self,
        core: &Manager,
        key: &SessionKey,
        uid: Uid,
        reason: EndReason,
        since: Option<u64>,
    ) -> Result<Ended, LinkError> {
        let ended = self.store.end(key, uid, &self.end_note(core, reason, None), since).await?;
        if matches!(ended, Ended::Done(_)) {
            self.store.publish_end(key, uid).await?;
            self.check_soon(key, uid).await;
        }
        Ok(ended)
    }

    /// Ends sessions that are idle here, unless another instance uses them.
    pub(super) async fn end_all_idle(&self, core: &Manager, due: Vec<Due>) {
        futures::stream::iter(due)
            .for_each_concurrent(CLOSING, async |(session, reason, limit)| {
                self.end_if_idle_everywhere(core, &session, reason, limit).await;
            })
            .await;
    }

    /// Ends a session that is idle here if it is idle on all instances; otherwise this instance only leaves it.
    /// Returns true when it is over on this instance.
    pub(super) async fn end_if_idle_everywhere(
        &self,
        core: &Manager,
        session: &Arc<Session>,
        reason: EndReason,
        limit: Duration,
    ) -> bool {
        if !self.is_up() {
            return core.end_if_idle(session, reason, limit);
        }
        if reason != EndReason::IdleTimeout && session.open_legs() > 0 {
            return false;
        }
        let since = self.store_millis(core, core.clock().now()).saturating_sub(millis(limit));
        match self.end_in_store(core, session.key(), session.uid(), reason, Some(since)).await {
            Ok(Ended::Done(note)) => {
                let note = note.unwrap_or_else(|| self.end_note(core, reason, None));
                core.end(session, note.reason, note.order, |_, _| true).is_some()
            }
            // The share is closed; the session continues on another instance.
            Ok(Ended::Busy(_)) => core.end_if_idle(session, EndReason::Shutdown, limit),
            Err(fault) => {
                self.store_lost(core, &fault);
                false
            }
        }
    }
}
