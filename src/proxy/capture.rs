//! Bodies that may be kept: noted while they pass, handed to the history when the request is over. Nothing of this
//! exists while `capture.mode` is `off`, nor for sockets.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use jiff::Timestamp;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::request_ctx::RequestCtx;
use super::upstream_response::Answer;
use crate::capture::{Body, Capture};
use crate::error::ErrorKind;
use crate::protocol::Dialect;

/// The first bytes of what passes.
pub(crate) struct Capturing {
    at: Timestamp,
    max_body: usize,
    request: Body,
    answer: Body,
}

impl Capturing {
    /// The body of the request goes on.
    pub(crate) fn upload(&mut self, chunk: &[u8]) {
        self.request.feed(chunk, self.max_body);
    }

    /// The body of the answer goes on.
    pub(crate) fn download(&mut self, chunk: &[u8]) {
        self.answer.feed(chunk, self.max_body);
    }

    /// The answer is ours.
    pub(crate) fn refused(&mut self, body: &[u8]) {
        (self.answer.media, self.answer.coding) = (Some("application/json".into()), None);
        self.download(body);
    }
}

/// Begins to note a request that belongs to a session now, and will be answered by a backend or refused. What has
/// its answer already (the list of all models) is not kept.
pub(crate) fn begin(session: &Session, ctx: &mut RequestCtx) {
    let (Some(received), Some(leg)) = (&ctx.received, &ctx.leg) else { return };
    let settings = &received.handle.settings.capture;
    let is_answered = ctx.answer.status.is_some();
    if !settings.is_on() || is_answered || received.socket || ctx.app.history.is_none() {
        return;
    }
    let live = leg.session();
    // An MCP server may name another session in its answer.
    let may_move = ctx.dialect() == Dialect::Mcp;
    if live.captured() >= settings.max_per_session || !(may_move || settings.may_keep(live.uid())) {
        return;
    }
    let mut capturing = Capturing {
        at: Timestamp::now(),
        max_body: settings.max_body,
        request: Body::of(kinds(&session.req_header().headers)),
        answer: Body::default(),
    };
    if let Some(held) = session.as_ref().get_retry_buffer() {
        capturing.upload(&held);
    }
    ctx.capture = Some(Box::new(capturing));
}

/// The head of the backend's answer is there.
pub(crate) fn answers(ctx: &mut RequestCtx, head: &ResponseHeader) {
    if let Some(capturing) = &mut ctx.capture {
        (capturing.answer.media, capturing.answer.coding) = kinds(&head.headers);
    }
}

/// What the head says of its body.
fn kinds(headers: &HeaderMap) -> (Option<Box<str>>, Option<Box<str>>) {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(Box::from);
    (text(CONTENT_TYPE), text(CONTENT_ENCODING))
}

/// Whether a request that is over is one to look into: it did not end well, or the backend says that it is at fault.
/// The one place that decides it.
fn is_flagged(answer: &Answer, failure: Option<ErrorKind>) -> bool {
    failure.is_some() || answer.status.is_some_and(|status| status >= 500)
}

/// Hands the bodies of a request that is over to the history, if they are to be kept; never waits.
pub(crate) fn finish(ctx: &mut RequestCtx, failure: Option<ErrorKind>) {
    let Some(mut capturing) = ctx.capture.take() else { return };
    let (Some(received), Some(leg), Some(history)) = (&ctx.received, &ctx.leg, &ctx.app.history) else {
        return;
    };
    let (settings, live) = (&received.handle.settings.capture, leg.session());
    let is_kept = settings.keeps(live.uid(), is_flagged(&ctx.answer, failure));
    if !is_kept || !live.capture_one(settings.max_per_session) {
        return;
    }
    capturing.request.came(received.handle.upload.bytes());
    history.capture(Capture {
        at: capturing.at,
        request_id: received.request_id.clone(),
        session_id: live.key().id.clone(),
        uid: live.uid(),
        method: received.method.as_str().into(),
        path: received.uri.path().into(),
        backend: ctx.route.as_ref().map(|route| route.backend.settings().name().clone()),
        model: ctx.call.model.as_deref().map(Box::from),
        status: ctx.answer.status,
        outcome: failure.map_or("ok", ErrorKind::code),
        redact: settings.redact,
        max_body: settings.max_body,
        request: capturing.request,
        answer: capturing.answer,
    });
}
