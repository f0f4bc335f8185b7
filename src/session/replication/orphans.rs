//! Closes shares of instances that are gone.

use std::sync::Arc;

use futures::StreamExt;

use super::replicator::Replicator;
use super::shares::CLOSING;
use crate::clock::millis;
use crate::ids::{SessionKey, Uid};
use crate::redis::LinkError;
use crate::session::core::manager::Manager;
use crate::session::core::session::Session;
use crate::session::store::redis::OrderEntry;
use crate::session::store::redis::{Closed, Ended};
use crate::session::store::share_document::ShareDocument;
use crate::session::views::state::EndReason;

/// Sessions checked in one round.
const ORPHANS: usize = 100;
/// Active sessions of which one round learns whether they have ended.
const WALKED: usize = 256;

impl Replicator {
    /// Checks idle sessions. Each instance closes shares of its own that it does not know, because an answer was
    /// lost; the instance whose turn it is also closes those of dead instances.
    pub(super) async fn close_orphans(&self, core: &Manager) -> Result<(), LinkError> {
        let is_turn = self.store.take_orphan_turn().await?;
        if is_turn {
            self.find_unrecorded().await?;
        }
        let settings = core.settings();
        let idle = settings.idle_timeout + 4 * self.staleness(&settings);
        let since = self.store_millis(core, core.clock().now()).saturating_sub(millis(idle));
        for (key, uid) in self.store.idle_since(since, ORPHANS).await? {
            let shares = self.store.open_shares(&key, uid).await?;
            if shares.is_empty() {
                self.store.remove_active(&key, uid).await?;
                continue;
            }
            if is_turn && let Ended::Busy(last_ms) = self.end_orphan(core, &key, uid, since).await? {
                self.store.set_activity(&key, uid, last_ms).await?;
                continue;
            }
            let dead = self.dead_shares(core, uid, shares, is_turn).await?;
            let dead: Vec<(String, Option<&ShareDocument>)> =
                dead.into_iter().map(|share| (share, None)).collect();
            match self.store.close(&key, uid, &dead).await? {
                Closed::Record { shares, is_rest } => {
                    self.write_record(core, &key, uid, shares, is_rest).await?;
                    self.store.remove_active(&key, uid).await?;
                }
                Closed::Recorded => self.store.remove_active(&key, uid).await?,
                // It died before it marked the record as written.
                Closed::Claimed(by) if is_turn && !self.store.is_alive(&by).await? => {
                    self.store.take_over_record(&key, uid).await?;
                }
                Closed::Active | Closed::Waiting | Closed::Claimed(_) => {}
            }
        }
        Ok(())
    }

    /// Looks for sessions that have ended and wait for their record although they count as used a moment ago: an
    /// instance may have been killed between the end and the record. Takes a page of the active ones each time.
    async fn find_unrecorded(&self) -> Result<(), LinkError> {
        let from = *self.walked_to.lock();
        let (next, ended) = self.store.ended_among_active(from, WALKED).await?;
        *self.walked_to.lock() = next;
        futures::stream::iter(ended)
            .for_each_concurrent(CLOSING, async |(key, uid)| self.check_soon(&key, uid).await)
            .await;
        Ok(())
    }

    /// Ends an idle session: a killed one in any case, others when they are due.
    async fn end_orphan(
        &self,
        core: &Manager,
        key: &SessionKey,
        uid: Uid,
        since: u64,
    ) -> Result<Ended, LinkError> {
        let entries = self.store.order_entries(std::slice::from_ref(key)).await?.pop().unwrap_or_default();
        let order = entries.iter().filter_map(OrderEntry::against_whole).find(|order| order.uid == uid);
        let order = order.cloned().map(Arc::new);
        let (reason, since) = match &order {
            Some(_) => (EndReason::Killed, None),
            None => (EndReason::IdleTimeout, Some(since)),
        };
        self.store.end(key, uid, &self.end_note(core, reason, order), since).await
    }

    /// The shares that this instance no longer knows and, if it is its turn, those whose instance is gone.
    async fn dead_shares(
        &self,
        core: &Manager,
        uid: Uid,
        shares: Vec<String>,
        is_turn: bool,
    ) -> Result<Vec<String>, LinkError> {
        let mut dead = Vec::new();
        for share in shares {
            let (instance, number) = share.split_once(':').unwrap_or((&share, ""));
            let is_dead = if instance == self.store.instance() {
                let number = number.parse().unwrap_or(0);
                let same = |session: &Arc<Session>| {
                    (session.share() == number && session.uid() == uid).then_some(())
                };
                core.active_sessions().collect(same).is_empty()
                    && core.closing_sessions().collect(same).is_empty()
            } else {
                is_turn && !self.store.is_alive(instance).await?
            };
            if is_dead {
                dead.push(share);
            }
        }
        Ok(dead)
    }
}
