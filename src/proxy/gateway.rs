//! The gateway: Pingora's phases, each passed to its step.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora_cache::{CacheKey, CacheMeta, RespCacheable};
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::downstream::LEG_CUT;
use super::error_response::{REFUSED, Reject};
use super::identify::SessionHint;
use super::request_ctx::{Identified, Outcome, RequestCtx, reached};
use super::security_headers::Writer;
use super::state::ProxyState;
use super::{
    body_filters, builtin, cached, capture, compress, dispatch, failover, forward_route, govern,
    judge_socket, mcp, models, refuse, trace_context, tunnel, upstream_request, upstream_response,
};
use crate::protocol::Dialect;
use crate::upstream::http1::request_writer;
use crate::upstream::peer::{is_unprocessed, name_early_end};

/// Pingora's proxy logic; calls the steps and decides nothing itself.
pub(crate) struct Gateway {
    app: Arc<ProxyState>,
}

impl Gateway {
    pub(crate) fn new(app: Arc<ProxyState>) -> Self {
        Self { app }
    }

    /// Runs the steps up to routing. Returns false when the request has been answered already.
    async fn prepare(&self, session: &mut Session, ctx: &mut RequestCtx) -> Result<bool, Reject> {
        if let Some(answer) = ctx.receive(session)? {
            Box::pin(builtin::write(session, ctx, answer)).await?;
            return Ok(false);
        }
        let hint = ctx.identify(&session.req_header().headers)?;
        ctx.classify(&session.req_header().headers)?;
        ctx.limit_head(&session.req_header().headers)?;
        ctx.settle_limits().await?;
        if ctx.has_rules() {
            Box::pin(ctx.judge_head(session)).await?;
        }
        forward_route::check(&ctx.app, reached(ctx.stage.received())?)?;
        if let SessionHint::Known(found) = hint {
            ctx.admit(&session.req_header().headers, found).await?;
        }
        let waited = ctx.read(session).await?;
        let received = reached(ctx.stage.received())?;
        let arrived = received.handle.arrived;
        if models::is_asked(received, &session.req_header().headers) {
            Box::pin(models::answer(session, ctx)).await?;
            return Ok(false);
        }
        ctx.route(session.req_header()).await?;
        if ctx.has_rules() {
            Box::pin(ctx.judge_request(session)).await?;
        }
        if ctx.watches_turns() {
            Box::pin(ctx.judge_turn(session)).await?;
        }
        ctx.pass_limits(session).await?;
        ctx.pass_budgets(session).await?;
        self.app.metrics.overhead(arrived.elapsed().saturating_sub(waited));
        if reached(ctx.stage.received())?.is_tunnel() {
            Box::pin(tunnel::open(ctx)).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Stores a refusal in the context, for Pingora to carry to `fail_to_proxy`.
    fn stop(outcome: &mut Outcome, reject: Reject) -> Box<Error> {
        match reject {
            Reject::Io(error) => error,
            Reject::Refused(refusal) => {
                outcome.refusal = Some(refusal);
                Error::new(REFUSED)
            }
        }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed, because Pingora moves the context into its futures by value.
    type CTX = Box<RequestCtx>;

    fn new_ctx(&self) -> Self::CTX {
        Box::new(RequestCtx::new(Arc::clone(&self.app)))
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        let prepared = self.prepare(session, ctx).await;
        capture::begin(session, ctx);
        match prepared {
            Ok(forward) => Ok(!forward),
            Err(Reject::Io(error)) => Err(error),
            Err(Reject::Refused(refusal)) => {
                Box::pin(refuse::answer(session, ctx, &refusal)).await?;
                ctx.outcome.failure = Some(refusal);
                Ok(true)
            }
        }
    }

    fn request_cache_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<()> {
        cached::begin(session, ctx)
    }

    fn cache_key_callback(&self, _session: &Session, ctx: &mut Self::CTX) -> Result<CacheKey> {
        cached::key(ctx)
    }

    fn cache_miss(&self, session: &mut Session, ctx: &mut Self::CTX) {
        cached::missed(session, ctx);
    }

    fn response_cache_filter(
        &self,
        session: &Session,
        head: &ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<RespCacheable> {
        Ok(cached::is_stored(head, session, ctx))
    }

    fn cache_vary_filter(
        &self,
        meta: &CacheMeta,
        _: &mut Self::CTX,
        head: &RequestHeader,
    ) -> Option<[u8; 16]> {
        cached::vary(meta, head)
    }

    fn should_serve_stale(&self, _: &mut Session, ctx: &mut Self::CTX, error: Option<&Error>) -> bool {
        cached::stands_in(error, ctx)
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        if let Some(refusal) = cached::refusal(ctx) {
            return Err(Self::stop(&mut ctx.outcome, refusal.into()));
        }
        loop {
            let routed = ctx.stage.routed_mut()?;
            let handle = &routed.who.received.handle;
            ctx.outcome.queue.get_or_insert_with(|| handle.arrived.elapsed());
            match dispatch::peer(&routed.who.received, &mut routed.route).await {
                Ok(peer) => {
                    handle.activity.limit_idle(handle.settings.timeouts.upstream_first_byte);
                    return Ok(peer);
                }
                Err(Reject::Refused(_)) if failover::after_no_connection(ctx) => {}
                Err(reject) => return Err(Self::stop(&mut ctx.outcome, reject)),
            }
        }
    }

    /// Lets the downstream side drive the writes of our own client.
    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: RawFd,
        digest: Option<&Digest>,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let handle = &ctx.stage.routed_mut()?.who.received.handle;
        handle.upstream.begin(digest.and_then(request_writer));
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Self::CTX,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // Nothing was sent yet, so the next address or another backend may be tried for any method.
        let other_address = ctx.stage.routed_mut().is_ok_and(|routed| routed.route.next_address());
        error.set_retry(other_address || failover::after_no_connection(ctx));
        error
    }

    /// Sends the request there again if the backend cannot have processed it, then tries other backends.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Self::CTX,
        reused: bool,
    ) -> Box<Error> {
        name_early_end(&mut error);
        let was_closed = reused && failover::after_closed(ctx, &error, session);
        let mut error = error.more_context(format!("Peer: {peer}"));
        if *error.etype() == failover::NEXT || was_closed {
            error.set_retry(true);
            return error;
        }
        // The backend has not processed it (HTTP/2), so it may be sent there again.
        let is_given_back = !session.as_ref().retry_buffer_truncated() && is_unprocessed(&error);
        error.set_retry(is_given_back && ctx.stage.routed_mut().is_ok_and(|routed| routed.route.try_again()));
        if !error.retry() && failover::after_error(ctx, &error, session, reused) {
            error.set_retry(true);
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let routed = ctx.stage.routed_mut()?;
        if routed.who.received.handle.cut.reason().is_some() {
            return Error::e_explain(LEG_CUT, "the leg was cut");
        }
        upstream_request::begin(head, session.as_ref(), &routed.who.received)?;
        upstream_request::rewrite_head(head, session.req_header(), &routed.who, &routed.route)?;
        // A backend that was tried before may have another name for the model.
        routed.rewritten = None;
        if routed.route.served_as.is_some() {
            let held = session.as_ref().get_retry_buffer();
            let Identified { received, call, .. } = &*routed.who;
            routed.rewritten = upstream_request::rewrite_body(head, received, call, &routed.route, held)?;
        }
        let session = routed.leg.session().uid();
        trace_context::propagate(head, &ctx.app, routed.who.received.trace.as_mut(), session)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        chunk: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let headers = &session.req_header().headers;
        let judged = match chunk {
            Some(chunk) if ctx.stage.routed().is_some_and(|routed| routed.messages.is_some()) => {
                Box::pin(judge_socket::on_client_bytes(ctx, headers, chunk)).await
            }
            _ => Ok(()),
        };
        let passed = judged.and_then(|()| body_filters::upload(ctx, headers, chunk, end));
        let Err(error) = passed else { return Ok(()) };
        let handle = &ctx.stage.routed_mut()?.who.received.handle;
        // Empty, since none would end the body.
        *chunk = Some(Bytes::new());
        handle.upstream.stop(error)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        let routed = ctx.stage.routed_mut()?;
        routed.route.has_responded = true;
        let is_upgrade = routed.who.received.socket;
        upstream_response::check(head, is_upgrade)?;
        if let Some(refusal) = upstream_response::proxy_refusal(head, ctx, is_upgrade) {
            if failover::after_refusal_of_proxy(ctx, session) {
                return Err(Error::explain(failover::NEXT, "another backend is asked").into_up());
            }
            return Err(Self::stop(&mut ctx.outcome, refusal.into()));
        }
        if upstream_response::is_final(head) && failover::after_answer(ctx, head, session) {
            return Err(Error::explain(failover::NEXT, "another backend is asked").into_up());
        }
        if !upstream_response::is_final(head) {
            return Ok(());
        }
        let routed = ctx.stage.routed_mut()?;
        ctx.outcome.answer = upstream_response::begin(routed, head);
        capture::answers(&mut ctx.outcome, head);
        cached::answered(session, head, ctx);
        let routed = ctx.stage.routed_mut()?;
        if head.status != 101 {
            routed.socket = None;
        }
        if routed.route.dialect == Dialect::MCP
            && let Err(reject) = Box::pin(mcp::follow(session, head, ctx)).await
        {
            return Err(Self::stop(&mut ctx.outcome, reject));
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        if head.status == 101 {
            // A tunnel is idle only when neither side sends: `stream_idle` limits it, not `read`.
            session.set_read_timeout(None);
        }
        let routed = ctx.stage.routed_mut()?;
        if !upstream_response::is_final(head) {
            return upstream_response::for_client(head, &routed.who.received);
        }
        upstream_response::rewrite_head(head, &routed.who.received, &routed.leg)?;
        cached::announce(session, head, ctx)?;
        ctx.give_notice(head)?;
        govern::announce(head, &ctx.admission, &ctx.app.clock)?;
        let RequestCtx { app, stage, outcome, .. } = &mut **ctx;
        let routed = stage.routed_mut()?;
        compress::begin(head, &session.req_header().headers, app, routed, outcome)?;
        routed.who.received.secure(head, Writer::Backend)
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        chunk: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        body_filters::download(ctx, &session.req_header().headers, chunk, end).map(|()| None)
    }

    /// Ends an answer that is judged or compressed: before its trailers, the rest of it leaves.
    async fn response_trailer_filter(
        &self,
        session: &mut Session,
        _trailers: &mut HeaderMap,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Bytes>> {
        if ctx.outcome.answer.judging.is_none() && ctx.outcome.answer.compressing.is_none() {
            return Ok(None);
        }
        let mut rest = None;
        if let Err(error) = body_filters::download(ctx, &session.req_header().headers, &mut rest, true) {
            // Pingora logs what fails in this phase and sends the trailers, with which the answer would end well.
            let refusal = refuse::refusal_of(&error, ctx);
            if let Some(received) = ctx.stage.received() {
                received.handle.gate.refuse(Box::new(refusal));
            }
            return Ok(None);
        }
        Ok(rest.filter(|rest| !rest.is_empty()))
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        FailToProxy { error_code: refuse::fail(session, error, ctx).await, can_reuse_downstream: false }
    }

    /// Takes note of a hit that fails: Pingora calls no other phase then.
    async fn logging(&self, _: &mut Session, error: Option<&Error>, ctx: &mut Self::CTX) {
        if let Some(error) = error.filter(|_| ctx.outcome.answer.is_cached && ctx.outcome.failure.is_none()) {
            ctx.outcome.failure = Some(Box::new(refuse::refusal_of(error, ctx)));
        }
    }

    /// `failover` counts and logs failed attempts.
    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _exchange: &Self::CTX,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    /// Failures are logged once, in the access line, and by `report` where Pingora's error says more.
    fn suppress_error_log(&self, _session: &Session, _exchange: &Self::CTX, _error: &Error) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
