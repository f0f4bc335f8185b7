//! One agent of a session, as the control API shows it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::SessionState;
use crate::ids::AgentId;
use crate::protocol::facts::usage::Usage;

/// The name of the main agent, which clients do not name.
pub const MAIN_AGENT: &str = "main";
/// The name under which agents that are no longer tracked are summed up. No agent can have it: names contain no
/// spaces.
pub(in crate::session) const OTHER_AGENTS: &str = "other agents";

/// One agent of a session (`GET /control/sessions/{id}`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentView {
    /// Its name, as the client sends it.
    pub id: AgentId,
    /// The agent that started it; `None` for the main agent.
    pub parent: Option<AgentId>,
    /// Number of its ancestors.
    pub depth: usize,
    /// `killed` while an order refuses it, else `active`.
    pub state: SessionState,
    /// When it was first mentioned.
    pub first_seen: Timestamp,
    /// When a request of it last began, ended or was refused.
    pub last_seen: Timestamp,
    /// Requests that were admitted.
    pub requests: u64,
    /// Requests that are open.
    pub open_legs: u32,
    /// Token counts, summed.
    pub usage: Usage,
}

impl AgentView {
    /// False for the sum of agents that are no longer tracked.
    pub(in crate::session) fn is_listed(&self) -> bool {
        self.id.as_str() != OTHER_AGENTS
    }
}
