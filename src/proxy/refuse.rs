//! The one place where an error becomes a response: its status, its body in the caller's dialect, and how a response
//! that has begun is aborted so that it cannot be mistaken for a complete one.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tracing::debug;

use super::downstream::{LEG_CUT, UPSTREAM_IDLE};
use super::receive::REQUEST_ID;
use super::request_ctx::RequestCtx;
use super::upgrade;
use crate::error::{ErrorKind, Refusal};
use crate::protocol::Dialect;
use crate::protocol::facts::error_body::{ErrorBody, ErrorClass};
use crate::protocol::wire::framing::Framing;
use crate::session::CutReason;
use crate::session::{EndReason, Leg};

/// The error with which a step stops Pingora after it has left its refusal in the ctx.
pub(crate) const REFUSED: ErrorType = ErrorType::Custom("refused");

/// Message of an internal error.
pub(crate) const OUR_FAULT: &str = "the gateway failed; its log says why";

/// Why a step rejects a request.
#[derive(Debug)]
pub(crate) enum Reject {
    /// The request is refused.
    Refused(Refusal),
    /// A connection failed, or the leg was cut.
    Io(Box<Error>),
}

impl From<Refusal> for Reject {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Box<Error>> for Reject {
    fn from(error: Box<Error>) -> Self {
        Self::Io(error)
    }
}

/// The status of a refusal (surface.md, section 5). A kill is 403: SDKs repeat 408, 409, 429 and 5xx.
pub(crate) fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::BadRequest
        | ErrorKind::HeaderMismatch
        | ErrorKind::UnknownBackend
        | ErrorKind::SessionRequired => StatusCode::BAD_REQUEST,
        ErrorKind::NotSupported => StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
        ErrorKind::UriTooLong => StatusCode::URI_TOO_LONG,
        ErrorKind::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ErrorKind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::RequestTimeout | ErrorKind::ClientGone | ErrorKind::ClientStalled => {
            StatusCode::REQUEST_TIMEOUT
        }
        ErrorKind::NoRoute => StatusCode::NOT_FOUND,
        ErrorKind::SessionKilled
        | ErrorKind::AgentKilled
        | ErrorKind::SessionTimedOut
        | ErrorKind::SessionUnreadable
        | ErrorKind::PolicyBlocked
        | ErrorKind::OriginRefused => StatusCode::FORBIDDEN,
        ErrorKind::SessionStartRate => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::SessionCapacity | ErrorKind::StoreUnavailable | ErrorKind::ShuttingDown => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorKind::BackendUnavailable => StatusCode::BAD_GATEWAY,
        ErrorKind::BackendTimeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn notice_kind(kind: ErrorKind) -> ErrorClass {
    match kind {
        ErrorKind::SessionKilled
        | ErrorKind::AgentKilled
        | ErrorKind::SessionTimedOut
        | ErrorKind::SessionUnreadable
        | ErrorKind::PolicyBlocked
        | ErrorKind::OriginRefused => ErrorClass::Permission,
        ErrorKind::HeaderMismatch => ErrorClass::HeaderMismatch,
        ErrorKind::BodyTooLarge | ErrorKind::UriTooLong | ErrorKind::HeadersTooLarge => ErrorClass::TooLarge,
        ErrorKind::NoRoute => ErrorClass::NotFound,
        ErrorKind::SessionStartRate => ErrorClass::RateLimit,
        ErrorKind::SessionCapacity | ErrorKind::StoreUnavailable | ErrorKind::ShuttingDown => {
            ErrorClass::Overloaded
        }
        ErrorKind::BackendTimeout | ErrorKind::RequestTimeout => ErrorClass::Timeout,
        ErrorKind::BackendUnavailable | ErrorKind::Internal => ErrorClass::Api,
        ErrorKind::BadRequest
        | ErrorKind::NotSupported
        | ErrorKind::ExpectationFailed
        | ErrorKind::UnknownBackend
        | ErrorKind::SessionRequired
        | ErrorKind::ClientGone
        | ErrorKind::ClientStalled => ErrorClass::InvalidRequest,
    }
}

/// Whether the same request would be refused again: SDKs made by Stainless obey `x-should-retry`.
fn is_final(kind: ErrorKind) -> bool {
    notice_kind(kind) == ErrorClass::Permission
}

/// How a socket is closed.
#[derive(Clone, Copy)]
pub(crate) struct SocketEnd {
    /// The code of the Close frame (RFC 6455, 7.4.1). SDKs connect again after 1001, not after 1008.
    pub(crate) code: u16,
    /// The status in the error event of the responses API. Codex stops on 400 and repeats after all others.
    pub(crate) status: u16,
}

/// The end of a socket for this reason; `None` where the connection is just cut, as the backend's was.
fn socket_end(kind: ErrorKind) -> Option<SocketEnd> {
    if is_final(kind) {
        return Some(SocketEnd { code: 1008, status: 400 });
    }
    let is_answered = matches!(kind, ErrorKind::ShuttingDown | ErrorKind::BackendTimeout);
    is_answered.then(|| SocketEnd { code: 1001, status: status(kind).as_u16() })
}

/// The status on which a program stops at once, where that is known (attacks.md, "What clients do"): on each
/// other one it asks again. The kinds that this is for are final.
const STOPS_ON: [(&str, StatusCode); 2] =
    [("claude-code", StatusCode::FORBIDDEN), ("codex", StatusCode::BAD_REQUEST)];

/// The status of a refusal for this program.
fn status_for(kind: ErrorKind, client: Option<&str>) -> StatusCode {
    let stops_on = STOPS_ON.iter().find(|(name, _)| is_final(kind) && client == Some(*name));
    stops_on.map_or_else(|| status(kind), |(_, stop)| *stop)
}

/// What went wrong, from Pingora's error and what we know of the leg.
pub(crate) fn refusal_of(error: &Error, ctx: &mut RequestCtx) -> Refusal {
    if let Some(refusal) = ctx.outcome.refusal.take() {
        return refusal;
    }
    let cut = ctx.stage.received().and_then(|received| received.handle.cut.reason());
    if let Some(reason) = cut {
        return cut_refusal(reason, ctx);
    }
    let upstream = ctx.stage.route().map_or("", |route| route.backend.settings().name().as_str());
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
        _ => Refusal::new(ErrorKind::Internal, OUR_FAULT),
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
        CutReason::Shutdown => Refusal::new(ErrorKind::ShuttingDown, "this gateway is shutting down"),
    }
}

