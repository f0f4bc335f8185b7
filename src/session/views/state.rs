//! States of a session, their transitions, kinds, and reasons for an end.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::AgentId;

/// The state of an incarnation. All but `Active` are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "State")]
pub enum SessionState {
    /// Legs may be opened.
    Active,
    /// It ended regularly: nothing more was expected, or this instance shut down.
    Completed,
    /// A kill order ended it; the id stays refused while the order is in force.
    Killed,
    /// It was idle or open for too long; the id may start a new incarnation.
    TimedOut,
}

/// All legal transitions.
const TRANSITIONS: [(SessionState, SessionState); 3] = [
    (SessionState::Active, SessionState::Completed),
    (SessionState::Active, SessionState::Killed),
    (SessionState::Active, SessionState::TimedOut),
];

impl SessionState {
    /// All states, in the order in which they are counted.
    pub const ALL: [SessionState; 4] =
        [SessionState::Active, SessionState::Completed, SessionState::Killed, SessionState::TimedOut];

    /// True if the table of transitions has this step.
    pub fn may_become(self, next: SessionState) -> bool {
        TRANSITIONS.contains(&(self, next))
    }

    /// True if no transition leads out of this state.
    pub fn is_final(self) -> bool {
        !TRANSITIONS.iter().any(|(from, _)| *from == self)
    }

    /// The name in JSON, logs and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Killed => "killed",
            Self::TimedOut => "timed_out",
        }
    }
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What runs inside the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Kind")]
pub enum SessionKind {
    /// Only requests that pass through.
    #[default]
    Traffic,
    /// A conversation driven by the runner.
    Agent,
    /// A relayed terminal.
    Terminal,
    /// A single command.
    Job,
}

impl SessionKind {
    /// The name in JSON, logs and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::Agent => "agent",
            Self::Terminal => "terminal",
            Self::Job => "job",
        }
    }
}

/// Why an incarnation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// No byte moved for `session.idle_timeout`.
    IdleTimeout,
    /// It was open for `session.max_duration`.
    MaxDuration,
    /// `session.completed_after` passed since its last request ended.
    CompletedAfter,
    /// A derived id came back after more than `session.derive.idle_gap`.
    IdleGap,
    /// A limit on active sessions was reached (`session.max_active`, `max_active_per_principal`), and it was the
    /// longest idle one without an open request.
    Capacity,
    /// A kill order.
    Killed,
    /// This instance shut down.
    Shutdown,
}

impl EndReason {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::IdleTimeout => "idle_timeout",
            Self::MaxDuration => "max_duration",
            Self::CompletedAfter => "completed_after",
            Self::IdleGap => "idle_gap",
            Self::Capacity => "capacity",
            Self::Killed => "killed",
            Self::Shutdown => "shutdown",
        }
    }

    /// The final state for this reason.
    pub fn state(self) -> SessionState {
        match self {
            Self::IdleTimeout | Self::MaxDuration | Self::Capacity => SessionState::TimedOut,
            Self::CompletedAfter | Self::IdleGap | Self::Shutdown => SessionState::Completed,
            Self::Killed => SessionState::Killed,
        }
    }
}

/// How the session was recognised and which program its client claims to be: labels, not authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// The source of the session id: `header:x-claude-code-session-id`, `derived`, `generated`.
    pub source: Arc<str>,
    /// The program: `claude-code`, `codex`.
    pub client: Option<Cow<'static, str>>,
    /// Its version.
    pub client_version: Option<String>,
    /// The subagent that sent the request; `None` for the main agent.
    pub agent_id: Option<AgentId>,
    /// The agent that started the subagent.
    pub parent_agent_id: Option<AgentId>,
}

impl Identity {
    /// The program and its version: `claude-code/2.1.197`.
    pub(in crate::session) fn program(&self) -> Option<String> {
        self.client.as_ref().map(|name| match &self.client_version {
            Some(version) => format!("{name}/{version}"),
            None => name.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_active_session_ends_and_only_once() {
        for from in SessionState::ALL {
            for to in SessionState::ALL {
                assert_eq!(from.may_become(to), from == SessionState::Active && to != SessionState::Active);
            }
            assert_eq!(from.is_final(), from != SessionState::Active);
        }
    }

    #[test]
    fn names_agree_with_json() {
        for state in SessionState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        assert_eq!(serde_json::to_value(SessionKind::Traffic).unwrap(), SessionKind::Traffic.name());
        for reason in [
            EndReason::IdleTimeout,
            EndReason::MaxDuration,
            EndReason::CompletedAfter,
            EndReason::IdleGap,
            EndReason::Capacity,
            EndReason::Killed,
            EndReason::Shutdown,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
