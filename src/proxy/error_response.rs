//! What an error is on the wire: its status, its class in the dialects, its Close code and the head of its response.
//! No other file maps an [`ErrorKind`] to one of them; `refuse` writes the response.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::security_headers::{SecurityHeaders, Writer};
use crate::error::{ErrorKind, Refusal};
use crate::ids::{REQUEST_ID, RequestId};
use crate::protocol::Dialect;
use crate::protocol::facts::error_body::{ErrorBody, ErrorClass};
use crate::protocol::wire::coding::ACCEPTED;

/// What a 401 asks for.
const CHALLENGE: &str = "Bearer realm=\"elida\"";
/// The same, when the credential is no good.
const INVALID_TOKEN: &str = "Bearer realm=\"elida\", error=\"invalid_token\"";

/// The Pingora error of a step that has stored its refusal in the context.
pub(crate) const REFUSED: ErrorType = ErrorType::Custom("refused");

/// Message of an internal error.
pub(crate) const INTERNAL_MESSAGE: &str = "the gateway failed; its log says why";

/// Why a step rejects a request.
#[derive(Debug)]
pub(crate) enum Reject {
    /// The request is refused.
    Refused(Box<Refusal>),
    /// A connection failed, or the leg was cut.
    Io(Box<Error>),
}

