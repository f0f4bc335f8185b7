//! Step 1: reads the head of a request and checks its size and form before anything else uses it.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{CONTENT_ENCODING, EXPECT, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Uri, Version};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use super::downstream::RequestHandle;
use super::forward_target::Forward;
use super::framing;
use super::head_fields::HeadFields;
use super::security_headers::Writer;
use super::trace_context::Trace;
use crate::error::{ErrorKind, Refusal};
use crate::ids::RequestId;
use crate::protocol::Dialect;
use crate::protocol::wire::coding::Coding;

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
    /// The length of the body that the head declares; `None` for a chunked one.
    pub(crate) declared: Option<u64>,
    /// Whether the client waits for `100 Continue` before it sends the body (RFC 9110, 10.1.1).
    pub(crate) awaits_continue: bool,
    /// How the body is compressed.
    pub(crate) coding: Coding,
    /// Detected from path and headers; the backend's type may be more specific.
    pub(crate) dialect: Dialect,
    /// Where a request to the forward proxy wants to go; `None` for one that asks for a path.
    pub(crate) forward: Option<Box<Forward>>,
    /// The trace context; `None` without a collector.
    pub(crate) trace: Option<Trace>,
}

impl Received {
    /// Returns whether it is a WebSocket whose messages are not of an API that is read, so that they may name any model.
    pub(super) fn is_unread_socket(&self) -> bool {
        self.socket && !self.dialect.is_llm()
    }

    /// Returns whether it is a CONNECT.
    pub(super) fn is_tunnel(&self) -> bool {
        self.forward.as_ref().is_some_and(|forward| forward.is_tunnel)
    }

    /// Returns the query if it may carry a credential of the caller: that of a request to the forward proxy is for the host.
    pub(super) fn query_of_caller(&self) -> Option<&str> {
        self.uri.query().filter(|_| self.forward.is_none())
    }

    /// Adds the security headers to the head of a final answer that `writer` has written.
    ///
    /// # Errors
    /// A header cannot be set, which would be a bug.
    pub(super) fn secure(&self, head: &mut ResponseHeader, writer: Writer) -> Result<()> {
        self.handle.settings.http.security_headers.add(head, self.handle.peer.is_secure, writer)
    }

    /// Checks the client's address by `security.acl`.
    ///
    /// # Errors
    /// Its requests are not accepted.
    pub(super) fn check_address(&self) -> Result<(), Refusal> {
        if self.handle.settings.http.acl.admits(self.client) {
            return Ok(());
        }
        let message = "requests from your address are not accepted here (security.acl)";
        Err(Refusal::new(ErrorKind::AddressDenied, message))
    }

    /// Reads a head. Returns `None` if the request did not come through the proxy's own listener.
    pub(crate) fn of(head: &RequestHeader, fields: &HeadFields<'_>, trace: Option<Trace>) -> Option<Self> {
        let handle = Arc::clone(head.extensions.get::<Arc<RequestHandle>>()?);
        let socket = framing::is_websocket(head, fields);
        let path = head.uri.path();
        Some(Self {
            client: handle.settings.forwarding.client(handle.peer.address.ip(), &head.headers),
            handle,
            request_id: request_id(fields),
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            declared: fields.content_length.first.and_then(|length| length.to_str().ok()?.parse().ok()),
            // An HTTP/1.0 client waits for nothing.
            awaits_continue: fields.expect.is_present() && head.version >= Version::HTTP_11,
            coding: match fields.content_encoding.first {
                Some(_) => coding(&head.headers),
                None => Coding::Identity,
            },
            socket,
            forward: None,
            trace,
            dialect: match socket {
                true => Dialect::detect_socket(path),
                false => Dialect::detect(path, &head.headers),
            },
        })
    }
}

/// Returns how the request's body is compressed.
fn coding(headers: &HeaderMap) -> Coding {
    Coding::of_all(headers.get_all(CONTENT_ENCODING).iter().map(|line| line.to_str().unwrap_or("?")))
}

/// Returns the client's own id if it is short and printable, else a new one.
fn request_id(fields: &HeadFields<'_>) -> RequestId {
    let id = fields.request_id.first.and_then(|value| value.to_str().ok());
    id.filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(|b| b.is_ascii_graphic()))
        .map_or_else(RequestId::fresh, RequestId::new)
}

/// Checks a head; `raw` holds its bytes on the wire. After an error the connection is not used for another request.
///
/// # Errors
/// The head is too large, it asks for what a reverse proxy does not do (CONNECT) while the forward proxy is off, or it can be
/// read in two ways.
pub(crate) fn check(
    received: &Received,
    raw: &[u8],
    head: &RequestHeader,
    fields: &HeadFields<'_>,
) -> Result<(), Refusal> {
    let checked = measure(received, head, fields.bytes).and_then(|()| framing::check(raw, head, fields));
    if checked.is_err() {
        received.handle.reuse.forbid();
    }
    checked
}

/// Returns the fields that this proxy ignores: upgrades to anything but a WebSocket, and expectations of an HTTP/1.0 client
/// (RFC 9110, 10.1.1). Once they are removed, `Upgrade` means a WebSocket handshake without a body.
pub(crate) fn ignored(
    received: &Received,
    fields: &HeadFields<'_>,
) -> impl Iterator<Item = HeaderName> + use<> {
    let upgrade = (fields.upgrade.is_present() && !received.socket).then_some(UPGRADE);
    let expect = (fields.expect.is_present() && !received.awaits_continue).then_some(EXPECT);
    [upgrade, expect].into_iter().flatten()
}

fn measure(received: &Received, head: &RequestHeader, size: usize) -> Result<(), Refusal> {
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
    if size > limits.max_header_bytes {
        let message = format!(
            "the request head has {size} bytes, the limit is {} (server.limits.max_header_bytes)",
            limits.max_header_bytes
        );
        return Err(Refusal::new(ErrorKind::HeadersTooLarge, message));
    }
    let is_path = head.method != Method::CONNECT && target.starts_with(b"/");
    if is_path || received.handle.settings.forward.is_on() && target != b"*" {
        return Ok(());
    }
    let message = "this listener is a reverse proxy: send a path as the request target, not CONNECT, an absolute URI or an \
                   asterisk (forward_proxy.enabled: true lets programs use it by HTTPS_PROXY)";
    Err(Refusal::new(ErrorKind::NotSupported, message))
}
