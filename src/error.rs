//! Why a request was refused or failed: a closed set that is error code and metric label in one.
//!
//! Status codes are not known here; `proxy/refuse.rs` and `control/problem.rs` give them.

use std::fmt;
use std::time::Duration;

/// The kind of a refusal or failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request's head, framing or target makes no sense.
    BadRequest,
    /// The header fields of an MCP request do not say what its body says.
    HeaderMismatch,
    /// A feature the caller asks for is not offered here (CONNECT).
    NotSupported,
    /// The request expects something else than `100-continue`.
    ExpectationFailed,
    /// The request target is longer than `server.limits.max_uri`.
    UriTooLong,
    /// The head is larger than `server.limits.max_header_bytes` or `max_header_count`.
    HeadersTooLarge,
    /// The body is larger than `server.limits.max_body` or `max_body_llm`.
    BodyTooLarge,
    /// The client did not send its request within `server.timeouts.read`.
    RequestTimeout,
    /// `X-Backend` names no configured backend.
    UnknownBackend,
    /// `routing` has no backend for this request.
    NoRoute,
    /// `routing.blocked_models` names the model.
    PolicyBlocked,
    /// A web page may not connect here.
    OriginRefused,
    /// `session.missing: reject` and the request names no session.
    SessionRequired,
    /// The session was killed and its block stands.
    SessionKilled,
    /// The agent was killed inside its session, or one above it, and the block stands.
    AgentKilled,
    /// `session.max_duration` or `session.idle_timeout` has passed while the leg was open.
    SessionTimedOut,
    /// `session.max_active` or `max_active_per_principal` is reached.
    SessionCapacity,
    /// The client's address starts sessions faster than `session.starts_per_address`.
    SessionStartRate,
    /// What the shared store holds of the session cannot be read.
    SessionUnreadable,
    /// The shared store does not answer, and without it nothing is admitted.
    StoreUnavailable,
    /// The backend cannot be reached or broke the connection.
    BackendUnavailable,
    /// The backend was silent for longer than the configured time.
    BackendTimeout,
    /// The client went away before the answer was whole.
    ClientGone,
    /// The client did not read for longer than `server.timeouts.write`.
    ClientStalled,
    /// This instance is going away.
    ShuttingDown,
    /// A fault of ours.
    Internal,
}

impl ErrorKind {
    /// The stable code: in error bodies, log lines and metric labels.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::HeaderMismatch => "header_mismatch",
            Self::NotSupported => "not_supported",
            Self::ExpectationFailed => "expectation_failed",
            Self::UriTooLong => "uri_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::BodyTooLarge => "body_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::UnknownBackend => "unknown_backend",
            Self::NoRoute => "no_route",
            Self::PolicyBlocked => "policy_blocked",
            Self::OriginRefused => "origin_refused",
            Self::SessionRequired => "session_required",
            Self::SessionKilled => "session_killed",
            Self::AgentKilled => "agent_killed",
            Self::SessionTimedOut => "session_timed_out",
            Self::SessionCapacity => "session_capacity",
            Self::SessionStartRate => "session_start_rate",
            Self::SessionUnreadable => "session_unreadable",
            Self::StoreUnavailable => "store_unavailable",
            Self::BackendUnavailable => "backend_unavailable",
            Self::BackendTimeout => "backend_timeout",
            Self::ClientGone => "client_gone",
            Self::ClientStalled => "client_stalled",
            Self::ShuttingDown => "shutting_down",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A refusal on its way to the caller: its kind, and a sentence that names the thing and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Refusal {
    /// What kind it is.
    pub kind: ErrorKind,
    /// For the caller's eyes; holds nothing of other callers and no secret.
    pub message: String,
    /// After how long the caller may ask again (`Retry-After`); `None` says nothing.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal with its sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }
}
