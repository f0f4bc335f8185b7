//! One agent of a session, as the control API shows it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::state::SessionState;
use crate::ids::AgentId;
use crate::protocol::usage::Usage;

/// The name of the main agent, which clients do not name.
pub const MAIN_AGENT: &str = "main";
/// What agents that are no longer told apart go by. No agent can be named so: names have no blanks.
pub(in crate::session) const OTHER_AGENTS: &str = "other agents";

/// One agent of a session (`GET /control/sessions/{id}`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its name, as its client gives it.
    pub id: AgentId,
    /// Who started it; `None` for the main agent.
    pub parent: Option<AgentId>,
    /// How many agents stand above it.
    pub depth: usize,
    /// `killed` while an order refuses it, else `active`.
    pub state: SessionState,
    /// When it was first heard of.
    pub first_seen: Timestamp,
    /// When a request of it last began or ended, or was refused.
    pub last_seen: Timestamp,
    /// Requests admitted.
    pub requests: u64,
    /// Requests open now.
    pub open_legs: u32,
    /// The provider's own token counts, summed.
    pub usage: Usage,
}

impl AgentView {
    /// False for those that are no longer told apart.
    pub(in crate::session) fn is_listed(&self) -> bool {
        self.id.as_str() != OTHER_AGENTS
    }
}
