//! What the facts of rules say of a session.

use super::Session;
use crate::ids::{AgentId, LegId};
use crate::policy::session_state::SessionState as PolicyState;
use crate::protocol::facts::usage::Usage;

impl Session {
    /// What rules know of it; `None` if none has found anything.
    pub fn policy(&self) -> Option<&PolicyState> {
        self.policy.get().map(|state| &**state)
    }

    /// The same, to be added to.
    pub fn policy_state(&self) -> &PolicyState {
        self.policy.get_or_init(Box::default)
    }

    /// Tokens and costs of the answers that have ended on this instance.
    pub fn usage(&self) -> Usage {
        self.inner().totals.usage()
    }

    /// Tool calls in answers that have ended on this instance.
    pub fn tool_calls(&self) -> u64 {
        self.inner().totals.tools().iter().map(|(_, calls)| calls).sum()
    }

    /// The agent of an open leg; `None` for the main one.
    pub(in crate::session::core) fn agent_of(&self, leg: LegId) -> Option<AgentId> {
        let inner = self.inner();
        inner.legs.iter().find(|open| open.id == leg)?.line.agent.clone()
    }

    /// How many agents lie above that of an open leg.
    pub(in crate::session::core) fn agent_depth(&self, leg: LegId) -> u64 {
        let inner = self.inner();
        let place = inner.legs.iter().find(|open| open.id == leg).map(|open| open.agent);
        inner.agents.as_ref().zip(place).map_or(0, |(agents, place)| agents.depth(place))
    }
}
