//! Step 8: bytes pass. Each chunk is counted and looked at in passing, and none passes after a cut.

use bytes::Bytes;
use pingora_core::{Error, Result};

use super::downstream::LEG_CUT;
use super::exchange::Exchange;
use super::read;
use super::refuse::REFUSED;
use super::upgrade;

/// A chunk of the request's body, on its way to the backend.
///
/// # Errors
/// The leg was cut, or a body that is not held grew over its limit.
pub(crate) fn upload(exchange: &mut Exchange, chunk: &Option<Bytes>) -> Result<()> {
    let (Some(arrival), Some(leg), Some(chunk)) = (&exchange.arrival, &exchange.leg, chunk) else {
        return Ok(());
    };
    if arrival.handle.cut.reason().is_some() {
        return Error::e_explain(LEG_CUT, "the leg was cut");
    }
    leg.session().touch(exchange.house.clock.now());
    if exchange.socket.is_some() {
        leg.session().add_bytes_in(chunk.len() as u64);
        return upgrade::asked(exchange, chunk);
    }
    // Each attempt sends a held body again; it was counted and limited while it was read.
    if !arrival.handle.upload.is_buffered() {
        if let Some(capture) = &mut exchange.capture {
            capture.upload(chunk);
        }
        leg.session().add_bytes_in(chunk.len() as u64);
        let limit = read::body_limit(arrival);
        if arrival.handle.upload.bytes() > limit as u64 {
            exchange.refusal = Some(read::too_large(limit));
            return Error::e_explain(REFUSED, "the body is too large");
        }
    }
    Ok(())
}

/// A chunk of the answer's body, on its way to the client.
///
/// # Errors
/// The leg was cut.
pub(crate) fn download(exchange: &mut Exchange, chunk: &Option<Bytes>, end: bool) -> Result<()> {
    let (Some(arrival), Some(leg)) = (&exchange.arrival, &exchange.leg) else {
        return Ok(());
    };
    if arrival.handle.cut.reason().is_some() {
        return Error::e_explain(LEG_CUT, "the leg was cut");
    }
    if let Some(chunk) = chunk {
        arrival.handle.activity.record();
        leg.session().touch(exchange.house.clock.now());
        leg.session().add_bytes_out(chunk.len() as u64);
        exchange.answer.sent += chunk.len() as u64;
        if let Some(tap) = &mut exchange.answer.tap {
            tap.feed(chunk);
        }
        if let Some(capture) = &mut exchange.capture {
            capture.download(chunk);
        }
        if let Some(tail) = &mut exchange.answer.tail {
            tail.feed(chunk);
        }
    }
    if let Some(tail) = &exchange.answer.tail {
        let silence = arrival.handle.snapshot.timeouts.stream_keep_alive;
        arrival.handle.activity.allow_comments(silence.filter(|_| tail.at_boundary() && !end));
    }
    if let Some(chunk) = chunk
        && exchange.socket.is_some()
    {
        upgrade::answered(exchange, chunk);
    }
    exchange.answer.whole |= end;
    Ok(())
}
