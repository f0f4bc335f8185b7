//! WebSockets: which pages may open one, what is read from its messages, and the frames that end it.
//!
//! The bytes pass like any body (`body_filters`). A [`SocketTap`] parses the frames without holding or changing them.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{HOST, ORIGIN};
use pingora_core::{Error, Result};
use url::form_urlencoded;

use super::error_response::{REFUSED, SocketEnd};
use super::permissions::model_denied;
use super::receive::Received;
use super::request_ctx::{Ends, Outcome, RequestCtx, Routed, Stage};
use super::spending;
use super::state::ProxyState;
use super::usage::{Priceable, count_tokens, priced};
use super::withheld::Source;
use crate::capture::redact_text;
use crate::error::{ErrorKind, Refusal};
use crate::limits::Admission;
use crate::limits::ledger::Reservation;
use crate::protocol::answer::events::Event;
use crate::protocol::answer::socket::{ClientMessage, SocketTap};
use crate::protocol::facts::error_body::ErrorBody;
use crate::protocol::request::ModelRequest;
use crate::protocol::wire::websocket::{FramePosition, close_frame, text_frame};
use crate::summary::SocketReport;

/// Checks the origin of a WebSocket handshake. A browser lets any page open a WebSocket, and sends cookies with it, so only
/// pages of the requested host and of `server.cors.allow_origins` are accepted. Agents send no origin.
///
/// # Errors
/// The origin is not accepted.
pub(crate) fn check_origin(received: &Received, headers: &HeaderMap) -> Result<(), Refusal> {
    // A page that uses this gateway as its forward proxy asks for the host.
    if !received.socket || received.forward.is_some() {
        return Ok(());
    }
    let allowed = received.handle.settings.allow_origins.as_slice();
    let host = headers.get(HOST).map_or(&b""[..], |host| host.as_bytes());
    for origin in headers.get_all(ORIGIN) {
        let origin = origin.as_bytes();
        if !is_same_host(origin, host) && !allowed.iter().any(|allowed| allowed.as_bytes() == origin) {
            let message =
                "web pages of this origin may not open a WebSocket here (server.cors.allow_origins)";
            return Err(Refusal::new(ErrorKind::OriginRefused, message));
        }
    }
    Ok(())
}

/// Returns whether a page of this origin was loaded from `host`. The default port of the scheme may be omitted.
fn is_same_host(origin: &[u8], host: &[u8]) -> bool {
    let (authority, port) = match origin {
        [b'h', b't', b't', b'p', b's', b':', b'/', b'/', authority @ ..] => (authority, &b":443"[..]),
        [b'h', b't', b't', b'p', b':', b'/', b'/', authority @ ..] => (authority, &b":80"[..]),
        _ => return false,
    };
    let without = |name: &'_ [u8]| name.strip_suffix(port).map_or(name.len(), <[u8]>::len);
    !host.is_empty() && authority[..without(authority)].eq_ignore_ascii_case(&host[..without(host)])
}

/// Reads the model request from a handshake: the Realtime API names the model in the query. `None` for other requests.
pub(crate) fn call(received: &Received) -> Option<ModelRequest> {
    if !received.socket {
        return None;
    }
    let mut call = ModelRequest::default();
    if received.dialect.is_llm() {
        let query = received.uri.query().unwrap_or_default().as_bytes();
        for (name, value) in form_urlencoded::parse(query) {
            received.dialect.read_parameter(&name, &value, &mut call);
        }
    }
    Some(call)
}

/// Parses the next bytes of the client. The model of a message is known before the message is complete, so that a message
/// for a blocked model never reaches the backend whole.
///
/// # Errors
/// The model is blocked or not permitted, the message is compressed and models are blocked or limited, or the answers so far
/// have used up a limit of tokens or a budget (`spent`).
pub(crate) fn on_client_bytes(
    routed: &mut Routed,
    outcome: &mut Outcome,
    spent: Option<Refusal>,
    chunk: &Bytes,
) -> Result<()> {
    let Routed { who, leg, route, socket, .. } = routed;
    let Some(socket) = socket else { return Ok(()) };
    let table = &who.received.handle.settings.routes;
    let key = who.caller.key.as_ref().filter(|key| key.holder().limits_models());
    let (known, refusal) = (&mut who.call.model, &mut outcome.refusal);
    let messages = socket.client().traffic().messages;
    socket.feed_client(chunk, |asked| match asked {
        ClientMessage::Model(model) | ClientMessage::Beside(model) if table.blocks(model) => {
            let message = format!("the model {model} is blocked here (routing.blocked_models)");
            *refusal = Some(Box::new(Refusal::new(ErrorKind::PolicyBlocked, message)));
        }
        ClientMessage::Model(model) | ClientMessage::Beside(model)
            if key.is_some_and(|key| !key.holder().may_use_model(model)) =>
        {
            *refusal = key.map(|key| Box::new(model_denied(key, model)));
        }
        ClientMessage::Model(model) if known.as_deref() != Some(model) => {
            if known.is_none() {
                leg.routed(route.backend.settings().name(), Some(model));
            }
            *known = Some(model.to_owned());
        }
        ClientMessage::Unreadable if table.blocks_models() => {
            let message = "a message cannot be read, so its model cannot be held against routing.blocked_models; \
                           send it uncompressed";
            *refusal = Some(Box::new(Refusal::new(ErrorKind::PolicyBlocked, message)));
        }
        ClientMessage::Unreadable if key.is_some() => {
            let message = "a message cannot be read, so its model cannot be held against those that the key permits; \
                           send it uncompressed";
            *refusal = Some(Box::new(Refusal::new(ErrorKind::ModelDenied, message)));
        }
        ClientMessage::Model(_) | ClientMessage::Beside(_) | ClientMessage::Unreadable => {}
    });
    if let Some(spent) = spent.filter(|_| refusal.is_none() && socket.client().traffic().messages > messages)
    {
        *refusal = Some(Box::new(spent));
    }
    if refusal.is_some() {
        return Error::e_explain(REFUSED, "what the socket asks for is blocked");
    }
    Ok(())
}

