//! Limits the connections of the control listener; at the limit, a new connection replaces the least needed one.
//!
//! The token is checked only after a connection is accepted, so a crowd of silent peers must not keep an operator out.
//! At the limit, a connection that has not sent the token is closed for the new one, else an idle one. A connection with
//! a request in progress, or one that reads the event feed, stays.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::connection::{Connection, Deadlines};
use crate::telemetry::metrics::Metrics;

/// Maximum of evicted connections that are not closed yet.
const CLOSING_MAX: usize = 8;

/// The open connections.
pub(super) struct ConnectionLimit {
    limit: usize,
    deadlines: Deadlines,
    metrics: Arc<Metrics>,
    connections: Mutex<Connections>,
    /// Notified when a connection has closed.
    closed: Notify,
}

impl std::fmt::Debug for ConnectionLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionLimit").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Connections {
    /// By number, without the evicted ones.
    open: HashMap<u64, Arc<Connection>>,
    /// Number of evicted connections that are not closed yet.
    closing: usize,
    next: u64,
}

impl ConnectionLimit {
    /// Admits up to `limit` open connections.
    pub(super) fn new(limit: usize, deadlines: Deadlines, metrics: Arc<Metrics>) -> Arc<Self> {
        let (connections, closed) = (Mutex::default(), Notify::new());
        Arc::new(Self { limit, deadlines, metrics, connections, closed })
    }

    /// Admits a connection, at the limit in place of another one; `None` when no other one may be closed.
    pub(super) fn admit(&self, address: SocketAddr) -> Option<Arc<Connection>> {
        let mut connections = self.connections();
        if connections.open.len() >= self.limit && !self.evict_from(&mut connections) {
            self.metrics.connection_refused("control", "max_connections");
            return None;
        }
        let number = connections.next;
        connections.next += 1;
        let connection = Connection::new(address, number, self.deadlines);
        connections.open.insert(number, Arc::clone(&connection));
        Some(connection)
    }

    /// Closes the least needed connection; false when none may be closed.
    pub(super) fn evict(&self) -> bool {
        self.evict_from(&mut self.connections())
    }

    fn evict_from(&self, connections: &mut Connections) -> bool {
        let Some(number) = cheapest_to_evict(connections.open.values()) else { return false };
        if let Some(connection) = connections.open.remove(&number) {
            connection.evict();
            connections.closing += 1;
            self.metrics.connection_refused("control", "evicted");
        }
        true
    }

    /// Waits until all evicted connections but a few are closed.
    pub(super) async fn evictions_done(&self) {
        while self.connections().closing > CLOSING_MAX {
            self.closed.notified().await;
        }
    }

    /// Records that a connection has closed.
    pub(super) fn closed(&self, connection: &Connection) {
        let mut connections = self.connections();
        if connections.open.remove(&connection.number).is_none() {
            connections.closing = connections.closing.saturating_sub(1);
        }
        drop(connections);
        self.closed.notify_one();
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock()
    }
}

/// Returns the number of the connection to evict: of those with the lowest cost, the oldest of the address that has most,
/// so that a crowd from one address does not close the connections of others.
fn cheapest_to_evict<'a>(connections: impl Iterator<Item = &'a Arc<Connection>>) -> Option<u64> {
    let mut least = u8::MAX;
    let mut by_address: HashMap<IpAddr, (usize, u64)> = HashMap::new();
    for connection in connections {
        let Some(cost) = connection.eviction_cost().filter(|cost| *cost <= least) else { continue };
        if cost < least {
            least = cost;
            by_address.clear();
        }
        let (count, oldest) = by_address.entry(connection.address.ip()).or_insert((0, connection.number));
        *count += 1;
        *oldest = (*oldest).min(connection.number);
    }
    let most = by_address.into_values().max_by_key(|(count, oldest)| (*count, u64::MAX - oldest));
    most.map(|(_, oldest)| oldest)
}

#[cfg(test)]
mod tests {
    use super::super::connection::DEADLINES;
    use super::*;

    fn connection_limit(limit: usize) -> Arc<ConnectionLimit> {
        ConnectionLimit::new(limit, DEADLINES, Metrics::new().unwrap())
    }

    fn address(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 4000))
    }

    #[tokio::test]
    async fn the_oldest_silent_one_of_the_largest_crowd_makes_room() {
        let connection_limit = connection_limit(5);
        let guest = connection_limit.admit(address(1)).unwrap();
        let crowd: Vec<_> = (0..4).map(|_| connection_limit.admit(address(2)).unwrap()).collect();
        let new = connection_limit.admit(address(3)).unwrap();
        let open =
            |connection: &Connection| connection_limit.connections().open.contains_key(&connection.number);
        assert!(open(&guest) && open(&new) && !open(&crowd[0]));
        connection_limit.closed(&crowd[0]);
        let connections = connection_limit.connections();
        assert_eq!((connections.open.len(), connections.closing), (5, 0));
    }

    #[tokio::test]
    async fn those_being_served_stay() {
        let connection_limit = connection_limit(3);
        let connections: Vec<_> = (0..3).map(|_| connection_limit.admit(address(1)).unwrap()).collect();
        for connection in &connections {
            connection.request_received();
            connection.mark_authenticated();
        }
        connections[1].response_ready();
        let fourth = connection_limit.admit(address(2)).expect("the idle one makes room");
        assert!(!connection_limit.connections().open.contains_key(&connections[1].number));
        fourth.request_received();
        fourth.mark_authenticated();
        fourth.response_streaming();
        assert!(connection_limit.admit(address(2)).is_none() && !connection_limit.evict());
    }

    #[tokio::test]
    async fn a_request_without_the_token_is_worth_nothing() {
        let connection_limit = connection_limit(2);
        let idle = connection_limit.admit(address(1)).unwrap();
        idle.request_received();
        idle.mark_authenticated();
        idle.response_ready();
        let stranger = connection_limit.admit(address(2)).unwrap();
        stranger.request_received();
        connection_limit.admit(address(3)).unwrap();
        assert!(connection_limit.connections().open.contains_key(&idle.number));
        assert!(!connection_limit.connections().open.contains_key(&stranger.number));
    }
}
