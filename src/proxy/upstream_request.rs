//! Step 6: the head for the backend. Keeps the client's fields except for those meant for this proxy (Pingora has removed
//! the hop-by-hop fields).

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_PROTOCOL, TE,
};
use http::{HeaderName, HeaderValue, Version};
use pingora_core::{Error, ErrorType, OkOrErr, OrErr, Result};
use pingora_http::RequestHeader;

use super::dispatch::Route;
use super::receive::Received;
use super::{framing, read, unread};
use crate::ids::REQUEST_ID;
use crate::protocol::dialects::credentials;
use crate::protocol::request::{ModelPlace, ModelRequest, decoded, rewrite_field, rewrite_model};
use crate::protocol::wire::coding::Coding;
use crate::routing::forwarded;
use crate::upstream::credentials::Auth;
use crate::upstream::peer::address_to_proxy;

/// Fields that a `Connection` field of a client must not remove: Pingora refuses them, too.
const PROTECTED: [&str; 4] = ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

/// Maximum connection options of a request, as in Pingora.
const MAX_OPTIONS: usize = 9;

/// Makes `head` one of HTTP/1.1 without the fields of the client's connection (RFC 9110, 7.6.1). Pingora does so for its
/// own clients only.
///
/// # Errors
/// `Connection` is invalid, names too many fields, or one that is not the client's to remove.
pub(crate) fn begin_http1(head: &mut RequestHeader) -> Result<()> {
    let invalid = |why: &'static str| Error::explain(ErrorType::InvalidHTTPHeader, why).into_down();
    let mut named = Vec::new();
    let values =
        head.headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    for option in values.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty()) {
        if named.len() == MAX_OPTIONS {
            return Err(invalid("Connection names too many fields"));
        }
        let name = Some(option).filter(|option| option.iter().copied().all(framing::is_token));
        let name = name.and_then(|option| HeaderName::from_bytes(option).ok());
        let name = name.ok_or_else(|| invalid("Connection names what is no field"))?;
        if PROTECTED.contains(&name.as_str()) {
            return Err(invalid("Connection names a field that is not the connection's"));
        }
        named.push(name);
    }
    for name in &named {
        head.remove_header(name);
    }
    for name in HOP_BY_HOP {
        head.remove_header(name);
    }
    if let Some(authority) = head.uri.authority().filter(|_| !head.headers.contains_key(HOST)) {
        let authority = authority.as_str().to_owned();
        head.insert_header(HOST, authority)?;
    }
    head.set_version(Version::HTTP_11);
    Ok(())
}

/// Fields of the client's connection.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Rewrites `head` for the route's backend; `client` is the head as the client sent it.
///
/// # Errors
/// A header cannot be set, which would be a bug.
pub(crate) fn rewrite_head(
    head: &mut RequestHeader,
    client: &RequestHeader,
    received: &Received,
    route: &Route,
    is_upgrade: bool,
) -> Result<()> {
    let settings = &received.handle.settings;
    head.remove_header(settings.routes.header());
    remove_ours(head);
    if route.is_foreign {
        leave_behind(head, settings.identity.header())?;
    }
    let peer = &received.handle.peer;
    settings.forwarding.write(head, peer.address.ip(), peer.is_secure, received.version)?;
    head.insert_header(HOST, route.backend.settings().authority())?;
    head.insert_header(REQUEST_ID, received.request_id.as_str())?;
    if route.dialect.is_read() {
        // The tap cannot read a compressed response.
        head.insert_header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))?;
        // Nor can it read compressed WebSocket messages (RFC 7692).
        head.remove_header(&SEC_WEBSOCKET_EXTENSIONS);
    }
    if head.version == Version::HTTP_2 && takes_trailers(client) {
        head.insert_header(TE, HeaderValue::from_static("trailers"))?;
    }
    let settings = route.backend.settings();
    authorise(head, settings.auth())?;
    let base = if route.is_announced { "" } else { settings.base_path() };
    if !route.strip.is_empty() || !base.is_empty() {
        let path = forwarded(base, head.raw_path(), route.strip.clone()).into_owned();
        head.set_raw_path(&path).or_err(ErrorType::InternalError, "rewriting the path")?;
    }
    if head.raw_path().is_empty() {
        return Error::e_explain(ErrorType::InternalError, "the rewritten path is empty");
    }
    address_to_proxy(head, settings, is_upgrade)
}

/// Returns whether the client takes trailers, which pass over HTTP/2 only. Pingora removes `TE` with the hop-by-hop fields,
/// but this value is valid in HTTP/2 (RFC 9113, 8.2.2), and gRPC servers require it.
fn takes_trailers(client: &RequestHeader) -> bool {
    let fields = client.headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    let mut words = fields.flat_map(|value| value.split(','));
    client.version == Version::HTTP_2 && words.any(|word| word.trim().eq_ignore_ascii_case("trailers"))
}