/// The notice of the order that cut the leg; `lifted` when it is no longer in force.
fn kill_notice(ctx: &RequestCtx, lifted: &str) -> String {
    let order = ctx.stage.leg().and_then(Leg::kill_order);
    order.map_or_else(|| lifted.to_owned(), |order| order.notice())
}

/// The refusal in the words of its kind, to be put into a dialect.
fn notice<'a>(refusal: &'a Refusal, session_id: Option<&'a str>, request_id: &'a str) -> ErrorBody<'a> {
    ErrorBody {
        code: refusal.kind.code(),
        kind: notice_kind(refusal.kind),
        status: status(refusal.kind).as_u16(),
        message: &refusal.message,
        session_id,
        request_id,
        rpc_id: None,
    }
}

/// The id of the JSON-RPC request that is answered, once its body was read.
fn rpc_id(ctx: &RequestCtx) -> Option<&str> {
    ctx.stage.identified()?.call.rpc.as_ref()?.id.as_deref()
}

/// Answers with a refusal: the head is not sent yet.
///
/// # Errors
/// The client cannot be written to.
pub(crate) async fn answer(session: &mut Session, ctx: &mut RequestCtx, refusal: &Refusal) -> Result<()> {
    let client = ctx.stage.identified().and_then(|who| who.caller.client.name.as_deref());
    let status = status_for(refusal.kind, client);
    ctx.outcome.answer.status = Some(status.as_u16());
    let dialect = ctx.stage.dialect();
    let session_id = ctx.stage.leg().map(|leg| leg.session().key().id.clone());
    let session_id = session_id.or_else(|| ctx.outcome.named.clone());
    let request_id = ctx.stage.received().map_or("", |received| received.request_id.as_str());
    let notice = ErrorBody {
        status: status.as_u16(),
        rpc_id: rpc_id(ctx),
        ..notice(refusal, session_id.as_ref().map(|id| id.as_str()), request_id)
    };
    let body = Bytes::from(dialect.error_body(&notice));
    let mut head = head(status, body.len(), refusal)?;
    head.insert_header(REQUEST_ID, request_id)?;
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

/// Answers on a connection whose request could not even be read.
pub(crate) async fn bare(session: &mut ServerSession, refusal: &Refusal) {
    let request_id = crate::ids::RequestId::fresh();
    let notice = notice(refusal, None, request_id.as_str());
    let body = Bytes::from(Dialect::PLAIN.error_body(&notice));
    let written = async {
        let mut head = head(status(refusal.kind), body.len(), refusal)?;
        head.insert_header(REQUEST_ID, request_id.as_str())?;
        session.set_keepalive(None);
        session.write_response_header(Box::new(head)).await?;
        session.write_response_body(body, true).await
    };
    if let Err(error) = written.await {
        debug!(%error, "the client of a broken request is gone");
    }
}

fn head(status: StatusCode, length: usize, refusal: &Refusal) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(status, Some(8))?;
    head.insert_header(CONTENT_TYPE, "application/json")?;
    head.insert_header(CONTENT_LENGTH, length)?;
    head.insert_header(CACHE_CONTROL, "no-store")?;
    if is_final(refusal.kind) {
        head.insert_header("x-should-retry", "false")?;
    }
    if let Some(wait) = refusal.retry_after {
        // Whole seconds (RFC 9110, 10.2.3), rounded up.
        head.insert_header(RETRY_AFTER, wait.as_secs() + u64::from(wait.subsec_nanos() > 0))?;
    }
    Ok(head)
}

