//! A rule that holds, as the event feed shows it.

use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, PrincipalId, SessionId, Uid};
use crate::policy::facts::Phase;
use crate::policy::rule::{Action, Mode, Role, Severity};

/// A rule that holds for a request, an answer, a call or a turn. It never has the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FindingEvent {
    /// When.
    pub at: Timestamp,
    /// The session; null if the request was refused before it had one.
    pub session_id: Option<SessionId>,
    /// The incarnation.
    pub uid: Option<Uid>,
    /// The agent; null for the main one.
    pub agent: Option<AgentId>,
    /// The caller.
    pub principal: PrincipalId,
    /// The tenant of the caller.
    pub tenant: Option<String>,
    /// The id of the request.
    pub request_id: String,
    /// The rule.
    pub rule: String,
    /// When the rule is judged.
    pub phase: Phase,
    /// What the rule asks for.
    pub action: Action,
    /// Whether it acts.
    pub mode: Mode,
    /// How bad it is.
    pub severity: Severity,
    /// Its class in the OWASP Top 10 for LLM applications.
    pub owasp: Option<String>,
    /// Who wrote the text that it was found in; null for a rule about facts alone.
    pub role: Option<Role>,
    /// How the text had to be read: `plain`, or a coding such as `base64`.
    pub via: Option<String>,
    /// The tool that is called, or whose result it is.
    pub tool: Option<String>,
    /// Tells the text from others, within one process; null for a rule about facts alone.
    pub digest: Option<String>,
    /// How often it was found there.
    pub count: u32,
    /// The condition could not be decided, which counts as yes.
    pub unknown: bool,
}

/// How often a rule has held in a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Flag {
    /// The rule.
    pub rule: Arc<str>,
    /// What the rule asks for.
    pub action: Action,
    /// How bad it is.
    pub severity: Severity,
    /// How often, each text counted once.
    pub count: u64,
}
