//! A path to a server that is cut at the moment in which certain bytes are sent to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::within;

/// Time for the server to read what it was sent before the connection is reset.
const READ: Duration = Duration::from_millis(50);

/// What cuts the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trip {
    /// The server does not receive these bytes.
    Before(&'static str),
    /// The server receives them; its answer is lost.
    After(&'static str),
}

impl Trip {
    fn bytes(self) -> &'static [u8] {
        let (Self::Before(text) | Self::After(text)) = self;
        text.as_bytes()
    }
}

/// The state of the path: open, perhaps with something that cuts it, or cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Open(Option<Trip>),
    Cut,
}

/// The path's address.
pub struct Tripwire {
    address: SocketAddr,
    path: Arc<watch::Sender<Path>>,
}

impl Tripwire {
    /// An open path.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let path = Arc::new(watch::Sender::new(Path::Open(None)));
        let state = path.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = state.clone();
                tokio::spawn(async move {
                    if *state.borrow() == Path::Cut {
                        return;
                    }
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    carry(client, server, state).await;
                });
            }
        });
        Self { address, path }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts all connections, and new ones.
    pub fn cut(&self) {
        self.path.send_replace(Path::Cut);
    }

    /// Lets connections pass, until `trip` if there is one.
    pub fn open(&self, trip: Option<Trip>) {
        self.path.send_replace(Path::Open(trip));
    }

    /// Waits until the path is cut.
    pub async fn tripped(&self) {
        let mut path = self.path.subscribe();
        within("the trip", path.wait_for(|path| *path == Path::Cut)).await.expect("the path");
    }
}

/// Carries bytes in both directions until the path is cut.
async fn carry(client: TcpStream, server: TcpStream, path: Arc<watch::Sender<Path>>) {
    let mut changes = path.subscribe();
    let is_mute = AtomicBool::new(false);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = requests(from_client, to_server, &path, &is_mute) => {}
        () = answers(from_server, to_client, &is_mute) => {}
        _ = changes.wait_for(|path| *path == Path::Cut) => {}
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    path: &watch::Sender<Path>,
    is_mute: &AtomicBool,
) {
    let (mut piece, mut seen) = (vec![0; 64 * 1024], Vec::new());
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let Path::Open(trip) = *path.borrow() else { return };
        seen.extend_from_slice(&piece[..length]);
        let is_tripped = trip.is_some_and(|trip| {
            let bytes = trip.bytes();
            seen.windows(bytes.len()).any(|window| window == bytes)
        });
        // Enough for bytes that two pieces divide.
        seen.drain(..seen.len().saturating_sub(64));
        if is_tripped {
            is_mute.store(true, Ordering::SeqCst);
            if matches!(trip, Some(Trip::After(_))) {
                let _ = to.write_all(&piece[..length]).await;
                tokio::time::sleep(READ).await;
            }
            path.send_replace(Path::Cut);
            return;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_mute: &AtomicBool) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if !is_mute.load(Ordering::SeqCst) && to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
