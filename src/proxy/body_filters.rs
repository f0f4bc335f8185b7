//! Step 8: forwards both bodies. Counts each chunk and feeds it to the tap; no chunk passes after a cut.

use bytes::Bytes;
use http::HeaderMap;
use pingora_core::{Error, Result};
use tokio::time::Instant;

use super::downstream::LEG_CUT;
use super::error_response::REFUSED;
use super::read;
use super::request_ctx::RequestCtx;
use super::{govern, judge_upload, next_step, spending, upgrade};
use crate::protocol::answer::events::Event;

/// Forwards a chunk of the request body to the backend. `headers` are the request's.
///
/// # Errors
/// The leg was cut, a streamed body exceeds its limit or names a model that is refused, or the request has not been
/// routed.
pub(crate) fn upload(
    ctx: &mut RequestCtx,
    headers: &HeaderMap,
    body: &mut Option<Bytes>,
    end: bool,
) -> Result<()> {
    let RequestCtx { app, stage, outcome, admission, reservation, .. } = ctx;
    let routed = stage.routed_mut()?;
    let Some(chunk) = body else {
        return if end { judge_upload::pass_on(app, routed, outcome, headers, None) } else { Ok(()) };
    };
    let received = &routed.who.received;
    let session = routed.leg.session();
    if received.handle.cut.reason().is_some() {
        return Error::e_explain(LEG_CUT, "the leg was cut");
    }
    let now = app.clock.now();
    session.touch(now);
    if routed.socket.is_some() {
        session.add_bytes_in(chunk.len() as u64);
        let spent = admission.spent_tokens(now.as_millis()).map(|refused| govern::refusal(&refused));
        let spent = spent.or_else(|| spending::overdrawn(app, routed, reservation.as_mut()));
        return upgrade::on_client_bytes(routed, outcome, spent, chunk);
    }
    // What is held is sent again with each attempt; it was counted and limited while it was read.
    if !received.handle.upload.is_replay() {
        if let Some(capture) = &mut outcome.capture {
            capture.upload(chunk);
        }
        session.add_bytes_in(chunk.len() as u64);
        let limit = read::streamed_limit(received, routed.route.backend.settings().kind());
        if received.handle.upload.bytes() > limit as u64 {
            outcome.refusal = Some(Box::new(read::too_large(limit)));
            return Error::e_explain(REFUSED, "the body is too large");
        }
        read::read_on(routed, outcome, headers, chunk)?;
        judge_upload::pass_on(app, routed, outcome, headers, Some(chunk))?;
        return if end { judge_upload::pass_on(app, routed, outcome, headers, None) } else { Ok(()) };
    }
    // What is held is one chunk.
    if let Some(rewritten) = routed.rewritten.take() {
        *body = Some(rewritten);
    }
    Ok(())
}

/// Forwards a chunk of the response body to the client.
///
/// # Errors
/// The leg was cut, a budget has ended, or the request has not been routed.
pub(crate) fn download(ctx: &mut RequestCtx, chunk: &Option<Bytes>, end: bool) -> Result<()> {
    let RequestCtx { app, stage, outcome, admission, reservation, .. } = ctx;
    let routed = stage.routed_mut()?;
    let handle = &routed.who.received.handle;
    if handle.cut.reason().is_some() {
        return Error::e_explain(LEG_CUT, "the leg was cut");
    }
    let answer = &mut outcome.answer;
    if let Some(chunk) = chunk {
        let now = Instant::now();
        handle.activity.record_at(now);
        routed.leg.session().touch(app.clock.at(now.into_std()));
        routed.leg.session().add_bytes_out(chunk.len() as u64);
        answer.sent += chunk.len() as u64;
        if let Some(tap) = &mut answer.tap {
            let text_bytes = &mut answer.text_bytes;
            tap.listen(chunk, &mut |event| match event {
                Event::Text(text) | Event::Reasoning(text) => *text_bytes += text.len() as u64,
                Event::Call(call) => *text_bytes += call.arguments.len() as u64,
                Event::Stop(_) | Event::Usage(_) => {}
            });
        }
        if let Some(capture) = &mut outcome.capture {
            capture.download(chunk);
        }
        if let Some(tail) = &mut answer.tail {
            tail.feed(chunk);
        }
        if let Some(endpoint) = &mut answer.endpoint {
            let (caller, backend) = (&routed.who.caller.principal, routed.route.backend.settings().name());
            endpoint.feed(chunk, &app.endpoints, caller, backend);
        }
    }
    if let Some(tail) = &answer.tail {
        let silence = handle.settings.timeouts.stream_keep_alive;
        handle.activity.allow_comments(silence.filter(|_| tail.at_boundary() && !end));
    }
    answer.whole |= end;
    if let Some(chunk) = chunk {
        upgrade::on_backend_bytes(app, routed, admission, reservation.as_mut(), chunk);
    }
    if let Some(refusal) = next_step::hold(ctx) {
        ctx.outcome.refusal = Some(Box::new(refusal));
        return Error::e_explain(REFUSED, "a budget has ended");
    }
    Ok(())
}