impl From<Refusal> for Reject {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<Box<Error>> for Reject {
    fn from(error: Box<Error>) -> Self {
        Self::Io(error)
    }
}

/// Returns the status of a refusal. A kill is 403, because SDKs retry 408, 409, 429 and 5xx.
pub(crate) fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::BadRequest
        | ErrorKind::HeaderMismatch
        | ErrorKind::UnknownBackend
        | ErrorKind::SessionRequired => StatusCode::BAD_REQUEST,
        ErrorKind::NotSupported => StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
        ErrorKind::UriTooLong => StatusCode::URI_TOO_LONG,
        ErrorKind::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ErrorKind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::BodyUnreadable => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorKind::RequestTimeout | ErrorKind::ClientGone | ErrorKind::ClientStalled => {
            StatusCode::REQUEST_TIMEOUT
        }
        ErrorKind::NoRoute => StatusCode::NOT_FOUND,
        ErrorKind::KeyRequired
        | ErrorKind::KeyUnknown
        | ErrorKind::KeyRevoked
        | ErrorKind::KeyExpired
        | ErrorKind::TokenInvalid
        | ErrorKind::TokenExpired => StatusCode::UNAUTHORIZED,
        ErrorKind::SessionKilled
        | ErrorKind::AgentKilled
        | ErrorKind::SessionTimedOut
        | ErrorKind::SessionUnreadable
        | ErrorKind::PolicyBlocked
        | ErrorKind::QuotaExceeded
        | ErrorKind::ModelDenied
        | ErrorKind::BackendDenied
        | ErrorKind::ToolDenied
        | ErrorKind::ApprovalDenied
        | ErrorKind::ApprovalTimeout
        | ErrorKind::LoopDetected
        | ErrorKind::NoUpstreamCredential
        | ErrorKind::BudgetExceeded
        | ErrorKind::ModelUnpriced
        | ErrorKind::PortNotAllowed
        | ErrorKind::DomainBlocked
        | ErrorKind::AddressBlocked
        | ErrorKind::AddressDenied
        | ErrorKind::OriginRefused => StatusCode::FORBIDDEN,
        ErrorKind::SessionStartRate
        | ErrorKind::RateLimited
        | ErrorKind::BudgetBusy
        | ErrorKind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::SessionCapacity
        | ErrorKind::StoreUnavailable
        | ErrorKind::IssuerUnavailable
        | ErrorKind::TunnelsFull
        | ErrorKind::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::DnsError
        | ErrorKind::BackendUnavailable
        | ErrorKind::BackendError
        | ErrorKind::ResponseIncomplete => StatusCode::BAD_GATEWAY,
        ErrorKind::BackendTimeout | ErrorKind::NotCached => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Internal | ErrorKind::InterceptRefused => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn error_class(kind: ErrorKind) -> ErrorClass {
    match kind {
        ErrorKind::KeyRequired
        | ErrorKind::KeyUnknown
        | ErrorKind::KeyRevoked
        | ErrorKind::KeyExpired
        | ErrorKind::TokenInvalid
        | ErrorKind::TokenExpired => ErrorClass::Authentication,
        ErrorKind::SessionKilled
        | ErrorKind::AgentKilled
        | ErrorKind::SessionTimedOut
        | ErrorKind::SessionUnreadable
        | ErrorKind::PolicyBlocked
        | ErrorKind::QuotaExceeded
        | ErrorKind::ModelDenied
        | ErrorKind::BackendDenied
        | ErrorKind::ToolDenied
        | ErrorKind::ApprovalDenied
        | ErrorKind::ApprovalTimeout
        | ErrorKind::LoopDetected
        | ErrorKind::NoUpstreamCredential
        | ErrorKind::BudgetExceeded
        | ErrorKind::ModelUnpriced
        | ErrorKind::PortNotAllowed
        | ErrorKind::DomainBlocked
        | ErrorKind::AddressBlocked
        | ErrorKind::AddressDenied
        | ErrorKind::OriginRefused => ErrorClass::Permission,
        ErrorKind::HeaderMismatch => ErrorClass::HeaderMismatch,
        ErrorKind::BodyTooLarge | ErrorKind::UriTooLong | ErrorKind::HeadersTooLarge => ErrorClass::TooLarge,
        ErrorKind::NoRoute => ErrorClass::NotFound,
        ErrorKind::SessionStartRate
        | ErrorKind::RateLimited
        | ErrorKind::BudgetBusy
        | ErrorKind::Overloaded => ErrorClass::RateLimit,
        ErrorKind::SessionCapacity
        | ErrorKind::StoreUnavailable
        | ErrorKind::IssuerUnavailable
        | ErrorKind::TunnelsFull
        | ErrorKind::ShuttingDown => ErrorClass::Overloaded,
        ErrorKind::BackendTimeout | ErrorKind::RequestTimeout => ErrorClass::Timeout,
        ErrorKind::DnsError
        | ErrorKind::InterceptRefused
        | ErrorKind::BackendUnavailable
        | ErrorKind::BackendError
        | ErrorKind::ResponseIncomplete
        | ErrorKind::Internal => ErrorClass::Api,
        ErrorKind::BadRequest
        | ErrorKind::BodyUnreadable
        | ErrorKind::NotCached
        | ErrorKind::NotSupported
        | ErrorKind::ExpectationFailed
        | ErrorKind::UnknownBackend
        | ErrorKind::SessionRequired
        | ErrorKind::ClientGone
        | ErrorKind::ClientStalled => ErrorClass::InvalidRequest,
    }
}

/// Returns whether the same request would be refused again. It is sent as `x-should-retry`, which the SDKs generated by
/// Stainless (OpenAI, Anthropic) obey. Where a new credential helps, programs ask for one on a plain 401.
fn is_final(kind: ErrorKind) -> bool {
    error_class(kind) == ErrorClass::Permission
        || matches!(kind, ErrorKind::KeyUnknown | ErrorKind::KeyRevoked | ErrorKind::TokenInvalid)
}

/// How a WebSocket is closed.
#[derive(Clone, Copy)]
pub(crate) struct SocketEnd {
    /// The code of the Close frame (RFC 6455, 7.4.1). SDKs reconnect after 1001, not after 1008.
    pub(crate) code: u16,
    /// The status in the error event of the Responses API. Codex stops on 400 and retries on any other.
    pub(crate) status: u16,
}

/// Returns how a socket ends for this reason; `None` when its connection is just closed, as the backend's was.
pub(super) fn socket_end(kind: ErrorKind) -> Option<SocketEnd> {
    if is_final(kind) {
        return Some(SocketEnd { code: 1008, status: 400 });
    }
    let code = match kind {
        ErrorKind::ShuttingDown | ErrorKind::BackendTimeout => 1001,
        // Try again later (IANA's registry of close codes).
        ErrorKind::RateLimited => 1013,
        // The caller needs another credential, which another attempt may bring.
        ErrorKind::KeyRequired | ErrorKind::KeyExpired | ErrorKind::TokenExpired => 1008,
        _ => return None,
    };
    Some(SocketEnd { code, status: status(kind).as_u16() })
}

/// Programs that stop on one status only, and that status; they retry on any other (docs/clients.md). Applies to final
/// errors.
const STOPS_ON: [(&str, StatusCode); 2] =
    [("claude-code", StatusCode::FORBIDDEN), ("codex", StatusCode::BAD_REQUEST)];

/// Returns the status of a refusal for this client program; `is_call`: it is the response to a JSON-RPC request.
pub(super) fn status_for(kind: ErrorKind, client: Option<&str>, is_call: bool) -> StatusCode {
    if is_call {
        // SDKs of MCP take 403 for a transport that is broken or a login that is missing; 401 is a missing login.
        let is_of_call = matches!(
            kind,
            ErrorKind::ModelDenied
                | ErrorKind::BackendDenied
                | ErrorKind::ToolDenied
                | ErrorKind::PolicyBlocked
                | ErrorKind::ApprovalDenied
                | ErrorKind::ApprovalTimeout
                | ErrorKind::LoopDetected
                | ErrorKind::NoUpstreamCredential
                | ErrorKind::QuotaExceeded
                | ErrorKind::BudgetExceeded
                | ErrorKind::ModelUnpriced
        );
        match error_class(kind) {
            ErrorClass::Permission if is_of_call => return StatusCode::OK,
            ErrorClass::Authentication => return status(kind),
            _ => {}
        }
    }
    let stops_on = STOPS_ON.iter().find(|(name, _)| is_final(kind) && client == Some(*name));
    stops_on.map_or_else(|| status(kind), |(_, stop)| *stop)
}

/// Returns the parts of the error body, which the dialect writes.
pub(super) fn error_body<'a>(
    refusal: &'a Refusal,
    session_id: Option<&'a str>,
    request_id: &'a str,
) -> ErrorBody<'a> {
    ErrorBody {
        code: refusal.kind.code(),
        kind: error_class(refusal.kind),
        status: status(refusal.kind).as_u16(),
        message: &refusal.message,
        session_id,
        request_id,
        rpc: None,
        metadata: refusal.metadata.as_deref(),
    }
}

