//! Step 1: a request is here. Its head is measured before anything is believed.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri, Version};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::downstream::RequestHandle;
use super::framing;
use super::trace::Trace;
use crate::error::{ErrorKind, Refusal};
use crate::ids::RequestId;
use crate::protocol::Dialect;

/// The header that carries a request's id, in from the client and out to backend and client.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// A request id of the client's is kept when it is no longer than this and printable.
const MAX_REQUEST_ID: usize = 128;

/// What the head says before anything is looked up.
pub(crate) struct Received {
    pub(crate) handle: Arc<RequestHandle>,
    /// The client's address, also behind trusted proxies.
    pub(crate) client: IpAddr,
    pub(crate) request_id: RequestId,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// It asks for a WebSocket.
    pub(crate) socket: bool,
    /// HTTP/1.0 clients know no chunks.
    pub(crate) version: Version,
    /// By path and head; the backend's type may narrow it down.
    pub(crate) dialect: Dialect,
    /// The request among spans; `None` without a collector.
    pub(crate) trace: Option<Trace>,
}

impl Received {
    /// Notes an received; `None` when the request did not come through our door.
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

/// The client's own id when it is harmless in a log line, else a fresh one.
fn request_id(headers: &HeaderMap) -> RequestId {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(|b| b.is_ascii_graphic()))
        .map_or_else(RequestId::fresh, RequestId::new)
}

/// Refuses heads that are too large, that ask for what a reverse proxy does not do, or that can be read in
/// two ways. The connection then carries no further request.
///
/// # Errors
/// One of these it is.
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

/// The size of a head on the wire: names, values, and `: ` and CRLF for each field.
fn head_size(head: &RequestHeader) -> usize {
    head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}
