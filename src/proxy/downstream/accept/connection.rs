//! One connection: which HTTP it uses, and the proxy over each of its requests.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::FutureExt;
use futures::future::BoxFuture;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::{HttpProxy, ProxyHttp};
use pingora_timeout::timeout;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use super::buffered::Buffered;
use super::connection_permits::{ConnectionPermit, ConnectionPermits};
use super::negotiate::{Negotiated, Protocol, is_http2, negotiate};
use super::unparsed::UnparsedRequests;
use crate::error::{ErrorKind, Refusal};
use crate::proxy::downstream::h2_budget::H2Budget;
use crate::proxy::downstream::handle::{Opened, Peer, RequestHandle};
use crate::proxy::downstream::http1::Wire;
use crate::proxy::downstream::session::DownstreamSession;
use crate::proxy::error_response::{self, Bare};
use crate::proxy::runtime_settings::SharedSettings;
use crate::upstream::http1::Http1Connector;

/// How long the proxy has to write its closing frames after a cut; then its future is dropped.
const HARD_CUT: Duration = Duration::from_millis(25);

/// How long a connection without a request may still send its first one when draining begins: its client has seen it
/// accepted and may not retry. Later requests are not waited for, since clients expect that an idle connection may
/// close (RFC 9112, 9.5).
pub(super) const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// How long what the client still sends is read and discarded after an early response. Closing with unread bytes makes
/// the kernel reset the connection, and the client would lose the response (RFC 9112, 9.6). Over HTTP/2 the stream ends
/// with RST_STREAM (RFC 9113, 8.1), for which curl 7.88 drops a response that it has not read yet.
pub(super) const LINGER: Duration = Duration::from_millis(500);

/// Accepts connections and runs the proxy over their requests.
pub(crate) struct Downstream<P> {
    proxy: Arc<HttpProxy<P, Http1Connector>>,
    pub(super) live: SharedSettings,
    pub(super) permits: Arc<ConnectionPermits>,
    pub(super) unparsed: UnparsedRequests,
}

