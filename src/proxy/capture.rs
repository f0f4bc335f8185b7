//! Captures bodies while they pass, and hands them to the history when the request ends. None of this exists while
//! `capture.mode` is `off`, nor for WebSockets.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::facts::RequestFacts;
use super::request_ctx::{Outcome, RequestCtx, Stage};
use super::state::ProxyState;
use crate::capture::{BodyCapture, Capture};
use crate::protocol::Dialect;
use crate::summary::RequestSummary;

/// Starts to capture a request that belongs to a session and will be answered by a backend or refused. A request that
/// has its answer already (the merged model list) is not captured.
pub(crate) fn begin(session: &Session, ctx: &mut RequestCtx) {
    let (Some(received), Some(leg)) = (ctx.stage.received(), ctx.stage.leg()) else { return };
    let settings = &received.handle.settings.capture;
    let is_answered = ctx.outcome.answer.status.is_some();
    if !settings.is_on() || is_answered || received.socket || ctx.app.history.is_none() {
        return;
    }
    let live = leg.session();
    // An MCP server may name another session in its answer.
    let may_move = ctx.stage.dialect() == Dialect::MCP;
    if live.captured() >= settings.max_per_session || !(may_move || settings.may_keep(live.uid())) {
        return;
    }
    let Some(who) = ctx.stage.identified() else { return };
    let headers = &session.req_header().headers;
    let is_wanted = settings.wants(|when| {
        let forward = Some((leg, ctx.stage.route()));
        when.truth(&RequestFacts { forward, ..RequestFacts::new(who, headers, &ctx.app.clock) })
    });
    if !is_wanted {
        return;
    }
    let mut capturing = BodyCapture::begin(settings.max_body, kinds(&session.req_header().headers));
    if let Some(held) = session.as_ref().get_retry_buffer() {
        capturing.upload(&held);
    }
    ctx.outcome.capture = Some(Box::new(capturing));
}

/// Records what the head of the response says about its body.
pub(crate) fn answers(outcome: &mut Outcome, head: &ResponseHeader) {
    if let Some(capturing) = &mut outcome.capture {
        (capturing.answer.media, capturing.answer.coding) = kinds(&head.headers);
    }
}

/// Returns media type and coding of a body.
fn kinds(headers: &HeaderMap) -> (Option<Box<str>>, Option<Box<str>>) {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(Box::from);
    (text(CONTENT_TYPE), text(CONTENT_ENCODING))
}

/// Returns whether a finished request failed, or its backend reported a fault of its own. The one place that decides it.
fn is_flagged(summary: &RequestSummary) -> bool {
    summary.error.is_some() || summary.status.is_some_and(|status| status >= 500)
}

/// Hands the bodies of a finished request to the history, if they are to be stored; never waits.
pub(crate) fn finish(app: &ProxyState, stage: &Stage, outcome: &mut Outcome, summary: &RequestSummary) {
    let Some(mut capturing) = outcome.capture.take() else { return };
    let (Some(received), Some(leg), Some(history)) = (stage.received(), stage.leg(), &app.history) else {
        return;
    };
    let (settings, session) = (&received.handle.settings.capture, leg.session());
    let is_kept = settings.keeps(session.uid(), is_flagged(summary));
    if !is_kept || !session.capture_one(settings.max_per_session) {
        return;
    }
    capturing.request.came(summary.bytes_in);
    history.capture(Capture {
        at: capturing.at,
        request_id: summary.request_id.clone(),
        session_id: session.key().id.clone(),
        uid: session.uid(),
        method: summary.method.as_str().into(),
        path: summary.uri.path().into(),
        backend: summary.backend.clone(),
        model: summary.model.as_deref().map(Box::from),
        status: summary.status,
        outcome: summary.outcome,
        queue: summary.queue,
        redact: settings.redact,
        max_body: settings.max_body,
        request: capturing.request,
        answer: capturing.answer,
    });
}
