//! The steps before a request is forwarded, each from one stage of [`RequestCtx`] to the next.
//!
//! Every step takes the part of the stage that it needs. When it rejects the request, the request stays in its stage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Extensions, HeaderMap};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::builtin::BuiltinAnswer;
use super::error_response::Reject;
use super::facts::RequestFacts;
use super::head_fields::HeadFields;
use super::identify::{Caller, SessionHint};
use super::key_places::KeyPlaces;
use super::read::ReadRequest;
use super::receive::Received;
use super::request_ctx::{Identified, RequestCtx, Stage, reached};
use super::trace_context::Trace;
use super::{
    absolute, admit, builtin, dispatch, forward_route, framing, identify, mcp, proxy_authorization, read,
    receive, unread, upgrade,
};
use crate::capture::redact_text;
use crate::identity::{Auth, FoundSession};
use crate::protocol::Dialect;

impl RequestCtx {
    /// Step 1: reads and checks the head. Returns the answer to one of the proxy's own endpoints, if that is asked for.
    ///
    /// # Errors
    /// The client's address or the head is refused, or the request did not come through our listener.
    pub(super) fn receive(&mut self, session: &mut Session) -> Result<Option<BuiltinAnswer>, Reject> {
        let raw = session.as_ref().to_h1_raw();
        let head = session.req_header();
        let fields = HeadFields::of(&head.headers, framing::is_single);
        let trace = Trace::begin(&self.app, &head.headers);
        self.stage = Stage::Received(reached(Received::of(head, &fields, trace))?);
        let received = reached(self.stage.received())?;
        if let Err(refusal) = received.check_address() {
            received.handle.reuse.forbid();
            self.app.metrics.filtered("acl");
            return Err(refusal.into());
        }
        let checked = receive::check(received, &raw, head, &fields);
        let ignored = receive::ignored(received, &fields);
        let head = session.req_header_mut();
        for name in ignored {
            head.remove_header(&name);
        }
        // The handle, which the heads for backends would carry too.
        *head.extensions_mut() = Extensions::new();
        checked?;
        if absolute::read(reached(self.stage.received_mut())?, head)? {
            return Ok(None);
        }
        let received = reached(self.stage.received())?;
        Ok(builtin::answer_to(received, &session.req_header().headers, &self.app.readiness))
    }

    /// Step 2: determines the caller, and the session if the head names one.
    ///
    /// # Errors
    /// The head carries too many credentials or names two sessions, or a web page may not open a WebSocket.
    pub(super) fn identify(&mut self, headers: &HeaderMap) -> Result<SessionHint, Reject> {
        let received = reached(self.stage.received())?;
        upgrade::check_origin(received, headers)?;
        let auth = Arc::clone(&received.handle.settings.auth);
        let within = received.handle.peer.within.clone();
        let fields = received.forward.as_ref().map(|_| proxy_authorization::fields(headers));
        let caller_fields = fields.as_ref().unwrap_or(headers);
        let caller = match (&within, auth.is_off()) {
            (Some(within), _) => self.identify_within(&auth, headers, &within.caller)?,
            (None, true) => identify::caller(received, caller_fields, &self.app.principals)?,
            (None, false) => self.identify_by_key(&auth, headers, caller_fields)?,
        };
        identify::require_key(reached(self.stage.received())?, &caller)?;
        self.stage.identify(caller)?;
        let who = reached(self.stage.identified())?;
        let hint = identify::session_hint(&who.received, headers)?;
        if let SessionHint::Known(found) = &hint {
            who.key_places().check_session(found)?;
        }
        Ok(hint)
    }

