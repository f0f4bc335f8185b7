//! Summary of one finished request: what every consumer of it borrows.
//!
//! `proxy/finish.rs` builds it once. The access line, the session's request line (and with it the history row and the
//! control view), the span and the capture are columns of it; docs/adding-a-field.md shows how to add one.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capture::redact_text;
use crate::clock::millis;
use crate::error::ErrorKind;
use crate::ids::{BackendName, Membership, PrincipalId, RequestId, SessionId};
use crate::protocol::facts::tools::ToolCounts;
use crate::protocol::facts::usage::Usage;
use crate::protocol::wire::websocket::Traffic;
use crate::telemetry::access::AccessLine;

/// Outcome of a request that did not fail.
pub const OK: &str = "ok";
/// Outcome of a leg that ended without a summary.
pub const DROPPED: &str = "dropped";

/// One finished request. Ids are shared texts, so that it costs few allocations.
#[derive(Clone, Debug)]
pub struct RequestSummary {
    /// The request's id, as sent upstream and back in `X-Request-ID`.
    pub request_id: RequestId,
    /// The session that served the request, or the one it named when it was rejected; `None` when it named none.
    pub session_id: Option<SessionId>,
    /// The caller; `None` when the request was rejected before the caller was known.
    pub principal: Option<PrincipalId>,
    /// The tenant and groups of the caller; `None` when it has neither.
    pub membership: Option<Arc<Membership>>,
    /// The calling program, as far as it says so itself.
    pub client: Option<Cow<'static, str>>,
    /// The client's address, also behind trusted proxies.
    pub client_addr: IpAddr,
    /// The request's method.
    pub method: Method,
    /// The request's target as it came, with its query.
    pub uri: Uri,
    /// It is one to the forward proxy, so that its host is shown, too.
    pub is_forward: bool,
    /// The backend that served the request, or failed last; `None` when none was chosen.
    pub backend: Option<BackendName>,
    /// The backend that failed first, when another one took its place.
    pub failover_from: Option<BackendName>,
    /// Backends that were asked, with the last one; 0 when none was chosen.
    pub attempts: u32,
    /// The model that the request asks for.
    pub model: Option<String>,
    /// The model that the response names.
    pub answered_by: Option<String>,
    /// What an MCP or A2A request asks for: its JSON-RPC method, with the tool's name for `tools/call`. Other protocols
    /// have none.
    pub operation: Option<String>,
    /// The status sent to the client; `None` when it went away before.
    pub status: Option<u16>,
    /// Why the request was refused or failed; `None` when it did not.
    pub error: Option<ErrorKind>,
    /// How the request ended: [`OK`], the code of [`Self::error`], or [`DROPPED`].
    pub outcome: &'static str,
    /// Token counts, with their cost; `None` when the response reported none.
    pub usage: Option<Usage>,
    /// Why the model stopped, in the provider's word.
    pub stop_reason: Option<Box<str>>,
    /// The tools that the model called.
    pub tools: ToolCounts,
    /// From the end of the request's head to the first attempt at a backend; `None` when no backend was asked.
    pub queue: Option<Duration>,
    /// From the end of the request's head to the head of the response.
    pub ttfb: Option<Duration>,
    /// From the end of the request's head to the end of the request.
    pub duration: Duration,
    /// Body bytes received from the client.
    pub bytes_in: u64,
    /// Body bytes sent to the client.
    pub bytes_out: u64,
    /// Whether the response was a stream.
    pub stream: bool,
    /// What passed over a WebSocket; `None` for other requests.
    pub socket: Option<Box<SocketReport>>,
}

impl Default for RequestSummary {
    fn default() -> Self {
        Self {
            request_id: RequestId::new(""),
            session_id: None,
            principal: None,
            membership: None,
            client: None,
            client_addr: Ipv4Addr::UNSPECIFIED.into(),
            method: Method::GET,
            uri: Uri::default(),
            is_forward: false,
            backend: None,
            failover_from: None,
            attempts: 0,
            model: None,
            answered_by: None,
            operation: None,
            status: None,
            error: None,
            outcome: OK,
            usage: None,
            stop_reason: None,
            tools: ToolCounts::default(),
            queue: None,
            ttfb: None,
            duration: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
            stream: false,
            socket: None,
        }
    }
}

impl RequestSummary {
    /// The tenant of the caller.
    pub fn tenant(&self) -> Option<&str> {
        self.membership.as_ref()?.tenant.as_deref()
    }

    /// The model that the request asks for, else the one that answered.
    pub fn any_model(&self) -> Option<&str> {
        self.model.as_deref().or(self.answered_by.as_deref())
    }

    /// The path without its query; secrets in it are masked.
    pub fn path(&self) -> Cow<'_, str> {
        redact_text(self.uri.path())
    }

    /// The target with its query, and with the host if that is another one; secrets in its path are masked.
    fn url(&self) -> Cow<'_, str> {
        if let Some(host) = self.uri.authority().filter(|_| self.is_forward) {
            let scheme = self.uri.scheme_str().map(|scheme| format!("{scheme}://")).unwrap_or_default();
            let query = self.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            return Cow::Owned(format!("{scheme}{host}{}{query}", self.path()));
        }
        match (self.path(), self.uri.query()) {
            (Cow::Borrowed(_), _) => self.uri.path_and_query().map_or("", |target| target.as_str()).into(),
            (path, None) => path,
            (path, Some(query)) => Cow::Owned(format!("{path}?{query}")),
        }
    }

    /// Calls `write` with the columns of the access line.
    pub fn access_line<T>(&self, write: impl FnOnce(&AccessLine<'_>) -> T) -> T {
        write(&AccessLine {
            client_ip: self.client_addr,
            method: self.method.as_str(),
            url: &self.url(),
            status: self.status,
            duration_ms: millis(self.duration),
            session_id: self.session_id.as_ref().map(SessionId::as_str),
            request_id: self.request_id.as_str(),
            principal: self.principal.as_ref().map(PrincipalId::as_str),
            backend: self.backend.as_ref().map(BackendName::as_str),
            attempts: self.attempts,
            failover_from: self.failover_from.as_ref().map(BackendName::as_str),
            model: self.any_model().map(redact_text).as_deref(),
            operation: self.operation.as_deref(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            queue_ms: self.queue.map(millis),
            ttfb_ms: self.ttfb.map(millis),
            stream: self.stream,
            client: self.client.as_deref(),
            outcome: self.outcome,
        })
    }
}

/// What passed over a WebSocket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SocketReport {
    /// Frames from the client.
    #[serde(rename = "in")]
    pub from_client: Traffic,
    /// Frames from the backend.
    #[serde(rename = "out")]
    pub from_backend: Traffic,
    /// The code of the Close frame; `None` when there was none.
    pub close_code: Option<u16>,
    /// The tokens of its answers; summed up while it is open.
    #[serde(skip)]
    pub usage: Usage,
}
