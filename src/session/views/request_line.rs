//! One request of a session, and sums by backend and model.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, BackendName, RequestId};
use crate::protocol::tools::ToolCounts;
use crate::protocol::usage::Usage;
use crate::protocol::websocket::Traffic;

/// Requests of a session that are kept one by one.
pub(in crate::session) const LAST_REQUESTS: usize = 20;
/// Bytes that are kept of a path or a model.
const NAME_BYTES: usize = 256;

/// What a leg is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegKind {
    /// A request and its answer, streamed or not.
    #[default]
    Request,
    /// An upgraded connection.
    Socket,
}

/// One request that has ended, for the detail view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// The request's id.
    pub request_id: RequestId,
    /// What it was.
    pub kind: LegKind,
    /// Its method.
    pub method: Box<str>,
    /// Its path, without a query.
    pub path: Box<str>,
    /// The agent that sent it; `None` is the main one.
    pub agent: Option<AgentId>,
    /// When it came.
    pub started_at: Timestamp,
    /// The backend that served it.
    pub backend: Option<BackendName>,
    /// The backend that failed before, when another one took its place.
    pub failover_from: Option<BackendName>,
    /// How many backends were asked.
    pub attempts: u32,
    /// The model.
    pub model: Option<Arc<str>>,
    /// What a JSON-RPC request asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Box<str>>,
    /// The status sent to the client.
    pub status: Option<u16>,
    /// The code of its failure.
    pub error: Option<Box<str>>,
    /// How it ended, in a word.
    pub outcome: Cow<'static, str>,
    /// How many tools the request offered.
    pub tools_offered: u32,
    /// About how many tokens the request had: the bytes of its body by four.
    pub input_tokens_estimate: u64,
    /// Why the model stopped, in the provider's word.
    pub stop_reason: Option<Box<str>>,
    /// The tools it called.
    pub tools: ToolCounts,
    /// True when the answer was a stream.
    pub stream: bool,
    /// Milliseconds from the request to the end.
    pub duration_ms: u64,
    /// Milliseconds from the request to the first byte of the answer.
    pub ttfb_ms: Option<u64>,
    /// Bytes received from the client.
    pub bytes_in: u64,
    /// Bytes sent to the client.
    pub bytes_out: u64,
    /// What passed, when it was an upgraded connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<Box<SocketReport>>,
}

/// The requests a backend served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendUse {
    /// The backend.
    pub name: BackendName,
    /// How many requests.
    pub requests: u64,
}

/// The requests and tokens of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelUse {
    /// The model.
    pub model: Arc<str>,
    /// How many requests named it.
    pub requests: u64,
    /// The provider's own token counts, summed.
    #[serde(flatten)]
    pub usage: Usage,
}

/// What passed over a WebSocket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketReport {
    /// From the client.
    #[serde(rename = "in")]
    pub from_client: Traffic,
    /// From the backend.
    #[serde(rename = "out")]
    pub from_backend: Traffic,
    /// The code of the Close frame; `None` when there was none.
    pub close_code: Option<u16>,
    /// The tokens of its answers; summed up while it is open.
    #[serde(skip)]
    pub usage: Usage,
}

impl RequestLine {
    /// The line of a request that has just come.
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
            ttfb_ms: None,
            bytes_in: 0,
            bytes_out: 0,
            socket: None,
        }
    }
}

/// The first bytes of a name a client chose, on a character's border.
pub(in crate::session) fn clipped(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES)]
}
