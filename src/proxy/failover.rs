//! Step 5, continued: which of several backends gets the request, and which one is next when it fails before a byte of
//! its response was sent to the client.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tracing::warn;

use super::dispatch::Route;
use super::downstream::UPSTREAM_IDLE;
use super::receive::Received;
use super::request_ctx::{RequestCtx, Routed};
use super::verdict;
use crate::clock::Moment;
use crate::error::{ErrorKind, Refusal};
use crate::routing::Choice;
use crate::session;
use crate::upstream::backend::{Permit, SpeaksFor};
use crate::upstream::balance::{self, Candidate};
use crate::upstream::health::HealthState;
use crate::upstream::peer::{ended_unanswered, is_half_written, is_unprocessed};
use crate::upstream::pool::Resend;
use crate::upstream::retries::Failure;

/// The error that drops a response in favour of another backend's.
pub(crate) const NEXT: ErrorType = ErrorType::Custom("next_backend");

impl Route {
    /// Moves the request to the best of the backends that may serve it. Does nothing if there is only one.
    ///
    /// # Errors
    /// An operator has drained all of them.
    pub(crate) fn balance(
        &mut self,
        received: &Received,
        session: &session::Session,
        now: Moment,
    ) -> Result<(), Refusal> {
        if !self.others.is_empty() {
            self.others.push(self.chosen.clone());
            if let Some((at, permit)) = self.pick(received, session, now, true) {
                self.go(at, received, permit, now);
            }
            session.set_home(self.backend.mark());
        }
        if self.backend.health().is_drained() {
            let name = self.backend.settings().name();
            let message =
                format!("an operator has drained the backend {name}, and no other serves this request");
            return Err(Refusal::new(ErrorKind::BackendUnavailable, message));
        }
        Ok(())
    }

    /// Returns the position of the best backend in `others`. When all are ejected, one is returned only if `anyway` is set.
    fn pick(
        &self,
        received: &Received,
        session: &session::Session,
        now: Moment,
        anyway: bool,
    ) -> Option<(usize, Permit)> {
        let backends = &received.handle.settings.backends;
        let candidate = |other: &Choice| backends[other.backend].candidate(other.tier, self.caller, now);
        let mut candidates: Vec<Candidate> = self.others.iter().map(candidate).collect();
        let own = self.backend.mark();
        // Do not count this request itself as load.
        candidates
            .iter_mut()
            .filter(|one| one.mark == own)
            .for_each(|one| one.load = one.load.saturating_sub(1));
        let mark = balance::mark(session.key().id.as_str());
        loop {
            let at = balance::choose(&candidates, session.home(), mark)?;
            if candidates[at].state == HealthState::Ejected && !anyway {
                return None;
            }
            match backends[self.others[at].backend].takes(self.caller, now) {
                Permit::Denied => candidates[at].state = HealthState::Ejected,
                permit @ (Permit::Granted | Permit::HalfOpen(_)) => return Some((at, permit)),
            }
        }
    }

    /// Moves to the backend at this position of `others`.
    fn go(&mut self, at: usize, received: &Received, permit: Permit, now: Moment) {
        let choice = self.others.swap_remove(at);
        self.go_to(choice, received, permit, now);
    }

    fn go_to(&mut self, choice: Choice, received: &Received, permit: Permit, now: Moment) {
        let backends = &received.handle.settings.backends;
        self.backend = backends[choice.backend].in_flight(self.caller, permit, now);
        self.is_foreign = backends[self.meant_for].settings().realm() != self.backend.settings().realm();
        self.dialect = received.dialect.on(self.backend.settings().kind());
        self.served_as.clone_from(&choice.served_as);
        self.addresses = None;
        self.has_responded = false;
        self.resent = false;
        self.chosen = choice;
    }

    /// Moves on to the next backend after this failure. Returns false when there is none, or the settings forbid it.
    fn go_on(&mut self, why: Failure, received: &Received, session: &session::Session, now: Moment) -> bool {
        let may_go_on = self.retries.follow(why) && self.asked <= self.retries.attempts;
        let failed = self.backend.settings().name().clone();
        // A request with a response, even a bad one, is not sent to an ejected backend.
        let has_answered = matches!(why, Failure::ServerError | Failure::RateLimited);
        let next = may_go_on.then(|| self.pick(received, session, now, !has_answered)).flatten();
        if let Some((at, permit)) = next {
            if has_answered {
                self.answered = Some(self.chosen.clone());
            }
            self.go(at, received, permit, now);
        } else if let Some(answered) = self.answered.take().filter(|_| why == Failure::ConnectFailure) {
            // The provider's own error is more useful than "no other backend could be reached".
            self.others.clear();
            self.retries.attempts = 0;
            self.go_to(answered, received, Permit::Granted, now);
        } else {
            return false;
        }
        self.asked += 1;
        self.failed_over_from.get_or_insert(failed);
        session.set_home(self.backend.mark());
        true
    }
}

/// Moves the request to another backend after this failure. Returns false when the failure is final. A cut leg is never
/// moved.
pub(crate) fn go_on(ctx: &mut RequestCtx, why: Failure) -> bool {
    let now = ctx.app.clock.now();
    let Ok(Routed { who, leg, route, .. }) = ctx.stage.routed_mut() else { return false };
    let received = &who.received;
    if received.handle.cut.reason().is_some() {
        return false;
    }
    let (from, metrics) = (route.backend.settings().name().clone(), route.backend.metrics().clone());
    if !route.go_on(why, received, leg.session(), now) {
        return false;
    }
    let to = route.backend.settings().name();
    leg.rerouted(to);
    metrics.failed_over(why.name());
    warn!(request_id = received.request_id.as_str(), %from, %to, why = why.name(), "the request goes to another backend");
    true
}

