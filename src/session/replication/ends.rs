//! Ends: written to the store at once, so that whoever comes after one opens the next incarnation; the shares
//! follow when their legs have settled.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::replicator::Replicator;
use super::shares::{CLOSING, tolerated};
use crate::clock::millis;
use crate::ids::{SessionKey, Uid};
use crate::redis::LinkError;
use crate::session::core::kill_orders::KillOrder;
use crate::session::store::share_document::EndNote;
use crate::session::core::session::Session;
use crate::session::core::manager::Manager;
use crate::session::views::state::EndReason;
use crate::session::core::settings::Settings;
use crate::session::views::session_view::SessionView;
use crate::session::store::redis::Ended;

impl Manager {
    /// Writes the ends of sessions whose legs still settle, and tells all instances.
    pub(super) async fn write_ends(&self, fleet: &Replicator, ended: Vec<Arc<Session>>) {
        futures::stream::iter(ended)
            .for_each_concurrent(CLOSING, async |live| match self.write_end(fleet, &live).await {
                Ok(()) => {}
                // Closing its share says so, too.
                Err(LinkError::Refused(why)) => {
                    tracing::debug!(uid = %live.uid(), why, "a session was not ended in the store");
                }
                Err(away) => self.store_lost(fleet, &away),
            })
            .await;
    }

    async fn write_end(&self, fleet: &Replicator, live: &Session) -> Result<(), LinkError> {
        let Some(note) = self.shared_note(live) else { return Ok(()) };
        fleet.store.end(live.key(), live.uid(), &note, None).await?;
        fleet.store.tell_end(live.key(), live.uid()).await
    }

    /// Writes what ended while the store was away: nobody is admitted by it before.
    pub(super) async fn repeat_ends(&self, fleet: &Replicator) -> Result<(), LinkError> {
        let ended = self.closing.collect(|live| Some(Ok(live.clone())));
        futures::stream::iter(ended)
            .try_for_each_concurrent(CLOSING, async |live: Arc<Session>| {
                tolerated(self.write_end(fleet, &live).await, live.uid())
            })
            .await
    }

    /// The end of an incarnation that has ended here: the store may not know of it, or know no longer.
    pub(super) fn ended_here(&self, fleet: &Replicator, key: &SessionKey, uid: Uid) -> Option<EndNote> {
        let closing = self.closing.by_id(key.id.as_str()).into_iter().find(|live| live.uid() == uid);
        if let Some(live) = closing {
            return self.shared_note(&live);
        }
        let recent = fleet.recent();
        let closed = recent.closed_of(key, uid).and_then(|live| self.shared_note(&live));
        closed.or_else(|| recent.end_of(uid))
    }

    /// Gives back a share of an incarnation that turned out to be over.
    pub(super) async fn give_back(&self, fleet: &Replicator, session: &SessionView, share: u32) {
        if !fleet.is_up() {
            return;
        }
        let name = fleet.share_name(share);
        if let Err(fault) = fleet.store.abandon(session.key(), session.uid, &name).await {
            tracing::debug!(%fault, "a share was not given back");
        }
    }

    pub(super) fn note_of(&self, live: &Session) -> Option<EndNote> {
        let inner = live.inner();
        let end = inner.end.as_deref()?;
        Some(EndNote::new(end.reason, self.clock.wall(end.at), end.order.clone()))
    }

    /// The end as all instances are to know it; `None` when this instance has only left the session.
    pub(super) fn shared_note(&self, live: &Session) -> Option<EndNote> {
        self.note_of(live).filter(|note| note.reason != EndReason::Shutdown)
    }

    pub(in crate::session) fn end_note(&self, reason: EndReason, order: Option<Arc<KillOrder>>) -> EndNote {
        EndNote::new(reason, self.clock.wall(self.clock.now()), order)
    }

    /// Ends an incarnation in the store, unless something moved in it after `since`, and tells all.
    pub(in crate::session) async fn end_in_store(
        &self,
        fleet: &Replicator,
        key: &SessionKey,
        uid: Uid,
        reason: EndReason,
        since: Option<u64>,
    ) -> Result<Ended, LinkError> {
        let ended = fleet.store.end(key, uid, &self.end_note(reason, None), since).await?;
        if matches!(ended, Ended::So(_)) {
            fleet.store.tell_end(key, uid).await?;
            self.look_soon(fleet, key, uid).await;
        }
        Ok(ended)
    }

    /// Ends sessions that are idle here.
    pub(in crate::session) async fn end_all_idle(
        &self,
        due: Vec<(Arc<Session>, EndReason)>,
        settings: &Settings,
    ) {
        futures::stream::iter(due)
            .for_each_concurrent(CLOSING, async |(live, reason)| {
                let limit = match reason {
                    EndReason::CompletedAfter => settings.completed_after.unwrap_or_default(),
                    _ => settings.idle_timeout,
                };
                self.end_idle(&live, reason, limit).await;
            })
            .await;
    }

    /// A session that is idle here: ends it, if it is idle everywhere; else leaves it to those who use it.
    /// Gives whether it is over here.
    pub(in crate::session) async fn end_idle(
        &self,
        live: &Arc<Session>,
        reason: EndReason,
        limit: Duration,
    ) -> bool {
        let idle = |live: &Session| live.idle(self.clock.now()) >= limit;
        let alone = |reason| {
            self.end(live, reason, None, |live, inner| {
                idle(live) && (reason == EndReason::IdleTimeout || inner.legs.is_empty())
            })
        };
        let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.is_up()) else {
            return alone(reason).is_some();
        };
        if reason != EndReason::IdleTimeout && live.open_legs() > 0 {
            return false;
        }
        let since = self.clock.unix_millis(self.clock.now()).saturating_sub(millis(limit));
        match self.end_in_store(fleet, live.key(), live.uid(), reason, Some(since)).await {
            Ok(Ended::So(note)) => {
                let note = note.unwrap_or_else(|| self.end_note(reason, None));
                self.end(live, note.reason, note.order, |_, _| true).is_some()
            }
            // Left, not ended: the share is closed, the session goes on elsewhere.
            Ok(Ended::Busy(_)) => self
                .end(live, EndReason::Shutdown, None, |live, inner| inner.legs.is_empty() && idle(live))
                .is_some(),
            Err(fault) => {
                self.store_lost(fleet, &fault);
                false
            }
        }
    }
}
