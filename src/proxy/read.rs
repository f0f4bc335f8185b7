//! Step 3: buffers the whole body of a model call, because SDKs write `model` last, and forwards it byte for byte. Other
//! bodies are streamed.

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use pingora_core::Error;
use pingora_proxy::Session;

use super::error_response::Reject;
use super::receive::Received;
use super::unread;
use crate::error::{ErrorKind, Refusal};
use crate::protocol::request::{BodyReader, ModelRequest};

/// Reads the model request from path and body, and buffers the body for the backend.
///
/// # Errors
/// The body is too large, the client stalled or left, or the leg was cut meanwhile.
pub(crate) async fn read(session: &mut Session, received: &Received) -> Result<ModelRequest, Reject> {
    let mut call = read_body(session, received).await?;
    received.dialect.read_path(received.uri.path(), &mut call);
    Ok(call)
}

async fn read_body(session: &mut Session, received: &Received) -> Result<ModelRequest, Reject> {
    let limit = body_limit(received);
    if declared_length(&session.req_header().headers).is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit).into());
    }
    if !is_held(received, &session.req_header().headers) || session.as_mut().is_body_empty() {
        return Ok(ModelRequest::default());
    }
    if session.req_header().headers.contains_key(EXPECT) {
        // The client waits for 100 Continue (RFC 9110, 10.1.1), and only the proxy can send it here.
        session.write_continue_response().await?;
        session.req_header_mut().remove_header(&EXPECT);
    }
    received.handle.upload.buffer_for_replay();
    let coding = unread::coding(&session.req_header().headers);
    let mut body = BodyReader::new(received.dialect, coding, limit, &received.handle.settings.call_paths);
    let mut length = 0;
    while let Some(chunk) = session.as_mut().read_request_body().await.map_err(Error::into_down)? {
        length += chunk.len();
        if length > limit {
            return Err(too_large(limit).into());
        }
        body.feed(&chunk);
    }
    Ok(body.finish())
}

/// Returns whether the body must be read before routing: for model calls, and for any JSON, since it may name a model.
/// `curl -d` labels JSON as a form, so a known path is enough.
fn is_held(received: &Received, headers: &HeaderMap) -> bool {
    received.dialect.is_read()
        || headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.to_ascii_lowercase().contains("json"))
}

/// Returns the maximum size of this request's body in bytes.
pub(crate) fn body_limit(received: &Received) -> usize {
    let limits = &received.handle.settings.limits;
    if received.dialect.is_read() { limits.max_body_llm } else { limits.max_body }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Returns the refusal of a body larger than `limit` bytes.
pub(crate) fn too_large(limit: usize) -> Refusal {
    let message = format!(
        "the request body is larger than {limit} bytes \
         (server.limits.max_body_llm for model calls, MCP and A2A, max_body for others)"
    );
    Refusal::new(ErrorKind::BodyTooLarge, message)
}
