//! State of one request that the connection, the downstream session and the gateway share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::Context;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use pingora_core::{Error, Result};
use pingora_rustls::ServerTlsStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client_stream::ClientStream;
use super::session::ClientSession;
use super::timing::{Activity, Backpressure, Gate, Tunnel};
use crate::forward::{OpenTunnel, Target};
use crate::proxy::identify::Caller;
use crate::proxy::last_caller::LastCaller;
use crate::proxy::runtime_settings::RuntimeSettings;
use crate::session::Cut;
use crate::upstream::http1::{Messages, RequestWriter, Room};

/// The CONNECT whose tunnel was opened.
pub(crate) struct Within {
    /// Where the client wants to go.
    pub(crate) target: Target,
    /// Who stands behind each request.
    pub(crate) caller: Arc<Caller>,
    /// The user name of its `Proxy-Authorization`.
    pub(crate) user: Option<Box<[u8]>>,
    /// Ends the connection, with all requests in it, when its host is blocked.
    pub(crate) cut: Arc<Cut>,
}

/// A connection in a tunnel, which is served as one to the listener is.
pub(crate) struct Opened {
    pub(crate) stream: Box<ServerTlsStream<ClientStream>>,
    pub(crate) peer: Peer,
    /// That of [`Within`].
    pub(crate) cut: Arc<Cut>,
    /// Counts it as open.
    pub(crate) tunnel: OpenTunnel,
}

/// What becomes of a connection that is no longer HTTP. It ends with the future, unless that opens another one in it.
pub(crate) type Takeover = Box<dyn FnOnce(ClientStream) -> BoxFuture<'static, Option<Box<Opened>>> + Send>;

/// The client's end of a connection.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// The connection uses TLS.
    pub(crate) is_secure: bool,
    /// The names of the client's certificate, which was verified; empty without one.
    pub(crate) names: Arc<[Box<str>]>,
    /// The CONNECT that the connection came through; `None` for one to the listener.
    pub(crate) within: Option<Arc<Within>>,
    /// Shared by all requests of the connection.
    pub(crate) last_caller: Arc<LastCaller>,
}

/// Handle of one request: created when its head has been read, dropped after its response has ended.
///
/// Pingora passes it to the gateway in the extensions of the request head.
pub(crate) struct RequestHandle {
    /// Cuts this leg; its session holds a clone.
    pub(crate) cut: Arc<Cut>,
    /// The client's end of the connection.
    pub(crate) peer: Peer,
    /// The settings in force when the head was complete; used until the request ends.
    pub(crate) settings: Arc<RuntimeSettings>,
    /// When the head was complete.
    pub(crate) arrived: Instant,
    /// When bytes last moved, and how long none may.
    pub(crate) activity: Activity,
    /// The request body.
    pub(crate) upload: Upload,
    /// Whether the connection carries another request after this one.
    pub(crate) reuse: Reuse,
    /// Stops reading from the backend while the client does not read.
    pub(crate) backpressure: Arc<Backpressure>,
    /// What of the answer may not leave yet.
    pub(crate) gate: Gate,
    /// The request after a `101 Switching Protocols`.
    pub(crate) tunnel: Tunnel,
    /// The request as it is written to the backend.
    pub(crate) upstream: Upstream,
    /// The notice for the client that its agent is in a loop.
    pub(crate) notice: OnceLock<Box<str>>,
    /// Takes the connection over when the proxy has returned.
    takeover: Mutex<Option<Takeover>>,
    /// The session on its way from the proxy back to the connection.
    returned: Mutex<Option<ClientSession>>,
}

impl RequestHandle {
    /// Creates the handle of a request whose head is complete now.
    pub(crate) fn new(
        peer: Peer,
        settings: Arc<RuntimeSettings>,
        draining: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let arrived = Instant::now();
        Arc::new(Self {
            cut: Cut::new(),
            peer,
            settings,
            arrived,
            activity: Activity::new(arrived),
            upload: Upload::default(),
            reuse: Reuse::new(draining),
            backpressure: Arc::default(),
            gate: Gate::default(),
            tunnel: Tunnel::default(),
            upstream: Upstream::default(),
            notice: OnceLock::new(),
            takeover: Mutex::default(),
            returned: Mutex::default(),
        })
    }

    /// Lets `takeover` have the connection, or the stream, when the proxy has returned without an answer.
    pub(crate) fn take_over(&self, takeover: Takeover) {
        *self.takeover.lock() = Some(takeover);
    }

    /// Whether the proxy writes no answer, because the connection is taken over.
    pub(super) fn is_taken_over(&self) -> bool {
        self.takeover.lock().is_some()
    }

    /// Returns what takes the connection over, if anything does.
    pub(super) fn takeover(&self) -> Option<Takeover> {
        self.takeover.lock().take()
    }

    /// Hands the session back to the connection.
    pub(super) fn return_session(&self, session: ClientSession) {
        *self.returned.lock() = Some(session);
    }

    /// Takes the returned session; `None` if the connection cannot be used any more.
    pub(super) fn take_session(&self) -> Option<ClientSession> {
        self.returned.lock().take()
    }
}

/// The request body as it arrives.
#[derive(Default)]
pub(crate) struct Upload {
    is_buffered: AtomicBool,
    bytes: AtomicU64,
    held: AtomicU64,
}

