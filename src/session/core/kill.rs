//! Kill and resume. The order is recorded before the first leg is cut.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cut::CutReason;
use super::event::Event;
use super::lookup::SessionRef;
use super::manager::Manager;
use super::replication::OrderReach;
use super::session::Session;
use crate::clock::{Moment, millis};
use crate::ids::{AgentId, KeyId, Scope, SessionId, SessionKey, Uid};
use crate::session::settings::Block;
use crate::session::store::StoreError;
use crate::session::views::agent_view::{AgentView, MAIN_AGENT};
use crate::session::views::kill_order::{BlockMode, KillOrder};
use crate::session::views::state::{EndReason, SessionState};

/// A kill as an operator requests it.
#[derive(Clone, Debug, Default)]
pub struct KillRequest {
    /// Why; sent to the client and kept in the record.
    pub reason: String,
    /// Who requests it.
    pub by: String,
    /// How long the id stays refused; `None` uses `session.kill_block`.
    pub block: Option<Block>,
    /// Also block the id if the session has ended.
    pub force: bool,
    /// Selects the session if the same id exists in several scopes.
    pub scope: Option<Scope>,
    /// Only this agent and its descendants; `None` kills the whole session.
    pub agent: Option<AgentId>,
}

/// The result of a kill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Killed {
    /// The id that is refused from now on.
    pub session_id: SessionId,
    /// The incarnation that ended.
    pub uid: Uid,
    /// The state of the incarnation: killed, unless it had already ended or only an agent was killed.
    pub state: SessionState,
    /// The agent that is refused from now on; `None` for the whole session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Its known descendants, which are refused as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descendants: Vec<AgentId>,
    /// When the order was recorded.
    pub killed_at: Timestamp,
    /// Who gave the order.
    pub by: String,
    /// Legs cut on this instance, including those of its old process during an upgrade.
    pub legs_cut: usize,
    /// When the block expires; `None` if it does not expire by itself.
    pub blocked_until: Option<Timestamp>,
    /// Instances that received the order.
    #[serde(rename = "instances_notified")]
    pub instances: u64,
    /// What has not received the order yet, and why. This instance keeps trying.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_reached: Vec<String>,
}

/// Why a kill had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KillError {
    /// No session has this id or uid.
    #[error("no such session")]
    Unknown,
    /// It is no longer active; `force` blocks its id anyway.
    #[error("session has already ended: {state}")]
    AlreadyEnded {
        /// Its state.
        state: SessionState,
    },
    /// The name matches several sessions, or was used in too many scopes to tell; the operator must use a uid.
    #[error("more than one session may have this name; name one by its uid")]
    Ambiguous(Vec<Uid>),
    /// The session has no such agent.
    #[error("the session has no such agent")]
    UnknownAgent {
        /// The agents of the session.
        known: Vec<AgentId>,
    },
    /// All agents descend from the main agent.
    #[error("the main agent and all it started are the whole session")]
    MainAgent,
    /// The requested block would expire at once.
    #[error("a block of mode duration needs a duration")]
    EmptyBlock,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The result of a resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resumed {
    /// The id that is accepted again.
    pub session_id: SessionId,
    /// The order that was lifted.
    pub order: Arc<KillOrder>,
    /// What has not received the lifting yet, and why. This instance keeps trying.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_reached: Vec<String>,
}

/// Why a resume had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// No order in force matches this id, uid or agent.
    #[error("no kill order is in force against this session or agent")]
    NotKilled {
        /// The agents of the session that are killed.
        agents: Vec<AgentId>,
    },
    /// Several orders match this id; the operator must use a uid.
    #[error("{} kill orders are in force against this id; name one by its uid", .0.len())]
    Ambiguous(Vec<Uid>),
    /// The order's mode is `permanent`.
    #[error("the kill order is permanent")]
    Permanent,
}

/// The one session that a name refers to.
struct KillTarget {
    key: SessionKey,
    uid: Uid,
    state: SessionState,
    /// Its agents in depth-first order: one tree for each process that has the session.
    trees: Vec<Vec<AgentView>>,
    /// The store was not available, so other sessions may have this name.
    is_partial: bool,
}

