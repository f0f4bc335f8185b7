//! One connection: its requests one after another, each with a head that arrives in time, each
//! dropped if it does not end soon after its leg was cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType};
use pingora_proxy::{HttpProxy, ProxyHttp};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::session::DoorSession;
use super::ticket::Ticket;
use crate::error::{ErrorKind, Refusal};
use crate::proxy::refuse;
use crate::proxy::snapshot::Live;
use crate::telemetry::metrics::Gauge;

/// After a cut the proxy has this long to write its last words; then its future is dropped.
const HARD_CUT: Duration = Duration::from_millis(25);

/// How long what the client still sends is read and thrown away after an early answer. Closing with
/// unread bytes would make the kernel reset the connection and the answer be lost (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_millis(500);

/// The door: takes connections and lets their requests through to the proxy behind it.
pub(crate) struct Door<P> {
    proxy: Arc<HttpProxy<P>>,
    live: Live,
    open: Arc<AtomicUsize>,
    connections: Gauge,
}

/// A place among the `server.limits.max_connections`; dropping it gives it back.
pub(super) struct Place {
    open: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

impl<P> Door<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    /// A door before `proxy`; open connections are counted in `connections`.
    pub(crate) fn new(proxy: HttpProxy<P>, live: Live, connections: Gauge) -> Arc<Self> {
        Arc::new(Self { proxy: Arc::new(proxy), live, open: Arc::default(), connections })
    }

    /// A place for one more connection, or `None` when the configured number is reached.
    pub(super) fn take_place(&self) -> Option<Place> {
        let limit = self.live.load().limits.max_connections;
        self.open
            .fetch_update(Relaxed, Relaxed, |open| (open < limit).then_some(open + 1))
            .is_ok()
            .then(|| Place { open: Arc::clone(&self.open) })
    }

    /// Serves one connection to its end.
    pub(super) async fn converse(
        self: Arc<Self>,
        stream: Stream,
        client: SocketAddr,
        mut draining: watch::Receiver<bool>,
    ) {
        let _counted = self.connections.enter();
        let mut session = ServerSession::new_http1(stream);
        // Time limits between requests are ours, below; Pingora's would restart with each byte.
        session.set_keepalive(Some(0));
        let mut head_limit = self.live.load().timeouts.read;
        while let Some(read) = self.next_request(session, head_limit, &mut draining).await {
            let Some((stream, settings)) =
                self.serve_request(read, client, &draining).await.map(ReusedHttpStream::consume)
            else {
                break;
            };
            session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
            head_limit = self.live.load().timeouts.idle;
        }
    }

    /// Reads a request head within `limit`; `None` when the client is gone, silent, slow or makes no
    /// sense (then it has its answer), or when this instance is draining.
    async fn next_request(
        &self,
        mut session: ServerSession,
        limit: Duration,
        draining: &mut watch::Receiver<bool>,
    ) -> Option<ServerSession> {
        let read = tokio::select! {
            biased;
            read = timeout(limit, session.read_request()) => read,
            _ = draining.wait_for(|draining| *draining) => return None,
        };
        match read {
            Ok(Ok(true)) => Some(session),
            Ok(Ok(false)) | Err(_) => None,
            Ok(Err(error)) => {
                if let Some(refusal) = head_refusal(&error) {
                    refuse::bare(&mut session, &refusal).await;
                    // No head, no body: draining one would panic in Pingora.
                    session.set_keepalive(None);
                    session.shutdown().await;
                }
                None
            }
        }
    }

    /// Lets one request through; gives the connection back when it can carry another one.
    async fn serve_request(
        &self,
        mut session: ServerSession,
        client: SocketAddr,
        draining: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        let snapshot = self.live.load_full();
        session.set_read_timeout(Some(snapshot.timeouts.read));
        session.set_write_timeout(Some(snapshot.timeouts.write));
        session.set_pipelining_enabled(true);
        if *draining.borrow() {
            session.set_keepalive(None);
        }
        let ticket = Ticket::new(client, snapshot);
        session.req_header_mut().extensions_mut().insert(Arc::clone(&ticket));
        let held = DoorSession::new(Box::new(session), Arc::clone(&ticket));
        tokio::select! {
            biased;
            _ = self.proxy.process_new_http(ServerSession::new_custom(Box::new(held)), draining) => {}
            () = async { ticket.cut.hard().await; sleep(HARD_CUT).await } => {}
        }
        let mut session = *ticket.take_back()?;
        if !ticket.is_reusable() || !session.is_body_done() {
            linger(session).await;
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let reusable = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }
}

/// The refusal of a head that cannot be read; `None` when the connection is broken anyway.
fn head_refusal(error: &Error) -> Option<Refusal> {
    if !matches!(error.etype(), ErrorType::InvalidHTTPHeader) {
        return None;
    }
    // Pingora tells its two size limits (1 MiB, 256 fields) only in its words.
    let words = error.to_string();
    if words.contains("larger than") || words.contains("TooManyHeaders") {
        let message = "the request head is too large; send fewer or smaller header fields";
        return Some(Refusal::new(ErrorKind::HeadersTooLarge, message));
    }
    Some(Refusal::new(ErrorKind::BadRequest, "the request head is not valid HTTP/1.1 (RFC 9112)"))
}

/// Ends our side of the connection and reads on for a moment, so that the client gets the answer.
async fn linger(mut session: ServerSession) {
    session.set_keepalive(None);
    session.shutdown().await;
    let _ = timeout(LINGER, session.drain_request_body()).await;
}