/// Breaks off an answer that has begun. A stream whose dialect has an error event ends with one; all
/// others end in the middle of their framing, and with them their connection. Neither looks whole.
pub(crate) async fn break_off(session: &mut Session, ctx: &mut RequestCtx, refusal: &Refusal) {
    let handle = ctx.stage.received().map(|received| Arc::clone(&received.handle));
    // Whoever is dropped in the middle of the last event leaves a connection that nothing may follow on.
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
        // A client that keeps connections sends its next request on this one, and must have an answer to it.
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

/// The native last event; none when the client is gone, the length of the answer is fixed, or the
/// body is not a stream of events.
fn stream_end(ctx: &RequestCtx, refusal: &Refusal, written: u64) -> Option<Bytes> {
    if matches!(refusal.kind, ErrorKind::ClientGone | ErrorKind::ClientStalled) {
        return None;
    }
    let leg = ctx.stage.leg()?;
    let session_id = Some(leg.session().key().id.as_str());
    let request_id = ctx.stage.received()?.request_id.as_str();
    let notice = ErrorBody { rpc_id: rpc_id(ctx), ..notice(refusal, session_id, request_id) };
    if ctx.stage.routed().is_some_and(|routed| routed.socket.is_some()) {
        return upgrade::closing_frames(ctx, socket_end(refusal.kind)?, &notice, written);
    }
    let framing = ctx.outcome.answer.framing?;
    // Of events that are not read the boundary is guessed; in the middle of one JSON text there is none.
    let at_boundary =
        ctx.outcome.answer.tap.as_ref().map_or(framing != Framing::Json, |tap| tap.at_boundary());
    ctx.stage.dialect().stream_end(framing, at_boundary, &notice).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_programs_are_refused_with_the_status_on_which_they_stop() {
        let final_kinds = [
            ErrorKind::SessionKilled,
            ErrorKind::AgentKilled,
            ErrorKind::SessionTimedOut,
            ErrorKind::PolicyBlocked,
        ];
        for kind in final_kinds {
            let of = |client| status_for(kind, client).as_u16();
            assert_eq!((of(Some("codex")), of(Some("claude-code"))), (400, 403), "{kind}");
            assert_eq!((of(Some("opencode")), of(Some("")), of(None)), (403, 403, 403), "{kind}");
        }
        for kind in [ErrorKind::SessionCapacity, ErrorKind::BackendUnavailable, ErrorKind::NoRoute] {
            assert_eq!(status_for(kind, Some("codex")), status(kind), "{kind} may end by itself");
        }
    }
}
