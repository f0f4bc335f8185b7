//! Accounts for requests whose head cannot be parsed: they never reach the proxy's phases, which account for all others.

use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use pingora_core::{Error, ErrorType};
use tracing::info;

use crate::error::{ErrorKind, Refusal};
use crate::ids::RequestId;
use crate::proxy::downstream::handle::Peer;
use crate::proxy::error_response::status;
use crate::telemetry::access::AccessLine;
use crate::telemetry::log::Log;
use crate::telemetry::metrics::{BackendMetrics, Metrics, Served};

/// Placeholder for an unknown method or target.
const UNKNOWN: &str = "-";

/// The beginning of Pingora's context for a head of more than 1 MiB. The contexts that hold bytes of the client begin
/// with `buf: `.
const TOO_LARGE: &str = "Request header larger than ";

/// The text of the parser's error for more than 256 fields. No error with bytes of the client is compared with it.
const TOO_MANY: &str = "too many headers";

/// Returns the refusal of a head that cannot be parsed; `None` when the connection failed.
pub(super) fn refusal(error: &Error) -> Option<Refusal> {
    if !matches!(error.etype(), ErrorType::InvalidHTTPHeader) {
        return None;
    }
    let is_too_large = error.context.as_ref().is_some_and(|context| context.as_str().starts_with(TOO_LARGE));
    // Without a cause, Pingora returns the error itself, whose text holds its context.
    let has_too_many = error.cause.as_ref().is_some_and(|cause| cause.to_string() == TOO_MANY);
    if is_too_large || has_too_many {
        let message = "the request head is too large; send fewer or smaller header fields";
        return Some(Refusal::new(ErrorKind::HeadersTooLarge, message));
    }
    Some(Refusal::new(ErrorKind::BadRequest, "the request head is not valid HTTP/1.1 (RFC 9112)"))
}

/// Returns why the `h2` crate has closed a connection, when the client is at fault (RFC 9113, 5.4.1); `None` when the client
/// closed it, or the connection failed. Faults of a single stream are not reported by the crate.
pub(super) fn connection_fault(error: &h2::Error) -> Option<Reason> {
    error.reason().filter(|reason| error.is_go_away() && error.is_library() && *reason != Reason::NO_ERROR)
}

/// Writes access lines and counts.
pub(crate) struct UnparsedRequests {
    log: Arc<Log>,
    metrics: BackendMetrics,
}

impl UnparsedRequests {
    pub(crate) fn new(log: Arc<Log>, metrics: &Metrics) -> Self {
        Self { log, metrics: metrics.unrouted() }
    }

    /// Accounts for a head over HTTP/2 that is malformed, or that made the `h2` crate close its connection for this reason.
    pub(super) fn account_http2(&self, peer: &Peer, closed: Option<Reason>) {
        let refusal = Refusal::new(ErrorKind::BadRequest, "the request is not valid HTTP/2 (RFC 9113)");
        self.account(peer, &refusal, &RequestId::fresh(), 0, Duration::ZERO);
        if let Some(reason) = closed {
            let client = peer.address.ip().to_canonical();
            info!(%client, reason = ?reason, "a client's fault has closed its HTTP/2 connection");
        }
    }

    /// Accounts for a request that was refused after `duration`, in a body of `sent` bytes that has this request id.
    pub(super) fn account(
        &self,
        peer: &Peer,
        refusal: &Refusal,
        request_id: &RequestId,
        sent: u64,
        duration: Duration,
    ) {
        let status = status(refusal.kind).as_u16();
        self.metrics.finished(Served::Refused, UNKNOWN, status, duration);
        self.metrics.bytes_out(sent);
        self.log.access(&AccessLine {
            // The head may name another client, but it cannot be parsed.
            client_ip: peer.address.ip().to_canonical(),
            method: UNKNOWN,
            url: UNKNOWN,
            status: Some(status),
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            session_id: None,
            request_id: request_id.as_str(),
            principal: None,
            backend: None,
            attempts: 0,
            failover_from: None,
            model: None,
            operation: None,
            bytes_in: 0,
            bytes_out: sent,
            queue_ms: None,
            ttfb_ms: None,
            stream: false,
            client: None,
            outcome: refusal.kind.code(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_the_client_do_not_choose_the_status() {
        let of = |error: &Error| refusal(error).map(|refusal| refusal.kind);
        let kind = ErrorType::InvalidHTTPHeader;
        for text in ["Request header larger than 1", "TooManyHeaders", "too many headers"] {
            let parse = std::io::Error::other("invalid token");
            let error = Error::because(kind.clone(), format!("buf: {text}"), parse);
            assert_eq!(of(&error), Some(ErrorKind::BadRequest), "{text}");
        }
        let large = Error::explain(kind.clone(), "Request header larger than 1048575");
        assert_eq!(of(&large), Some(ErrorKind::HeadersTooLarge));
        let many = Error::because(kind, "buf: GET", std::io::Error::other(TOO_MANY));
        assert_eq!(of(&many), Some(ErrorKind::HeadersTooLarge));
        assert_eq!(of(&Error::new(ErrorType::ReadError)), None);
    }
}
