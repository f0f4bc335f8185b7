//! The call detail record (CDR): written once, when an incarnation has ended.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::finding::Flag;
use super::kill_order::KillOrder;
use super::latency::{Latencies, Quantiles};
use super::request_line::{BackendUse, ModelUse, RequestLine};
use super::session_view::SessionView;
use super::state::{EndReason, SessionKind, SessionState};
use crate::ids::{AgentId, BackendName, Labels, PrincipalId, SessionId, Uid};
use crate::protocol::facts::tools::ToolCounts;
use crate::protocol::facts::usage::Usage;
use crate::telemetry::otlp::facts::{Kill, SessionRecord};

/// The version of the record's form. Up to `elida.cdr/2` the token counts were the provider's own numbers, which include
/// different things; up to `elida.cdr/1` the digest of a record's chain was not of the form of RFC 8785.
pub const SCHEMA: &str = "elida.cdr/3";

/// A call detail record. The first eight keys keep their order; new keys are only added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The session id.
    pub session_id: SessionId,
    /// The final state.
    pub state: SessionState,
    /// Duration in milliseconds.
    pub duration_ms: u64,
    /// Number of legs admitted.
    pub request_count: u64,
    /// Bytes received from the client.
    pub bytes_in: u64,
    /// Bytes sent to the client.
    pub bytes_out: u64,
    /// The backend that served most requests, by its address if that is known; empty if no backend served any.
    pub backend: Arc<str>,
    /// The address that the session was opened from.
    pub client_addr: IpAddr,
    /// Always [`SCHEMA`].
    #[serde(skip_deserializing, default = "version")]
    #[schemars(extend("const" = SCHEMA))]
    pub schema: &'static str,
    /// The uid of the incarnation.
    pub uid: Uid,
    /// 1 for the first incarnation of its id.
    pub incarnation: u32,
    /// The uid of the previous incarnation.
    pub previous_id: Option<Uid>,
    /// What ran in the session.
    pub kind: SessionKind,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Why it ended.
    pub end_reason: EndReason,
    /// The operator who ended it; `None` if a timeout did.
    pub ended_by: Option<String>,
    /// The principal that opened the session.
    pub principal: PrincipalId,
    /// The program and its version: `claude-code/2.1.197`.
    pub client: Option<String>,
    /// How the session was recognised.
    pub identity_source: Arc<str>,
    /// The agents that sent requests, in order of first use; the main agent is `main`.
    pub agents: Vec<AgentId>,
    /// Requests by backend, most used first.
    pub backends: Vec<BackendUse>,
    /// Requests that failed over to another backend before their response began.
    pub failovers: u64,
    /// Token counts.
    pub usage: UsageRecord,
    /// Tool calls by tool.
    #[schemars(with = "BTreeMap<String, u64>")]
    pub tools: ToolCounts,
    /// Number of legs that failed.
    pub error_count: u64,
    /// Failed responses by status, or by error code if there was no status.
    pub errors: BTreeMap<String, u64>,
    /// Time to first byte of the responses; `None` if there was none.
    pub ttfb_ms: Option<Quantiles>,
    /// What rules have found on the instance that wrote the record, in the order of the first finding.
    pub flags: Vec<Flag>,
    /// The order that killed the session.
    pub kill: Option<Arc<KillOrder>>,
    /// The last order against each agent that was killed, including lifted ones.
    pub agent_kills: Vec<Arc<KillOrder>>,
    /// The tenant of the principal; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    /// The groups of the principal; absent without any.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub groups: Box<[Arc<str>]>,
    /// The labels of the principal; absent without any.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Its last requests, newest first; beside the record, not in it.
    #[serde(skip)]
    pub requests: Vec<RequestLine>,
}

fn version() -> &'static str {
    SCHEMA
}

/// Token counts, in total and by model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageRecord {
    /// By model; `unknown` where neither request nor response named one.
    pub models: Vec<ModelUse>,
    /// In total: the sum over `models`.
    #[serde(flatten)]
    pub total: Usage,
}

/// What a record contains beyond the view of its session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RecordDetail {
    pub(in crate::session) models: Vec<ModelUse>,
    pub(in crate::session) errors: BTreeMap<String, u64>,
    pub(in crate::session) ttfb: Latencies,
    #[serde(default)]
    pub(in crate::session) failovers: u64,
    pub(in crate::session) agents: Vec<AgentId>,
    pub(in crate::session) agent_kills: Vec<Arc<KillOrder>>,
}

impl Record {
    /// Builds the record of a session from its last view; `None` while it is active. `backend_url` returns the
    /// address that a backend is shown as.
    pub(in crate::session) fn new(
        session: SessionView,
        detail: RecordDetail,
        backend_url: impl FnOnce(&BackendName) -> Arc<str>,
    ) -> Option<Self> {
        let (ended_at, end_reason) = (session.ended_at?, session.end_reason?);
        let used = session.backends.into_iter();
        let mut backends: Vec<BackendUse> =
            used.map(|(name, requests)| BackendUse { name, requests }).collect();
        backends.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.name.cmp(&b.name)));
        Some(Self {
            session_id: session.id,
            state: session.state,
            duration_ms: session.duration_ms,
            request_count: session.request_count,
            bytes_in: session.bytes_in,
            bytes_out: session.bytes_out,
            backend: backends.first().map(|used| backend_url(&used.name)).unwrap_or_default(),
            client_addr: session.client_addr,
            schema: SCHEMA,
            uid: session.uid,
            incarnation: session.incarnation,
            previous_id: session.previous_id,
            kind: session.kind,
            started_at: session.started_at,
            ended_at,
            end_reason,
            ended_by: session.kill.as_ref().map(|order| order.by.clone()),
            principal: session.principal.id,
            client: session.identity.program(),
            identity_source: session.identity.source,
            agents: detail.agents,
            backends,
            failovers: detail.failovers,
            usage: UsageRecord { models: detail.models, total: session.usage },
            error_count: session.error_count,
            errors: detail.errors,
            ttfb_ms: detail.ttfb.quantiles(),
            tools: session.tools,
            flags: session.flags,
            kill: session.kill,
            agent_kills: detail.agent_kills,
            tenant: session.principal.tenant,
            groups: session.principal.groups,
            labels: session.principal.labels,
            requests: session.requests.unwrap_or_default(),
        })
    }
}

impl SessionRecord for Record {
    fn uid(&self) -> Uid {
        self.uid
    }

    fn session_id(&self) -> &SessionId {
        &self.session_id
    }

    fn started_at(&self) -> Timestamp {
        self.started_at
    }

    fn ended_at(&self) -> Timestamp {
        self.ended_at
    }

    fn state(&self) -> &'static str {
        self.state.name()
    }

    fn end_reason(&self) -> &'static str {
        self.end_reason.name()
    }

    fn client_address(&self) -> IpAddr {
        self.client_addr
    }

    fn tokens(&self) -> (u64, u64) {
        (self.usage.total.prompt_tokens(), self.usage.total.output_tokens)
    }

    fn kill(&self) -> Option<Kill<'_>> {
        self.kill.as_deref().map(exported)
    }

    fn agent_kills(&self) -> Vec<Kill<'_>> {
        self.agent_kills.iter().map(|order| exported(order)).collect()
    }

    fn members(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(members)) => members,
            // Impossible: a record has text keys only.
            _ => Map::new(),
        }
    }
}

fn exported(order: &KillOrder) -> Kill<'_> {
    let agent = order.agent.as_ref().map(AgentId::as_str);
    Kill { at: order.at, agent, by: &order.by, reason: &order.reason }
}
