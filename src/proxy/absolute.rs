//! Step 1, continued: what a request to the forward proxy asks for. A path is a request to this gateway as before; CONNECT and
//! an absolute URI name another host (RFC 9112, 3.2).

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Uri, Version};
use pingora_core::{ErrorType, OrErr};
use pingora_http::RequestHeader;

use super::downstream::Within;
use super::error_response::Reject;
use super::forward_route::serving;
use super::forward_target::{Forward, HTTP, HTTPS};
use super::proxy_authorization;
use super::receive::Received;
use crate::error::{ErrorKind, Refusal};
use crate::forward::Target;
use crate::protocol::Dialect;

/// Reads where the request wants to go, and gives its head the form of one that asks for a path. Returns false for a request
/// that does.
///
/// # Errors
/// The target is not `host:port` or an `http` URL, or a CONNECT has a body.
pub(super) fn read(received: &mut Received, head: &mut RequestHeader) -> Result<bool, Reject> {
    if let Some(within) = received.handle.peer.within.clone() {
        return intercepted(received, head, &within).map(|()| true);
    }
    let is_tunnel = head.method == Method::CONNECT;
    // Over HTTP/2 every request names its host; only CONNECT is for another one.
    if !is_tunnel && (head.raw_path().starts_with(b"/") || head.version == Version::HTTP_2) {
        return Ok(false);
    }
    let read = if is_tunnel { connect(head) } else { absolute(head) };
    let (target, uri) = read.inspect_err(|_| {
        // What follows such a head is not known.
        received.handle.reuse.forbid();
    })?;
    received.uri = uri;
    head.insert_header(HOST, target.authority(if is_tunnel { 0 } else { HTTP }))?;
    if !is_tunnel {
        // An empty path is that of the root (RFC 9112, 3.2.1).
        let path = received.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        head.set_raw_path(path.as_bytes()).or_err(ErrorType::InternalError, "writing the path")?;
    }
    let settings = &received.handle.settings;
    let may_be_taken = settings.routes.has_rules() || serving(settings, &target, false).is_some();
    if is_tunnel || !may_be_taken {
        received.dialect = Dialect::PLAIN;
    }
    let user = proxy_authorization::user(&head.headers);
    received.forward = Some(Box::new(Forward { target, is_tunnel, is_intercepted: false, user }));
    Ok(true)
}

/// Reads a request in a tunnel that was opened: it asks for a path of the host of the CONNECT, and for nothing else.
fn intercepted(received: &mut Received, head: &RequestHeader, within: &Within) -> Result<(), Reject> {
    let bad = |kind, message: &str| Err(Refusal::new(kind, message).into());
    if head.method == Method::CONNECT || !head.raw_path().starts_with(b"/") {
        return bad(ErrorKind::NotSupported, "in a tunnel the request target is a path");
    }
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    if host.and_then(|host| Target::of_authority(host, HTTPS)).as_ref() != Some(&within.target) {
        received.handle.reuse.forbid();
        return bad(ErrorKind::BadRequest, "the Host of the request is not the host of its CONNECT");
    }
    let path = received.uri.path_and_query().map_or("/", |path| path.as_str());
    let uri = format!("https://{}{path}", within.target.authority(HTTPS)).parse();
    received.uri = uri.or_err(ErrorType::InternalError, "writing the URL")?;
    let (target, user) = (within.target.clone(), within.user.clone());
    received.forward = Some(Box::new(Forward { target, is_tunnel: false, is_intercepted: true, user }));
    Ok(())
}

/// Reads the target of a CONNECT.
fn connect(head: &RequestHeader) -> Result<(Target, Uri), Refusal> {
    if has_body(&head.headers) {
        let message = "a CONNECT has no body: send what is for the host after the answer (RFC 9110, 9.3.6)";
        return Err(Refusal::new(ErrorKind::BadRequest, message));
    }
    let target = std::str::from_utf8(head.raw_path()).ok().and_then(Target::of_connect);
    let found = target.and_then(|target| Some((target.to_string().parse().ok()?, target)));
    found.map(|(uri, target)| (target, uri)).ok_or_else(|| {
        let message =
            "the target of CONNECT is not a host and a port, such as example.com:443 (RFC 9110, 9.3.6)";
        Refusal::new(ErrorKind::BadRequest, message)
    })
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    length || headers.contains_key(TRANSFER_ENCODING)
}

/// Reads an absolute URI. Pingora keeps only its path in the head's own.
fn absolute(head: &RequestHeader) -> Result<(Target, Uri), Refusal> {
    let bad = |message: &str| Refusal::new(ErrorKind::BadRequest, message);
    let uri = Uri::try_from(head.raw_path()).ok();
    let scheme = uri.as_ref().and_then(Uri::scheme_str).map(str::to_ascii_lowercase);
    match scheme.as_deref() {
        Some("http") => {}
        Some("https") => {
            return Err(bad(
                "https URLs are reached through a tunnel: use CONNECT, as clients do that know HTTPS_PROXY",
            ));
        }
        _ => return Err(bad("the request target is neither a path nor an http URL (RFC 9112, 3.2)")),
    }
    // The parser has let pass only a `Host` that says the same.
    let target =
        uri.as_ref().and_then(Uri::authority).and_then(|name| Target::of_authority(name.as_str(), HTTP));
    target.zip(uri).ok_or_else(|| bad("the host of the URL is not one (RFC 9110, 4.2)"))
}