impl KillTarget {
    /// The descendants of an agent.
    fn below(&self, agent: &AgentId) -> Result<Vec<AgentId>, KillError> {
        if agent.as_str() == MAIN_AGENT {
            return Err(KillError::MainAgent);
        }
        let (mut is_known, mut all, mut below) = (false, Vec::new(), Vec::new());
        for tree in &self.trees {
            let mut known = tree.iter().filter(|known| known.is_listed());
            all.extend(tree.iter().filter(|known| known.is_listed()).map(|known| known.id.clone()));
            if let Some(killed) = known.find(|known| known.id == *agent) {
                is_known = true;
                let subtree = known.take_while(|below| below.depth > killed.depth);
                below.extend(subtree.map(|below| below.id.clone()));
            }
        }
        match is_known {
            true => Ok(distinct(below)),
            false => Err(KillError::UnknownAgent { known: distinct(all) }),
        }
    }
}

/// Removes duplicates and keeps the order.
fn distinct(names: Vec<AgentId>) -> Vec<AgentId> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
}

impl Manager {
    /// Kills the session that `target` names (by its id, or by the uid of an incarnation), or one agent in it with
    /// its descendants.
    pub async fn kill<'a>(
        &self,
        target: impl Into<SessionRef<'a>>,
        request: KillRequest,
    ) -> Result<Killed, KillError> {
        let target = target.into();
        let block = request.block.unwrap_or(self.settings.load().kill_block);
        if !block.is_whole() {
            return Err(KillError::EmptyBlock);
        }
        let found = self.target(target, request.scope.as_ref()).await?;
        if found.state != SessionState::Active && !request.force {
            return Err(KillError::AlreadyEnded { state: found.state });
        }
        let descendants = request.agent.as_ref().map_or(Ok(Vec::new()), |agent| found.below(agent))?;
        let order = Arc::new(self.order(&found, request, descendants, block, self.clock.now()));
        self.kill_orders.record(order.clone());
        // Written for the other instances, too, before anything is cut here.
        let delivery = self.replication.send_order(self, &order).await;
        let sent = self.send_kill_to_peers(&order, None);
        self.kills.fetch_add(1, Ordering::Relaxed);
        let (session, cut_here) = self.apply_order(&order);
        let legs_cut = cut_here + sent.legs_cut().await;
        self.publish(Event::Killed { order: order.clone(), legs_cut });
        if found.is_partial {
            self.replication.resolve_later(target, &order);
        }
        let OrderReach { instances, not_reached } = delivery.await;
        let (uid, state) = match &session {
            Some(session) => {
                let state = session.state();
                if state.is_final() {
                    self.replication.on_killed(self, session).await;
                }
                (session.uid(), state)
            }
            None if order.agent.is_none() && found.state == SessionState::Active => {
                self.replication.end_remote(self, &order, found.uid).await;
                (found.uid, SessionState::Killed)
            }
            None => (found.uid, found.state),
        };
        Ok(Killed {
            session_id: found.key.id,
            uid,
            state,
            agent: order.agent.clone(),
            descendants: order.descendants.clone(),
            killed_at: order.at,
            by: order.by.clone(),
            legs_cut,
            blocked_until: order.until,
            instances,
            not_reached,
        })
    }

    /// Applies an order that was given to another process of this gateway, or before this start. Returns true if it
    /// is in force from now on. Publishes no event.
    pub fn restore(&self, order: KillOrder) -> bool {
        let rev = u64::try_from(order.at.as_millisecond()).unwrap_or(0);
        self.take_order(KillOrder { rev, ..order }).is_some()
    }

    /// Applies an order that was given elsewhere, unless it has expired or is not newer than the known one. Returns
    /// how many legs were cut.
    pub(in crate::session) fn take_order(&self, order: KillOrder) -> Option<usize> {
        let expires = order.until.map(|until| self.clock.moment(until));
        let order = Arc::new(KillOrder { expires, ..order });
        let is_in_force = order.in_force(self.clock.now());
        let replaced = is_in_force.then(|| self.kill_orders.record_remote(&order)).flatten()?;
        if replaced.iter().any(|old| (old.uid, old.at) != (order.uid, order.at)) {
            self.listener.on_replaced_elsewhere(&order);
        }
        Some(self.apply_order(&order).1)
    }

    /// Carries out a recorded order: ends the session, or adds the order to the session's agents, and cuts their
    /// legs. Returns the session if it is active here, and how many legs were cut.
    pub(super) fn apply_order(&self, order: &Arc<KillOrder>) -> (Option<Arc<Session>>, usize) {
        let mut found = None;
        // Sessions opened before the order was recorded are found here; later requests find the order. A newer
        // incarnation than the one named is killed as well.
        let mut legs_cut = 0;
        for session in self.sessions_under(order) {
            legs_cut += if order.agent.is_some() {
                let cuts = session.order_agent(order);
                for cut in &cuts {
                    cut.cut(CutReason::AgentKilled);
                }
                cuts.len()
            } else {
                self.end(&session, EndReason::Killed, Some(order.clone()), |_, _| true).unwrap_or(0)
            };
            if *session.key() == order.key() {
                found = Some(session);
            }
        }
        (found, legs_cut)
    }

    /// Cuts the open legs whose callers are no longer accepted; their sessions go on. Returns how many.
    pub fn cut_invalid_legs(&self) -> usize {
        let now = Timestamp::now();
        let cut = |session: &Arc<Session>| Some(session.cut_invalid_legs(now)).filter(|legs| *legs > 0);
        self.active.collect(cut).into_iter().sum()
    }

    /// The active sessions that an order applies to: one, unless the scope of the order was made with another
    /// principals' key.
    fn sessions_under(&self, order: &KillOrder) -> Vec<Arc<Session>> {
        let mut lives = self.active.by_id(order.session_id.as_str());
        lives.retain(|session| self.kill_orders.is_against(order, session.key()));
        lives
    }

    /// Removes a lifted order against an agent from its sessions.
    pub(super) fn lift_from_sessions(&self, order: &Arc<KillOrder>) {
        if order.agent.is_some() {
            self.sessions_under(order).iter().for_each(|session| session.lift(order));
        }
    }

    /// Lifts the kill order against the session that `target` names (by its id, or by the uid that the order was
    /// made against); the id may then start a new incarnation. With `agent`, lifts the order against that agent.
    pub async fn resume<'a>(
        &self,
        target: impl Into<SessionRef<'a>>,
        agent: Option<&str>,
        by: &str,
    ) -> Result<Resumed, ResumeError> {
        let orders = self.kill_orders.named(target.into(), self.clock.now());
        let (orders, others): (Vec<_>, Vec<_>) =
            orders.into_iter().partition(|order| order.agent.as_ref().map(AgentId::as_str) == agent);
        let order = match orders.as_slice() {
            [] => {
                let agents = others.iter().filter_map(|order| order.agent.clone()).collect();
                return Err(ResumeError::NotKilled { agents });
            }
            [order] => order.clone(),
            several => return Err(ResumeError::Ambiguous(several.iter().map(|order| order.uid).collect())),
        };
        if order.mode == BlockMode::Permanent {
            return Err(ResumeError::Permanent);
        }
        if !self.kill_orders.remove(&order) {
            return Err(ResumeError::NotKilled { agents: Vec::new() });
        }
        self.lift_from_sessions(&order);
        self.send_lift_to_peers(&order);
        let not_reached = self.replication.send_lift(self, &order).await;
        self.publish(Event::Resumed { order: order.clone(), by: by.to_owned() });
        Ok(Resumed { session_id: order.session_id.clone(), order, not_reached })
    }

    /// Sets the principals' key with which scopes are made on this instance.
    pub fn set_principals_key(&self, key: KeyId) {
        self.kill_orders.set_principals_key(key);
    }

    /// The kill orders in force, newest first.
    pub fn kills(&self) -> Vec<Arc<KillOrder>> {
        self.kill_orders.all(self.clock.now())
    }

    fn order(
        &self,
        target: &KillTarget,
        request: KillRequest,
        descendants: Vec<AgentId>,
        block: Block,
        now: Moment,
    ) -> KillOrder {
        let expires = (block.mode == BlockMode::Duration)
            .then(|| Moment::from_millis(now.as_millis().saturating_add(millis(block.duration.0))));
        KillOrder {
            session_id: target.key.id.clone(),
            scope: target.key.scope.clone(),
            agent: request.agent,
            descendants,
            uid: target.uid,
            reason: request.reason,
            by: request.by,
            at: self.clock.wall(now),
            mode: block.mode,
            until: expires.map(|expires| self.clock.wall(expires)),
            principal_key: self.kill_orders.principal_key(),
            expires,
            rev: self.clock.unix_millis(now),
        }
    }

    async fn target(&self, target: SessionRef<'_>, scope: Option<&Scope>) -> Result<KillTarget, KillError> {
        let mut found = self.find(target).await?;
        if let Some(scope) = scope {
            found.keep_scope(scope);
        }
        match found.sessions().as_slice() {
            [] => Err(KillError::Unknown),
            [session] if found.has_uid() || !found.is_cut => Ok(KillTarget {
                key: session.key().clone(),
                uid: session.uid,
                state: session.state,
                trees: found.agents(session.key()),
                is_partial: found.is_partial,
            }),
            several => Err(KillError::Ambiguous(several.iter().map(|session| session.uid).collect())),
        }
    }
}
