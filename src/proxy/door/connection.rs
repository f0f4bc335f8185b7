//! One connection: its requests one after another, each with a head that arrives in time, each
//! dropped if it does not end soon after its leg was cut. Those of an HTTP/2 connection are in `multiplex`.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use pingora::time::timeout;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType};
use pingora_proxy::{HttpProxy, ProxyHttp};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use super::greet::greet;
use super::places::{Place, Places};
use super::session::DoorSession;
use super::ticket::{Peer, Ticket};
use crate::error::{ErrorKind, Refusal};
use crate::proxy::refuse;
use crate::proxy::runtime_settings::SharedSettings;

/// After a cut the proxy has this long to write its last words; then its future is dropped.
const HARD_CUT: Duration = Duration::from_millis(25);

/// How long what the client still sends is read and thrown away after an early answer. Closing with
/// unread bytes would make the kernel reset the connection and the answer be lost (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_millis(500);

/// How much is thrown away at a time.
const WASTE: usize = 16 << 10;

/// A connection that was accepted and has not brought its first request when draining begins is given this
/// long: its client has seen it accepted, and may not ask again. Later requests are not waited for, since
/// clients know that an idle connection may be closed (RFC 9112, 9.5).
pub(super) const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// The door: takes connections and lets their requests through to the proxy behind it.
pub(crate) struct Door<P> {
    proxy: Arc<HttpProxy<P>>,
    pub(super) live: SharedSettings,
    pub(super) places: Arc<Places>,
}

