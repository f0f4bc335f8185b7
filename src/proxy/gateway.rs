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

use super::arrive::{self, Arrival};
use super::dispatch::Route;
use super::door::CUT;
use super::exchange::Exchange;
use super::inbound::{self, Answer};
use super::refuse::{self, REFUSED, Stop};
use super::trace::{self, Trace};
use super::{
    admit, capture, dispatch, failover, identify, local, mcp, models, outbound, read, stream, upgrade,
};
use crate::capture::shown;
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
    /// Counts the sockets that are open.
    pub(crate) open_sockets: Gauge,
    /// The log.
    pub(crate) log: Arc<Log>,
    /// The time.
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

impl House {
    /// What counts this request while it is open.
    fn open(&self, arrival: &Arrival) -> &Gauge {
        if arrival.socket { &self.open_sockets } else { &self.open_legs }
    }
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
        upgrade::check_origin(arrival, headers)?;
        let caller = &*exchange.caller.insert(identify::caller(arrival, headers, &house.principals)?);
        let found = identify::by_head(arrival, headers)?;
        if let Some(found) = found {
            exchange.named = Some(found.id.clone());
            exchange.leg = Some(admit::admit(&house.sessions, arrival, caller, found).await?);
            exchange.open = Some(house.open(arrival).enter());
        }
        let reading = Instant::now();
        exchange.call = match upgrade::call(arrival) {
            Some(call) => call,
            None => read::read(session, arrival).await?,
        };
        let (arrived, waited) = (arrival.ticket.arrived, reading.elapsed());
        if models::is_asked(arrival, &session.req_header().headers) {
            models::answer(session, exchange).await?;
            return Ok(false);
        }
        self.dispatch(session.req_header(), exchange).await?;
        house.metrics.overhead(arrived.elapsed().saturating_sub(waited));
        Ok(true)
    }

    /// Where the request goes, and in which session, now that its body is known.
    async fn dispatch(&self, head: &RequestHeader, exchange: &mut Exchange) -> Result<(), Stop> {
        let house = &self.house;
        let (Some(arrival), Some(caller)) = (&exchange.arrival, &exchange.caller) else {
            return Err(Error::explain(ErrorType::InternalError, "a request without a caller").into());
        };
        let model = exchange.call.model.as_deref().map(shown);
        let now = house.clock.now();
        let route = dispatch::route(arrival, caller, head, &exchange.call, now)?;
        let route = exchange.route.insert(route);
        let is_llm = route.dialect.is_llm();
        if !is_llm {
            // Models answer in words; all else may be a download.
            arrival.ticket.expect_large();
        }
        exchange.socket = upgrade::socket(arrival, route);
        if route.dialect == Dialect::MCP {
            mcp::check(arrival, &head.headers, &exchange.call)?;
        }
        let leg = match exchange.leg.take() {
            Some(leg) => leg,
            None => {
                let backend = route.backend.settings().name().as_str();
                let found = identify::by_body(arrival, caller, &exchange.call, &head.headers, backend)?;
                exchange.named = Some(found.id.clone());
                admit::admit(&house.sessions, arrival, caller, found).await?
            }
        };
        route.balance(arrival, leg.session(), now);
        leg.routed(route.backend.settings().name(), model.as_deref());
        if is_llm {
            leg.offers(&exchange.call.tools_offered);
        }
        leg.session().add_bytes_in(arrival.ticket.received());
        exchange.leg = Some(leg);
        exchange.open.get_or_insert_with(|| house.open(arrival).enter());
        Ok(())
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
        let admitted = self.admit(session, exchange).await;
        capture::begin(session, exchange);
        match admitted {
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
        loop {
            let (Some(arrival), Some(route)) = (&exchange.arrival, &exchange.route) else {
                return Error::e_explain(ErrorType::InternalError, "a request without a route");
            };
            match dispatch::peer(arrival, route, session.as_ref().is_upgrade_req()).await {
                Ok(peer) => {
                    arrival.ticket.bear_silence(arrival.ticket.snapshot.timeouts.upstream_first_byte);
                    return Ok(peer);
                }
                Err(Stop::Refused(_)) if failover::after_no_connection(exchange) => {}
                Err(stop) => return Err(Self::stop(exchange, stop)),
            }
        }
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        exchange: &mut Exchange,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // Nothing was sent yet, so the next address, or another backend, may be tried whatever the method.
        let other_address = exchange.route.as_mut().is_some_and(|route| route.next_address(peer));
        error.set_retry(other_address || failover::after_no_connection(exchange));
        error
    }

    /// Pingora's own policy, and other backends where it would give up.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        exchange: &mut Exchange,
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
            error.set_retry(exchange.route.as_mut().is_some_and(Route::try_again));
        } else if can_be_sent_again && session.req_header().method.is_idempotent() {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        if !error.retry() && failover::after_error(exchange, &error, session, reused) {
            error.set_retry(true);
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let (Some(arrival), Some(route)) = (&exchange.arrival, &exchange.route) else {
            return Error::e_explain(ErrorType::InternalError, "a request without a route");
        };
        if arrival.ticket.cut.reason().is_some() {
            return Error::e_explain(CUT, "the leg was cut");
        }
        outbound::outbound(head, arrival, route)?;
        if route.served_as.is_some() {
            exchange.renamed = outbound::rename(head, route, session.as_ref().get_retry_buffer())?;
        }
        trace::outbound(head, exchange)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        chunk: &mut Option<Bytes>,
        _end: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        stream::upload(exchange, chunk)?;
        // A held body comes in one piece.
        if chunk.is_some()
            && let Some(renamed) = exchange.renamed.take()
        {
            *chunk = Some(renamed);
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        inbound::check(head, session.as_ref().is_upgrade_req())?;
        if inbound::is_final(head) && failover::after_answer(exchange, head, session) {
            return Err(Error::explain(failover::NEXT, "another backend is asked").into_up());
        }
        if let (Some(arrival), Some(route)) = (&exchange.arrival, &exchange.route)
            && inbound::is_final(head)
        {
            let is_mcp = route.dialect == Dialect::MCP;
            exchange.answer = Answer::begin(arrival, route, &exchange.call, head);
            capture::answers(exchange, head);
            if head.status != 101 {
                exchange.socket = None;
            }
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
            (Some(arrival), Some(leg)) if inbound::is_final(head) => inbound::inbound(head, arrival, leg),
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
            && *error.etype() != CUT
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

    /// Told by `failover`.
    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _exchange: &Exchange,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
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

/// Whether the head of an answer is on its way to the client.
fn has_begun(session: &Session) -> bool {
    session.response_written().is_some_and(inbound::is_final)
}
