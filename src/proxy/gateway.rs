//! The gateway: Pingora's phases, each handed to the step whose name it bears.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use tracing::debug;

use super::dispatch::Route;
use super::downstream::LEG_CUT;
use super::receive::{self, Received};
use super::refuse::{self, REFUSED, Reject};
use super::request_ctx::RequestCtx;
use super::trace::{self, Trace};
use super::upstream_response::{self, Answer};
use super::{
    admit, body_filters, builtin, capture, dispatch, failover, identify, mcp, models, read, upgrade,
    upstream_request,
};
use crate::capture::redact_text;
use crate::clock::Clock;
use crate::error::{ErrorKind, Refusal};
use crate::history::Archive;
use crate::identity::Key;
use crate::protocol::Dialect;
use crate::session::Manager;
use crate::telemetry::log::Log;
use crate::telemetry::metrics::{BackendMetrics, Gauge, Metrics};
use crate::telemetry::otlp::export::Exporter;
use crate::telemetry::readiness::Readiness;
use crate::upstream::peer::is_unprocessed;

/// What every request needs, whatever the settings.
pub(crate) struct ProxyState {
    /// The sessions.
    pub(crate) sessions: Arc<Manager>,
    /// Makes principals of credentials.
    pub(crate) principals: Key,
    /// The numbers.
    pub(crate) metrics: Arc<Metrics>,
    /// The numbers of requests that reach no backend.
    pub(crate) unrouted: BackendMetrics,
    /// Counts the legs that are open.
    pub(crate) open_legs: Gauge,
    /// Counts the sockets that are open.
    pub(crate) open_sockets: Gauge,
    pub(crate) log: Arc<Log>,
    pub(crate) clock: Clock,
    /// Whether this instance should be sent work.
    pub(crate) readiness: Arc<Readiness>,
    /// Tells a collector of requests, when one is configured.
    pub(crate) exporter: Option<Arc<Exporter>>,
    /// Keeps bodies, where that is wanted.
    pub(crate) history: Option<Arc<Archive>>,
    /// Connects to backends for what the gateway asks of them itself.
    pub(crate) connector: Connector,
}

impl ProxyState {
    /// What counts this request while it is open.
    fn open(&self, received: &Received) -> &Gauge {
        if received.socket { &self.open_sockets } else { &self.open_legs }
    }
}

/// Pingora's proxy logic: conducts the steps, decides nothing itself.
pub(crate) struct Gateway {
    app: Arc<ProxyState>,
}

impl Gateway {
    pub(crate) fn new(app: Arc<ProxyState>) -> Self {
        Self { app }
    }

