//! Accepts connections up to the limit, even when the process has no file descriptors left.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tracing::warn;

use super::connection::{Connection, ConnectionStream};
use super::connection_limit::ConnectionLimit;

/// Spare descriptors, closed one by one when a connection cannot be accepted for lack of one.
const SPARES: usize = 8;

/// Pause after a failed accept when there is no spare left.
const PAUSE: Duration = Duration::from_millis(50);

/// Interval between log lines while accepting fails.
const LOGGED_EVERY: Duration = Duration::from_secs(10);

/// The client of a request.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// State of its connection.
    pub(super) connection: Arc<Connection>,
}

impl Connected<IncomingStream<'_, ControlListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, ControlListener>) -> Self {
        Self { address: *stream.remote_addr(), connection: Arc::clone(stream.io().connection()) }
    }
}

/// The control listener.
pub(super) struct ControlListener {
    listener: TcpListener,
    connection_limit: Arc<ConnectionLimit>,
    spares: Vec<File>,
    logged: Option<Instant>,
}

impl ControlListener {
    pub(super) fn new(listener: TcpListener, connection_limit: Arc<ConnectionLimit>) -> Self {
        let mut listener =
            Self { listener, connection_limit, spares: Vec::with_capacity(SPARES), logged: None };
        while listener.spares.len() < SPARES && listener.keep_spare() {}
        listener
    }

    /// Opens one more spare; false when there is no descriptor.
    fn keep_spare(&mut self) -> bool {
        let spare = File::open("/dev/null");
        let is_kept = spare.is_ok();
        self.spares.extend(spare);
        is_kept
    }

    /// Closes a spare; without spares, evicts a connection and waits.
    async fn make_room(&mut self, error: &io::Error) {
        if self.logged.is_none_or(|logged| logged.elapsed() > LOGGED_EVERY) {
            self.logged = Some(Instant::now());
            warn!(%error, spares = self.spares.len(), "the control listener runs short of descriptors (ulimit -n)");
        }
        if self.spares.pop().is_none() {
            self.connection_limit.evict();
            sleep(PAUSE).await;
        }
    }

    /// Admits a connection; `None` when the limit is reached and no other connection may be closed.
    fn let_in(&mut self, stream: TcpStream, address: SocketAddr) -> Option<(ConnectionStream, SocketAddr)> {
        // Spares are opened again as soon as descriptors are free.
        if self.spares.len() < SPARES {
            self.keep_spare();
        }
        let connection = self.connection_limit.admit(address)?;
        // Events are small and must not wait for the next one (Nagle's algorithm).
        let _ = stream.set_nodelay(true);
        Some((ConnectionStream::new(stream, connection, Arc::clone(&self.connection_limit)), address))
    }
}

impl Listener for ControlListener {
    type Io = ConnectionStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (ConnectionStream, SocketAddr) {
        loop {
            self.connection_limit.evictions_done().await;
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    if let Some(accepted) = self.let_in(stream, address) {
                        return accepted;
                    }
                }
                // The peer closed the connection before it was accepted (accept(2)).
                Err(error) if is_gone(&error) => {}
                Err(error) => self.make_room(&error).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
