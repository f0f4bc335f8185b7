//! A session at one moment, as the control API shows it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::agent_view::AgentView;
use super::finding::Flag;
use super::kill_order::KillOrder;
use super::request_line::{LegKind, RequestLine};
use super::state::{EndReason, Identity, SessionKind, SessionState};
use crate::ids::{
    AgentId, BackendName, Labels, LegId, Membership, PrincipalId, RequestId, Scope, SessionId, SessionKey,
    Uid,
};
use crate::protocol::facts::tools::ToolCounts;
use crate::protocol::facts::usage::Usage;

/// The principal of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PrincipalView {
    /// The id of the principal.
    pub id: PrincipalId,
    /// What the principal was derived from: `key` (of this gateway), `token` (of an identity provider),
    /// `certificate`, `network`, `credential` or `address`.
    pub via: &'static str,
    /// Its tenant; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    /// Its groups; absent without any.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub groups: Box<[Arc<str>]>,
    /// Its labels; absent without any.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

impl PrincipalView {
    pub(in crate::session) fn new(id: PrincipalId, membership: Option<&Membership>) -> Self {
        let Membership { tenant, groups, labels } = membership.cloned().unwrap_or_default();
        Self { via: via(&id), id, tenant, groups, labels }
    }

    /// Returns tenant, groups and labels; `None` if it has none of them.
    pub(in crate::session) fn membership(&self) -> Option<Arc<Membership>> {
        Membership::of(self.tenant.clone(), self.groups.clone(), self.labels.clone())
    }
}

impl<'de> Deserialize<'de> for PrincipalView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Stored {
            id: PrincipalId,
            #[serde(flatten)]
            membership: Membership,
        }
        let Stored { id, membership } = Stored::deserialize(deserializer)?;
        Ok(Self::new(id, Some(&membership)))
    }
}

/// An open leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LegView {
    /// The id of the leg; unique in its process.
    pub id: LegId,
    /// Request or socket.
    pub kind: LegKind,
    /// The id of the request.
    pub request_id: RequestId,
    /// The request method.
    pub method: Box<str>,
    /// The path without the query.
    pub path: Box<str>,
    /// The agent that sent it; `None` for the main agent.
    pub agent: Option<AgentId>,
    /// The backend that it is sent to; `None` before routing.
    pub backend: Option<BackendName>,
    /// The model; `None` while it is unknown.
    pub model: Option<Arc<str>>,
    /// The first 128 tools that its request offers.
    pub tools_offered: Box<[Box<str>]>,
    /// Estimated tokens of its request: the size of its body in bytes divided by four.
    pub input_tokens_estimate: u64,
    /// When it arrived.
    pub started_at: Timestamp,
    /// Milliseconds since it was opened.
    pub duration_ms: u64,
}

/// A session at one moment (`GET /control/sessions/{id}`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionView {
    /// The external id.
    pub id: SessionId,
    /// The uid of the incarnation.
    pub uid: Uid,
    /// What runs in the session.
    pub kind: SessionKind,
    /// The state of the incarnation.
    pub state: SessionState,
    /// 1 for the first incarnation of its id.
    pub incarnation: u32,
    /// The incarnation before this one.
    pub previous_id: Option<Uid>,
    /// How it was recognised, and the client program.
    pub identity: Identity,
    /// The principal that opened it.
    pub principal: PrincipalView,
    #[serde(skip, default = "no_key")]
    pub(in crate::session) key: SessionKey,
    /// When it began.
    pub started_at: Timestamp,
    /// The time of the last byte that moved.
    pub last_activity: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    /// The order that killed it; `None` otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill: Option<Arc<KillOrder>>,
    /// Age in milliseconds, or its lifetime after its end.
    pub duration_ms: u64,
    /// Milliseconds since the last activity; 0 after the end.
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
    /// Token counts, summed.
    pub usage: Usage,
    /// Calls by tool.
    #[schemars(with = "std::collections::BTreeMap<String, u64>")]
    pub tools: ToolCounts,
    /// What rules have found on this instance, in the order of the first finding.
    pub flags: Vec<Flag>,
    /// The address that it was opened from.
    pub client_addr: IpAddr,
    /// The agents in depth-first order; only in the detail view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<AgentView>>,
    /// The open legs; only in the detail view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legs: Option<Vec<LegView>>,
    /// The last 20 finished requests, newest first; only in the detail view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<Vec<RequestLine>>,
}

impl SessionView {
    /// Scope and id.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Without the lists of the detail view.
    pub fn brief(&self) -> Self {
        Self { agents: None, legs: None, requests: None, ..self.clone() }
    }

    /// When its retention begins: its end.
    pub(in crate::session) fn gone_at(&self) -> Timestamp {
        self.ended_at.unwrap_or(self.last_activity)
    }
}

/// Placeholder for the key, which the JSON of a view does not contain.
fn no_key() -> SessionKey {
    SessionKey { scope: Scope::new(""), id: SessionId::new("") }
}

/// What a principal was derived from.
fn via(principal: &PrincipalId) -> &'static str {
    match principal.as_str() {
        id if id.starts_with("anon:") => "address",
        id if id.starts_with("key:") => "key",
        id if id.starts_with("user:") => "token",
        id if id.starts_with("cert:") => "certificate",
        id if id.starts_with("network:") => "network",
        _ => "credential",
    }
}
