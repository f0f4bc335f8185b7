//! Kinds of refusals and failures: a closed set that serves as error code and as metric label.
//!
//! `proxy/refuse.rs` and `control/problem.rs` map them to status codes.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

/// The kind of a refusal or failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ErrorKind {
    /// The head, framing or target of the request is malformed.
    BadRequest,
    /// The header fields of an MCP request contradict its body.
    HeaderMismatch,
    /// The request needs a feature that is not supported (CONNECT).
    NotSupported,
    /// `Expect` has a value other than `100-continue`.
    ExpectationFailed,
    /// The request target is longer than `server.limits.max_uri`.
    UriTooLong,
    /// The head is larger than `server.limits.max_header_bytes` or `max_header_count`.
    HeadersTooLarge,
    /// The body is larger than `server.limits.max_body` or `max_body_llm`.
    BodyTooLarge,
    /// The body is in a coding that cannot be read here, and what it says matters.
    BodyUnreadable,
    /// The client did not send its request within `server.timeouts.read`.
    RequestTimeout,
    /// `X-Backend` names no configured backend.
    UnknownBackend,
    /// `routing` has no backend for this request.
    NoRoute,
    /// A rule of `policy` refuses it, or `routing.blocked_models` names the model.
    PolicyBlocked,
    /// A limit of `limits` is used up for a short time.
    RateLimited,
    /// A limit of `limits` is used up for more than a minute.
    QuotaExceeded,
    /// Too many requests are open for one of its class (`admission.emergency`).
    Overloaded,
    /// A budget of `budgets` does not last for the request.
    BudgetExceeded,
    /// Open requests hold what is left of a budget.
    BudgetBusy,
    /// A budget is in money, and the model has no price.
    ModelUnpriced,
    /// `security.acl` does not permit the client's address.
    AddressDenied,
    /// The web origin of the request is not allowed.
    OriginRefused,
    /// `auth.proxy: required` and the request shows no key.
    KeyRequired,
    /// The key is not known here.
    KeyUnknown,
    /// The key was revoked while a request with it was open.
    KeyRevoked,
    /// The key has expired.
    KeyExpired,
    /// The token is no good, or not for this gateway.
    TokenInvalid,
    /// The token has expired.
    TokenExpired,
    /// The keys of the token's issuer are not known yet, or no longer.
    IssuerUnavailable,
    /// The key does not permit the model.
    ModelDenied,
    /// The key does not permit the backend.
    BackendDenied,
    /// The key or `policy.tools` does not permit a tool.
    ToolDenied,
    /// An operator has not approved what a rule holds.
    ApprovalDenied,
    /// No operator has decided on what a rule holds in time.
    ApprovalTimeout,
    /// The agent goes in a circle.
    LoopDetected,
    /// The backend needs the client's own credential, and the request has none beside the key of this gateway.
    NoUpstreamCredential,
    /// `forward_proxy` does not connect to this port.
    PortNotAllowed,
    /// `security.filtering.domains` does not permit the host.
    DomainBlocked,
    /// The host has an address that is not of the public Internet.
    AddressBlocked,
    /// The host has no address.
    DnsError,
    /// `forward_proxy.max_tunnels` is reached.
    TunnelsFull,
    /// A client does not accept the certificate of an intercepted tunnel.
    #[strum(serialize = "intercept_refused_by_client")]
    InterceptRefused,
    /// `session.missing: reject` and the request names no session.
    SessionRequired,
    /// The session was killed and is blocked.
    SessionKilled,
    /// The agent or one of its ancestors was killed in this session and is blocked.
    AgentKilled,
    /// `session.max_duration` or `session.idle_timeout` has passed while the leg was open.
    SessionTimedOut,
    /// `session.max_active` or `max_active_per_principal` is reached.
    SessionCapacity,
    /// The client's address starts sessions faster than `session.starts_per_address`.
    SessionStartRate,
    /// The state of the session in the shared store cannot be read.
    SessionUnreadable,
    /// The shared store does not answer, and the configuration admits nothing without it.
    StoreUnavailable,
    /// The backend cannot be reached or broke the connection.
    BackendUnavailable,
    /// The backend was idle for longer than the configured time.
    BackendTimeout,
    /// The request wants a stored answer only, and there is none.
    NotCached,
    /// The backend reported an error inside a response that had begun as a success.
    BackendError,
    /// The backend ended a response before the last event of its API.
    ResponseIncomplete,
    /// The client disconnected before the response was complete.
    ClientGone,
    /// The client did not read for longer than `server.timeouts.write`.
    ClientStalled,
    /// This instance is shutting down.
    ShuttingDown,
    /// An internal error of the proxy.
    Internal,
}

impl ErrorKind {
    /// Returns the stable code for error bodies, log lines and metric labels.
    pub fn code(self) -> &'static str {
        self.into()
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A refusal to send to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Refusal {
    /// Determines the status code, the error code and the metric label.
    pub kind: ErrorKind,
    /// A sentence for the caller that names the cause and the remedy, without secrets or data of other callers.
    pub message: String,
    /// Value of `Retry-After`; `None` sends no such field.
    pub retry_after: Option<Duration>,
    /// What the log says beyond the message: callers need not know it.
    pub detail: Option<Box<str>>,
    /// The limit or budget that is used up, or the rule that refuses, for programs: `metadata` in the body.
    pub metadata: Option<Box<RefusalMetadata>>,
}

/// The limit, budget or rule that refuses a request, in the words of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RefusalMetadata {
    /// The name of the limit or budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Box<str>>,
    /// What it allows: `500 USD`, `100 requests per second`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// The rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Box<str>>,
    /// The approval that it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval_id: Option<Box<str>>,
    /// What is spent; absent for a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spent: Option<String>,
    /// When there is room again; absent when that depends on other requests, or it never is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<Timestamp>,
}

impl Refusal {
    /// Creates a refusal without `Retry-After`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, detail: None, metadata: None }
    }
}
