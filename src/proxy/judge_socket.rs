//! Judges the messages of a client over a WebSocket: each as a request of its own, when it is whole and before its last frame is
//! forwarded.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use pingora_core::{Error, Result};

use super::ask::decide_all;
use super::downstream::LEG_CUT;
use super::error_response::{REFUSED, Reject};
use super::judge::{Decision, refusal};
use super::judge_request::{Body, judge};
use super::request_ctx::RequestCtx;
use crate::error::ErrorKind;

/// Judges the messages that end in the next bytes of a client.
///
/// # Errors
/// A rule refuses one of them, or the leg was cut while it waited.
pub(super) async fn on_client_bytes(ctx: &mut RequestCtx, headers: &HeaderMap, chunk: &Bytes) -> Result<()> {
    let routed = ctx.stage.routed_mut()?;
    let Some(mut messages) = routed.messages.take() else { return Ok(()) };
    for message in messages.read(chunk) {
        let message = message.map_or(Body::Unreadable, |message| Body::Json(Cow::Owned(message)));
        let cut = Arc::clone(&routed.who.received.handle.cut);
        let decided = judge(&ctx.app, routed, headers, &message);
        let decisions = match decided {
            Ok(decisions) => decisions,
            Err(Reject::Refused(refused)) => vec![Decision::Refuse(refused)],
            Err(Reject::Io(error)) => return Err(error),
        };
        let mut all = Vec::new();
        for decision in decisions {
            match decision {
                Decision::Ask(asking) => tokio::select! {
                    _ = cut.soft() => return Error::e_explain(LEG_CUT, "the leg was cut"),
                    decided = Box::pin(decide_all(asking)) => all.extend(decided),
                },
                other => all.push(other),
            }
        }
        for decision in all {
            match decision {
                Decision::Pass | Decision::Ask(_) => {}
                Decision::Wait(time) => {
                    tokio::select! {
                        _ = cut.soft() => return Error::e_explain(LEG_CUT, "the leg was cut"),
                        () = tokio::time::sleep(time) => {}
                    }
                }
                Decision::Refuse(refused) => {
                    ctx.outcome.refusal = Some(refused);
                    return Error::e_explain(REFUSED, "what the socket asks for is refused by a rule");
                }
                Decision::Hold(held) => {
                    let message =
                        "a message of a WebSocket cannot wait for an approval: send it as a request";
                    let refused = refusal(&held.rule, message, ErrorKind::PolicyBlocked);
                    ctx.outcome.refusal = Some(Box::new(refused));
                    return Error::e_explain(REFUSED, "what the socket asks for waits for an approval");
                }
            }
        }
    }
    routed.messages = Some(messages);
    Ok(())
}
