//! Bounds the number of clients by `server.limits.max_connections` and by the file descriptors of the proxy.
//!
//! A connection reserves the descriptors of its request when it is accepted: an accepted client can always be served, and
//! idle clients cannot prevent a connection to a backend. Each stream of an HTTP/2 connection reserves its descriptor
//! towards the backend separately.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::telemetry::metrics::{Gauge, GaugeGuard, Metrics};

/// The share of the proxy in the file descriptors of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DescriptorBudget {
    /// For connections of clients and to backends together.
    pub(crate) descriptors: usize,
    /// How many a request needs besides its client's.
    pub(crate) per_request: usize,
}

/// Counts connections, HTTP/2 streams and their descriptors.
pub(crate) struct ConnectionPermits {
    budget: DescriptorBudget,
    connections: AtomicUsize,
    streams: AtomicUsize,
    descriptors: AtomicUsize,
    open: Gauge,
    metrics: Arc<Metrics>,
}

/// A permit for a connection or a stream; dropping it returns it.
pub(crate) struct ConnectionPermit {
    permits: Arc<ConnectionPermits>,
    kind: Kind,
    _counted: Option<GaugeGuard>,
}

#[derive(Clone, Copy)]
enum Kind {
    Connection,
    Stream,
}

impl ConnectionPermits {
    /// Creates permits for as many clients as `budget` has descriptors for.
    pub(crate) fn new(metrics: &Arc<Metrics>, budget: DescriptorBudget) -> Arc<Self> {
        Arc::new(Self {
            budget,
            connections: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            descriptors: AtomicUsize::new(0),
            open: metrics.connections(),
            metrics: Arc::clone(metrics),
        })
    }

    /// Returns a permit for one more connection; `None` when `limit` is reached or no descriptors are left.
    pub(crate) fn connection(self: &Arc<Self>, limit: usize) -> Option<ConnectionPermit> {
        let mut permit = self.take(Kind::Connection, limit)?;
        permit._counted = Some(self.open.enter());
        Some(permit)
    }

    /// Returns a permit for one more HTTP/2 stream; `None` when `limit` is reached or no descriptors are left.
    pub(crate) fn stream(self: &Arc<Self>, limit: usize) -> Option<ConnectionPermit> {
        self.take(Kind::Stream, limit)
    }

    /// Counts a connection from an address that is not permitted.
    pub(super) fn denied(&self) {
        self.metrics.connection_refused("proxy", "acl");
    }

    fn take(self: &Arc<Self>, kind: Kind, limit: usize) -> Option<ConnectionPermit> {
        if !add(self.count(kind), 1, limit) {
            self.metrics.connection_refused("proxy", "max_connections");
            return None;
        }
        if !add(&self.descriptors, self.cost(kind), self.budget.descriptors) {
            self.count(kind).fetch_sub(1, Relaxed);
            self.metrics.connection_refused("proxy", "descriptors");
            return None;
        }
        Some(ConnectionPermit { permits: Arc::clone(self), kind, _counted: None })
    }

    fn count(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Stream => &self.streams,
        }
    }

    /// Returns how many descriptors a permit reserves. A connection reserves those of one request even if it turns out to
    /// use HTTP/2, which is not known yet when it is accepted.
    fn cost(&self, kind: Kind) -> usize {
        match kind {
            Kind::Connection => 1 + self.budget.per_request,
            Kind::Stream => self.budget.per_request,
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.permits.count(self.kind).fetch_sub(1, Relaxed);
        self.permits.descriptors.fetch_sub(self.permits.cost(self.kind), Relaxed);
    }
}

/// Adds to a count unless it would exceed `max`.
fn add(count: &AtomicUsize, amount: usize, max: usize) -> bool {
    count.fetch_update(Relaxed, Relaxed, |now| now.checked_add(amount).filter(|sum| *sum <= max)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_streams_share_the_descriptors() {
        let metrics = Metrics::new().unwrap();
        let permits = ConnectionPermits::new(&metrics, DescriptorBudget { descriptors: 7, per_request: 1 });
        let first = permits.connection(10).unwrap();
        let _second = permits.connection(10).unwrap();
        let streams: Vec<ConnectionPermit> = (0..3).map_while(|_| permits.stream(10)).collect();
        assert_eq!(streams.len(), 3);
        assert!(permits.connection(10).is_none() && permits.stream(10).is_none());
        drop(first);
        assert!(permits.connection(1).is_none(), "the configured number counts as well");
        assert!(permits.connection(10).is_some());
        let refused = metrics.encode();
        assert!(
            refused.contains("elida_connections_refused_total{listener=\"proxy\",reason=\"descriptors\"} 2"),
            "{refused}"
        );
    }
}
