//! The gateway: Pingora's phases, each handed to the step whose name it bears.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tracing::debug;

use super::arrive::{self, Arrival};
use super::dispatch::Route;
use super::exchange::Exchange;
use super::inbound::{self, Answer};
use super::refuse::{self, REFUSED, Stop};
use super::trace::{self, Trace};
use super::{admit, dispatch, identify, local, mcp, models, outbound, read, stream};
use crate::clock::Clock;
use crate::error::{ErrorKind, Refusal};
use crate::identity::Key;
use crate::protocol::dialect::Dialect;
use crate::session::Manager;
use crate::telemetry::log::Log;
use crate::telemetry::metrics::{BackendMetrics, Gauge, Metrics};
use crate::telemetry::otlp::export::Exporter;
use crate::telemetry::readiness::Readiness;
use crate::upstream::peer::is_unprocessed;

/// What every request needs, whatever the settings.
pub(crate) struct House {
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
    /// The log.
    pub(crate) log: Arc<Log>,
    /// The time.
    pub(crate) clock: Clock,
    /// Whether this instance should be sent work.
    pub(crate) readiness: Arc<Readiness>,
    /// Tells a collector of requests, when one is configured.
    pub(crate) exporter: Option<Arc<Exporter>>,
    /// Connects to backends for what the gateway asks of them itself.
    pub(crate) connector: Connector,
}

/// Pingora's proxy logic: conducts the steps, decides nothing itself.
pub(crate) struct Gateway {
    house: Arc<House>,
}

impl Gateway {
    pub(crate) fn new(house: Arc<House>) -> Self {
        Self { house }
    }

