//! Writes errors as responses in the caller's dialect, and breaks off a response that has begun so that it cannot be
//! mistaken for a complete one.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;
use tracing::debug;

use super::dispatch::{named, unreachable};
use super::downstream::{LEG_CUT, UPSTREAM_IDLE};
use super::error_response::{INTERNAL_MESSAGE, challenge, error_body, head, socket_end, status_for};
use super::oauth_metadata;
use super::request_ctx::RequestCtx;
use super::security_headers::Writer;
use super::{error_response, govern, identify, proxy_status, upgrade, upstream_response};
use crate::error::{ErrorKind, Refusal};
use crate::identity::Client;
use crate::ids::REQUEST_ID;
use crate::protocol::facts::error_body::ErrorBody;
use crate::protocol::facts::rpc::Rpc;
use crate::protocol::wire::framing::Framing;
use crate::session::{CutReason, EndReason, Leg};
use crate::upstream::peer::proxy_failure;

/// Ends a request that failed: with a refusal if its answer has not begun, else by breaking it off. Returns the status that
/// the client received; 0 if none.
pub(super) async fn fail(session: &mut Session, error: &Error, ctx: &mut RequestCtx) -> u16 {
    let refusal = refusal_of(error, ctx);
    if let Some(received) = ctx.stage.received()
        && *error.esource() == ErrorSource::Downstream
        && *error.etype() != LEG_CUT
    {
        // The end of this request is unknown, so the next one cannot be found on this connection.
        received.handle.reuse.forbid();
    }
    debug!(%error, kind = %refusal.kind, "a request failed");
    if upstream_response::has_begun(session) {
        Box::pin(break_off(session, ctx, &refusal)).await;
    } else if refusal.kind != ErrorKind::ClientGone
        && let Err(error) = Box::pin(answer(session, ctx, &refusal)).await
    {
        debug!(%error, "the client is gone before its refusal");
    }
    let status = ctx.outcome.answer.status.unwrap_or(0);
    report(ctx, error, &refusal);
    ctx.outcome.failure = Some(Box::new(refusal));
    status
}

/// Returns why the request failed: the refusal that a step left, the cut of the leg, or Pingora's error.
pub(crate) fn refusal_of(error: &Error, ctx: &mut RequestCtx) -> Refusal {
    let of_gate = || ctx.stage.received().and_then(|received| received.handle.gate.take_refusal());
    if let Some(refusal) = of_gate().or_else(|| ctx.outcome.refusal.take()) {
        return *refusal;
    }
    let cut = ctx.stage.received().and_then(|received| received.handle.cut.reason());
    if let Some(reason) = cut {
        return cut_refusal(reason, ctx);
    }
    if let (Some(failure), Some(route)) = (proxy_failure(error), ctx.stage.route()) {
        return unreachable(&route.backend, ErrorKind::BackendUnavailable, &failure.to_string());
    }
    let upstream = ctx.stage.route().map(|route| named(&route.backend)).unwrap_or_default();
    match (error.etype(), error.esource()) {
        (etype, _) if *etype == UPSTREAM_IDLE => Refusal::new(
            ErrorKind::BackendTimeout,
            format!("the backend {upstream} was silent for longer than the configured time"),
        ),
        (ErrorType::WriteTimedout, ErrorSource::Downstream) => {
            Refusal::new(ErrorKind::ClientStalled, "the client does not read its answer")
        }
        (ErrorType::ReadTimedout, ErrorSource::Downstream) => {
            Refusal::new(ErrorKind::RequestTimeout, "the request body did not arrive in time")
        }
        (
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::H2Error,
            ErrorSource::Downstream,
        ) => Refusal::new(ErrorKind::ClientGone, "the client has gone"),
        (_, ErrorSource::Downstream) => {
            Refusal::new(ErrorKind::BadRequest, "the request is not valid HTTP/1.1 (RFC 9112)")
        }
        (ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout, _) => Refusal::new(
            ErrorKind::BackendTimeout,
            format!("the backend {upstream} did not accept the connection in time"),
        ),
        (etype, ErrorSource::Upstream) => Refusal::new(
            ErrorKind::BackendUnavailable,
            format!("the backend {upstream} cannot be reached or broke off: {}", etype.as_str()),
        ),
        _ => Refusal::new(ErrorKind::Internal, INTERNAL_MESSAGE),
    }
}

