//! Step 1: reads the head of a request and checks its size and form before anything else uses it.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri, Version};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::downstream::RequestHandle;
use super::framing;
use super::trace_context::Trace;
use crate::error::{ErrorKind, Refusal};
use crate::ids::{REQUEST_ID, RequestId};
use crate::protocol::Dialect;

/// Maximum bytes of a client's own request id; a longer one is replaced.
const MAX_REQUEST_ID: usize = 128;

/// The head of a request.
pub(crate) struct Received {
    pub(crate) handle: Arc<RequestHandle>,
    /// The client's address, also behind trusted proxies.
    pub(crate) client: IpAddr,
    pub(crate) request_id: RequestId,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// Whether the request asks for a WebSocket.
    pub(crate) socket: bool,
    /// The HTTP version of the request; HTTP/1.0 has no chunked coding.
    pub(crate) version: Version,
    /// Detected from path and headers; the backend's type may be more specific.
    pub(crate) dialect: Dialect,
    /// The trace context; `None` without a collector.
    pub(crate) trace: Option<Trace>,
}

impl Received {
    /// Reads a head. Returns `None` if the request did not come through the proxy's own listener.
    pub(crate) fn of(head: &RequestHeader, trace: Option<Trace>) -> Option<Self> {
        let handle = Arc::clone(head.extensions.get::<Arc<RequestHandle>>()?);
        let socket = framing::is_websocket(head);
        let path = head.uri.path();
        Some(Self {
            client: handle.settings.forwarding.client(handle.peer.address.ip(), &head.headers),
            handle,
            request_id: request_id(&head.headers),
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            socket,
            trace,
            dialect: match socket {
                true => Dialect::detect_socket(path),
                false => Dialect::detect(path, &head.headers),
            },
        })
    }
}

/// Returns the client's own id if it is short and printable, else a new one.
fn request_id(headers: &HeaderMap) -> RequestId {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(|b| b.is_ascii_graphic()))
        .map_or_else(RequestId::fresh, RequestId::new)
}

/// Checks a head. After an error the connection is not used for another request.
///
/// # Errors
/// The head is too large, it asks for what a reverse proxy does not do (CONNECT), or it can be read in two ways.
pub(crate) fn check(received: &Received, session: &mut Session) -> Result<(), Refusal> {
    let raw = session.as_ref().to_h1_raw();
    let head = session.req_header_mut();
    let checked = measure(received, head).and_then(|()| framing::check(&raw, head));
    if checked.is_err() {
        received.handle.reuse.forbid();
    }
    framing::tidy(head);
    checked
}

fn measure(received: &Received, head: &RequestHeader) -> Result<(), Refusal> {
    let limits = &received.handle.settings.limits;
    let target = head.raw_path();
    if target.len() > limits.max_uri {
        let message = format!(
            "the request target has {} bytes, the limit is {} (server.limits.max_uri)",
            target.len(),
            limits.max_uri
        );
        return Err(Refusal::new(ErrorKind::UriTooLong, message));
    }
    if head.headers.len() > limits.max_header_count {
        let message = format!(
            "the request has {} header fields, the limit is {} (server.limits.max_header_count)",
            head.headers.len(),
            limits.max_header_count
        );
        return Err(Refusal::new(ErrorKind::HeadersTooLarge, message));
    }
    let size = head_size(head);
    if size > limits.max_header_bytes {
        let message = format!(
            "the request head has {size} bytes, the limit is {} (server.limits.max_header_bytes)",
            limits.max_header_bytes
        );
        return Err(Refusal::new(ErrorKind::HeadersTooLarge, message));
    }
    if head.method == Method::CONNECT || !target.starts_with(b"/") {
        let message = "this listener is a reverse proxy: send a path as the request target, \
                       not CONNECT, an absolute URI or an asterisk";
        return Err(Refusal::new(ErrorKind::NotSupported, message));
    }
    Ok(())
}

/// Returns the size of a head on the wire in bytes: names, values, and `: ` and CRLF for each field.
fn head_size(head: &RequestHeader) -> usize {
    head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}
