//! A kill order: which session or agent is refused, by whom, why and for how long.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::ids::{AgentId, KeyId, Scope, SessionId, SessionKey, Uid};

/// How the author of an order begins that a budget gives; then comes its name.
pub const BY_BUDGET: &str = "budget:";
/// The beginning of `by` in orders that a rule gives; its id follows.
pub const BY_POLICY: &str = "policy:";

/// What ends the block of a kill order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockMode {
    /// The clock, or an operator.
    Duration,
    /// Nothing; also not an operator.
    Permanent,
    /// An operator.
    UntilResumed,
}

/// A kill order: the session id is refused in its scope, or one agent of the session and its descendants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KillOrder {
    /// The id that is refused.
    pub session_id: SessionId,
    /// The namespace of the id; empty with `session.scope: global`.
    pub scope: Scope,
    /// The agent that is refused; `None` refuses the whole session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// The descendants of the agent that were known when the order was given. They are refused even where less of
    /// the tree is known (on another instance, in a later incarnation).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descendants: Vec<AgentId>,
    /// The incarnation that the order was made against.
    pub uid: Uid,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who gave the order: an operator, or `budget:NAME`.
    pub by: String,
    /// When the order was given.
    pub at: Timestamp,
    /// What ends the block.
    pub mode: BlockMode,
    /// When the block expires; `None` if it does not expire by itself.
    pub until: Option<Timestamp>,
    /// The principals' key with which `scope` was made; `None` if it is unknown. An instance with another key
    /// cannot tell whose scope it is, and refuses the id to all callers with a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_key: Option<KeyId>,
    #[serde(skip)]
    pub(in crate::session) expires: Option<Moment>,
    /// Of two orders against the same session or agent, the one with the higher revision counts.
    #[serde(skip)]
    pub(in crate::session) rev: u64,
}

impl KillOrder {
    /// The session it is against, or one of whose agents it is against.
    pub(in crate::session) fn key(&self) -> SessionKey {
        SessionKey { scope: self.scope.clone(), id: self.session_id.clone() }
    }

    /// The message for the client, with the reason but not the operator.
    pub fn notice(&self) -> String {
        let whom = self.agent.as_ref().map_or_else(|| "Session".to_owned(), |agent| format!("Agent {agent}"));
        // Budgets and rules give their orders themselves.
        if self.by.starts_with(BY_BUDGET) || self.by.starts_with(BY_POLICY) {
            return format!("{whom} killed: {}", self.reason);
        }
        match self.reason.as_str() {
            "" => format!("{whom} killed by operator"),
            reason => format!("{whom} killed by operator: {reason}"),
        }
    }

    /// True for the agent it names and those known below it.
    pub(in crate::session) fn covers(&self, agent: &AgentId) -> bool {
        self.agent.as_ref() == Some(agent) || self.descendants.contains(agent)
    }

    /// True while new legs are refused.
    pub fn in_force(&self, now: Moment) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}
