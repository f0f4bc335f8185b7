//! What callers give: plain values, copied once a request or session is over.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::Value;

use crate::ids::{BackendName, PrincipalId, RequestId, SessionId, Uid};
use crate::telemetry::access::clip;
use crate::telemetry::trace::Context;

/// One request, as it ended.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its place.
    pub context: Context,
    /// The session it belongs to, or the one that would not take it.
    pub session: Option<SessionId>,
    /// The incarnation that took it.
    pub uid: Option<Uid>,
    /// Its id.
    pub request_id: RequestId,
    /// When it ended.
    pub ended: SystemTime,
    /// From its head to the last byte of its answer.
    pub duration: Duration,
    /// From its head to the first attempt at a backend; `None` when none was asked.
    pub queue: Option<Duration>,
    /// Its method.
    pub method: Box<str>,
    /// Its path, without a query.
    pub path: Box<str>,
    /// The status the client saw.
    pub status: Option<u16>,
    /// `ok`, or the code of what went wrong.
    pub outcome: &'static str,
    /// Who called.
    pub principal: Option<PrincipalId>,
    /// The program that called.
    pub client: Option<Box<str>>,
    /// Where from.
    pub client_address: IpAddr,
    /// Where it went.
    pub backend: Option<Backend>,
    /// Bytes of its body.
    pub bytes_in: u64,
    /// Bytes of its answer's body.
    pub bytes_out: u64,
    /// What an MCP or A2A request asked for: `tools/call get_weather`.
    pub operation: Option<String>,
    /// What was asked of a model.
    pub call: Option<ModelCall>,
}

/// Where a request went.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name.
    pub name: BackendName,
    /// Its host.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
    /// How many backends were asked, this one with them.
    pub attempts: u32,
    /// The one that was to serve it, and failed.
    pub failed_over_from: Option<BackendName>,
}

/// What was asked of a model, and what came back.
#[derive(Clone, Debug)]
pub struct ModelCall {
    /// What was asked for: `chat`, `embeddings`, `text_completion`.
    pub operation: &'static str,
    /// Whose API: `openai`, `anthropic`, ….
    pub provider: &'static str,
    /// The model asked for.
    pub model: Option<Box<str>>,
    /// The model that answered.
    pub answered_by: Option<Box<str>>,
    /// The answer was a stream.
    pub stream: bool,
    /// From the request to the head of the answer.
    pub first_chunk: Option<Duration>,
    /// Why the model stopped.
    pub stop_reason: Option<Box<str>>,
    /// The provider's own counts.
    pub tokens: Option<Tokens>,
    /// The tools called, and how often.
    pub tools: Vec<(Box<str>, u64)>,
}

/// Tokens of one answer.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// Of the prompt, those out of a cache and those put into one included.
    pub input: u64,
    /// Of the answer.
    pub output: u64,
    /// Out of the provider's cache.
    pub cache_read: u64,
    /// Put into the provider's cache.
    pub cache_write: u64,
    /// Spent on reasoning.
    pub reasoning: u64,
}

/// One session that ended.
#[derive(Clone, Debug)]
pub struct Session {
    /// The incarnation.
    pub uid: Uid,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Its call detail record.
    pub record: Value,
}

/// A text of a peer's, no longer than others keep it.
pub fn clipped(text: &str) -> Box<str> {
    clip(text).into()
}
