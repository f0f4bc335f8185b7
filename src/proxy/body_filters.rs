//! Step 8: forwards both bodies. Counts each chunk and feeds it to the tap; no chunk passes after a cut.

use bytes::Bytes;
use http::HeaderMap;
use pingora_core::{Error, Result};
use tokio::time::Instant;

use super::answer::Answer;
use super::compressing::Compressing;
use super::downstream::LEG_CUT;
use super::endpoints::Endpoint;
use super::error_response::REFUSED;
use super::judge_answer::{self, With};
use super::read;
use super::request_ctx::{Ends, Outcome, RequestCtx, Routed};
use super::state::ProxyState;
use super::upgrade::Frames;
use super::{govern, judge_upload, next_step, spending, upgrade};
use crate::capture::BodyCapture;
use crate::protocol::wire::event_tail::EventTail;

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

/// Forwards a chunk of the response body to the client; what must not leave yet is withheld. `headers` are the request's.
///
/// # Errors
/// The leg was cut, a rule refuses the answer, a budget has ended, or the request has not been routed.
pub(crate) fn download(
    ctx: &mut RequestCtx,
    headers: &HeaderMap,
    chunk: &mut Option<Bytes>,
    end: bool,
) -> Result<()> {
    let RequestCtx { app, stage, outcome, admission, reservation, .. } = ctx;
    let Routed { who, leg, route, socket, digests, .. } = stage.routed_mut()?;
    let (handle, ends) = (&who.received.handle, Ends { who, leg, route, digests });
    if handle.cut.reason().is_some() {
        return Error::e_explain(LEG_CUT, "the leg was cut");
    }
    let came = chunk.is_some().then(Instant::now);
    if let Some(now) = came {
        handle.activity.record_withheld_at(now);
        leg.session().touch(app.clock.at(now.into_std()));
    }
    let Outcome { answer, capture, refusal, .. } = outcome;
    let Answer { judging, tap, text_bytes, sent, tail, endpoint, compressing, .. } = answer;
    let mut leaving = Leaving { app, ends, sent, capture, tail, endpoint, compressing };
    let (socket, reservation) = (socket.as_deref_mut(), reservation.as_mut());
    let mut frames = socket.map(|socket| Frames { app, ends, socket, admission, reservation });
    if let Some(judging) = judging {
        let with = With { app, ends, headers, text_bytes };
        let leaves = &mut |bytes: &[u8]| leaving.count(bytes);
        let (tap, frames) = (tap.as_mut(), frames.as_mut());
        let passed = judge_answer::pass(judging, with, tap, frames, chunk.take(), end, leaves);
        match passed {
            Ok(leaves) => *chunk = Some(leaves),
            Err(refused) => {
                *refusal = Some(refused);
                return Error::e_explain(REFUSED, "a rule refuses the answer");
            }
        }
    } else if let Some(chunk) = chunk {
        if let Some(tap) = tap {
            tap.listen(chunk, &mut |event| *text_bytes += event.text_bytes());
        }
        leaving.count(chunk);
        if let Some(frames) = &mut frames {
            frames.read_all(chunk);
        }
    }
    leaving.compress(chunk, end)?;
    if let Some(now) = came.filter(|_| chunk.as_ref().is_some_and(|leaves| !leaves.is_empty())) {
        handle.activity.record_at(now);
    }
    if let Some(tail) = &answer.tail {
        let silence = handle.settings.timeouts.stream_keep_alive;
        handle.activity.allow_comments(silence.filter(|_| tail.at_boundary() && !end));
    }
    answer.whole |= end;
    if let Some(refusal) = next_step::hold(ctx) {
        ctx.outcome.refusal = Some(Box::new(refusal));
        return Error::e_explain(REFUSED, "a budget has ended");
    }
    Ok(())
}

/// What is told of the bytes of an answer that leave.
pub(super) struct Leaving<'a> {
    app: &'a ProxyState,
    ends: Ends<'a>,
    sent: &'a mut u64,
    capture: &'a mut Option<Box<BodyCapture>>,
    tail: &'a mut Option<EventTail>,
    endpoint: &'a mut Option<Box<Endpoint>>,
    compressing: &'a mut Option<Box<Compressing>>,
}

impl Leaving<'_> {
    /// Counts how many bytes leave.
    fn add_bytes(&mut self, bytes: usize) {
        self.ends.leg.session().add_bytes_out(bytes as u64);
        *self.sent += bytes as u64;
    }

    /// Compresses a chunk, if the answer is compressed.
    fn compress(&mut self, chunk: &mut Option<Bytes>, end: bool) -> Result<()> {
        if let Some(compressing) = self.compressing {
            let leaves = compressing.pass(chunk.as_deref().unwrap_or_default(), end)?;
            self.add_bytes(leaves.len());
            *chunk = Some(leaves);
        }
        Ok(())
    }

    /// Counts bytes that leave, or will when they are compressed; what is stored is what the backend sent.
    pub(super) fn count(&mut self, bytes: &[u8]) {
        let Ends { who, route, .. } = self.ends;
        if self.compressing.is_none() {
            self.add_bytes(bytes.len());
        }
        if let Some(capture) = &mut self.capture {
            capture.download(bytes);
        }
        if let Some(tail) = &mut self.tail {
            tail.feed(bytes);
        }
        if let Some(endpoint) = &mut self.endpoint {
            let backend = route.backend.settings().name();
            endpoint.feed(bytes, &self.app.endpoints, &who.caller.principal, backend);
        }
    }
}