fn cut_refusal(reason: CutReason, ctx: &RequestCtx) -> Refusal {
    match reason {
        CutReason::Killed => Refusal::new(ErrorKind::SessionKilled, kill_notice(ctx, "Session killed")),
        CutReason::AgentKilled => Refusal::new(ErrorKind::AgentKilled, kill_notice(ctx, "Agent killed")),
        CutReason::TimedOut => {
            let why = ctx.stage.leg().and_then(|leg| leg.session().end_reason());
            let message = match why {
                Some(EndReason::IdleTimeout) => {
                    "nothing has moved in the session for too long (session.idle_timeout)"
                }
                Some(
                    EndReason::MaxDuration
                    | EndReason::CompletedAfter
                    | EndReason::IdleGap
                    | EndReason::Capacity
                    | EndReason::Killed
                    | EndReason::Shutdown,
                )
                | None => "the session has reached its longest duration (session.max_duration)",
            };
            Refusal::new(ErrorKind::SessionTimedOut, message)
        }
        CutReason::KeyRevoked => {
            identify::no_longer_accepted(ctx.stage.identified().map(|who| (&*who.caller, &who.received)))
        }
        CutReason::HostBlocked => {
            Refusal::new(ErrorKind::DomainBlocked, "the host is blocked now (security.filtering.domains)")
        }
        CutReason::Shutdown => Refusal::new(ErrorKind::ShuttingDown, "this gateway is shutting down"),
    }
}

/// Returns the notice of the kill order that cut the leg; `lifted` when the order is no longer in force.
fn kill_notice(ctx: &RequestCtx, lifted: &str) -> String {
    let order = ctx.stage.leg().and_then(Leg::kill_order);
    order.map_or_else(|| lifted.to_owned(), |order| order.notice())
}

/// Returns the JSON-RPC request; `None` before its body was read.
fn rpc(ctx: &RequestCtx) -> Option<&Rpc> {
    ctx.stage.identified()?.call.rpc.as_deref()
}

/// Whether the request is one to the forward proxy, and no backend has been chosen for it.
fn by_forward_proxy(ctx: &RequestCtx) -> bool {
    let is_forward = ctx
        .stage
        .received()
        .is_some_and(|received| received.forward.as_ref().is_some_and(|forward| !forward.is_intercepted));
    is_forward && ctx.stage.route().is_none_or(|route| route.is_direct)
}

/// Logs failures that an operator should look into.
fn report(ctx: &RequestCtx, error: &Error, refusal: &Refusal) {
    let request_id = ctx.stage.received().map_or("", |received| received.request_id.as_str());
    if matches!(refusal.kind, ErrorKind::BackendUnavailable | ErrorKind::BackendTimeout) {
        let proxy = ctx.stage.route().and_then(|route| route.backend.settings().egress().proxy.as_ref());
        let (proxy, why) = (proxy.map(tracing::field::display), refusal.detail.as_deref());
        tracing::warn!(request_id, proxy, why, %error, "{}", refusal.message);
    } else if refusal.kind == ErrorKind::Internal {
        tracing::error!(request_id, %error, "internal error");
    }
}

