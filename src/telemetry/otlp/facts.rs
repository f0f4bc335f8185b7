//! What callers pass when a request or session has ended: a copy of plain values, or the record.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::ids::{BackendName, Membership, PrincipalId, RequestId, SessionId, Uid};
use crate::telemetry::access::clip;
use crate::telemetry::trace::Context;

/// A finished request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its span.
    pub context: Context,
    /// The session that it belongs to, or that refused it.
    pub session: Option<SessionId>,
    /// The uid of the session; `None` if it was refused.
    pub uid: Option<Uid>,
    /// The request id.
    pub request_id: RequestId,
    /// When it ended.
    pub ended: SystemTime,
    /// From the request head to the last byte of the response.
    pub duration: Duration,
    /// From the request head to the first attempt at a backend; `None` if there was none.
    pub queue: Option<Duration>,
    /// The request method.
    pub method: Box<str>,
    /// The path without the query.
    pub path: Box<str>,
    /// The status that was sent to the client; `None` if none was.
    pub status: Option<u16>,
    /// `ok`, or the code of the error.
    pub outcome: &'static str,
    /// The caller.
    pub principal: Option<PrincipalId>,
    /// The tenant and groups of the caller.
    pub membership: Option<Arc<Membership>>,
    /// The client program.
    pub client: Option<Box<str>>,
    /// The client's address.
    pub client_address: IpAddr,
    /// The backend; `None` if none was chosen.
    pub backend: Option<Backend>,
    /// The size of the request body in bytes.
    pub bytes_in: u64,
    /// The size of the response body in bytes.
    pub bytes_out: u64,
    /// The operation of an MCP or A2A request, such as `tools/call get_weather`.
    pub operation: Option<String>,
    /// The model call; `None` for other requests.
    pub call: Option<ModelCall>,
}

/// The backend of a request.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name.
    pub name: BackendName,
    /// Its host.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
    /// The number of backends tried, including this one.
    pub attempts: u32,
    /// The backend that failed first; `None` without a failover.
    pub failed_over_from: Option<BackendName>,
}

/// A call of a model and its response.
#[derive(Clone, Debug)]
pub struct ModelCall {
    /// The GenAI operation: `chat`, `embeddings`, `text_completion`.
    pub operation: &'static str,
    /// The provider of the API: `openai`, `anthropic`, ….
    pub provider: &'static str,
    /// The requested model.
    pub model: Option<Box<str>>,
    /// The model that answered.
    pub answered_by: Option<Box<str>>,
    /// Whether the response was a stream.
    pub stream: bool,
    /// From the request to the head of the response.
    pub first_chunk: Option<Duration>,
    /// The finish reason.
    pub stop_reason: Option<Box<str>>,
    /// The tokens, in the meaning of the conventions.
    pub tokens: Option<Tokens>,
    /// The tools called, with the number of calls.
    pub tools: Vec<(Box<str>, u64)>,
}

/// The tokens of a response.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// Input tokens, including those read from or written to a cache.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Tokens read from the provider's cache.
    pub cache_read: u64,
    /// Tokens written to the provider's cache.
    pub cache_write: u64,
    /// Reasoning tokens.
    pub reasoning: u64,
    /// Whether some of these are an estimate of the gateway.
    pub is_estimate: bool,
}

/// The call detail record of an ended session. `session` implements it.
pub trait SessionRecord: Send + Sync {
    /// The uid of the incarnation.
    fn uid(&self) -> Uid;
    /// The session id.
    fn session_id(&self) -> &SessionId;
    /// When it started.
    fn started_at(&self) -> Timestamp;
    /// When it ended.
    fn ended_at(&self) -> Timestamp;
    /// Its final state.
    fn state(&self) -> &'static str;
    /// Why it ended.
    fn end_reason(&self) -> &'static str;
    /// The address that it was opened from.
    fn client_address(&self) -> IpAddr;
    /// Input and output tokens.
    fn tokens(&self) -> (u64, u64);
    /// The order that killed it.
    fn kill(&self) -> Option<Kill<'_>>;
    /// The orders against its agents.
    fn agent_kills(&self) -> Vec<Kill<'_>>;
    /// All members of the record. Called on the exporter's thread.
    fn members(&self) -> Map<String, Value>;
}

/// A kill order.
#[derive(Clone, Copy, Debug)]
pub struct Kill<'a> {
    /// When it was given.
    pub at: Timestamp,
    /// The agent; `None` for the whole session.
    pub agent: Option<&'a str>,
    /// Who gave it.
    pub by: &'a str,
    /// Why.
    pub reason: &'a str,
}

/// Truncates a text from a peer to the length that logs use, too.
pub fn clipped(text: &str) -> Box<str> {
    clip(text).into()
}