/// Removes everything but the fields, parameters and subprotocols that are known to be harmless, and the field `session`
/// with the session's id: the backend is of another realm than the one for which the caller's credentials are meant.
fn leave_behind(head: &mut RequestHeader, session: &HeaderName) -> Result<()> {
    let stays = |name: &&HeaderName| !credentials::is_harmless(name) && *name != session;
    let unknown: Vec<HeaderName> = head.headers.keys().filter(stays).cloned().collect();
    for name in &unknown {
        head.remove_header(name);
    }
    if head.headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        let known = credentials::harmless_subprotocols(&head.headers);
        offer_subprotocols(head, known)?;
    }
    if let Cow::Owned(target) = credentials::harmless_parameters(head.raw_path()) {
        head.set_raw_path(&target).or_err(ErrorType::InternalError, "rewriting the query")?;
    }
    Ok(())
}

/// Applies `backends.NAME.auth`: keeps the client's credential, removes it, or replaces it by the backend's own.
fn authorise(head: &mut RequestHeader, auth: &Auth) -> Result<()> {
    if *auth == Auth::Passthrough {
        return Ok(());
    }
    for field in credentials::fields() {
        head.remove_header(field);
    }
    if let Some(left) = credentials::without_subprotocols(&head.headers) {
        offer_subprotocols(head, left)?;
    }
    if let Cow::Owned(target) = credentials::without_parameters(head.raw_path()) {
        head.set_raw_path(&target).or_err(ErrorType::InternalError, "rewriting the query")?;
    }
    if let Auth::Inject { header, value } = auth {
        head.remove_header(header);
        head.insert_header(header.clone(), value.clone())?;
    }
    Ok(())
}

/// Replaces the client's WebSocket subprotocols; removes the field when there are none.
fn offer_subprotocols(head: &mut RequestHeader, offered: HeaderValue) -> Result<()> {
    head.remove_header(&SEC_WEBSOCKET_PROTOCOL);
    if !offered.is_empty() {
        head.insert_header(SEC_WEBSOCKET_PROTOCOL, offered)?;
    }
    Ok(())
}

/// Digests and signatures of the body (RFC 9530, RFC 9421, RFC 1864, RFC 3230). They are removed when the model is
/// renamed, since they no longer match.
const VOUCHERS: [&str; 6] =
    ["content-digest", "repr-digest", "digest", "content-md5", "signature", "signature-input"];

/// Returns what is held of the body with the backend's name of the model, and adjusts `head`; `None` if the name is the
/// same. Compressed JSON is sent uncompressed.
///
/// # Errors
/// A header cannot be set, which would be a bug.
pub(crate) fn rewrite_body(
    head: &mut RequestHeader,
    received: &Received,
    call: &ModelRequest,
    route: &Route,
    held: Option<Bytes>,
) -> Result<Option<Bytes>> {
    let (Some(name), Some(mut held)) = (&route.served_as, held) else { return Ok(None) };
    let sent = held.len();
    let coding = unread::coding(&head.headers);
    if coding != Coding::Identity {
        let limit = read::held_limit(received);
        let plain = decoded(&held, coding, limit).map(Bytes::from);
        held = plain.or_err(ErrorType::InternalError, "decoding a body that was read before")?;
    }
    let rewritten = match call.model_place {
        ModelPlace::Json => rewrite_model(&held, name),
        ModelPlace::Form { from, to } => rewrite_field(&held, from as usize..to as usize, name),
        // Routing has refused it.
        ModelPlace::Fixed => None,
    };
    let Some(body) = rewritten else { return Ok(None) };
    head.remove_header(&CONTENT_ENCODING);
    let length =
        head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if let Some(length) = length {
        // The rest of a form is not held.
        head.insert_header(CONTENT_LENGTH, length.saturating_sub(sent) + body.len())?;
    }
    for field in VOUCHERS {
        head.remove_header(field);
    }
    Ok(Some(Bytes::from(body)))
}

/// Removes the `x-elida-*` fields, with `-` or `_`: a backend that is a gateway itself must not mistake a client's fields
/// for those of this proxy.
fn remove_ours(head: &mut RequestHeader) {
    let is_ours = |name: &HeaderName| {
        let name = name.as_str();
        let name = name.strip_prefix("x-").or_else(|| name.strip_prefix("x_")).unwrap_or(name);
        name.strip_prefix("elida").is_some_and(|rest| rest.starts_with(['-', '_']))
    };
    let ours: Vec<HeaderName> = head.headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in &ours {
        head.remove_header(name);
    }
}
