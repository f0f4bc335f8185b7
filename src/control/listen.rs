//! Accepts connections: as many as may be, also when the process has no descriptors left.

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

/// Descriptors that are kept, to be given back when there is none left for a connection.
const SPARES: usize = 8;

/// How long accepting rests when nothing could be given back.
const PAUSE: Duration = Duration::from_millis(50);

/// While accepting fails, it is logged this often.
const LOGGED_EVERY: Duration = Duration::from_secs(10);

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Its connection.
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

    /// Keeps one descriptor more; false when there is none.
    fn keep_spare(&mut self) -> bool {
        let spare = File::open("/dev/null");
        let is_kept = spare.is_ok();
        self.spares.extend(spare);
        is_kept
    }

    /// Gives a descriptor back, or waits for one.
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

    /// Takes a connection in; `None` when all others are being served.
    fn let_in(&mut self, stream: TcpStream, address: SocketAddr) -> Option<(ConnectionStream, SocketAddr)> {
        // Those that were given back are kept again as soon as others are free.
        if self.spares.len() < SPARES {
            self.keep_spare();
        }
        let connection = self.connection_limit.admit(address)?;
        // An event is small and must not wait for the next one.
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
                // The peer has gone before it was accepted (accept(2)).
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