impl<P> Door<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    /// A door before `proxy`, for as many clients as there are `places`.
    pub(crate) fn new(proxy: HttpProxy<P>, live: SharedSettings, places: Arc<Places>) -> Arc<Self> {
        Arc::new(Self { proxy: Arc::new(proxy), live, places })
    }

    /// A place for one more connection, or `None` when there is no room for it.
    pub(super) fn take_place(&self) -> Option<Place> {
        self.places.connection(self.live.load().limits.max_connections)
    }

    /// Finds out what a connection speaks, and serves it to its end.
    pub(super) async fn welcome(
        self: Arc<Self>,
        tcp: TcpStream,
        client: SocketAddr,
        mut draining: watch::Receiver<bool>,
    ) {
        let snapshot = self.live.load_full();
        let (begun, limit) = (Instant::now(), snapshot.timeouts.read);
        let greeted = tokio::select! {
            biased;
            greeted = timeout(limit, greet(tcp, client.ip(), &snapshot)) => greeted,
            () = drained(&mut draining, FIRST_REQUEST) => return,
        };
        let greeted = match greeted {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(error)) => return debug!(%client, %error, "no connection was made"),
            Err(_) => return,
        };
        // The connection may live for hours, and these settings need not.
        drop(snapshot);
        // Who needs long for its handshake has less time for its first request.
        let limit = limit.saturating_sub(begun.elapsed());
        let peer = Peer { address: client, is_secure: greeted.is_secure };
        match greeted.toll {
            None => self.converse(greeted.stream, peer, limit, draining).await,
            // Apart, so that the many connections without it do not carry its memory.
            Some(toll) => Box::pin(self.multiplex(greeted.stream, peer, limit, toll, draining)).await,
        }
    }

    /// Serves an HTTP/1.1 connection to its end; its first head must be there within `head_limit`.
    async fn converse(
        self: Arc<Self>,
        stream: Stream,
        peer: Peer,
        mut head_limit: Duration,
        mut draining: watch::Receiver<bool>,
    ) {
        let mut session = ServerSession::new_http1(stream);
        // Time limits between requests are ours, below; Pingora's would restart with each byte.
        session.set_keepalive(Some(0));
        let mut after_drain = FIRST_REQUEST;
        while let Some(read) = self.next_request(session, head_limit, after_drain, &mut draining).await {
            let Some((stream, settings)) =
                self.serve_request(read, peer, &draining).await.map(ReusedHttpStream::consume)
            else {
                break;
            };
            session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
            head_limit = self.live.load().timeouts.idle;
            after_drain = Duration::ZERO;
        }
    }

    /// Reads a request head within `limit`; `None` when the client is gone, silent, slow or makes no
    /// sense (then it has its answer), or when this instance has been draining for `after_drain`.
    async fn next_request(
        &self,
        mut session: ServerSession,
        limit: Duration,
        after_drain: Duration,
        draining: &mut watch::Receiver<bool>,
    ) -> Option<ServerSession> {
        let read = tokio::select! {
            biased;
            read = timeout(limit, session.read_request()) => read,
            () = drained(draining, after_drain) => return None,
        };
        match read {
            Ok(Ok(true)) => Some(session),
            Ok(Ok(false)) | Err(_) => None,
            Ok(Err(error)) => {
                if let Some(refusal) = head_refusal(&error) {
                    let limit = self.live.load().timeouts.write;
                    let _ = timeout(limit, refuse::bare(&mut session, &refusal)).await;
                    linger(session).await;
                }
                None
            }
        }
    }

    /// Lets one request through; gives the connection back when it can carry another one.
    async fn serve_request(
        &self,
        mut session: ServerSession,
        peer: Peer,
        draining: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        let snapshot = self.live.load_full();
        session.set_read_timeout(Some(snapshot.timeouts.read));
        session.set_pipelining_enabled(true);
        let ticket = Ticket::new(peer, snapshot, draining.clone());
        session.req_header_mut().extensions_mut().insert(Arc::clone(&ticket));
        let held = DoorSession::new(Box::new(session), Arc::clone(&ticket));
        let outcome = self.carry(held, &ticket, draining).await;
        let mut session = *ticket.take_back()?;
        if outcome == Carried::Panicked || !ticket.is_reusable() || !session.is_body_done() {
            linger(session).await;
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let reusable = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }

    /// Runs the proxy over one request. Afterwards the ticket has the session back if it can be used.
    pub(super) async fn carry(
        &self,
        held: DoorSession,
        ticket: &Arc<Ticket>,
        draining: &watch::Receiver<bool>,
    ) -> Carried {
        let serving = self.proxy.process_new_http(ServerSession::new_custom(Box::new(held)), draining);
        let has_panicked = tokio::select! {
            biased;
            // Nothing of the request is used after a panic but its connection, which no answer was written to.
            served = AssertUnwindSafe(ticket.pace.run(serving)).catch_unwind() => served.is_err(),
            () = async { ticket.cut.hard().await; sleep(HARD_CUT).await } => false,
            // Pingora reads from neither side of a socket while it waits to write to a backend that does not
            // read; then its silence is noticed here only.
            () = async { ticket.stuck().await; sleep(HARD_CUT).await; ticket.give_up() } => false,
        };
        if !has_panicked {
            return Carried::Through;
        }
        if let Some(mut session) = ticket.take_back() {
            refuse::bare(&mut session, &Refusal::new(ErrorKind::Internal, refuse::OUR_FAULT)).await;
            ticket.give_back(session);
        }
        Carried::Panicked
    }
}

/// What became of a request in the proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Carried {
    /// It came to its end, or was cut.
    Through,
    /// A fault of ours ended it; the client was told, if it had no answer yet.
    Panicked,
}

/// Waits until this instance has been draining for `after`.
pub(super) async fn drained(draining: &mut watch::Receiver<bool>, after: Duration) {
    let _ = draining.wait_for(|draining| *draining).await;
    sleep(after).await;
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

/// Ends our side of the connection and reads on for a moment, so that the client gets the answer. What is
/// read is thrown away, whatever it is: there may not even be a head that says where a body ends.
async fn linger(mut session: ServerSession) {
    session.set_keepalive(None);
    let ending = async {
        session.shutdown().await;
        let ServerSession::H1(session) = session else { return };
        let mut stream = session.into_inner();
        let mut waste = vec![0; WASTE];
        while stream.read(&mut waste).await.is_ok_and(|length| length > 0) {}
    };
    let _ = timeout(LINGER, ending).await;
}