    /// Steps 1 to 5. False when the request has been answered here.
    async fn admit(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool, Stop> {
        let house = &self.house;
        let arrival = Arrival::of(session.req_header())
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "a request without a ticket"))?;
        let arrival = &*exchange.arrival.insert(arrival);
        exchange.trace = Trace::begin(house, &session.req_header().headers);
        arrive::check(arrival, session)?;
        if let Some(answer) = local::answer_to(arrival, &house.readiness) {
            local::write(session, exchange, answer).await?;
            return Ok(false);
        }
        let headers = &session.req_header().headers;
        let caller = &*exchange.caller.insert(identify::caller(arrival, headers, &house.principals));
        let found = identify::by_head(arrival, headers)?;
        if let Some(found) = found {
            exchange.named = Some(found.id.clone());
            exchange.leg = Some(admit::admit(&house.sessions, arrival, caller, found).await?);
            exchange.open = Some(house.open_legs.enter());
        }
        let reading = Instant::now();
        exchange.call = read::read(session, arrival).await?;
        let waited = reading.elapsed();
        if models::is_asked(arrival, &session.req_header().headers) {
            models::answer(session, exchange).await?;
            return Ok(false);
        }
        let head = session.req_header();
        let model = exchange.call.model.as_deref();
        let route = dispatch::route(arrival, head, &exchange.call)?;
        let backend = route.backend.settings().name().clone();
        let is_llm = route.dialect.is_llm();
        if !is_llm {
            // Models answer in words; all else may be a download.
            arrival.ticket.expect_large();
        }
        let dialect = route.dialect;
        exchange.route = Some(route);
        if dialect == Dialect::Mcp {
            mcp::check(arrival, &head.headers, &exchange.call)?;
        }
        let leg = match exchange.leg.take() {
            Some(leg) => leg,
            None => {
                let found =
                    identify::by_body(arrival, caller, &exchange.call, &head.headers, backend.as_str())?;
                exchange.named = Some(found.id.clone());
                admit::admit(&house.sessions, arrival, caller, found).await?
            }
        };
        leg.routed(&backend, model);
        if is_llm {
            leg.offers(&exchange.call.offer);
        }
        leg.session().add_bytes_in(arrival.ticket.received());
        exchange.leg = Some(leg);
        exchange.open.get_or_insert_with(|| house.open_legs.enter());
        house.metrics.overhead(arrival.ticket.arrived.elapsed().saturating_sub(waited));
        Ok(true)
    }

    /// The refusal in the exchange, for Pingora to carry to `fail_to_proxy`.
    fn stop(exchange: &mut Exchange, stop: Stop) -> Box<Error> {
        match stop {
            Stop::Broken(error) => error,
            Stop::Refused(refusal) => {
                exchange.refusal = Some(refusal);
                Error::new(REFUSED)
            }
        }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange::new(Arc::clone(&self.house))
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        match self.admit(session, exchange).await {
            Ok(forward) => Ok(!forward),
            Err(Stop::Broken(error)) => Err(error),
            Err(Stop::Refused(refusal)) => {
                refuse::answer(session, exchange, &refusal).await?;
                exchange.failure = Some(refusal);
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Exchange) -> Result<Box<HttpPeer>> {
        let (Some(arrival), Some(route)) = (&exchange.arrival, &exchange.route) else {
            return Error::e_explain(ErrorType::InternalError, "a request without a route");
        };
        match dispatch::peer(arrival, route, session.as_ref().is_upgrade_req()).await {
            Ok(peer) => {
                arrival.ticket.bear_silence(arrival.ticket.snapshot.timeouts.upstream_first_byte);
                Ok(peer)
            }
            Err(stop) => Err(Self::stop(exchange, stop)),
        }
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(route) = &mut exchange.route {
            // Nothing was sent yet, so the next address may be tried whatever the method.
            error.set_retry(route.next_address(peer));
        }
        error
    }

    /// As Pingora does it: only what may be repeated is sent again, or what no one has looked at.
    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        exchange: &mut Exchange,
        reused: bool,
    ) -> Box<Error> {
        let can_be_sent_again = !session.as_ref().retry_buffer_truncated();
        if can_be_sent_again && is_unprocessed(&error) {
            error.set_retry(exchange.route.as_mut().is_some_and(Route::try_again));
        } else if can_be_sent_again && session.req_header().method.is_idempotent() {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        head: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let (Some(arrival), Some(route)) = (&exchange.arrival, &exchange.route) else {
            return Error::e_explain(ErrorType::InternalError, "a request without a route");
        };
        outbound::outbound(head, arrival, route)?;
        trace::outbound(head, exchange)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        chunk: &mut Option<Bytes>,
        _end: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        stream::upload(exchange, chunk)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        inbound::check(head, session.as_ref().is_upgrade_req())?;
        if let (Some(arrival), Some(route)) = (&exchange.arrival, &exchange.route)
            && is_final(head)
        {
            let is_mcp = route.dialect == Dialect::Mcp;
            exchange.answer = Answer::begin(arrival, route, &exchange.call, head);
            if is_mcp && let Err(stop) = mcp::follow(session, head, exchange).await {
                return Err(Self::stop(exchange, stop));
            }
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        if head.status == 101 {
            // A tunnel is idle when neither side speaks: `stream_idle`, not `read`, is its limit.
            session.set_read_timeout(None);
        }
        match (&exchange.arrival, &exchange.leg) {
            (Some(arrival), Some(leg)) if is_final(head) => inbound::inbound(head, arrival, leg),
            _ => Ok(()),
        }
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        chunk: &mut Option<Bytes>,
        end: bool,
        exchange: &mut Exchange,
    ) -> Result<Option<Duration>> {
        stream::download(exchange, chunk, end).map(|()| None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Exchange,
    ) -> FailToProxy {
        let refusal = refuse::refusal_of(error, exchange);
        if let Some(arrival) = &exchange.arrival
            && *error.esource() == ErrorSource::Downstream
        {
            // Where this request ends is not known, so nothing behind it is one.
            arrival.ticket.close_after();
        }
        debug!(%error, kind = %refusal.kind, "a request failed");
        if has_begun(session) {
            refuse::break_off(session, exchange, &refusal).await;
        } else if refusal.kind != ErrorKind::ClientGone
            && let Err(error) = refuse::answer(session, exchange, &refusal).await
        {
            debug!(%error, "the client is gone before its refusal");
        }
        let error_code = exchange.answer.status.unwrap_or(0);
        self.report(exchange, error, &refusal);
        exchange.failure = Some(refusal);
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// Failures are told once, by the access line; what only Pingora's words explain, by `report`.
    fn suppress_error_log(&self, _session: &Session, _exchange: &Exchange, _error: &Error) -> bool {
        true
    }
}

impl Gateway {
    /// Logs what an operator must look into.
    fn report(&self, exchange: &Exchange, error: &Error, refusal: &Refusal) {
        let request_id = exchange.arrival.as_ref().map_or("", |arrival| arrival.request_id.as_str());
        match refusal.kind {
            ErrorKind::BackendUnavailable | ErrorKind::BackendTimeout => {
                tracing::warn!(request_id, %error, "{}", refusal.message);
            }
            ErrorKind::Internal => tracing::error!(request_id, %error, "a fault of the gateway"),
            _ => {}
        }
    }
}

/// Informational heads (RFC 9110, 15.2) come before the answer; a 101 is the answer.
fn is_final(head: &ResponseHeader) -> bool {
    !head.status.is_informational() || head.status == 101
}

/// Whether the head of an answer is on its way to the client.
fn has_begun(session: &Session) -> bool {
    session.response_written().is_some_and(is_final)
}
