//! One request of a session, and totals by backend and model.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, BackendName, RequestId};
use crate::protocol::facts::tools::ToolCounts;
use crate::protocol::facts::usage::Usage;
use crate::summary::SocketReport;

/// Requests of a session that are kept individually.
pub(in crate::session) const LAST_REQUESTS: usize = 20;
/// Longest path or model name, in bytes.
const NAME_BYTES: usize = 256;

/// The kind of a leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LegKind {
    /// A request and its response, streamed or not.
    #[default]
    Request,
    /// An upgraded connection.
    Socket,
    /// A connection to a host, whose bytes are not read.
    Tunnel,
}

/// One finished request, for the detail view and the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestLine {
    /// The id of the request.
    pub request_id: RequestId,
    /// Request, socket or tunnel.
    pub kind: LegKind,
    /// The request method.
    pub method: Box<str>,
    /// The path without the query.
    pub path: Box<str>,
    /// The agent that sent it; `None` for the main agent.
    pub agent: Option<AgentId>,
    /// When it arrived.
    pub started_at: Timestamp,
    /// The backend that served it.
    pub backend: Option<BackendName>,
    /// The backend that failed first, if the request failed over.
    pub failover_from: Option<BackendName>,
    /// Number of backends tried.
    pub attempts: u32,
    /// The model, if the request or the response named one.
    pub model: Option<Arc<str>>,
    /// The operation of a JSON-RPC request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Box<str>>,
    /// The status sent to the client.
    pub status: Option<u16>,
    /// The error code, if it failed.
    pub error: Option<Box<str>>,
    /// The outcome in one word.
    pub outcome: Cow<'static, str>,
    /// Number of tools that the request offered.
    pub tools_offered: u32,
    /// Estimated tokens of the request: the size of its body in bytes divided by four.
    pub input_tokens_estimate: u64,
    /// Why the model stopped, in the provider's terms.
    pub stop_reason: Option<Box<str>>,
    /// Tools that the model called.
    #[schemars(with = "std::collections::BTreeMap<String, u64>")]
    pub tools: ToolCounts,
    /// True if the response was a stream.
    pub stream: bool,
    /// Milliseconds from the request to its end.
    pub duration_ms: u64,
    /// Milliseconds from the end of the head to the first attempt at a backend; absent when none was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u64>,
    /// Milliseconds from the request to the first byte of the response.
    pub ttfb_ms: Option<u64>,
    /// Bytes received from the client.
    pub bytes_in: u64,
    /// Bytes sent to the client.
    pub bytes_out: u64,
    /// Traffic of an upgraded connection; `None` for other requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Box<SocketReport>>,
}

/// Requests served by a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendUse {
    /// The backend.
    pub name: BackendName,
    /// Number of requests.
    pub requests: u64,
}

/// Requests and token counts of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelUse {
    /// The model.
    pub model: Arc<str>,
    /// Number of requests that named it.
    pub requests: u64,
    /// Token counts, summed.
    #[serde(flatten)]
    pub usage: Usage,
}

impl RequestLine {
    /// The line of a request that has just arrived.
    pub(in crate::session) fn begun(
        kind: LegKind,
        method: Box<str>,
        mut path: String,
        request_id: RequestId,
        agent: Option<AgentId>,
        started_at: Timestamp,
    ) -> Self {
        let end = path.find('?').unwrap_or(path.len());
        path.truncate(clipped(&path[..end]).len());
        Self {
            request_id,
            kind,
            method,
            path: path.into(),
            agent,
            started_at,
            backend: None,
            failover_from: None,
            attempts: 0,
            model: None,
            operation: None,
            status: None,
            error: None,
            outcome: "open".into(),
            tools_offered: 0,
            input_tokens_estimate: 0,
            stop_reason: None,
            tools: ToolCounts::default(),
            stream: false,
            duration_ms: 0,
            queue_ms: None,
            ttfb_ms: None,
            bytes_in: 0,
            bytes_out: 0,
            socket: None,
        }
    }
}

/// A name chosen by a client, cut to 256 bytes at a character boundary.
pub(in crate::session) fn clipped(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES)]
}
