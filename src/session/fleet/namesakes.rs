//! Sessions with the name of one that was killed while the store was away. Whether a name means other sessions, too,
//! cannot be known then, and an operator who has read "killed" must not be wrong: once the store is back
//! they are killed as well.

use std::sync::Arc;
use std::time::Duration;

use super::Fleet;
use crate::clock::millis;
use crate::ids::Uid;
use crate::redis::LinkError;
use crate::session::book::{BlockMode, KillOrder};
use crate::session::kill::{KillError, KillRequest};
use crate::session::lookup::{NamedBy, SessionRef};
use crate::session::manager::Manager;
use crate::session::model::State;
use crate::session::settings::Block;
use crate::settings::units::DurationText;

/// A name that could not be looked up everywhere, and the order that was given by it.
#[derive(Clone, Debug)]
pub(super) struct Unresolved {
    text: String,
    by: Option<NamedBy>,
    order: Arc<KillOrder>,
}

impl Manager {
    /// Has the other sessions of this name killed once the store is back.
    pub(in crate::session) fn kill_namesakes_later(&self, target: SessionRef<'_>, order: &Arc<KillOrder>) {
        let Some(fleet) = &self.fleet else { return };
        let unresolved =
            Unresolved { text: target.text().to_owned(), by: target.by(), order: Arc::clone(order) };
        fleet.unresolved.lock().push(unresolved);
    }

    /// Kills the sessions whose name was killed while the store was away. With `is_last` every instance has had
    /// the time to write its sessions, and the names are forgotten.
    pub(super) async fn kill_namesakes(&self, fleet: &Fleet, is_last: bool) -> Result<(), LinkError> {
        let unresolved = fleet.unresolved.lock().clone();
        for Unresolved { text, by, order } in &unresolved {
            let found = self.find(SessionRef::new(text, *by)).await.ok().filter(|found| !found.is_partial);
            let Some(found) = found else {
                return Err(LinkError::Away("a name was not looked up".to_owned()));
            };
            let key = order.key();
            let namesakes = found.all().filter(|session| {
                session.state == State::Active && *session.key() != key && session.started_at <= order.at
            });
            for uid in namesakes.map(|session| session.uid) {
                self.kill_namesake(uid, order).await;
            }
        }
        if is_last {
            let mut left = fleet.unresolved.lock();
            left.retain(|one| !unresolved.iter().any(|done| Arc::ptr_eq(&done.order, &one.order)));
        }
        Ok(())
    }

    async fn kill_namesake(&self, uid: Uid, order: &KillOrder) {
        let left =
            order.until.map_or(Duration::ZERO, |until| self.clock.moment(until).since(self.clock.now()));
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
        match self.kill(SessionRef::new(&name, Some(NamedBy::Uid)), request).await {
            Ok(killed) => tracing::warn!(
                session_id = %killed.session_id, %uid,
                "killed, since its name was killed while redis was away"
            ),
            Err(KillError::AlreadyEnded { .. } | KillError::UnknownAgent { .. }) => {}
            Err(fault) => tracing::error!(%fault, %uid, "a session whose name was killed is not killed yet"),
        }
    }
}