/// The response to a request without a context: its head could not be parsed, or the proxy panicked.
pub(crate) struct Bare {
    pub(crate) request_id: RequestId,
    /// Bytes of the body.
    pub(crate) sent: u64,
    body: Bytes,
    headers: Arc<SecurityHeaders>,
    is_secure: bool,
}

impl Bare {
    /// Creates the response to a refused request, with a new request id. `is_secure`: the client came over TLS.
    pub(crate) fn new(refusal: &Refusal, headers: &Arc<SecurityHeaders>, is_secure: bool) -> Self {
        let request_id = RequestId::fresh();
        let error = error_body(refusal, None, request_id.as_str());
        let body = Bytes::from(Dialect::PLAIN.error_body(&error));
        Self { request_id, sent: body.len() as u64, body, headers: Arc::clone(headers), is_secure }
    }

    /// Returns its head and body.
    ///
    /// # Errors
    /// Never; each field is valid.
    pub(crate) fn parts(&self, refusal: &Refusal) -> Result<(Box<ResponseHeader>, Bytes)> {
        let mut head = head(status(refusal.kind), self.body.len(), refusal)?;
        head.insert_header(REQUEST_ID, self.request_id.as_str())?;
        self.headers.add(&mut head, self.is_secure, Writer::Gateway)?;
        Ok((Box::new(head), self.body.clone()))
    }
}

