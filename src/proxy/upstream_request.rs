//! Step 6: the head for the backend: the client's fields that `upstream_fields` lets pass, and the gateway's own.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_PROTOCOL, TE, UPGRADE};
use http::{HeaderName, HeaderValue, Version};
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType, OkOrErr, OrErr, Result};
use pingora_http::RequestHeader;

use super::dispatch::Route;
use super::downstream::RequestHandle;
use super::receive::Received;
use super::request_ctx::Identified;
use super::{forwarded, read, upstream_fields};
use crate::identity::ShownKey;
use crate::ids::REQUEST_ID;
use crate::protocol::dialects::credentials;
use crate::protocol::request::{ModelPlace, ModelRequest, decoded, rewrite_field, rewrite_model};
use crate::protocol::wire::coding::Coding;
use crate::protocol::wire::http1::spelling;
use crate::routing::forwarded as target_below;
use crate::upstream::credentials::Auth;
use crate::upstream::peer::address_to_proxy;

/// Prepares `head`, a clone of the client's, for the client that sends it. Over HTTP/1.1 the names of fields keep their
/// spelling.
///
/// # Errors
/// A header cannot be set, which would be a bug.
pub(crate) fn begin(head: &mut RequestHeader, client: &ServerSession, received: &Received) -> Result<()> {
    let is_ours = received.handle.upstream.is_ours();
    if is_ours {
        begin_http1(head)?;
    }
    if received.version == Version::HTTP_2 || head.version == Version::HTTP_2 {
        return Ok(());
    }
    let raw = client.to_h1_raw();
    if is_ours {
        received.handle.upstream.spell_as(raw);
    } else if !head.has_case() {
        *head = spelled(head, &raw)?;
    }
    Ok(())
}

/// Makes `head` one of HTTP/1.1, with the `Host` of an HTTP/2 client. Pingora does so for its own clients only.
fn begin_http1(head: &mut RequestHeader) -> Result<()> {
    if let Some(authority) = head.uri.authority().filter(|_| !head.headers.contains_key(HOST)) {
        let authority = authority.as_str().to_owned();
        head.insert_header(HOST, authority)?;
    }
    head.set_version(Version::HTTP_11);
    Ok(())
}

/// Returns the head with the spelling of names that `raw` has, for Pingora's clients.
fn spelled(head: &mut RequestHeader, raw: &Bytes) -> Result<RequestHeader> {
    let mut spelled = RequestHeader::build(head.method.clone(), head.raw_path(), Some(head.headers.len()))?;
    spelled.set_version(head.version);
    *spelled.extensions_mut() = std::mem::take(head.extensions_mut());
    for (name, value) in &head.headers {
        let name_length = name.as_str().len();
        match spelling::line(raw, name.as_str().as_bytes(), value.as_bytes()) {
            Some(line) => spelled.append_header(raw.slice_ref(&line[..name_length]), value.clone())?,
            None => spelled.append_header(name, value.clone())?,
        };
    }
    Ok(spelled)
}

/// Rewrites `head` for the route's backend; `client` is the head as the client sent it.
///
/// # Errors
/// A header cannot be set, which would be a bug.
pub(crate) fn rewrite_head(
    head: &mut RequestHeader,
    client: &RequestHeader,
    who: &Identified,
    route: &Route,
) -> Result<()> {
    let received = &who.received;
    let RequestHandle { settings, peer, .. } = &*received.handle;
    if let Some((key, text)) = who.caller.key.as_ref().and_then(|key| Some((key, key.text()?))) {
        take_out(head, key, text)?;
    }
    let origin = settings.forwarding.origin(&head.headers, peer.address.ip(), peer.is_secure);
    upstream_fields::remove(head, client, received, route)?;
    if route.is_foreign {
        leave_behind(head)?;
    }
    if let Some(origin) = origin {
        origin.write(head)?;
    }
    head.append_header("via", forwarded::via(received.version))?;
    head.insert_header(HOST, route.backend.settings().authority())?;
    head.insert_header(REQUEST_ID, received.request_id.as_str())?;
    if route.dialect.is_read() {
        // The tap cannot read a compressed response.
        head.insert_header("accept-encoding", HeaderValue::from_static("identity"))?;
    }
    if received.socket {
        head.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"))?;
        head.insert_header(UPGRADE, HeaderValue::from_static("websocket"))?;
    }
    if head.version == Version::HTTP_2 && takes_trailers(client) {
        head.insert_header(TE, HeaderValue::from_static("trailers"))?;
    }
    let settings = route.backend.settings();
    authorise(head, settings.auth())?;
    let base = if route.is_announced { "" } else { settings.base_path() };
    if !route.strip.is_empty() || !base.is_empty() {
        let path = target_below(base, head.raw_path(), route.strip.clone()).into_owned();
        head.set_raw_path(&path).or_err(ErrorType::InternalError, "rewriting the path")?;
    }
    if head.raw_path().is_empty() {
        return Error::e_explain(ErrorType::InternalError, "the rewritten path is empty");
    }
    address_to_proxy(head, settings, received.socket)
}