impl Upload {
    /// Buffers all further body bytes for replay, so that they can be forwarded after they were inspected.
    pub(crate) fn buffer_for_replay(&self) {
        self.is_buffered.store(true, Relaxed);
    }

    /// Streams all further body bytes. What is buffered can be replayed until the first of them is read.
    pub(crate) fn stop_buffering(&self) {
        self.is_buffered.store(false, Relaxed);
    }

    /// Whether the bytes that are forwarded were held before: no further ones have been read.
    pub(crate) fn is_replay(&self) -> bool {
        self.bytes() == self.held.load(Relaxed)
    }

    /// Whether body bytes are buffered for replay.
    pub(crate) fn is_buffered(&self) -> bool {
        self.is_buffered.load(Relaxed)
    }

    /// Returns the number of body bytes received so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        if self.is_buffered() {
            self.held.fetch_add(bytes as u64, Relaxed);
        }
    }
}

/// The request on its way to the backend, by our own client (`upstream::http1`).
#[derive(Default)]
pub(crate) struct Upstream(Mutex<Attempt>);

#[derive(Default)]
struct Attempt {
    /// `None` for Pingora's clients, which write by themselves.
    writer: Option<RequestWriter>,
    /// Why the rest of the body must not be forwarded.
    failure: Option<Box<Error>>,
}

impl Upstream {
    /// Begins an attempt with this writer; `None` for Pingora's clients.
    pub(crate) fn begin(&self, writer: Option<RequestWriter>) {
        *self.0.lock() = Attempt { writer, failure: None };
    }

    /// Whether our own client sends the request.
    pub(crate) fn is_ours(&self) -> bool {
        self.0.lock().writer.is_some()
    }

    /// Lets our own client spell field names as the client does, whose head this is as it came from the wire.
    pub(crate) fn spell_as(&self, head: Bytes) {
        if let Some(writer) = &self.0.lock().writer {
            writer.spell_as(head);
        }
    }

    /// Returns the stream of messages beside the body that Pingora wants beside our own client; `None` beside its own.
    pub(super) fn no_messages(&self) -> Option<Messages> {
        self.0.lock().writer.as_ref().map(RequestWriter::no_messages)
    }

    /// Stops the request in the middle of its body. Returns the error if Pingora passes it on itself; beside our own client
    /// it would wait for the response first, so that the next wait for the client ends with it instead.
    ///
    /// # Errors
    /// This one, if a client of Pingora's sends the request.
    pub(crate) fn stop(&self, error: Box<Error>) -> Result<()> {
        let mut attempt = self.0.lock();
        let Some(writer) = &attempt.writer else { return Err(error) };
        writer.abort();
        attempt.failure = Some(error);
        Ok(())
    }

    /// Gives up the rest of the request, which must not look complete to the backend.
    pub(super) fn abandon(&self) {
        if let Some(writer) = &self.0.lock().writer {
            writer.abort();
        }
    }

    /// Writes what waits to be written, and returns whether there is room for more.
    ///
    /// # Errors
    /// The request was stopped.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Result<Room> {
        let mut attempt = self.0.lock();
        match attempt.failure.take() {
            Some(error) => Err(error),
            None => Ok(attempt.writer.as_ref().map_or(Room::Free, |writer| writer.poll(cx))),
        }
    }
}

/// Whether the connection may carry another request after this one (RFC 9112, 9.3).
pub(crate) struct Reuse {
    is_allowed: AtomicBool,
    /// Becomes true when this process drains; connections then close after their current response.
    draining: watch::Receiver<bool>,
}

impl Reuse {
    fn new(draining: watch::Receiver<bool>) -> Self {
        Self { is_allowed: AtomicBool::new(true), draining }
    }

    /// Closes the connection after this request. Returns whether it was to be kept open until now.
    pub(crate) fn forbid(&self) -> bool {
        self.is_allowed.swap(false, Relaxed)
    }

    /// Reverts [`Reuse::forbid`].
    pub(crate) fn permit(&self) {
        self.is_allowed.store(true, Relaxed);
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.is_allowed.load(Relaxed) && !*self.draining.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_reused_unless_forbidden_or_draining() {
        let (draining, drained) = watch::channel(false);
        let reuse = Reuse::new(drained);
        assert!(reuse.is_allowed());
        assert!(reuse.forbid() && !reuse.forbid(), "tells whether it was allowed before");
        assert!(!reuse.is_allowed());
        reuse.permit();
        assert!(reuse.is_allowed());
        draining.send_replace(true);
        assert!(!reuse.is_allowed());
    }

    #[test]
    fn upload_counts_bytes_whether_they_are_buffered_or_not() {
        let upload = Upload::default();
        upload.add(3);
        assert!(!upload.is_buffered());
        upload.buffer_for_replay();
        upload.add(4);
        assert_eq!((upload.is_buffered(), upload.bytes(), upload.is_replay()), (true, 7, false));
    }

    #[test]
    fn what_is_held_is_a_replay_until_more_is_read() {
        let upload = Upload::default();
        upload.buffer_for_replay();
        upload.add(3);
        upload.add(4);
        assert!(upload.is_replay());
        upload.stop_buffering();
        assert!(upload.is_replay());
        upload.add(1);
        assert_eq!((upload.is_replay(), upload.bytes()), (false, 8));
    }
}
