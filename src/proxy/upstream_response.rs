//! Step 7: the head of the response. Only fields of the backend's connection are changed; the ids of session and request
//! are added.

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, Method, Version};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;

use super::mcp;
use super::receive::{REQUEST_ID, Received};
use super::request_ctx::{Identified, Routed};
use crate::protocol::answer::tap::ResponseTap;
use crate::protocol::wire::coding::Coding;
use crate::protocol::wire::event_tail::EventTail;
use crate::protocol::wire::framing::Framing;
use crate::session::Leg;

/// The answer so far.
#[derive(Default)]
pub(crate) struct Answer {
    /// Status sent to the client.
    pub(crate) status: Option<u16>,
    /// From the received to the head of the answer.
    pub(crate) first_byte: Option<Duration>,
    /// How its body is divided, as the client sees it.
    pub(crate) framing: Option<Framing>,
    /// It is a stream, compressed or not.
    pub(crate) is_stream: bool,
    /// Reads usage, calls and the reason for the stop as the body passes.
    pub(crate) tap: Option<ResponseTap>,
    /// Where its last event ends, if it is a stream into which comments may be written.
    pub(crate) tail: Option<EventTail>,
    /// Body bytes passed on to the client.
    pub(crate) sent: u64,
    /// The body was passed on to its end.
    pub(crate) whole: bool,
}

impl Answer {
    /// Begins an answer of the backend's: from here on silence is counted as silence in a stream.
    pub(crate) fn begin(routed: &Routed, head: &ResponseHeader) -> Self {
        let Routed { who: Identified { received, call, .. }, route, .. } = routed;
        let handle = &received.handle;
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let encoding = text(CONTENT_ENCODING);
        let framing = Framing::of(text(CONTENT_TYPE), encoding);
        let inside = Framing::of(text(CONTENT_TYPE), None);
        // A server that only speaks up when it has something to say may be silent as long as its session.
        let limit = handle.settings.timeouts.stream_idle;
        handle.activity.limit_idle(if mcp::is_server_stream(received, route, call) {
            Duration::MAX
        } else {
            limit
        });
        let is_read = route.dialect.is_read() && head.status.is_success();
        Self {
            status: Some(head.status.as_u16()),
            first_byte: Some(handle.arrived.elapsed()),
            framing: Some(framing),
            is_stream: matches!(inside, Framing::Sse | Framing::Ndjson),
            tap: is_read.then(|| ResponseTap::of(route.dialect, inside, Coding::of(encoding))),
            tail: bears_comments(received, framing, head).then(EventTail::default),
            sent: 0,
            whole: false,
        }
    }
}

/// Informational heads (RFC 9110, 15.2) come before the answer; a 101 is the answer.
pub(crate) fn is_final(head: &ResponseHeader) -> bool {
    !head.status.is_informational() || head.status == 101
}

/// Whether comments may be written into the answer while it is silent, and are wanted. In a body of known length
/// there is no room for them.
fn bears_comments(received: &Received, framing: Framing, head: &ResponseHeader) -> bool {
    let silence = received.handle.settings.timeouts.stream_keep_alive;
    let is_open = || head.status.is_success() && !head.headers.contains_key(CONTENT_LENGTH);
    let bears = silence.is_some() && framing == Framing::Sse && received.method != Method::HEAD && is_open();
    if bears {
        received.handle.activity.allow_comments(silence);
    }
    bears
}

/// Refuses an answer that can be read in two ways, or a switch of protocols that was not requested: Pingora
/// would pass both on. Answers with two lengths it refuses itself.
///
/// # Errors
/// The backend's answer is one of these.
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

/// Fields of an answer that belong to the backend's connection (RFC 9110, 7.6.1). `Connection` itself and
/// the framing are rewritten by Pingora.
const HOP_BY_HOP: [&str; 3] = ["keep-alive", "proxy-connection", "proxy-authenticate"];

/// Takes out what belongs to the backend's connection, and what its `Connection` field names.
fn remove_hop_by_hop(head: &mut ResponseHeader) {
    for name in HOP_BY_HOP {
        head.remove_header(name);
    }
    let told = head.headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named = told.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    // A backend may not take the framing out with it.
    let framing = [TRANSFER_ENCODING, CONTENT_LENGTH, UPGRADE];
    let named: Vec<HeaderName> = named.filter(|name| !framing.contains(name)).collect();
    for name in &named {
        head.remove_header(name);
    }
}

/// Adds the ids to the answer's head. A backend's own request id is left as it is: SDKs show it.
///
/// # Errors
/// A header cannot be set, which would be a bug.
pub(crate) fn rewrite_head(head: &mut ResponseHeader, received: &Received, leg: &Leg) -> Result<()> {
    if head.status != 101 {
        remove_hop_by_hop(head);
    }
    if received.version < Version::HTTP_11 && head.headers.contains_key(TRANSFER_ENCODING) {
        // Such a client knows no chunks; its answer ends with the connection (RFC 9112, 6.1).
        head.remove_header(&TRANSFER_ENCODING);
        received.handle.reuse.forbid();
    }
    let header = received.handle.settings.identity.header().clone();
    head.insert_header(header, leg.session().key().id.as_str())?;
    if !head.headers.contains_key(REQUEST_ID) {
        head.insert_header(REQUEST_ID, received.request_id.as_str())?;
    }
    Ok(())
}
