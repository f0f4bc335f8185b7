//! An approval: the question whether a held call may go on, and what operators answered.
//!
//! It is a document that all instances keep. Its revision is a function of its content and grows with every answer, so that two
//! documents of the same approval are merged to the same one everywhere, and no older copy revives a used one.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{AgentId, PrincipalId, SessionId, SessionKey, SharedDocument, Uid};

/// How the name of a shared document begins; no key of a caller has such an id.
pub const SHARED: &str = "approval:";
/// How long an approval is kept after it has expired, for those who look at the list. One that is over cannot be used.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long an approval is shared after it has expired: instances whose clocks are behind may still use it.
const SHARED_FOR: Duration = Duration::from_secs(3600);
/// Added to the revision of an approval that was used: nothing ranks above it.
const USED: u64 = 1 << 32;
/// The longest reason of a decision, in bytes.
pub const MAX_REASON: usize = 1024;

/// What an approval is for: exactly this call of this caller. Another call, however small the difference, asks anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeldCall {
    /// The session; absent for a request that is held before its session is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionKey>,
    /// The agent; absent for the main one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// The caller.
    pub principal: PrincipalId,
    /// The caller's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    /// The rule that holds it.
    pub rule: Arc<str>,
    /// The phase of the rule.
    pub phase: String,
    /// The tool, where the phase has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The MCP server of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The digest of the arguments, or of what is held otherwise; see [`super::arguments::arguments_digest`].
    pub args_sha256: String,
}

/// What is shown of a held call beside what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldDetails {
    /// The incarnation of the session.
    pub uid: Option<Uid>,
    /// The API that the caller speaks.
    pub dialect: String,
    /// The message of the rule.
    pub message: Option<String>,
    /// The arguments, redacted and cut.
    pub arguments: Option<String>,
    /// The length of all of them, in bytes.
    pub arguments_bytes: u64,
}

/// What an operator answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The call may go on, once.
    Approve,
    /// The call is refused, as long as the approval has not expired.
    Deny,
}

impl Answer {
    /// The word in texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
        }
    }
}

/// The answer of one operator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// What.
    pub decision: Answer,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Nobody, or not everybody needed, has answered.
    Pending,
    /// The call may go on, once.
    Approved,
    /// The call is refused.
    Denied,
    /// The call went on.
    Used,
    /// Nobody answered in time, or the call did not come back.
    Expired,
}

impl ApprovalState {
    /// The word in texts and filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Used => "used",
            Self::Expired => "expired",
        }
    }
}

/// Why a decision is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecisionFault {
    /// The caller decides on its own call.
    #[error("{0} made this call, and cannot decide on it; somebody else with the role operator can")]
    Own(String),
    /// One of several approvers decides twice.
    #[error("{0} has approved this already; it takes another operator")]
    Twice(String),
    /// It stands.
    #[error("it is {} already", .0.name())]
    Over(ApprovalState),
    /// The reason is too long.
    #[error("reason is longer than {MAX_REASON} bytes")]
    Reason,
}

/// An approval, as it is stored and shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Its id.
    pub id: String,
    /// Grows with each answer.
    pub revision: u64,
    /// What it is for.
    pub call: HeldCall,
    /// The incarnation of the session that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<Uid>,
    /// The API that the caller speaks.
    pub dialect: String,
    /// The message of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The arguments, redacted and cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    /// The length of all of them, in bytes.
    #[serde(default)]
    pub arguments_bytes: u64,
    /// When it was asked for.
    pub asked: Timestamp,
    /// When it ends, decided or not.
    pub expires: Timestamp,
    /// How many operators must approve.
    pub need: u8,
    /// What operators answered, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
    /// When the call went on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Timestamp>,
}

impl HeldCall {
    /// Returns the id of the session.
    pub fn session_id(&self) -> Option<&SessionId> {
        self.session.as_ref().map(|session| &session.id)
    }
}

