//! What the core asks of replication, answered by a [`Replicator`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::replicator::{Replicator, SyncTask};
use super::share_schedule::FlushScope;
use crate::clock::Clock;
use crate::ids::{SharedDocument, Uid};
use crate::redis::LinkError;
use crate::session::core::event::{Event, Listener};
use crate::session::core::lookup::SessionRef;
use crate::session::core::manager::Manager;
use crate::session::core::replication::{Due, Opening, OrderReach, Replication};
use crate::session::core::request::{Denied, SessionRequest};
use crate::session::core::session::Session;
use crate::session::settings::Settings;
use crate::session::views::instance_view::InstanceView;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::record::Record;
use crate::session::views::state::EndReason;

impl Replicator {
    /// Refreshes the heartbeat of this instance, with what it says of itself. Returns whether the previous one was still there.
    pub(super) async fn refresh_heartbeat(&self, core: &Manager) -> Result<bool, LinkError> {
        let mut legs = 0;
        core.active_sessions().each(|session| legs += session.open_legs());
        let here = InstanceView {
            name: self.store.instance().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_ms: self.started_ms,
            sessions: core.active(),
            legs,
        };
        self.store.refresh_heartbeat(&here, core.clock().now().as_millis()).await
    }

    /// Creates a manager whose sessions are shared with the other instances.
    pub fn manager(
        self: &Arc<Self>,
        settings: Settings,
        clock: Clock,
        listener: Arc<dyn Listener>,
    ) -> Arc<Manager> {
        self.apply_settings(&settings);
        Manager::build(settings, clock, self.store.clone(), self.clone(), listener)
    }
}

#[async_trait]
impl Replication for Replicator {
    fn is_shared(&self) -> bool {
        true
    }

    fn instance(&self) -> Option<&str> {
        Some(self.store.instance())
    }

    fn store_answers(&self) -> bool {
        self.is_up()
    }

    async fn instances(&self) -> Vec<InstanceView> {
        self.store.instances().await.unwrap_or_else(|fault| {
            tracing::debug!(%fault, "the other instances are not known");
            Vec::new()
        })
    }

    fn reconfigure(&self, settings: &Settings) {
        self.apply_settings(settings);
    }

    async fn share_client_key(&self, core: &Manager, document: SharedDocument) -> bool {
        self.send_client_key(core, document).await
    }

    async fn claim_document(&self, core: &Manager, document: &SharedDocument) -> Option<bool> {
        self.claim_document_in_store(core, document).await
    }

    fn on_event(&self, event: &Arc<Event>) {
        let is_local = matches!(**event, Event::StoreLost { .. } | Event::StoreBack);
        if !is_local {
            self.feed.push(event);
        }
    }

    async fn open(&self, core: &Manager, request: &SessionRequest) -> Result<Opening, Denied> {
        self.open_session(core, request).await
    }

    fn on_opened(&self, session: &Arc<Session>) {
        self.enqueue(SyncTask::Open(session.clone()));
    }

    fn release(&self, opening: &Opening, request: &SessionRequest) {
        self.release_opening(opening, request);
    }

    fn on_ended(&self, session: &Arc<Session>) {
        self.enqueue(SyncTask::End(session.clone()));
    }

    fn on_settled(&self, _: &Manager, session: &Arc<Session>, _: Record) {
        // The record is written when every instance has closed its share.
        self.enqueue(SyncTask::Close(session.clone()));
    }

    async fn on_killed(&self, _: &Manager, _: &Arc<Session>) {
        // It is stored when its legs have settled.
    }

    async fn end_idle(
        &self,
        core: &Manager,
        session: &Arc<Session>,
        reason: EndReason,
        limit: Duration,
    ) -> bool {
        self.end_if_idle_everywhere(core, session, reason, limit).await
    }

    async fn end_due(&self, core: &Manager, due: Vec<Due>) -> Vec<Due> {
        let (idle, too_old): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|(_, reason, _)| *reason != EndReason::MaxDuration);
        self.end_all_idle(core, idle).await;
        too_old
    }

    async fn close(&self, core: &Manager, ended: Vec<(Arc<Session>, bool)>) {
        self.close_all(core, ended.iter().map(|(session, _)| session.clone()).collect()).await;
        for (session, _) in ended.iter().filter(|(_, is_past_retention)| *is_past_retention) {
            let open = core.closing_sessions().by_id(session.key().id.as_str());
            if open.iter().any(|other| Arc::ptr_eq(other, session)) {
                self.publish_local_record(core, session);
                core.closing_sessions().remove(session);
            }
        }
    }

    async fn leave(&self, core: &Manager, ended: Vec<Arc<Session>>) {
        self.close_remaining(core, ended).await;
    }

    async fn write_shares(&self, core: &Manager, sessions: Option<Vec<Arc<Session>>>) {
        if !self.is_up() {
            return;
        }
        let written = match sessions {
            None => self.flush(core, FlushScope::All).await,
            Some(sessions) => self.flush_some(core, sessions).await,
        };
        if let Err(fault) = written {
            self.store_lost(core, &fault);
        }
    }

    async fn send_order<'a>(
        &'a self,
        core: &'a Manager,
        order: &'a Arc<KillOrder>,
    ) -> BoxFuture<'a, OrderReach> {
        let delivery = self.start_delivery(order).await;
        self.finish_delivery(core, order, delivery).boxed()
    }

    async fn send_lift(&self, core: &Manager, order: &Arc<KillOrder>) -> Vec<String> {
        self.deliver_lift(core, order).await
    }

    async fn end_remote(&self, core: &Manager, order: &Arc<KillOrder>, uid: Uid) {
        self.end_in_store_as_killed(core, order, uid).await;
    }

    fn resolve_later(&self, target: SessionRef<'_>, order: &Arc<KillOrder>) {
        self.add_unresolved_name(target, order);
    }
}
