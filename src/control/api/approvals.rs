//! Approvals of held calls in the control API.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::params::Limit;
use crate::ids::{AgentId, PrincipalId, SessionId, Uid};
use crate::policy::approval::shown::visible;
use crate::policy::approval::{Answer, Approval, ApprovalState, Decision};

/// Query of `GET /control/approvals`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApprovalsQuery {
    /// Only those in this state; those that are pending, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateFilter>,
    /// Most approvals on the page.
    pub limit: Limit<100, 500>,
    /// Those after this page: its `next_cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Which approvals are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateFilter {
    /// In any state.
    All,
    /// Those that wait for an answer.
    Pending,
    /// Those that the call may use.
    Approved,
    /// Those that are refused.
    Denied,
    /// Those that the call has used.
    Used,
    /// Those that nobody answered or used in time.
    Expired,
}

impl StateFilter {
    /// Whether it lets this state pass.
    pub fn has(self, state: ApprovalState) -> bool {
        match self {
            Self::All => true,
            Self::Pending => state == ApprovalState::Pending,
            Self::Approved => state == ApprovalState::Approved,
            Self::Denied => state == ApprovalState::Denied,
            Self::Used => state == ApprovalState::Used,
            Self::Expired => state == ApprovalState::Expired,
        }
    }
}

/// Body of a decision; `decision` is required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DecisionBody {
    /// The answer.
    pub decision: Option<Answer>,
    /// Why; the client sees it when the call is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApprovalView {
    /// Its id.
    pub id: String,
    /// How it stands.
    pub state: ApprovalState,
    /// The session; null for a request that is held before its session is known.
    pub session_id: Option<SessionId>,
    /// The incarnation of the session that asked.
    pub uid: Option<Uid>,
    /// The agent; null for the main one.
    pub agent: Option<AgentId>,
    /// The caller.
    pub principal: PrincipalId,
    /// The caller's tenant.
    pub tenant: Option<String>,
    /// The rule that holds the call.
    pub rule: String,
    /// The phase of the rule.
    pub phase: String,
    /// The message of the rule.
    pub message: Option<String>,
    /// The API that the caller speaks.
    pub dialect: String,
    /// The tool.
    pub tool: Option<String>,
    /// The MCP server of the tool.
    pub server: Option<String>,
    /// SHA-256 of the arguments in the form of RFC 8785.
    pub args_sha256: String,
    /// The arguments, redacted, both ends of long ones, with what hides written out; absent in events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// The length of all arguments, in bytes.
    #[serde(default)]
    pub arguments_bytes: u64,
    /// When it was asked for.
    pub asked: Timestamp,
    /// Until when it can be answered, and used.
    pub expires: Timestamp,
    /// How many operators must approve.
    pub need: u8,
    /// The answers, the oldest first.
    pub decisions: Vec<Decision>,
    /// When the call went on.
    pub used: Option<Timestamp>,
}

/// Answer of `GET /control/approvals`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ApprovalList")]
pub struct ApprovalList<V = ApprovalView> {
    /// The approvals, the newest first.
    pub approvals: Vec<V>,
    /// The cursor of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl ApprovalView {
    /// Returns the view without the arguments, for feeds: their readers need not have the role operator.
    pub fn without_arguments(self) -> Self {
        Self { arguments: None, ..self }
    }
}

impl From<&Approval> for ApprovalView {
    fn from(one: &Approval) -> Self {
        let call = one.call.clone();
        Self {
            id: one.id.clone(),
            state: one.state(Timestamp::now()),
            session_id: call.session.map(|session| session.id),
            uid: one.uid,
            agent: call.agent,
            principal: call.principal,
            tenant: call.tenant.map(|tenant| tenant.to_string()),
            rule: call.rule.to_string(),
            phase: call.phase,
            message: one.message.clone(),
            dialect: one.dialect.clone(),
            tool: call.tool.as_deref().map(visible),
            server: call.server.as_deref().map(visible),
            args_sha256: call.args_sha256,
            arguments: one.arguments.clone(),
            arguments_bytes: one.arguments_bytes,
            asked: one.asked,
            expires: one.expires,
            need: one.need,
            decisions: one.decisions.clone(),
            used: one.used,
        }
    }
}