/// Sends a refusal as the response, whose head must not have been sent.
///
/// # Errors
/// The client cannot be written to.
pub(super) async fn answer(session: &mut Session, ctx: &mut RequestCtx, refusal: &Refusal) -> Result<()> {
    let dialect = ctx.stage.dialect();
    let status = {
        let client = match ctx.stage.identified() {
            Some(who) => who.caller.client.name.clone(),
            // A caller that is not accepted has a program, too.
            None => Client::recognise(&session.req_header().headers).name,
        };
        let is_call = dialect.is_json_rpc() && session.req_header().method == Method::POST;
        match by_forward_proxy(ctx) {
            true => proxy_status::status(error_response::status(refusal.kind)),
            false => status_for(refusal.kind, client.as_deref(), is_call),
        }
    };
    ctx.outcome.answer.status = Some(status.as_u16());
    let session_id = ctx.stage.leg().map(|leg| leg.session().key().id.clone());
    let session_id = session_id.or_else(|| ctx.outcome.named.clone());
    let request_id = ctx.stage.received().map_or("", |received| received.request_id.as_str());
    let error = ErrorBody {
        status: status.as_u16(),
        rpc: rpc(ctx),
        ..error_body(refusal, session_id.as_ref().map(|id| id.as_str()), request_id)
    };
    let body = Bytes::from(dialect.error_body(&error));
    let mut head = head(status, body.len(), refusal)?;
    head.insert_header(REQUEST_ID, request_id)?;
    if status == StatusCode::UNAUTHORIZED
        && let Some(received) = ctx.stage.received()
        && let Some(url) = oauth_metadata::location(received, &session.req_header().headers)
    {
        head.insert_header(
            WWW_AUTHENTICATE,
            format!("{}, resource_metadata=\"{url}\"", challenge(refusal.kind)),
        )?;
    }
    if by_forward_proxy(ctx) {
        proxy_status::announce(&mut head, refusal.kind)?;
    }
    govern::announce(&mut head, &ctx.admission, &ctx.app.clock)?;
    if let Some(received) = ctx.stage.received() {
        received.secure(&mut head, Writer::Gateway)?;
    }
    if let (Some(received), Some(id)) = (ctx.stage.received(), &session_id) {
        head.insert_header(received.handle.settings.identity.header().clone(), id.as_str())?;
    }
    if let Some(received) = ctx.stage.received()
        && !session.as_mut().is_body_done()
    {
        received.handle.reuse.forbid();
    }
    ctx.outcome.answer.sent = body.len() as u64;
    if let Some(capture) = &mut ctx.outcome.capture {
        capture.refused(&body);
    }
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(body), true).await?;
    session.as_mut().finish_body().await
}

/// Breaks off a response that has begun. A stream whose dialect has an error event ends with it; any other response ends
/// inside its framing, and the connection is closed. Neither can be taken for a complete response.
async fn break_off(session: &mut Session, ctx: &mut RequestCtx, refusal: &Refusal) {
    let handle = ctx.stage.received().map(|received| Arc::clone(&received.handle));
    // If this future is dropped while the last event is being written, the connection must not be used again.
    let was_reusable = handle.as_ref().is_some_and(|handle| handle.reuse.forbid());
    let has_length = session.response_written().is_some_and(|head| head.headers.contains_key(CONTENT_LENGTH));
    let written = session.as_ref().body_bytes_sent() as u64;
    let ending = stream_end(ctx, refusal, written).filter(|_| !has_length);
    let ended = match ending {
        Some(event) => {
            ctx.outcome.answer.sent += event.len() as u64;
            if let Some(capture) = &mut ctx.outcome.capture {
                capture.download(&event);
            }
            session.write_response_body(Some(event), true).await
        }
        None => Error::e_explain(LEG_CUT, "no native end"),
    };
    match ended {
        // The framing is complete, so a client that keeps connections alive may send its next request on this one.
        Ok(()) => {
            let is_framed = session.as_mut().finish_body().await.is_ok();
            if let Some(handle) = handle
                && is_framed
                && was_reusable
                && ctx.stage.routed().is_none_or(|routed| routed.socket.is_none())
            {
                handle.reuse.permit();
            }
        }
        Err(_) => session.as_mut().shutdown().await,
    }
}

/// Returns the dialect's error event; `None` when the client has gone, the length of the response is fixed, or its body
/// is not a stream of events.
fn stream_end(ctx: &RequestCtx, refusal: &Refusal, written: u64) -> Option<Bytes> {
    if matches!(refusal.kind, ErrorKind::ClientGone | ErrorKind::ClientStalled) {
        return None;
    }
    let leg = ctx.stage.leg()?;
    let session_id = Some(leg.session().key().id.as_str());
    let request_id = ctx.stage.received()?.request_id.as_str();
    let error = ErrorBody { rpc: rpc(ctx), ..error_body(refusal, session_id, request_id) };
    if ctx.stage.routed().is_some_and(|routed| routed.socket.is_some()) {
        return upgrade::closing_frames(ctx, socket_end(refusal.kind)?, &error, written);
    }
    let framing = ctx.outcome.answer.framing?;
    // Without a tap, events are assumed to be complete; inside a JSON document there is no boundary.
    let answer = &ctx.outcome.answer;
    let of_tap = || answer.tap.as_ref().map_or(framing != Framing::Json, |tap| tap.at_boundary());
    let at_boundary = answer.judging.as_ref().and_then(|judging| judging.is_between()).unwrap_or_else(of_tap);
    ctx.stage.dialect().stream_end(framing, at_boundary, &error).map(Bytes::from)
}