    /// Returns the caller of a CONNECT for a request in its tunnel, and refuses keys that are where none belongs.
    fn identify_within(
        &mut self,
        auth: &Auth,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<Arc<Caller>, Reject> {
        let received = reached(self.stage.received_mut())?;
        let places = KeyPlaces { auth, shown: caller.key.as_ref() };
        places.check_target(received)?;
        places.check_fields(headers)?;
        caller.check(received)?;
        Ok(Arc::new(caller.with_program(headers)))
    }

    /// Determines the caller where keys are read, and refuses keys that are where none belongs.
    /// `caller_fields` are those that may carry its credential.
    fn identify_by_key(
        &mut self,
        auth: &Auth,
        headers: &HeaderMap,
        caller_fields: &HeaderMap,
    ) -> Result<Arc<Caller>, Reject> {
        let received = reached(self.stage.received_mut())?;
        KeyPlaces { auth, shown: None }.check_target(received)?;
        let caller = identify::caller(received, caller_fields, &self.app.principals)?;
        let places = KeyPlaces { auth, shown: caller.key.as_ref() };
        places.check_target(received)?;
        places.check_fields(headers)?;
        Ok(caller)
    }

    /// Step 4: opens a leg in the session `found`.
    ///
    /// # Errors
    /// The session was killed, there is no room for another one, or the caller's key was revoked meanwhile.
    pub(super) async fn admit(&mut self, headers: &HeaderMap, found: FoundSession) -> Result<(), Reject> {
        self.outcome.named = Some(found.id.clone());
        let who = reached(self.stage.identified())?;
        let leg = admit::admit(&self.app, who, headers, found).await?;
        let open = self.app.open(admit::kind(&who.received)).enter();
        self.stage.admit(leg, open)?;
        // A key that was revoked meanwhile: from here on a revocation cuts the leg.
        let who = reached(self.stage.identified())?;
        Ok(who.caller.check(&who.received)?)
    }

    /// Step 3: reads the model request from path and body. Returns how long it waited for the body.
    ///
    /// # Errors
    /// The body is too large, the client stalled or left, or the leg was cut meanwhile.
    pub(super) async fn read(&mut self, session: &mut Session) -> Result<Duration, Reject> {
        let begun = Instant::now();
        let who = reached(self.stage.identified_mut())?;
        if who.received.is_tunnel() {
            return Ok(Duration::ZERO);
        }
        match upgrade::call(&who.received) {
            Some(call) => who.call = call,
            None => {
                ReadRequest { call: who.call, form: who.form } =
                    read::read(session, &who.received, who.caller.limits_models()).await?
            }
        }
        Ok(begun.elapsed())
    }

    /// Step 5: chooses the backend, and opens the leg if that was not possible before.
    ///
    /// # Errors
    /// Its body cannot be read and matters, no backend serves the request, it breaks a rule of MCP, or its session is not admitted.
    pub(super) async fn route(&mut self, head: &RequestHeader) -> Result<(), Reject> {
        let now = self.app.clock.now();
        let has_session = self.stage.leg().is_some();
        let who = reached(self.stage.identified())?;
        unread::check(&who.received, &head.headers, &who.call, &who.caller, has_session)?;
        let facts = RequestFacts { now, ..RequestFacts::new(who, &head.headers, &self.app.clock) };
        let route = match forward_route::backend(&who.received, &facts)? {
            dispatch::Destination::Host => Box::pin(forward_route::route(&self.app, who)).await?,
            destination @ (dispatch::Destination::Path | dispatch::Destination::Backend(_)) => {
                let Identified { received, caller, call, .. } = who;
                dispatch::route(received, caller, head, call, (&self.app.endpoints, destination), &facts)?
            }
        };
        let (dialect, backend) = (route.dialect, route.backend.settings().name().clone());
        if !who.received.handle.upload.is_buffered() {
            let limit = read::streamed_limit(&who.received, route.backend.settings().kind());
            read::check_declared(&who.received, limit)?;
        }
        if !dialect.is_llm() {
            // Responses of models are small pieces of text; anything else may be a large download.
            who.received.handle.backpressure.expect_large_chunks();
        }
        self.stage.choose(route)?;
        let who = reached(self.stage.identified())?;
        if dialect == Dialect::MCP {
            mcp::check(&who.received, &head.headers, &who.call)?;
        }
        if self.stage.leg().is_none() {
            let found =
                identify::by_body(&who.received, &who.caller, &who.call, &head.headers, backend.as_str())?;
            who.key_places().check_session(&found)?;
            self.admit(&head.headers, found).await?;
        }
        let routed = self.stage.routed_mut()?;
        routed.route.balance(&routed.who.received, routed.leg.session(), now)?;
        let model = routed.who.call.model.as_deref().map(redact_text);
        routed.leg.routed(routed.route.backend.settings().name(), model.as_deref());
        if dialect.is_llm() {
            routed.leg.offers(&routed.who.call.tools_offered);
        }
        routed.leg.session().add_bytes_in(routed.who.received.handle.upload.bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
