//! What the core asks of replication, and the answers of a single instance.
//!
//! The core knows neither Redis nor other instances: it calls a [`Replication`] wherever another instance could have
//! a say. `session::replication` implements it with Redis, [`Local`] without.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::event::Event;
use super::lookup::SessionRef;
use super::manager::Manager;
use super::request::{Denied, SessionRequest};
use super::session::{Previous, Session};
use crate::ids::{SharedDocument, Uid};
use crate::session::settings::Settings;
use crate::session::views::instance_view::InstanceView;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::record::Record;
use crate::session::views::session_view::SessionView;
use crate::session::views::state::EndReason;

/// How a session that is not active here is opened.
pub(in crate::session) enum Opening {
    /// On this instance alone, after the previous incarnation if there is one.
    Own(Option<Previous>),
    /// As the shared store says.
    Shared {
        /// The incarnation.
        session: Box<SessionView>,
        /// The number of this instance's share.
        share: u32,
        /// True when this request opened the incarnation.
        is_new: bool,
    },
}

/// Which instances received an order.
#[derive(Debug, Default)]
pub(in crate::session) struct OrderReach {
    /// Instances that received it, including this one.
    pub(in crate::session) instances: u64,
    /// What has not received it yet, and why.
    pub(in crate::session) not_reached: Vec<String>,
}

/// A session that is due to end, why, and the limit that it has reached.
pub(in crate::session) type Due = (Arc<Session>, EndReason, Duration);

/// The part of other instances in the life of a session.
#[async_trait]
pub(in crate::session) trait Replication: Send + Sync {
    /// True when other instances may share sessions: the store then holds the sum of all shares.
    fn is_shared(&self) -> bool;

    /// The name of this instance in a fleet.
    fn instance(&self) -> Option<&str> {
        None
    }

    /// True while the store answers.
    fn store_answers(&self) -> bool;

    /// The instances of the fleet that live; none while the store does not answer, and without one.
    async fn instances(&self) -> Vec<InstanceView> {
        Vec::new()
    }

    /// Applies new settings.
    fn reconfigure(&self, settings: &Settings);

    /// Sends the document of a client key that was changed here. Returns false if Redis does not have it yet.
    async fn share_client_key(&self, core: &Manager, document: SharedDocument) -> bool;

    /// Writes a document that only one instance may write first. Returns whether it was this one; `None` if Redis does not say.
    async fn claim_document(&self, core: &Manager, document: &SharedDocument) -> Option<bool>;

    /// Publishes an event to the other instances.
    fn on_event(&self, event: &Arc<Event>);

    /// Decides how a session that is not active here is opened.
    ///
    /// # Errors
    /// The session is killed, or the store does not answer.
    async fn open(&self, core: &Manager, request: &SessionRequest) -> Result<Opening, Denied>;

    /// A session was opened here.
    fn on_opened(&self, session: &Arc<Session>);

    /// Releases an opening that was not used.
    fn release(&self, opening: &Opening, request: &SessionRequest);

    /// A session has ended while legs are still open.
    fn on_ended(&self, session: &Arc<Session>);

    /// The last leg of an ended session has settled; `record` is what this instance knows of it.
    fn on_settled(&self, core: &Manager, session: &Arc<Session>, record: Record);

    /// A kill has ended a session that was active here.
    async fn on_killed(&self, core: &Manager, session: &Arc<Session>);

    /// Ends a session that has been idle here for `limit`. Returns true when it is over on this instance.
    async fn end_idle(
        &self,
        core: &Manager,
        session: &Arc<Session>,
        reason: EndReason,
        limit: Duration,
    ) -> bool;

    /// Ends the due sessions whose end depends on other instances. Returns the others.
    async fn end_due(&self, core: &Manager, due: Vec<Due>) -> Vec<Due>;

    /// Hands ended sessions to the store; the flag says that the retention of the session is over.
    async fn close(&self, core: &Manager, ended: Vec<(Arc<Session>, bool)>);