/// Handles a failure to connect. Returns true when another backend is tried.
pub(crate) fn after_no_connection(ctx: &mut RequestCtx) -> bool {
    note_failure(ctx, true);
    go_on(ctx, Failure::ConnectFailure)
}

/// Handles a proxy that does not forward the request: the backend was not reached. Returns true when another backend is
/// tried.
pub(crate) fn after_refusal_of_proxy(ctx: &mut RequestCtx, session: &Session) -> bool {
    note_failure(ctx, true);
    can_be_repeated(session) && go_on(ctx, Failure::ConnectFailure)
}

/// Handles the head of a response. Returns true when it is dropped and another backend is tried.
pub(crate) fn after_answer(ctx: &mut RequestCtx, head: &ResponseHeader, session: &Session) -> bool {
    let Ok(Routed { who, route, .. }) = ctx.stage.routed_mut() else { return false };
    let status = head.status.as_u16();
    let why = match status {
        500.. => Failure::ServerError,
        429 => Failure::RateLimited,
        // What follows the head of such an answer decides (`verdict`).
        200..300 if verdict::is_judged_at_its_end(&who.received, route, head) => return false,
        _ => {
            route.backend.answered();
            return false;
        }
    };
    let now = ctx.app.clock.now();
    match status {
        // The requested resource does not exist there; the backend may serve others well.
        501 | 505 => route.backend.answered(),
        429 => {}
        _ => route.backend.failed(false, now),
    }
    if let Some(wait) = retry_after(&head.headers) {
        route.backend.retry_after(wait, speaks_for(route, why), now);
    }
    let is_final = head.headers.get("x-should-retry").is_some_and(|value| value == "false");
    !is_final && can_be_repeated(session) && go_on(ctx, why)
}

/// Handles an error after the connection was made and before the response began. Returns true when another backend is
/// tried. The backend may have processed the request, so only safe requests are repeated, unless the configuration
/// permits others.
pub(crate) fn after_error(ctx: &mut RequestCtx, error: &Error, session: &mut Session, reused: bool) -> bool {
    let why = match (error.etype(), error.esource()) {
        // The client has not sent the whole request, so the backend is not to blame.
        (etype, _) if *etype == UPSTREAM_IDLE && !session.as_mut().is_body_done() => return false,
        (etype, _) if *etype == UPSTREAM_IDLE => Failure::FirstByteTimeout,
        (_, ErrorSource::Upstream) => Failure::Broken,
        _ => return false,
    };
    if ctx.outcome.answer.status.is_some() {
        return false;
    }
    // A backend may close an idle connection at any time, and an HTTP/2 connection by GOAWAY; neither says anything
    // about its health.
    if !(why == Failure::Broken && (reused || is_unprocessed(error))) {
        note_failure(ctx, false);
    }
    can_be_repeated(session) && go_on(ctx, why)
}

/// Handles the end of a kept connection before the response began: the backend has most often closed it as idle just when
/// the request was sent. Returns true when the request is sent there again, once and on a new connection, because the
/// backend has not processed it, its method is idempotent, or `pool.resend` permits it.
pub(crate) fn after_closed(ctx: &mut RequestCtx, error: &Error, session: &Session) -> bool {
    if *error.esource() != ErrorSource::Upstream || !can_be_repeated(session) {
        return false;
    }
    let Ok(Routed { route, who, .. }) = ctx.stage.routed_mut() else { return false };
    if who.received.handle.cut.reason().is_some() || ctx.outcome.answer.status.is_some() {
        return false;
    }
    let may_repeat =
        || session.req_header().method.is_idempotent() || route.backend.settings().resend() == Resend::Always;
    let is_unprocessed =
        is_half_written(error) || ended_unanswered(error) && (is_unwritten(session) || may_repeat());
    is_unprocessed && !route.has_responded && route.resend()
}

/// Returns whether the request has a body and none of it was written to the backend, as Pingora's HTTP/1.1 client says. A
/// buffered body is one chunk. Our own client writes head and body at once and cannot say it.
fn is_unwritten(session: &Session) -> bool {
    let has_body = session.as_ref().get_retry_buffer().is_some_and(|body| !body.is_empty());
    has_body && session.upstream_body_bytes_sent() == Some(0)
}

fn note_failure(ctx: &RequestCtx, unreached: bool) {
    if let Some(route) = ctx.stage.route() {
        route.backend.failed(unreached, ctx.app.clock.now());
    }
}

/// Returns whether the whole request can be sent again; never after the first byte of a response.
fn can_be_repeated(session: &Session) -> bool {
    !session.as_ref().retry_buffer_truncated()
}

/// Returns to whom `Retry-After` applies: to the caller's own credential or address, or to everybody if the backend gets
/// the gateway's key.
fn speaks_for(route: &Route, why: Failure) -> SpeaksFor {
    match why {
        Failure::RateLimited if !route.backend.settings().auth().is_injected() => SpeaksFor::Caller,
        Failure::RateLimited
        | Failure::ConnectFailure
        | Failure::ServerError
        | Failure::FirstByteTimeout
        | Failure::Broken => SpeaksFor::All,
    }
}

/// Returns the value of `Retry-After` (RFC 9110, 10.2.3). Dates are ignored, since no model provider sends them.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds)).filter(|wait| !wait.is_zero())
}
