//! Connections that wait for their next request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use pingora_core::protocols::l4::socket::SocketAddr;

use super::connection::Connection;

/// How often connections that were idle for too long, or closed by their backend, are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Idle connections by peer. Those of one peer are used last in, first out, so that the others can expire.
pub(super) struct IdleConnections {
    peers: DashMap<u64, Vec<Idle>>,
    /// How many there are.
    count: AtomicUsize,
    capacity: usize,
    /// A task sweeps.
    is_swept: AtomicBool,
}

struct Idle {
    connection: Connection,
    expires: Instant,
}

impl IdleConnections {
    /// Creates a store of up to `capacity` connections.
    pub(super) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            peers: DashMap::default(),
            count: AtomicUsize::new(0),
            capacity,
            is_swept: AtomicBool::new(false),
        })
    }

    /// Takes a connection to this peer that its backend has not closed.
    pub(super) fn take(&self, peer: u64, address: &SocketAddr) -> Option<Connection> {
        let mut idle = self.peers.get_mut(&peer)?;
        while let Some(Idle { connection, expires }) = idle.pop() {
            self.count.fetch_sub(1, Relaxed);
            // The key of a peer is a hash.
            if connection.address == *address && expires > Instant::now() && connection.is_silent() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for `limit`; closes it if there are too many.
    pub(super) fn put(self: &Arc<Self>, peer: u64, connection: Connection, limit: Duration) {
        if limit.is_zero() || self.count.load(Relaxed) >= self.capacity {
            return;
        }
        self.count.fetch_add(1, Relaxed);
        let expires = Instant::now() + limit;
        self.peers.entry(peer).or_default().push(Idle { connection, expires });
        if !self.is_swept.swap(true, Relaxed) {
            tokio::spawn(Arc::clone(self).sweep());
        }
    }

    /// Closes connections until none is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            self.peers.retain(|_, idle| {
                let before = idle.len();
                idle.retain(|idle| idle.expires > now && idle.connection.is_silent());
                self.count.fetch_sub(before - idle.len(), Relaxed);
                !idle.is_empty()
            });
            if self.peers.is_empty() {
                self.is_swept.store(false, Relaxed);
                // One may have been put between the two lines.
                if self.peers.is_empty() || self.is_swept.swap(true, Relaxed) {
                    return;
                }
            }
        }
    }
}