impl Approval {
    /// Asks for a call that is held.
    pub fn ask(call: HeldCall, details: HeldDetails, need: u8, expiry: Duration, now: Timestamp) -> Self {
        let HeldDetails { uid, dialect, message, arguments, arguments_bytes } = details;
        let expires = SignedDuration::try_from(expiry).ok().and_then(|span| now.checked_add(span).ok());
        Self {
            id: format!("appr_{}", Uuid::now_v7().simple()),
            revision: 1,
            call,
            uid,
            dialect,
            message,
            arguments,
            arguments_bytes,
            asked: now,
            expires: expires.unwrap_or(Timestamp::MAX),
            need,
            decisions: Vec::new(),
            used: None,
        }
    }

    /// How it stands.
    pub fn state(&self, now: Timestamp) -> ApprovalState {
        let count = |answer: Answer| self.decisions.iter().filter(|one| one.decision == answer).count();
        if self.used.is_some() {
            ApprovalState::Used
        } else if count(Answer::Deny) > 0 {
            ApprovalState::Denied
        } else if now >= self.expires {
            ApprovalState::Expired
        } else if count(Answer::Approve) >= usize::from(self.need) {
            ApprovalState::Approved
        } else {
            ApprovalState::Pending
        }
    }

    /// How many operators must still approve.
    pub fn missing(&self) -> usize {
        usize::from(self.need).saturating_sub(self.decisions.len())
    }

    /// Returns the approval with the answer of an operator. What is approved and not used yet can still be denied.
    ///
    /// # Errors
    /// The operator is the caller or has answered, or the approval is over.
    pub fn decided(
        &self,
        by: &str,
        decision: Answer,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<Self, DecisionFault> {
        if by == self.call.principal.as_str() {
            return Err(DecisionFault::Own(by.to_owned()));
        }
        if reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
            return Err(DecisionFault::Reason);
        }
        match self.state(now) {
            ApprovalState::Pending if decision == Answer::Approve => {
                if self.decisions.iter().any(|one| one.by == by) {
                    return Err(DecisionFault::Twice(by.to_owned()));
                }
            }
            ApprovalState::Pending => {}
            ApprovalState::Approved if decision == Answer::Deny => {}
            over => return Err(DecisionFault::Over(over)),
        }
        let mut next = self.clone();
        next.decisions.push(Decision { at: now, by: by.to_owned(), decision, reason });
        Ok(next.revised())
    }

    /// Returns the approval as used; `None` unless it is approved.
    pub fn taken(&self, now: Timestamp) -> Option<Self> {
        let is_approved = self.state(now) == ApprovalState::Approved;
        is_approved.then(|| Self { used: Some(now), ..self.clone() }.revised())
    }

    /// Returns this approval with what another copy of it knows.
    pub fn merged(&self, other: &Self) -> Self {
        let mut next = self.clone();
        next.decisions.extend(other.decisions.iter().cloned());
        next.used = match (self.used, other.used) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        next.revised()
    }

    /// With the revision of its content. What contains more ranks higher.
    fn revised(mut self) -> Self {
        self.decisions.sort();
        self.decisions.dedup();
        self.revision = 1 + self.decisions.len() as u64 + self.used.map_or(0, |_| USED);
        self
    }

    /// Whether it ended so long ago that nobody needs it any more.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires.checked_add(KEPT).is_ok_and(|until| until < now)
    }

    /// Whether other processes may need it, so that none can use it twice.
    pub fn is_shared(&self, now: Timestamp) -> bool {
        self.expires.checked_add(SHARED_FOR).is_ok_and(|until| now <= until)
    }

    /// Returns the document for the other processes.
    pub fn shared(&self) -> SharedDocument {
        let text = serde_json::to_string(self).unwrap_or_default();
        SharedDocument { id: format!("{SHARED}{}", self.id), revision: self.revision, text }
    }

    /// Reads a document; `None` if it is none of an approval.
    pub fn read(document: &str) -> Option<Self> {
        serde_json::from_str(document).ok()
    }
}

pub mod shown;
#[cfg(test)]
pub(super) mod tests;