/// Returns what a 401 asks for (RFC 9110, 11.6.1; RFC 6750, 3.1: without a credential there is no error).
pub(super) fn challenge(kind: ErrorKind) -> &'static str {
    if kind == ErrorKind::KeyRequired { CHALLENGE } else { INVALID_TOKEN }
}

pub(super) fn head(status: StatusCode, length: usize, refusal: &Refusal) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(status, Some(8))?;
    head.insert_header(CONTENT_TYPE, "application/json")?;
    head.insert_header(CONTENT_LENGTH, length)?;
    head.insert_header(CACHE_CONTROL, "no-store")?;
    if refusal.kind == ErrorKind::BodyUnreadable {
        // RFC 9110, 12.5.3: the codings that would have been read.
        head.insert_header(ACCEPT_ENCODING, ACCEPTED)?;
    }
    if status == StatusCode::UNAUTHORIZED {
        head.insert_header(WWW_AUTHENTICATE, challenge(refusal.kind))?;
    }
    if is_final(refusal.kind) {
        head.insert_header("x-should-retry", "false")?;
    }
    if let Some(wait) = refusal.retry_after {
        // Whole seconds (RFC 9110, 10.2.3), rounded up.
        head.insert_header(RETRY_AFTER, wait.as_secs() + u64::from(wait.subsec_nanos() > 0))?;
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_programs_are_refused_with_the_status_on_which_they_stop() {
        let final_kinds = [
            ErrorKind::SessionKilled,
            ErrorKind::AgentKilled,
            ErrorKind::SessionTimedOut,
            ErrorKind::PolicyBlocked,
        ];
        for kind in final_kinds {
            let of = |client| status_for(kind, client, false).as_u16();
            assert_eq!((of(Some("codex")), of(Some("claude-code"))), (400, 403), "{kind}");
            assert_eq!((of(Some("opencode")), of(Some("")), of(None)), (403, 403, 403), "{kind}");
        }
        for kind in [ErrorKind::SessionCapacity, ErrorKind::BackendUnavailable, ErrorKind::NoRoute] {
            assert_eq!(status_for(kind, Some("codex"), false), status(kind), "{kind} may end by itself");
        }
    }

    #[test]
    fn a_key_that_is_no_good_stops_programs_and_one_that_a_login_renews_does_not() {
        use ErrorKind::{
            BackendDenied, KeyExpired, KeyRequired, KeyRevoked, KeyUnknown, ModelDenied,
            NoUpstreamCredential, TokenExpired, TokenInvalid,
        };
        // The status for other programs, Claude Code, Codex, and a JSON-RPC call.
        for (kind, statuses) in [
            (KeyUnknown, [401, 403, 400, 401]),
            (KeyRevoked, [401, 403, 400, 401]),
            (KeyExpired, [401, 401, 401, 401]),
            (TokenInvalid, [401, 403, 400, 401]),
            (TokenExpired, [401, 401, 401, 401]),
            (KeyRequired, [401, 401, 401, 401]),
            (ModelDenied, [403, 403, 400, 200]),
            (ErrorKind::PolicyBlocked, [403, 403, 400, 200]),
            (ErrorKind::ApprovalTimeout, [403, 403, 400, 200]),
            (ErrorKind::LoopDetected, [403, 403, 400, 200]),
            (BackendDenied, [403, 403, 400, 200]),
            (NoUpstreamCredential, [403, 403, 400, 200]),
        ] {
            let of = |client, is_call| status_for(kind, client, is_call).as_u16();
            let found = [of(None, false), of(Some("claude-code"), false), of(Some("codex"), false)];
            assert_eq!([found[0], found[1], found[2], of(Some("claude-code"), true)], statuses, "{kind}");
        }
        assert_eq!(status_for(ErrorKind::SessionKilled, None, true), StatusCode::FORBIDDEN);
    }
}
