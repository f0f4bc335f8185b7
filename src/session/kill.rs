//! Kill and resume. The order is in the book before the first leg is cut.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use serde::Serialize;

use super::book::{BlockMode, KillOrder};
use super::event::Event;
use super::manager::Manager;
use super::model::{EndReason, State};
use super::settings::Block;
use super::store::StoreError;
use crate::clock::{Moment, millis};
use crate::ids::{Scope, SessionId, SessionKey, Uid};

/// What an operator asks for.
#[derive(Clone, Debug, Default)]
pub struct KillRequest {
    /// Why; shown to the client and kept in the record.
    pub reason: String,
    /// Who asks.
    pub by: String,
    /// How long the id stays refused; `None` is `session.kill_block`.
    pub block: Option<Block>,
    /// Also when the session has ended: block its id.
    pub force: bool,
    /// Which session, when the same id lives in several scopes.
    pub scope: Option<Scope>,
}

/// What a kill did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Killed {
    /// The id that is refused from now on.
    pub session_id: SessionId,
    /// The incarnation that was ended.
    pub uid: Uid,
    /// The incarnation's state: killed, unless it had ended in another way before.
    pub state: State,
    /// When the order was written.
    pub killed_at: Timestamp,
    /// Who gave it.
    pub by: String,
    /// Legs that were open and are cut.
    pub legs_cut: usize,
    /// When the block ends; `None` when the clock does not end it.
    pub blocked_until: Option<Timestamp>,
}

/// Why a kill did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KillError {
    /// No session has this id or uid.
    #[error("no such session")]
    Unknown,
    /// It is no longer active; `force` blocks its id all the same.
    #[error("session has already ended: {state}")]
    AlreadyEnded {
        /// Its state.
        state: State,
    },
    /// Several principals have a session with this id; one must be named by its uid.
    #[error("{} sessions have this id; name one by its uid", .0.len())]
    Ambiguous(Vec<Uid>),
    /// The block asked for would end at once.
    #[error("a block of mode duration needs a duration")]
    EmptyBlock,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a resume did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resumed {
    /// The id that is no longer refused.
    pub session_id: SessionId,
    /// The order that no longer stands.
    pub order: Arc<KillOrder>,
}

/// Why a resume did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// No order in force names this id or uid.
    #[error("no kill order stands against this session")]
    NotKilled,
    /// Several orders stand against this id; one must be named by its uid.
    #[error("{} kill orders stand against this id; name one by its uid", .0.len())]
    Ambiguous(Vec<Uid>),
    /// The order's mode is `permanent`.
    #[error("the kill order is permanent")]
    Permanent,
}

/// The one incarnation a target names.
struct Target {
    key: SessionKey,
    uid: Uid,
    state: State,
}

impl Manager {
    /// Kills the session that `target` names (its id, or the uid of an incarnation).
    pub async fn kill(&self, target: &str, request: KillRequest) -> Result<Killed, KillError> {
        let block = request.block.unwrap_or(self.settings.load().kill_block);
        if !block.is_whole() {
            return Err(KillError::EmptyBlock);
        }
        let found = self.target(target, request.scope.as_ref()).await?;
        if found.state != State::Active && !request.force {
            return Err(KillError::AlreadyEnded { state: found.state });
        }
        let order = Arc::new(self.order(&found, request, block, self.clock.now()));
        self.book.write(order.clone());
        self.kills.fetch_add(1, Ordering::Relaxed);
        // Whoever opened this session before the order was written is found here; whoever comes later
        // finds the order. The incarnation may be a newer one than the target's: it is killed too.
        let live = self.live.find(&found.key);
        let cut = live
            .as_ref()
            .and_then(|live| self.end(live, EndReason::Killed, Some(order.clone()), |_, _| true));
        let legs_cut = cut.unwrap_or(0);
        self.publish(Event::Killed { order: order.clone(), legs_cut });
        if let Some(live) = &live {
            self.keep(live).await;
        }
        let (uid, state) = live.map_or((found.uid, found.state), |live| (live.uid(), live.state()));
        Ok(Killed {
            session_id: found.key.id,
            uid,
            state,
            killed_at: order.at,
            by: order.by.clone(),
            legs_cut,
            blocked_until: order.until,
        })
    }

    /// Lifts the kill order against the session that `target` names (its id, or the uid the order was
    /// made against); the id may then start a new incarnation.
    pub async fn resume(&self, target: &str, by: &str) -> Result<Resumed, ResumeError> {
        let orders = self.book.named(target, None, self.clock.now());
        let order = match orders.as_slice() {
            [] => return Err(ResumeError::NotKilled),
            [order] => order.clone(),
            several => return Err(ResumeError::Ambiguous(several.iter().map(|order| order.uid).collect())),
        };
        if order.mode == BlockMode::Permanent {
            return Err(ResumeError::Permanent);
        }
        if !self.book.strike(&order) {
            return Err(ResumeError::NotKilled);
        }
        self.publish(Event::Resumed { order: order.clone(), by: by.to_owned() });
        Ok(Resumed { session_id: order.session_id.clone(), order })
    }

    /// The kill orders in force, newest first.
    pub fn kills(&self) -> Vec<Arc<KillOrder>> {
        self.book.all(self.clock.now())
    }

    fn order(&self, target: &Target, request: KillRequest, block: Block, now: Moment) -> KillOrder {
        let expires = (block.mode == BlockMode::Duration)
            .then(|| Moment::from_millis(now.as_millis().saturating_add(millis(block.duration.0))));
        KillOrder {
            session_id: target.key.id.clone(),
            scope: target.key.scope.clone(),
            agent: None,
            descendants: Vec::new(),
            uid: target.uid,
            reason: request.reason,
            by: request.by,
            at: self.clock.wall(now),
            mode: block.mode,
            until: expires.map(|expires| self.clock.wall(expires)),
            expires,
        }
    }

    /// An id names the newest incarnation of a session; active ones go before ended ones.
    async fn target(&self, target: &str, scope: Option<&Scope>) -> Result<Target, KillError> {
        let mut found: Vec<Target> = self
            .find(target)
            .await?
            .into_iter()
            .filter(|session| scope.is_none_or(|scope| *scope == session.key().scope))
            .map(|session| Target { key: session.key().clone(), uid: session.uid, state: session.state })
            .collect();
        if found.iter().any(|target| target.state == State::Active) {
            found.retain(|target| target.state == State::Active);
        }
        match found.len() {
            0 => Err(KillError::Unknown),
            1 => Ok(found.remove(0)),
            _ => Err(KillError::Ambiguous(found.iter().map(|target| target.uid).collect())),
        }
    }
}
