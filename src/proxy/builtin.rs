//! Endpoints that the proxy's listener answers itself: Claude Code's probe and the health checks. They never reach a
//! backend, whatever `routing` says.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method, StatusCode};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::govern;
use super::oauth_metadata;
use super::receive::Received;
use super::request_ctx::RequestCtx;
use super::security_headers::Writer;
use crate::telemetry::readiness::Readiness;

/// A response of the proxy itself.
pub(crate) struct BuiltinAnswer {
    status: StatusCode,
    body: Bytes,
}

impl BuiltinAnswer {
    /// A JSON body with status 200.
    pub(crate) fn json(body: Bytes) -> Self {
        Self { status: StatusCode::OK, body }
    }
}

/// Returns the answer to a request for one of these endpoints; `None` for other requests.
pub(crate) fn answer_to(
    received: &Received,
    headers: &HeaderMap,
    readiness: &Readiness,
) -> Option<BuiltinAnswer> {
    let is_read = matches!(received.method, Method::GET | Method::HEAD);
    match received.uri.path() {
        // Claude Code sends this when it starts, to check that the server is there.
        "/" if received.method == Method::HEAD => {
            Some(BuiltinAnswer { status: StatusCode::OK, body: Bytes::new() })
        }
        "/health/liveness" | "/health/startup" if is_read => Some(health(Ok(()))),
        "/health" | "/health/readiness" if is_read => Some(health(readiness.check())),
        _ => oauth_metadata::metadata(received, headers).map(BuiltinAnswer::json),
    }
}

fn health(state: Result<(), String>) -> BuiltinAnswer {
    match state {
        Ok(()) => BuiltinAnswer { status: StatusCode::OK, body: Bytes::from_static(b"{\"status\":\"ok\"}") },
        Err(reason) => BuiltinAnswer {
            status: StatusCode::SERVICE_UNAVAILABLE,
            body: serde_json::json!({"status": "unavailable", "reason": reason}).to_string().into(),
        },
    }
}

/// Writes the answer.
///
/// # Errors
/// The client cannot be written to.
pub(crate) async fn write(session: &mut Session, ctx: &mut RequestCtx, answer: BuiltinAnswer) -> Result<()> {
    ctx.outcome.answer.status = Some(answer.status.as_u16());
    ctx.outcome.answer.whole = true;
    let mut head = ResponseHeader::build(answer.status, Some(4))?;
    head.insert_header(CONTENT_LENGTH, answer.body.len())?;
    head.insert_header(CACHE_CONTROL, "no-store")?;
    if !answer.body.is_empty() {
        head.insert_header(CONTENT_TYPE, "application/json")?;
    }
    govern::announce(&mut head, &ctx.admission, &ctx.app.clock)?;
    if let Some(received) = ctx.stage.received() {
        received.secure(&mut head, Writer::Gateway)?;
    }
    let has_body = session.req_header().method != Method::HEAD && !answer.body.is_empty();
    session.write_response_header(Box::new(head), !has_body).await?;
    if has_body {
        ctx.outcome.answer.sent = answer.body.len() as u64;
        session.write_response_body(Some(answer.body), true).await?;
    }
    session.as_mut().finish_body().await
}
