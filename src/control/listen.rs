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

use super::admission::Admission;
use super::visitor::{Visit, Visitor};

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
    pub(super) visitor: Arc<Visitor>,
}

impl Connected<IncomingStream<'_, Doorway>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Doorway>) -> Self {
        Self { address: *stream.remote_addr(), visitor: Arc::clone(stream.io().visitor()) }
    }
}

/// The control listener.
pub(super) struct Doorway {
    listener: TcpListener,
    admission: Arc<Admission>,
    spares: Vec<File>,
    logged: Option<Instant>,
}

impl Doorway {
    pub(super) fn new(listener: TcpListener, admission: Arc<Admission>) -> Self {
        let mut doorway = Self { listener, admission, spares: Vec::with_capacity(SPARES), logged: None };
        while doorway.spares.len() < SPARES && doorway.keep_spare() {}
        doorway
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
            self.admission.evict();
            sleep(PAUSE).await;
        }
    }

    /// Takes a connection in; `None` when all others are being served.
    fn let_in(&mut self, stream: TcpStream, address: SocketAddr) -> Option<(Visit, SocketAddr)> {
        // Those that were given back are kept again as soon as others are free.
        if self.spares.len() < SPARES {
            self.keep_spare();
        }
        let visitor = self.admission.admit(address)?;
        // An event is small and must not wait for the next one.
        let _ = stream.set_nodelay(true);
        Some((Visit::new(stream, visitor, Arc::clone(&self.admission)), address))
    }
}

impl Listener for Doorway {
    type Io = Visit;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visit, SocketAddr) {
        loop {
            self.admission.settled().await;
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