impl<P> Downstream<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    /// Creates the downstream side of `proxy`, for as many clients as there are `permits`.
    pub(crate) fn new(
        proxy: HttpProxy<P, Http1Connector>,
        live: SharedSettings,
        permits: Arc<ConnectionPermits>,
        unparsed: UnparsedRequests,
    ) -> Arc<Self> {
        Arc::new(Self { proxy: Arc::new(proxy), live, permits, unparsed })
    }

    /// Returns whether `auth.acl` permits connections from this address; counts those that it does not.
    pub(super) fn admits(&self, client: IpAddr) -> bool {
        let admits = self.live.load().auth.acl().admits(client);
        if !admits {
            self.permits.denied();
        }
        admits
    }

    /// Returns a permit for one more connection; `None` when a limit is reached.
    pub(super) fn connection_permit(&self) -> Option<ConnectionPermit> {
        self.permits.connection(self.live.load().limits.max_connections)
    }

    /// Serves a connection until it ends.
    pub(super) async fn serve_connection(
        self: Arc<Self>,
        tcp: TcpStream,
        client: SocketAddr,
        mut draining: watch::Receiver<bool>,
    ) {
        let settings = self.live.load_full();
        let (begun, limit) = (Instant::now(), settings.timeouts.read);
        let negotiated = tokio::select! {
            biased;
            negotiated = timeout(limit, negotiate(tcp, client.ip(), &settings)) => negotiated,
            () = drained(&mut draining, FIRST_REQUEST) => return,
        };
        let negotiated = match negotiated {
            Ok(Ok(negotiated)) => negotiated,
            Ok(Err(error)) => return debug!(%client, %error, "no connection was made"),
            Err(_) => return,
        };
        // The connection may stay open for hours and should not keep old settings alive.
        drop(settings);
        // The handshake and the first head share one limit.
        let limit = limit.saturating_sub(begun.elapsed());
        let Negotiated { protocol, is_secure, names } = negotiated;
        let peer = Peer { address: client, is_secure, names, within: None, last_caller: Arc::default() };
        match protocol {
            Protocol::Http1(wire, ahead) => self.serve_http1(wire, ahead, peer, limit, draining).await,
            // Boxed, so that HTTP/1.1 connections do not carry the size of its future.
            Protocol::Http2(stream, budget) => {
                Box::pin(self.serve_http2(stream, peer, limit, budget, draining)).await;
            }
        }
    }

    /// Serves a connection in a tunnel until it ends, or its host is blocked.
    pub(super) fn serve_opened(
        self: Arc<Self>,
        opened: Box<Opened>,
        draining: watch::Receiver<bool>,
    ) -> BoxFuture<'static, ()> {
        // Boxed as a trait object: a connection may serve one that is served in the same way.
        Box::pin(async move {
            let Opened { stream, peer, cut, tunnel } = *opened;
            let settings = self.live.load_full();
            let (limit, client) = (settings.timeouts.read, peer.address.ip().to_canonical());
            let serving = async {
                if is_http2(&stream) {
                    let is_trusted = settings.forwarding.trusts(client);
                    let budget = Arc::new(H2Budget::new(settings.limits.max_cancelled_streams, is_trusted));
                    let stream = Box::new(Buffered::new(*stream, BytesMut::new(), Arc::clone(&budget)));
                    Box::pin(self.serve_http2(stream, peer, limit, budget, draining)).await;
                } else {
                    self.serve_http1(Wire::Tunnel(stream), BytesMut::new(), peer, limit, draining).await;
                }
            };
            tokio::select! {
                biased;
                _ = cut.hard() => {}
                () = serving => {}
            }
            drop(tunnel);
        })
    }

    /// Runs the proxy over one request. Afterwards the handle has the session with the client if it can still be used.
    pub(super) async fn run_proxy(
        &self,
        session: DownstreamSession,
        handle: &Arc<RequestHandle>,
        draining: &watch::Receiver<bool>,
    ) -> ProxyEnd {
        let serving = self.proxy.process_new_http(ServerSession::new_custom(Box::new(session)), draining);
        let has_panicked = tokio::select! {
            biased;
            // After a panic only the request's connection is used again, and only if no response was started on it.
            served = AssertUnwindSafe(handle.backpressure.run(serving)).catch_unwind() => served.is_err(),
            () = async { handle.cut.hard().await; sleep(HARD_CUT).await } => false,
            // While Pingora waits to write to a backend that does not read, it reads from neither side of a tunnel,
            // and the idle timer of the session is not polled.
            () = async {
                handle.tunnel.idle(&handle.activity).await;
                sleep(HARD_CUT).await;
                handle.tunnel.abandon();
            } => false,
        };
        if !has_panicked {
            return ProxyEnd::Done;
        }
        Box::pin(answer_panic(handle)).await;
        ProxyEnd::Panicked
    }
}

/// How the proxy ended a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyEnd {
    /// It returned, or the request was cut.
    Done,
    /// The proxy panicked. A 500 was sent if no response had started.
    Panicked,
}

/// Sends a 500 if no response had started when the proxy panicked.
async fn answer_panic(handle: &RequestHandle) {
    if let Some(mut session) = handle.take_session() {
        let refusal = Refusal::new(ErrorKind::Internal, error_response::INTERNAL_MESSAGE);
        let answer = Bare::new(&refusal, &handle.settings.http.security_headers, handle.peer.is_secure);
        session.refuse(&answer, &refusal).await;
        handle.return_session(session);
    }
}

/// Waits until this process has been draining for `after`.
pub(super) async fn drained(draining: &mut watch::Receiver<bool>, after: Duration) {
    let _ = draining.wait_for(|draining| *draining).await;
    sleep(after).await;
}
