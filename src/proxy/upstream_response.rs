//! Step 7: the head of the response. Removes the fields of the backend's connection and adds the ids of session and
//! request; everything else stays.

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::answer::Answer;
use super::dispatch::unreachable;
use super::judging::{Judging, is_asked};
use super::mcp;
use super::receive::Received;
use super::request_ctx::{Identified, RequestCtx, Routed};
use crate::error::{ErrorKind, Refusal};
use crate::ids::REQUEST_ID;
use crate::protocol::answer::tap::ResponseTap;
use crate::protocol::wire::coding::Coding;
use crate::protocol::wire::event_tail::EventTail;
use crate::protocol::wire::framing::Framing;
use crate::session::Leg;

/// [`REQUEST_ID`], for looking it up.
static REQUEST_ID_FIELD: HeaderName = HeaderName::from_static(REQUEST_ID);

/// Begins the backend's response. From here on the limit for silence is `stream_idle`.
pub(crate) fn begin(routed: &Routed, head: &mut ResponseHeader) -> Answer {
    let Routed { who, route, .. } = routed;
    let Identified { received, call, .. } = &**who;
    let handle = &received.handle;
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let encoding = text(CONTENT_ENCODING);
    let framing = Framing::of(text(CONTENT_TYPE), encoding);
    let inside = if encoding.is_some() { Framing::of(text(CONTENT_TYPE), None) } else { framing };
    // A stream for messages that the server starts may be silent as long as its session lasts.
    let limit = handle.settings.timeouts.stream_idle;
    let is_endless = mcp::is_server_stream(received, route, call);
    handle.activity.limit_idle(if is_endless { Duration::MAX } else { limit });
    handle.gate.open();
    let rules = &handle.settings.rules;
    let is_read = route.dialect.is_read() && head.status.is_success();
    let lists_tools = is_read && rules.watches_tools() && mcp::may_list_tools(received, route, call);
    let lists_in = lists_tools.then_some(framing);
    let is_heard = is_read || head.status == 101 && routed.socket.is_some();
    let is_judged = is_heard && is_asked(rules, route.dialect) || lists_tools;
    let tap = is_read.then(|| {
        let coding = Coding::of(encoding);
        // What a cut response has cost is estimated from its text.
        match handle.settings.budgets.is_empty() {
            _ if is_judged => ResponseTap::judged(route.dialect, inside, text(CONTENT_TYPE), coding),
            true => ResponseTap::of(route.dialect, inside, coding),
            false => ResponseTap::listening(route.dialect, inside, coding),
        }
    });
    let judging = is_judged
        .then(|| {
            let has_room = framing == inside && !head.headers.contains_key(CONTENT_LENGTH);
            // What turns out to be text waits with its head.
            let framing = if inside == Framing::Opaque { Framing::Json } else { inside };
            Judging::begin(rules, route.dialect, &handle.gate, tap.as_ref(), framing, has_room, lists_in)
        })
        .flatten();
    let tail = bears_comments(received, framing, head).then(EventTail::default);
    // A stream that may be cut has no fixed length, so that its end is written.
    if inside.is_stream()
        && received.method != Method::HEAD
        && judging.as_ref().is_some_and(|judging| judging.is_between().is_some())
    {
        head.remove_header(&CONTENT_LENGTH);
    }
    Answer {
        status: Some(head.status.as_u16()),
        first_byte: Some(handle.arrived.elapsed()),
        framing: Some(framing),
        is_stream: inside.is_stream(),
        judging,
        compressing: None,
        tap,
        text_bytes: 0,
        tail,
        endpoint: (framing == Framing::Sse && mcp::may_announce(received, route)).then(Box::default),
        sent: 0,
        whole: false,
        is_cached: false,
    }
}

/// Returns whether the head of the final response has been sent.
pub(super) fn has_begun(session: &Session) -> bool {
    session.response_written().is_some_and(is_final)
}

/// Returns whether this is the final response. Informational ones (RFC 9110, 15.2) precede it, except for 101.
pub(crate) fn is_final(head: &ResponseHeader) -> bool {
    !head.status.is_informational() || head.status == 101
}

/// Returns whether keep-alive comments are enabled and may be written into this response while it is silent. A body with
/// a `Content-Length` has no room for them.
fn bears_comments(received: &Received, framing: Framing, head: &ResponseHeader) -> bool {
    let silence = received.handle.settings.timeouts.stream_keep_alive;
    let is_open = || head.status.is_success() && !head.headers.contains_key(CONTENT_LENGTH);
    let bears = silence.is_some() && framing == Framing::Sse && received.method != Method::HEAD && is_open();
    if bears {
        received.handle.activity.allow_comments(silence);
    }
    bears
}

