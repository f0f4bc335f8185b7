//! Accounts for requests whose head cannot be parsed: they never reach the proxy's phases, which account for all others.

use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use tracing::info;

use crate::error::{ErrorKind, Refusal};
use crate::ids::RequestId;
use crate::proxy::downstream::handle::Peer;
use crate::proxy::downstream::http1::head::Fault;
use crate::proxy::error_response::status;
use crate::telemetry::access::AccessLine;
use crate::telemetry::log::Log;
use crate::telemetry::metrics::{BackendMetrics, Metrics, Served};

/// Placeholder for an unknown method or target.
const UNKNOWN: &str = "-";

/// Returns the refusal of a head that cannot be parsed.
pub(super) fn refusal(fault: Fault) -> Refusal {
    match fault {
        Fault::TooLarge => {
            let message = "the request head is too large; send fewer or smaller header fields";
            Refusal::new(ErrorKind::HeadersTooLarge, message)
        }
        Fault::Invalid => {
            Refusal::new(ErrorKind::BadRequest, "the request head is not valid HTTP/1.1 (RFC 9112)")
        }
    }
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
