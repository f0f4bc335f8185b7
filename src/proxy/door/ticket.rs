//! What door, gateway and downstream session share of one request.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use pingora_core::protocols::http::ServerSession;
use tokio::sync::watch;
use tokio::time::Instant;

use super::pace::Pace;
use super::silence::Silence;
use crate::clock::millis;
use crate::proxy::runtime_settings::RuntimeSettings;
use crate::session::cut::Cut;

/// No limit of silence is set.
const NO_LIMIT: u64 = u64::MAX;

/// The other end of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// It came over TLS.
    pub(crate) is_secure: bool,
}

/// One request's ticket: made when its head has been read, gone when its answer has ended.
pub(crate) struct Ticket {
    /// Cuts this leg; the session it is admitted to keeps a copy.
    pub(crate) cut: Arc<Cut>,
    /// The other end of the client's connection.
    pub(crate) peer: Peer,
    /// The settings in force when the request arrived; it keeps them to its end.
    pub(crate) settings: Arc<RuntimeSettings>,
    /// When the head was complete.
    pub(crate) arrived: Instant,
    /// Whether the connection may carry another request after this answer.
    reusable: AtomicBool,
    /// This instance goes away, and every connection after its present answer.
    draining: watch::Receiver<bool>,
    /// Whether body bytes are kept for replay.
    holding: AtomicBool,
    /// Body bytes that came from the client.
    received: AtomicU64,
    /// Milliseconds after `arrived` at which bytes last moved.
    last_move: AtomicU64,
    /// How many milliseconds of silence are borne; [`NO_LIMIT`] for any.
    silence_limit: AtomicU64,
    /// The answer is a socket.
    socket: AtomicBool,
    /// Nothing moved for too long, and nobody was there to say so.
    given_up: AtomicBool,
    /// After how many milliseconds without an event the client is sent a comment; [`NO_LIMIT`] where none may stand.
    comment_after: AtomicU64,
    /// Keeps the backend waiting while the client does not read.
    pub(super) pace: Arc<Pace>,
    /// The real session on its way back from the proxy to the connection.
    returned: Mutex<Option<Box<ServerSession>>>,
}

impl Ticket {
    pub(super) fn new(
        peer: Peer,
        settings: Arc<RuntimeSettings>,
        draining: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            cut: Cut::new(),
            peer,
            settings,
            arrived: Instant::now(),
            reusable: AtomicBool::new(true),
            draining,
            holding: AtomicBool::new(false),
            received: AtomicU64::new(0),
            last_move: AtomicU64::new(0),
            silence_limit: AtomicU64::new(NO_LIMIT),
            socket: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            comment_after: AtomicU64::new(NO_LIMIT),
            pace: Arc::default(),
            returned: Mutex::default(),
        })
    }

    /// The answer may come in large chunks: they are taken one by one from the first on.
    pub(crate) fn expect_large(&self) {
        self.pace.expect_large();
    }

    /// From now on body bytes are kept, so that they can be sent (again) after they were looked at.
    pub(crate) fn hold_body(&self) {
        self.holding.store(true, Relaxed);
    }

    pub(crate) fn is_held(&self) -> bool {
        self.holding.load(Relaxed)
    }

    /// The connection carries no further request. Gives whether it might have until now.
    pub(crate) fn close_after(&self) -> bool {
        self.reusable.swap(false, Relaxed)
    }

    /// It may carry further requests after all.
    pub(crate) fn keep(&self) {
        self.reusable.store(true, Relaxed);
    }

    pub(super) fn is_reusable(&self) -> bool {
        self.reusable.load(Relaxed) && !*self.draining.borrow()
    }

    /// Body bytes that came from the client so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub(super) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
        self.moved();
    }

    /// Bytes moved: silence is counted from now.
    pub(crate) fn moved(&self) {
        self.last_move.store(millis(self.arrived.elapsed()), Relaxed);
    }

    /// Silence of the backend for longer than `limit` from now on ends the leg.
    pub(crate) fn bear_silence(&self, limit: Duration) {
        self.moved();
        self.silence_limit.store(millis(limit), Relaxed);
    }

    /// From now on bytes go both ways at once.
    pub(super) fn upgraded(&self) {
        self.socket.store(true, Relaxed);
    }

    pub(super) fn give_up(&self) {
        self.given_up.store(true, Relaxed);
    }

    /// Whether this request was dropped because nothing moved any more.
    pub(crate) fn was_given_up(&self) -> bool {
        self.given_up.load(Relaxed)
    }

    /// Waits until nothing has moved in a socket for too long; for ever in other answers. Called in the task
    /// that carries the request, it needs nobody to wake it for the upgrade.
    pub(super) async fn stuck(&self) {
        let mut silence = Silence::default();
        poll_fn(|cx| match self.socket.load(Relaxed) {
            true => silence.poll_exceeded(self, cx),
            false => Poll::Pending,
        })
        .await;
    }

    /// When the present silence becomes too long.
    pub(super) fn silent_until(&self) -> Option<Instant> {
        let limit = self.silence_limit.load(Relaxed);
        (limit != NO_LIMIT)
            .then(|| self.arrived + Duration::from_millis(self.last_move.load(Relaxed).saturating_add(limit)))
    }

    /// From now on the client is sent a comment after so much silence; none while the answer may not hold one.
    pub(crate) fn comment_after(&self, silence: Option<Duration>) {
        self.comment_after.store(silence.map_or(NO_LIMIT, millis), Relaxed);
    }

    /// When a comment is due, if the last one was then.
    pub(super) fn comment_due(&self, last: Instant) -> Option<Instant> {
        let after = self.comment_after.load(Relaxed);
        (after != NO_LIMIT).then(|| {
            let moved = self.arrived + Duration::from_millis(self.last_move.load(Relaxed));
            moved.max(last) + Duration::from_millis(after)
        })
    }

    pub(super) fn give_back(&self, session: Box<ServerSession>) {
        *self.returned.lock() = Some(session);
    }

    pub(super) fn take_back(&self) -> Option<Box<ServerSession>> {
        self.returned.lock().take()
    }
}