/// The messages of a backend over a socket.
pub(super) struct Frames<'a> {
    pub(super) app: &'a ProxyState,
    pub(super) ends: Ends<'a>,
    pub(super) socket: &'a mut SocketTap,
    pub(super) admission: &'a mut Admission,
    pub(super) reservation: Option<&'a mut Reservation>,
}

impl Frames<'_> {
    /// Parses the next bytes of the backend.
    pub(super) fn read_all(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.read(bytes, &mut |_| {}).max(1)..];
        }
    }
}

impl Source for Frames<'_> {
    /// Parses the bytes of one message. The tokens of each response are counted when that response ends, not when the socket
    /// does.
    fn read(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) -> usize {
        let Ends { who, leg, route, .. } = self.ends;
        let asked = who.call.model.as_deref();
        let failed = self.socket.failed_answers();
        let (app, admission, reservation) = (self.app, &mut *self.admission, &mut self.reservation);
        let read = self.socket.listen_message(bytes, on, &mut |usage, answered, tier| {
            let model = asked.or(answered);
            let usage = priced(&who.received, route, &Priceable { asked, answered, tier }, usage);
            leg.add_usage(model.map(redact_text).as_deref(), usage);
            let budgets = &who.received.handle.settings.budgets;
            spending::spend(app, reservation.as_deref_mut(), budgets, &usage);
            admission.add_tokens(usage.prompt_tokens().saturating_add(usage.output_tokens));
            let tenant = who.caller.membership().and_then(|found| found.tenant.as_deref());
            let tenant = tenant.map(|tenant| (tenant, who.received.handle.settings.max_tenants));
            count_tokens(route.backend.metrics(), model, tenant, usage);
        });
        for _ in failed..self.socket.failed_answers() {
            route.backend.metrics().error(ErrorKind::BackendError.code());
        }
        read
    }

    fn end(&mut self, _on: &mut dyn FnMut(Event<'_>)) {}

    fn is_between(&self) -> bool {
        self.socket.backend().is_between_messages()
    }

    fn has_units(&self) -> bool {
        true
    }

    fn is_unread(&self) -> bool {
        self.socket.has_unread()
    }

    /// Each API over WebSockets says when a call is complete.
    fn has_open_call(&self) -> bool {
        false
    }
}

/// Returns the frames that end the client's side of a socket: the dialect's error event, if it has one, and a Close frame.
/// `None` inside an unfinished frame of the backend; `written` is how many of the backend's bytes reached the client.
pub(crate) fn closing_frames(
    ctx: &RequestCtx,
    end: SocketEnd,
    error: &ErrorBody<'_>,
    written: u64,
) -> Option<Bytes> {
    let place = match ctx.outcome.answer.judging.as_ref().and_then(|judging| judging.is_between()) {
        // What the client has is in whole messages, also if less has left than was to.
        Some(is_between) => is_between.then_some(FramePosition::Between)?,
        None if written != ctx.outcome.answer.sent => return None,
        None => ctx.stage.routed()?.socket.as_ref()?.position(),
    };
    if place == FramePosition::Inside {
        return None;
    }
    let event = ctx.stage.dialect().socket_event(end.status, error);
    let mut frames =
        event.filter(|_| place == FramePosition::Between).map(|event| text_frame(&event)).unwrap_or_default();
    frames.extend_from_slice(&close_frame(end.code, error.message));
    Some(Bytes::from(frames))
}

/// Returns what passed over a socket.
pub(crate) fn report(socket: &SocketTap) -> Box<SocketReport> {
    Box::new(SocketReport {
        from_client: socket.client().traffic(),
        from_backend: socket.backend().traffic(),
        close_code: socket.close_code(),
        ..SocketReport::default()
    })
}

/// Returns whether the backend has ended a socket without the Close frame that RFC 6455, 7.1.1, requires.
pub(crate) fn broke_off(stage: &Stage, outcome: &Outcome) -> bool {
    let socket = stage.routed().and_then(|routed| routed.socket.as_ref());
    outcome.answer.whole
        && socket.is_some_and(|socket| socket.close_code().is_none() && !socket.backend().is_lost())
}

#[cfg(test)]
mod tests {
    use super::is_same_host;

    #[test]
    fn a_page_of_the_host_itself_is_known() {
        for (origin, host) in [
            ("http://localhost:8080", "localhost:8080"),
            ("http://Example.com", "example.com:80"),
            ("https://example.com:443", "example.com"),
            ("https://[::1]:8080", "[::1]:8080"),
        ] {
            assert!(is_same_host(origin.as_bytes(), host.as_bytes()), "{origin} {host}");
        }
        for (origin, host) in [
            ("null", "null"),
            ("", ""),
            ("https://", ""),
            ("https://example.com", "example.com:80"),
            ("https://example.com.evil", "example.com"),
            ("https://evil-example.com", "example.com"),
            ("http://localhost:3000", "localhost:8080"),
            ("file://localhost", "localhost"),
        ] {
            assert!(!is_same_host(origin.as_bytes(), host.as_bytes()), "{origin} {host}");
        }
    }
}
