//! Step 8: bytes pass. Each chunk is counted and looked at in passing, and none passes after a cut.

use bytes::Bytes;
use pingora_core::{Error, Result};

use super::downstream::LEG_CUT;
use super::read;
use super::refuse::REFUSED;
use super::request_ctx::RequestCtx;
use super::upgrade;

/// A chunk of the request's body, on its way to the backend.
///
/// # Errors
/// The leg was cut, or a body that is not held grew over its limit.
pub(crate) fn upload(ctx: &mut RequestCtx, chunk: &Option<Bytes>) -> Result<()> {
    let (Some(received), Some(leg), Some(chunk)) = (&ctx.received, &ctx.leg, chunk) else {
        return Ok(());
    };
    if received.handle.cut.reason().is_some() {
        return Error::e_explain(LEG_CUT, "the leg was cut");
    }
    leg.session().touch(ctx.app.clock.now());
    if ctx.socket.is_some() {
        leg.session().add_bytes_in(chunk.len() as u64);
        return upgrade::asked(ctx, chunk);
    }
    // Each attempt sends a held body again; it was counted and limited while it was read.
    if !received.handle.upload.is_buffered() {
        if let Some(capture) = &mut ctx.capture {
            capture.upload(chunk);
        }
        leg.session().add_bytes_in(chunk.len() as u64);
        let limit = read::body_limit(received);
        if received.handle.upload.bytes() > limit as u64 {
            ctx.refusal = Some(read::too_large(limit));
            return Error::e_explain(REFUSED, "the body is too large");
        }
    }
    Ok(())
}

/// A chunk of the answer's body, on its way to the client.
///
/// # Errors
/// The leg was cut.
pub(crate) fn download(ctx: &mut RequestCtx, chunk: &Option<Bytes>, end: bool) -> Result<()> {
    let (Some(received), Some(leg)) = (&ctx.received, &ctx.leg) else {
        return Ok(());
    };
    if received.handle.cut.reason().is_some() {
        return Error::e_explain(LEG_CUT, "the leg was cut");
    }
    if let Some(chunk) = chunk {
        received.handle.activity.record();
        leg.session().touch(ctx.app.clock.now());
        leg.session().add_bytes_out(chunk.len() as u64);
        ctx.answer.sent += chunk.len() as u64;
        if let Some(tap) = &mut ctx.answer.tap {
            tap.feed(chunk);
        }
        if let Some(capture) = &mut ctx.capture {
            capture.download(chunk);
        }
        if let Some(tail) = &mut ctx.answer.tail {
            tail.feed(chunk);
        }
    }
    if let Some(tail) = &ctx.answer.tail {
        let silence = received.handle.settings.timeouts.stream_keep_alive;
        received.handle.activity.allow_comments(silence.filter(|_| tail.at_boundary() && !end));
    }
    if let Some(chunk) = chunk
        && ctx.socket.is_some()
    {
        upgrade::answered(ctx, chunk);
    }
    ctx.answer.whole |= end;
    Ok(())
}
