//! An HTTP/1.1 connection: its requests one after another, each with a time limit for its head.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pingora_proxy::ProxyHttp;
use pingora_timeout::timeout;
use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::{Downstream, FIRST_REQUEST, LINGER, ProxyEnd, drained};
use super::unparsed;
use crate::proxy::downstream::client_stream::ClientStream;
use crate::proxy::downstream::handle::{Peer, RequestHandle};
use crate::proxy::downstream::http1::head::{Fault, Head};
use crate::proxy::downstream::http1::{Connection, Exchange, Unread, Wire};
use crate::proxy::downstream::session::{ClientSession, DownstreamSession};
use crate::proxy::error_response::Bare;

impl<P> Downstream<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    /// Serves an HTTP/1.1 connection until it ends; its first head must arrive within `head_limit`. `ahead` was read already.
    pub(super) async fn serve_http1(
        self: Arc<Self>,
        wire: Wire,
        ahead: BytesMut,
        peer: Peer,
        mut head_limit: Duration,
        mut draining: watch::Receiver<bool>,
    ) {
        let mut connection = Connection::new(wire, ahead);
        let mut after_drain = FIRST_REQUEST;
        loop {
            // Limits the time between requests, not that between bytes.
            let read = tokio::select! {
                biased;
                read = connection.read_request(Instant::now().checked_add(head_limit)) => read,
                () = drained(&mut draining, after_drain) => return,
            };
            let head = match read {
                Ok(head) if self.admits(peer.address.ip()) => head,
                // Since the connection began, a reload has denied its address.
                Ok(_) => return,
                // Boxed, as is the exchange below, so that the task of a connection stays small.
                Err(Unread::Head(fault)) => {
                    return Box::pin(self.refuse_head(connection, &peer, fault)).await;
                }
                Err(Unread::Closed) => return,
            };
            let exchange = Box::new(Exchange::new(connection, head));
            match self.serve_request(exchange, peer.clone(), &draining).await {
                Some(open) => connection = open,
                None => return,
            }
            head_limit = self.live.load().timeouts.idle;
            after_drain = Duration::ZERO;
        }
    }

    /// Sends the error response to a head that was rejected, and closes the connection.
    async fn refuse_head(&self, connection: Connection, peer: &Peer, fault: Fault) {
        let refusal = unparsed::refusal(fault);
        let begun = Instant::now();
        let settings = self.live.load_full();
        let answer = Bare::new(&refusal, &settings.http.security_headers, peer.is_secure);
        let limit = settings.timeouts.write;
        let mut session = ClientSession::Http1(Box::new(Exchange::new(connection, Head::rejected())));
        let _ = timeout(limit, session.refuse(&answer, &refusal)).await;
        self.unparsed.account(peer, &refusal, &answer.request_id, answer.sent, begun.elapsed());
        if let ClientSession::Http1(exchange) = session {
            linger(exchange.into_connection()).await;
        }
    }

    /// Serves one request; returns the connection if it can carry another one.
    async fn serve_request(
        self: &Arc<Self>,
        mut exchange: Box<Exchange>,
        peer: Peer,
        draining: &watch::Receiver<bool>,
    ) -> Option<Connection> {
        let settings = self.live.load_full();
        let handle = RequestHandle::new(peer, settings, draining.clone());
        exchange.header_mut().extensions_mut().insert(Arc::clone(&handle));
        let downstream = DownstreamSession::new(ClientSession::Http1(exchange), Arc::clone(&handle));
        let end = self.run_proxy(downstream, &handle, draining).await;
        if let Some(takeover) = handle.takeover() {
            let ClientSession::Http1(exchange) = handle.take_session()? else { return None };
            let opened = takeover(ClientStream::http1(exchange.into_connection())).await?;
            Arc::clone(self).serve_opened(opened, draining.clone()).await;
            return None;
        }
        let ClientSession::Http1(exchange) = handle.take_session()? else { return None };
        if end == ProxyEnd::Panicked || !handle.reuse.is_allowed() || !exchange.is_body_done() {
            linger(exchange.into_connection()).await;
            return None;
        }
        exchange.finish().await
    }
}

/// Closes the write side and reads on for [`LINGER`], so that the client receives the response. The bytes are discarded
/// without parsing: after an invalid head nothing says where a body ends.
async fn linger(mut connection: Connection) {
    let ending = async {
        connection.shutdown().await;
        connection.discard().await;
    };
    let _ = timeout(LINGER, ending).await;
}
