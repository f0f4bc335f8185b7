//! Accounts for requests whose head cannot be parsed: they never reach the proxy's phases, which account for all others.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{ErrorKind, Refusal};
use crate::proxy::downstream::handle::Peer;
use crate::proxy::downstream::http1::head::Fault;
use crate::proxy::error_response::{Bare, status};
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

/// Writes access lines and counts.
pub(crate) struct UnparsedRequests {
    log: Arc<Log>,
    metrics: BackendMetrics,
}

impl UnparsedRequests {
    pub(crate) fn new(log: Arc<Log>, metrics: &Metrics) -> Self {
        Self { log, metrics: metrics.unrouted() }
    }

    /// Accounts for a request that was refused with `answer` after `duration`.
    pub(super) fn account(&self, peer: &Peer, refusal: &Refusal, answer: &Bare, duration: Duration) {
        let status = status(refusal.kind).as_u16();
        self.metrics.finished(Served::Refused, UNKNOWN, status, duration);
        self.metrics.bytes_out(answer.sent);
        self.log.access(&AccessLine {
            // The head may name another client, but it cannot be parsed.
            client_ip: peer.address.ip().to_canonical(),
            method: UNKNOWN,
            url: UNKNOWN,
            status: Some(status),
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            session_id: None,
            request_id: answer.request_id.as_str(),
            principal: None,
            backend: None,
            attempts: 0,
            failover_from: None,
            model: None,
            operation: None,
            bytes_in: 0,
            bytes_out: answer.sent,
            queue_ms: None,
            ttfb_ms: None,
            stream: false,
            client: None,
            outcome: refusal.kind.code(),
        });
    }
}