    /// Steps 1 to 5. False when the request has been answered here.
    async fn admit(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<bool, Reject> {
        let app = &self.app;
        let received = Received::of(session.req_header())
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "a request without a handle"))?;
        let received = &*ctx.received.insert(received);
        ctx.trace = Trace::begin(app, &session.req_header().headers);
        receive::check(received, session)?;
        if let Some(answer) = builtin::answer_to(received, &app.readiness) {
            builtin::write(session, ctx, answer).await?;
            return Ok(false);
        }
        let headers = &session.req_header().headers;
        upgrade::check_origin(received, headers)?;
        let caller = &*ctx.caller.insert(identify::caller(received, headers, &app.principals)?);
        let found = identify::by_head(received, headers)?;
        if let Some(found) = found {
            ctx.named = Some(found.id.clone());
            ctx.leg = Some(admit::admit(&app.sessions, received, caller, found).await?);
            ctx.open = Some(app.open(received).enter());
        }
        let reading = Instant::now();
        ctx.call = match upgrade::call(received) {
            Some(call) => call,
            None => read::read(session, received).await?,
        };
        let (arrived, waited) = (received.handle.arrived, reading.elapsed());
        if models::is_asked(received, &session.req_header().headers) {
            models::answer(session, ctx).await?;
            return Ok(false);
        }
        self.dispatch(session.req_header(), ctx).await?;
        app.metrics.overhead(arrived.elapsed().saturating_sub(waited));
        Ok(true)
    }

    /// Where the request goes, and in which session, now that its body is known.
    async fn dispatch(&self, head: &RequestHeader, ctx: &mut RequestCtx) -> Result<(), Reject> {
        let app = &self.app;
        let (Some(received), Some(caller)) = (&ctx.received, &ctx.caller) else {
            return Err(Error::explain(ErrorType::InternalError, "a request without a caller").into());
        };
        let model = ctx.call.model.as_deref().map(redact_text);
        let now = app.clock.now();
        let route = dispatch::route(received, caller, head, &ctx.call, now)?;
        let route = ctx.route.insert(route);
        let is_llm = route.dialect.is_llm();
        if !is_llm {
            // Models answer in words; all else may be a download.
            received.handle.backpressure.expect_large_chunks();
        }
        ctx.socket = upgrade::socket(received, route);
        if route.dialect == Dialect::Mcp {
            mcp::check(received, &head.headers, &ctx.call)?;
        }
        let leg = match ctx.leg.take() {
            Some(leg) => leg,
            None => {
                let backend = route.backend.settings().name().as_str();
                let found = identify::by_body(received, caller, &ctx.call, &head.headers, backend)?;
                ctx.named = Some(found.id.clone());
                admit::admit(&app.sessions, received, caller, found).await?
            }
        };
        route.balance(received, leg.session(), now);
        leg.routed(route.backend.settings().name(), model.as_deref());
        if is_llm {
            leg.offers(&ctx.call.tools_offered);
        }
        leg.session().add_bytes_in(received.handle.upload.bytes());
        ctx.leg = Some(leg);
        ctx.open.get_or_insert_with(|| app.open(received).enter());
        Ok(())
    }

    /// The refusal in the ctx, for Pingora to carry to `fail_to_proxy`.
    fn stop(ctx: &mut RequestCtx, stop: Reject) -> Box<Error> {
        match stop {
            Reject::Io(error) => error,
            Reject::Refused(refusal) => {
                ctx.refusal = Some(refusal);
                Error::new(REFUSED)
            }
        }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestCtx;

    fn new_ctx(&self) -> RequestCtx {
        RequestCtx::new(Arc::clone(&self.app))
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<bool> {
        let admitted = self.admit(session, ctx).await;
        capture::begin(session, ctx);
        match admitted {
            Ok(forward) => Ok(!forward),
            Err(Reject::Io(error)) => Err(error),
            Err(Reject::Refused(refusal)) => {
                refuse::answer(session, ctx, &refusal).await?;
                ctx.failure = Some(refusal);
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<Box<HttpPeer>> {
        loop {
            let (Some(received), Some(route)) = (&ctx.received, &ctx.route) else {
                return Error::e_explain(ErrorType::InternalError, "a request without a route");
            };
            match dispatch::peer(received, route, session.as_ref().is_upgrade_req()).await {
                Ok(peer) => {
                    received
                        .handle
                        .activity
                        .limit_idle(received.handle.settings.timeouts.upstream_first_byte);
                    return Ok(peer);
                }
                Err(Reject::Refused(_)) if failover::after_no_connection(ctx) => {}
                Err(stop) => return Err(Self::stop(ctx, stop)),
            }
        }
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut RequestCtx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // Nothing was sent yet, so the next address, or another backend, may be tried whatever the method.
        let other_address = ctx.route.as_mut().is_some_and(|route| route.next_address(peer));
        error.set_retry(other_address || failover::after_no_connection(ctx));
        error
    }

    /// Pingora's own policy, and other backends where it would give up.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut RequestCtx,
        reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("Peer: {peer}"));
        if *error.etype() == failover::NEXT {
            error.set_retry(true);
            return error;
        }
        let can_be_sent_again = !session.as_ref().retry_buffer_truncated();
        if can_be_sent_again && is_unprocessed(&error) {
            // No one has looked at it (HTTP/2), so the same backend may have it again.
            error.set_retry(ctx.route.as_mut().is_some_and(Route::try_again));
        } else if can_be_sent_again && session.req_header().method.is_idempotent() {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        if !error.retry() && failover::after_error(ctx, &error, session, reused) {
            error.set_retry(true);
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        let (Some(received), Some(route)) = (&ctx.received, &ctx.route) else {
            return Error::e_explain(ErrorType::InternalError, "a request without a route");
        };
        if received.handle.cut.reason().is_some() {
            return Error::e_explain(LEG_CUT, "the leg was cut");
        }
        upstream_request::rewrite_head(head, received, route)?;
        if route.served_as.is_some() {
            ctx.renamed = upstream_request::rewrite_body(head, route, session.as_ref().get_retry_buffer())?;
        }
        trace::propagate(head, ctx)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        chunk: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        body_filters::upload(ctx, chunk)?;
        // A held body comes in one piece.
        if chunk.is_some()
            && let Some(renamed) = ctx.renamed.take()
        {
            *chunk = Some(renamed);
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        upstream_response::check(head, session.as_ref().is_upgrade_req())?;
        if upstream_response::is_final(head) && failover::after_answer(ctx, head, session) {
            return Err(Error::explain(failover::NEXT, "another backend is asked").into_up());
        }
        if let (Some(received), Some(route)) = (&ctx.received, &ctx.route)
            && upstream_response::is_final(head)
        {
            let is_mcp = route.dialect == Dialect::Mcp;
            ctx.answer = Answer::begin(received, route, &ctx.call, head);
            capture::answers(ctx, head);
            if head.status != 101 {
                ctx.socket = None;
            }
            if is_mcp && let Err(stop) = mcp::follow(session, head, ctx).await {
                return Err(Self::stop(ctx, stop));
            }
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut RequestCtx,
    ) -> Result<()> {
        if head.status == 101 {
            // A tunnel is idle when neither side speaks: `stream_idle`, not `read`, is its limit.
            session.set_read_timeout(None);
        }
        match (&ctx.received, &ctx.leg) {
            (Some(received), Some(leg)) if upstream_response::is_final(head) => {
                upstream_response::rewrite_head(head, received, leg)
            }
            _ => Ok(()),
        }
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        chunk: &mut Option<Bytes>,
        end: bool,
        ctx: &mut RequestCtx,
    ) -> Result<Option<Duration>> {
        body_filters::download(ctx, chunk, end).map(|()| None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut RequestCtx) -> FailToProxy {
        let refusal = refuse::refusal_of(error, ctx);
        if let Some(received) = &ctx.received
            && *error.esource() == ErrorSource::Downstream
            && *error.etype() != LEG_CUT
        {
            // Where this request ends is not known, so nothing behind it is one.
            received.handle.reuse.forbid();
        }
        debug!(%error, kind = %refusal.kind, "a request failed");
        if has_begun(session) {
            refuse::break_off(session, ctx, &refusal).await;
        } else if refusal.kind != ErrorKind::ClientGone
            && let Err(error) = refuse::answer(session, ctx, &refusal).await
        {
            debug!(%error, "the client is gone before its refusal");
        }
        let error_code = ctx.answer.status.unwrap_or(0);
        self.report(ctx, error, &refusal);
        ctx.failure = Some(refusal);
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// Told by `failover`.
    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _exchange: &RequestCtx,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    /// Failures are told once, by the access line; what only Pingora's words explain, by `report`.
    fn suppress_error_log(&self, _session: &Session, _exchange: &RequestCtx, _error: &Error) -> bool {
        true
    }
}

impl Gateway {
    /// Logs what an operator must look into.
    fn report(&self, ctx: &RequestCtx, error: &Error, refusal: &Refusal) {
        let request_id = ctx.received.as_ref().map_or("", |received| received.request_id.as_str());
        match refusal.kind {
            ErrorKind::BackendUnavailable | ErrorKind::BackendTimeout => {
                tracing::warn!(request_id, %error, "{}", refusal.message);
            }
            ErrorKind::Internal => tracing::error!(request_id, %error, "a fault of the gateway"),
            _ => {}
        }
    }
}

/// Whether the head of an answer is on its way to the client.
fn has_begun(session: &Session) -> bool {
    session.response_written().is_some_and(upstream_response::is_final)
}
