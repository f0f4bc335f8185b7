//! What a refusal of the forward proxy has beside its body: programs show only the status of a refused CONNECT, so the head says
//! why (RFC 9209), and 407 asks for the credential that the proxy wants (RFC 9110, 11.7.1).

use http::StatusCode;
use http::header::{PROXY_AUTHENTICATE, WWW_AUTHENTICATE};
use pingora_core::Result;
use pingora_http::ResponseHeader;

use crate::error::ErrorKind;

/// What a 407 asks for.
const CHALLENGES: [&str; 2] = ["Basic realm=\"elida\", charset=\"UTF-8\"", "Bearer realm=\"elida\""];

/// Returns the status of a refusal by the proxy: it asks for a credential of its own.
pub(super) fn status(status: StatusCode) -> StatusCode {
    if status == StatusCode::UNAUTHORIZED { StatusCode::PROXY_AUTHENTICATION_REQUIRED } else { status }
}

/// Adds the fields to the head of a refusal.
///
/// # Errors
/// A field cannot be set, which would be a bug.
pub(super) fn announce(head: &mut ResponseHeader, kind: ErrorKind) -> Result<()> {
    head.insert_header("Proxy-Status", format!("elida; error={}; details=\"{kind}\"", error(kind)))?;
    if head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        head.remove_header(&WWW_AUTHENTICATE);
        for challenge in CHALLENGES {
            head.append_header(PROXY_AUTHENTICATE, challenge)?;
        }
    }
    Ok(())
}

/// Returns the type of the error (RFC 9209, 2.3).
fn error(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::DnsError => "dns_error",
        ErrorKind::AddressBlocked => "destination_ip_prohibited",
        ErrorKind::LoopDetected => "proxy_loop_detected",
        ErrorKind::BackendTimeout => "connection_timeout",
        ErrorKind::BackendUnavailable => "connection_refused",
        ErrorKind::TunnelsFull | ErrorKind::Overloaded => "connection_limit_reached",
        ErrorKind::ResponseIncomplete | ErrorKind::BackendError => "connection_terminated",
        ErrorKind::BadRequest => "http_request_error",
        ErrorKind::Internal => "proxy_internal_error",
        _ => "http_request_denied",
    }
}