    /// Hands the last sessions to the store at shutdown.
    async fn leave(&self, core: &Manager, ended: Vec<Arc<Session>>);

    /// Writes the current counters of these sessions (`None`: of all) to the store, before it is read.
    async fn write_shares(&self, core: &Manager, sessions: Option<Vec<Arc<Session>>>);

    /// Sends a kill order to the other instances. Returns when it is written, or after a short wait; the future
    /// that it returns resolves when all have been notified.
    async fn send_order<'a>(
        &'a self,
        core: &'a Manager,
        order: &'a Arc<KillOrder>,
    ) -> BoxFuture<'a, OrderReach>;

    /// Tells the other instances that an order was lifted. Returns what has not received it yet, and why.
    async fn send_lift(&self, core: &Manager, order: &Arc<KillOrder>) -> Vec<String>;

    /// Ends a killed incarnation that is not active here.
    async fn end_remote(&self, core: &Manager, order: &Arc<KillOrder>, uid: Uid);

    /// Kills the other sessions with this name when the store is available again.
    fn resolve_later(&self, target: SessionRef<'_>, order: &Arc<KillOrder>);
}

/// A single instance: sessions and orders are in this process only.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::session) struct Local;

#[async_trait]
impl Replication for Local {
    fn is_shared(&self) -> bool {
        false
    }

    fn store_answers(&self) -> bool {
        true
    }

    fn reconfigure(&self, _: &Settings) {}

    async fn share_client_key(&self, _: &Manager, _: SharedDocument) -> bool {
        true
    }

    async fn claim_document(&self, _: &Manager, _: &SharedDocument) -> Option<bool> {
        Some(true)
    }

    fn on_event(&self, _: &Arc<Event>) {}

    async fn open(&self, core: &Manager, request: &SessionRequest) -> Result<Opening, Denied> {
        let stored = core.store.latest(&request.key).await?;
        Ok(Opening::Own(stored.map(|old| Previous { uid: old.uid, incarnation: old.incarnation })))
    }

    fn on_opened(&self, _: &Arc<Session>) {}

    fn release(&self, _: &Opening, _: &SessionRequest) {}

    fn on_ended(&self, _: &Arc<Session>) {}

    fn on_settled(&self, core: &Manager, _: &Arc<Session>, record: Record) {
        core.publish(Event::Ended(Arc::new(record)));
    }

    async fn on_killed(&self, core: &Manager, session: &Arc<Session>) {
        core.store_ended(session).await;
    }

    async fn end_idle(
        &self,
        core: &Manager,
        session: &Arc<Session>,
        reason: EndReason,
        limit: Duration,
    ) -> bool {
        core.end_if_idle(session, reason, limit)
    }

    async fn end_due(&self, _: &Manager, due: Vec<Due>) -> Vec<Due> {
        due
    }

    async fn close(&self, core: &Manager, ended: Vec<(Arc<Session>, bool)>) {
        for (session, is_past_retention) in ended {
            // While the store does not answer, a session past its retention is dropped anyway.
            if core.store_ended(&session).await || is_past_retention {
                core.closing.remove(&session);
            }
        }
    }

    async fn leave(&self, core: &Manager, ended: Vec<Arc<Session>>) {
        for session in ended {
            if core.store_ended(&session).await {
                core.closing.remove(&session);
            }
        }
    }

    async fn write_shares(&self, _: &Manager, _: Option<Vec<Arc<Session>>>) {}

    async fn send_order<'a>(&'a self, _: &'a Manager, _: &'a Arc<KillOrder>) -> BoxFuture<'a, OrderReach> {
        futures::future::ready(OrderReach { instances: 1, not_reached: Vec::new() }).boxed()
    }

    async fn send_lift(&self, _: &Manager, _: &Arc<KillOrder>) -> Vec<String> {
        Vec::new()
    }

    async fn end_remote(&self, _: &Manager, _: &Arc<KillOrder>, _: Uid) {}

    fn resolve_later(&self, _: SessionRef<'_>, _: &Arc<KillOrder>) {}
}