/// Checks the backend's response for what Pingora would forward. Pingora itself rejects a response with two lengths.
///
/// # Errors
/// The response can be read in two ways, or switches protocols without having been asked to.
pub(crate) fn check(head: &ResponseHeader, upgrade_was_asked: bool) -> Result<()> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let is_plain = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    };
    let why = match (is_plain, head.status == 101 && !upgrade_was_asked) {
        (false, _) => "a transfer coding but chunked",
        (_, true) => "a 101 that nobody asked for",
        _ => return Ok(()),
    };
    Err(Error::explain(ErrorType::InvalidHTTPHeader, why).into_up())
}

/// Returns why the proxy in front of the backend refuses to forward the request: 407 (RFC 9110, 15.5.8) is a proxy's own
/// response, while its other errors cannot be told from the backend's. `None` without such a proxy.
pub(crate) fn proxy_refusal(head: &ResponseHeader, ctx: &RequestCtx, is_upgrade: bool) -> Option<Refusal> {
    let backend = &ctx.stage.route()?.backend;
    backend.settings().forward_proxy(is_upgrade).filter(|_| head.status == 407)?;
    Some(unreachable(backend, ErrorKind::BackendUnavailable, "it wants other credentials: 407"))
}

/// Removes the fields of the backend's connection (RFC 9110, 7.6.1), and framing that the client could read in another way
/// than Pingora did, so that both see the same end of the body (RFC 9112, 6; RFC 9110, 8.6). One pass over the head decides
/// on each field. Pingora rewrites `Connection`.
fn remove_fields(head: &mut ResponseHeader, received: &Received) {
    let has_switched = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let has_no_body = head.status.is_informational() || head.status == StatusCode::NO_CONTENT;
    let has_no_coding = has_no_body && !has_switched || head.status == StatusCode::NOT_MODIFIED;
    // Trailers pass between HTTP/2 peers only; Pingora drops those of HTTP/1.1.
    let has_trailers = head.version == Version::HTTP_2 && received.version == Version::HTTP_2;
    let options = head.headers.get_all(CONNECTION).iter().filter(|_| !has_switched);
    let options = options.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let options: Vec<&[u8]> = options.map(<[u8]>::trim_ascii).collect();
    let is_option = |name: &str| options.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()));
    let goes = |name: &&HeaderName| match name.as_str() {
        // A backend must not remove the framing by an option of `Connection`.
        "content-length" => has_no_body,
        "transfer-encoding" => has_no_coding,
        "upgrade" => false,
        "keep-alive" | "proxy-connection" | "proxy-authenticate" => !has_switched,
        "trailer" => !has_trailers || is_option("trailer"),
        name => is_option(name),
    };
    let gone: Vec<HeaderName> = head.headers.keys().filter(goes).cloned().collect();
    for name in &gone {
        head.remove_header(name);
    }
}

/// Makes this the head of a message of the gateway's own connection; all that an informational response needs.
///
/// # Errors
/// A header cannot be set, which would be a bug.
pub(crate) fn for_client(head: &mut ResponseHeader, received: &Received) -> Result<()> {
    remove_fields(head, received);
    // Pingora accepts a length that is repeated, as a field or in a list.
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next()
        && (lengths.next().is_some() || first.as_bytes().contains(&b','))
    {
        let length = first.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        let length = HeaderValue::from_bytes(length).or_err(ErrorType::InvalidHTTPHeader, "the length")?;
        head.insert_header(CONTENT_LENGTH, length)?;
    }
    // The version is that of the gateway (RFC 9110, 2.5); with HTTP/1.0 the chunked coding would be faulty.
    if head.version < Version::HTTP_11 {
        head.set_version(Version::HTTP_11);
    }
    Ok(())
}

/// Adds the ids of session and request to the head. A request id of the backend is kept, because SDKs show it.
///
/// # Errors
/// A header cannot be set, which would be a bug.
pub(crate) fn rewrite_head(head: &mut ResponseHeader, received: &Received, leg: &Leg) -> Result<()> {
    for_client(head, received)?;
    if received.version < Version::HTTP_11 && head.headers.contains_key(TRANSFER_ENCODING) {
        // HTTP/1.0 has no chunked coding: the end of the connection ends the response (RFC 9112, 6.1).
        head.remove_header(&TRANSFER_ENCODING);
        received.handle.reuse.forbid();
    }
    head.insert_header(received.handle.settings.identity.header(), leg.session().key().id.as_str())?;
    if !head.headers.contains_key(&REQUEST_ID_FIELD) {
        head.insert_header(REQUEST_ID, received.request_id.as_str())?;
    }
    Ok(())
}
