//! A session at one moment, as the control API shows it, and the questions one can ask for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::agent_view::AgentView;
use super::kill_order::KillOrder;
use super::request_line::{LegKind, RequestLine};
use super::state::{EndReason, Identity, SessionKind, SessionState};
use crate::ids::{AgentId, BackendName, LegId, PrincipalId, RequestId, Scope, SessionId, SessionKey, Uid};
use crate::protocol::tools::ToolCounts;
use crate::protocol::usage::Usage;

/// Who calls, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrincipalView {
    /// The principal.
    pub id: PrincipalId,
    /// What the id was made from: `credential` or `address`.
    pub via: &'static str,
}

impl<'de> Deserialize<'de> for PrincipalView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Stored {
            id: PrincipalId,
        }
        let Stored { id } = Stored::deserialize(deserializer)?;
        Ok(Self { via: via(&id), id })
    }
}

/// A leg that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegView {
    /// Its id in this process.
    pub id: LegId,
    /// What it is.
    pub kind: LegKind,
    /// The request's id.
    pub request_id: RequestId,
    /// The request's method.
    pub method: Box<str>,
    /// The request's path.
    pub path: Box<str>,
    /// The agent that sent it; `None` is the main one.
    pub agent: Option<AgentId>,
    /// Where it goes.
    pub backend: Option<BackendName>,
    /// The model, when it is known already.
    pub model: Option<Arc<str>>,
    /// The tools its request offers, the first 128.
    pub tools_offered: Box<[Box<str>]>,
    /// About how many tokens its request has: the bytes of its body by four.
    pub input_tokens_estimate: u64,
    /// When it came.
    pub started_at: Timestamp,
    /// Milliseconds it has been open.
    pub duration_ms: u64,
}

/// A session at one moment (`GET /control/sessions/{id}`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// The external id.
    pub id: SessionId,
    /// The incarnation.
    pub uid: Uid,
    /// What runs in it.
    pub kind: SessionKind,
    /// Its state.
    pub state: SessionState,
    /// 1 for the first incarnation of its id.
    pub incarnation: u32,
    /// The incarnation before this one.
    pub previous_id: Option<Uid>,
    /// How it was recognised.
    pub identity: Identity,
    /// Whose it is.
    pub principal: PrincipalView,
    #[serde(skip, default = "no_key")]
    pub(in crate::session) key: SessionKey,
    /// When it began.
    pub started_at: Timestamp,
    /// When something moved last.
    pub last_activity: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    /// The order that killed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill: Option<Arc<KillOrder>>,
    /// Milliseconds it has lived, or lived.
    pub duration_ms: u64,
    /// Milliseconds since something moved; 0 after the end.
    pub idle_ms: u64,
    /// Legs admitted.
    pub request_count: u64,
    /// Legs that failed.
    pub error_count: u64,
    /// Legs open now.
    pub open_legs: usize,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Requests by backend.
    pub backends: BTreeMap<BackendName, u64>,
    /// Requests by model.
    pub models: BTreeMap<Arc<str>, u64>,
    /// The provider's own token counts, summed.
    pub usage: Usage,
    /// Calls by tool.
    pub tools: ToolCounts,
    /// Findings of policies; none are made yet.
    pub flags: Vec<String>,
    /// Where it was opened from.
    pub client_addr: IpAddr,
    /// The agents, each before those it started, the main one first; in the detail view only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<AgentView>>,
    /// The open legs; in the detail view only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legs: Option<Vec<LegView>>,
    /// The last 20 requests that ended, newest first; in the detail view only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Vec<RequestLine>>,
}

impl SessionView {
    /// The scope and id.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// The same without the detail view's lists.
    pub fn brief(&self) -> Self {
        Self { agents: None, legs: None, requests: None, ..self.clone() }
    }

    /// When it counts as gone for the retention: its end.
    pub(in crate::session) fn gone_at(&self) -> Timestamp {
        self.ended_at.unwrap_or(self.last_activity)
    }
}

/// Stands in for the key until it is known: what is written of a snapshot does not hold it.
fn no_key() -> SessionKey {
    SessionKey { scope: Scope::new(""), id: SessionId::new("") }
}

/// What the id of a principal was made from.
pub(in crate::session) fn via(principal: &PrincipalId) -> &'static str {
    if principal.as_str().starts_with("anon:") { "address" } else { "credential" }
}
