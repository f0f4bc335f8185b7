//! Kills sessions by a name that was killed while the store was unavailable. At that time it is unknown whether the
//! name matches other sessions, but an operator who was told "killed" must be able to rely on it: they are killed
//! when the store is available again.

use std::sync::Arc;
use std::time::Duration;

use super::pending_orders::UnresolvedName;
use super::replicator::Replicator;
use crate::clock::millis;
use crate::ids::Uid;
use crate::redis::LinkError;
use crate::session::core::kill::{KillError, KillRequest};
use crate::session::core::lookup::{NamedBy, SessionRef};
use crate::session::core::manager::Manager;
use crate::session::settings::Block;
use crate::session::views::kill_order::{BlockMode, KillOrder};
use crate::session::views::state::SessionState;
use crate::settings::units::DurationText;

impl Replicator {
    /// Remembers a name, to kill the other sessions with it when the store is available again.
    pub(super) fn add_unresolved_name(&self, target: SessionRef<'_>, order: &Arc<KillOrder>) {
        let unresolved_names =
            UnresolvedName { text: target.text().to_owned(), by: target.by(), order: Arc::clone(order) };
        self.unresolved_names.lock().push(unresolved_names);
    }

    /// Kills the sessions with the remembered names. With `is_last` every instance has had time to write its
    /// sessions, and the names are forgotten.
    pub(super) async fn kill_unresolved_names(&self, core: &Manager, is_last: bool) -> Result<(), LinkError> {
        let unresolved_names = self.unresolved_names.lock().clone();
        for UnresolvedName { text, by, order } in &unresolved_names {
            let found = core.find(SessionRef::new(text, *by)).await.ok().filter(|found| !found.is_partial);
            let Some(found) = found else {
                return Err(LinkError::Away("a name was not looked up".to_owned()));
            };
            let key = order.key();
            let namesakes = found.all().filter(|session| {
                session.state == SessionState::Active
                    && *session.key() != key
                    && session.started_at <= order.at
            });
            for uid in namesakes.map(|session| session.uid) {
                self.kill_by_uid(core, uid, order).await;
            }
        }
        if is_last {
            let mut left = self.unresolved_names.lock();
            left.retain(|one| !unresolved_names.iter().any(|done| Arc::ptr_eq(&done.order, &one.order)));
        }
        Ok(())
    }

    async fn kill_by_uid(&self, core: &Manager, uid: Uid, order: &KillOrder) {
        let left =
            order.until.map_or(Duration::ZERO, |until| core.clock().moment(until).since(core.clock().now()));
        if order.mode == BlockMode::Duration && millis(left) == 0 {
            return;
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
            Ok(killed) => tracing::warn!(
                session_id = %killed.session_id, %uid,
                "killed, since its name was killed while redis was away"
            ),
            Err(KillError::AlreadyEnded { .. } | KillError::UnknownAgent { .. }) => {}
            Err(fault) => tracing::error!(%fault, %uid, "a session whose name was killed is not killed yet"),
        }
    }
}