/// Returns whether the client takes trailers, which pass over HTTP/2 only. `TE` is a field of the client's connection, but
/// this value is valid in HTTP/2 (RFC 9113, 8.2.2), and gRPC servers require it.
fn takes_trailers(client: &RequestHeader) -> bool {
    let fields = client.headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    let mut words = fields.flat_map(|value| value.split(','));
    client.version == Version::HTTP_2 && words.any(|word| word.trim().eq_ignore_ascii_case("trailers"))
}

/// Removes the subprotocols and parameters that are not known to be harmless: the backend is of another realm than the one
/// for which the caller's credentials are meant.
fn leave_behind(head: &mut RequestHeader) -> Result<()> {
    if head.headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        let known = credentials::harmless_subprotocols(&head.headers);
        offer_subprotocols(head, known)?;
    }
    if let Cow::Owned(target) = credentials::harmless_parameters(head.raw_path()) {
        head.set_raw_path(&target).or_err(ErrorType::InternalError, "rewriting the query")?;
    }
    Ok(())
}

/// Applies `backends.NAME.auth` beyond the fields that `upstream_fields` has removed: keeps the client's credential, removes
/// it, or replaces it by the backend's own.
fn authorise(head: &mut RequestHeader, auth: &Auth) -> Result<()> {
    if *auth == Auth::Passthrough {
        return Ok(());
    }
    if let Some(left) = credentials::without_subprotocols(&head.headers) {
        offer_subprotocols(head, left)?;
    }
    if let Cow::Owned(target) = credentials::without_parameters(head.raw_path()) {
        head.set_raw_path(&target).or_err(ErrorType::InternalError, "rewriting the query")?;
    }
    if let Auth::Inject { header, value } = auth {
        head.insert_header(header.clone(), value.clone())?;
    }
    Ok(())
}

/// Removes the key from the head for a backend, wherever it is.
///
/// # Errors
/// A header cannot be set, which would be a bug.
fn take_out(head: &mut RequestHeader, key: &ShownKey, text: &[u8]) -> Result<()> {
    let is_in = |value: &HeaderValue| key.is_in(value.as_bytes());
    let mut names: Vec<HeaderName> =
        head.headers.iter().filter(|(_, value)| is_in(value)).map(|(name, _)| name.clone()).collect();
    names.dedup();
    for name in names {
        if name == SEC_WEBSOCKET_PROTOCOL {
            let left = credentials::subprotocols_without(&head.headers, text);
            offer_subprotocols(head, left)?;
            continue;
        }
        let kept: Vec<HeaderValue> =
            head.headers.get_all(&name).iter().filter(|value| !is_in(value)).cloned().collect();
        head.remove_header(&name);
        for value in kept {
            head.append_header(name.clone(), value)?;
        }
    }
    if let Cow::Owned(target) = credentials::target_without(head.raw_path(), text) {
        head.set_raw_path(&target).or_err(ErrorType::InternalError, "rewriting the query")?;
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
    if received.coding != Coding::Identity {
        let limit = read::held_limit(received);
        let plain = decoded(&held, received.coding, limit).map(Bytes::from);
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
