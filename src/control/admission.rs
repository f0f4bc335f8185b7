//! Who may connect to the control listener: a bounded number, of whom the least needed makes room for the next one.
//!
//! No token is asked before a connection is accepted, so a crowd of silent peers must not keep an operator out. When
//! there are as many connections as may be, one that has not shown the token is closed for the new one, else an idle
//! one. One that is being served, or reads the event feed, stays.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::visitor::{Deadlines, Visitor};
use crate::telemetry::metrics::Metrics;

/// Connections that were told to close and have not yet closed are at most so many.
const CLOSING_MAX: usize = 8;

/// The connections that are open.
pub(super) struct Admission {
    limit: usize,
    deadlines: Deadlines,
    metrics: Arc<Metrics>,
    visitors: Mutex<Visitors>,
    /// Told when a connection has closed.
    left: Notify,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Visitors {
    /// By number, without those that were told to close.
    open: HashMap<u64, Arc<Visitor>>,
    /// Those that were told to close and have not yet closed.
    closing: usize,
    next: u64,
}

impl Admission {
    /// Admits up to `limit` connections at a time.
    pub(super) fn new(limit: usize, deadlines: Deadlines, metrics: Arc<Metrics>) -> Arc<Self> {
        let (visitors, left) = (Mutex::default(), Notify::new());
        Arc::new(Self { limit, deadlines, metrics, visitors, left })
    }

    /// Admits a connection, if need be in place of another one; `None` when all others are being served.
    pub(super) fn admit(&self, address: SocketAddr) -> Option<Arc<Visitor>> {
        let mut visitors = self.visitors();
        if visitors.open.len() >= self.limit && !self.evict_from(&mut visitors) {
            self.metrics.connection_refused("control", "max_connections");
            return None;
        }
        let number = visitors.next;
        visitors.next += 1;
        let visitor = Visitor::new(address, number, self.deadlines);
        visitors.open.insert(number, Arc::clone(&visitor));
        Some(visitor)
    }

    /// Closes the connection that is least needed; false when each one is.
    pub(super) fn evict(&self) -> bool {
        self.evict_from(&mut self.visitors())
    }

    fn evict_from(&self, visitors: &mut Visitors) -> bool {
        let Some(number) = least_needed(visitors.open.values()) else { return false };
        if let Some(visitor) = visitors.open.remove(&number) {
            visitor.evict();
            visitors.closing += 1;
            self.metrics.connection_refused("control", "evicted");
        }
        true
    }

    /// Waits until those that were told to close have done so, but for a few.
    pub(super) async fn settled(&self) {
        while self.visitors().closing > CLOSING_MAX {
            self.left.notified().await;
        }
    }

    /// The connection has closed.
    pub(super) fn left(&self, visitor: &Visitor) {
        let mut visitors = self.visitors();
        if visitors.open.remove(&visitor.number).is_none() {
            visitors.closing = visitors.closing.saturating_sub(1);
        }
        drop(visitors);
        self.left.notify_one();
    }

    fn visitors(&self) -> MutexGuard<'_, Visitors> {
        self.visitors.lock()
    }
}

/// Of those whose end loses least, the oldest of the address that has most: a crowd from one address does not close
/// the connections of others.
fn least_needed<'a>(visitors: impl Iterator<Item = &'a Arc<Visitor>>) -> Option<u64> {
    let mut least = u8::MAX;
    let mut by_address: HashMap<IpAddr, (usize, u64)> = HashMap::new();
    for visitor in visitors {
        let Some(worth) = visitor.worth().filter(|worth| *worth <= least) else { continue };
        if worth < least {
            least = worth;
            by_address.clear();
        }
        let (count, oldest) = by_address.entry(visitor.address.ip()).or_insert((0, visitor.number));
        *count += 1;
        *oldest = (*oldest).min(visitor.number);
    }
    let most = by_address.into_values().max_by_key(|(count, oldest)| (*count, u64::MAX - oldest));
    most.map(|(_, oldest)| oldest)
}

#[cfg(test)]
mod tests {
    use super::super::visitor::DEADLINES;
    use super::*;

    fn admission(limit: usize) -> Arc<Admission> {
        Admission::new(limit, DEADLINES, Metrics::new().unwrap())
    }

    fn address(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 4000))
    }

    #[tokio::test]
    async fn the_oldest_silent_one_of_the_largest_crowd_makes_room() {
        let admission = admission(5);
        let guest = admission.admit(address(1)).unwrap();
        let crowd: Vec<_> = (0..4).map(|_| admission.admit(address(2)).unwrap()).collect();
        let new = admission.admit(address(3)).unwrap();
        let open = |visitor: &Visitor| admission.visitors().open.contains_key(&visitor.number);
        assert!(open(&guest) && open(&new) && !open(&crowd[0]));
        admission.left(&crowd[0]);
        let visitors = admission.visitors();
        assert_eq!((visitors.open.len(), visitors.closing), (5, 0));
    }

    #[tokio::test]
    async fn those_being_served_stay() {
        let admission = admission(3);
        let visitors: Vec<_> = (0..3).map(|_| admission.admit(address(1)).unwrap()).collect();
        for visitor in &visitors {
            visitor.arrived();
            visitor.trust();
        }
        visitors[1].answered();
        let fourth = admission.admit(address(2)).expect("the idle one makes room");
        assert!(!admission.visitors().open.contains_key(&visitors[1].number));
        fourth.arrived();
        fourth.trust();
        fourth.streams();
        assert!(admission.admit(address(2)).is_none() && !admission.evict());
    }

    #[tokio::test]
    async fn a_request_without_the_token_is_worth_nothing() {
        let admission = admission(2);
        let idle = admission.admit(address(1)).unwrap();
        idle.arrived();
        idle.trust();
        idle.answered();
        let stranger = admission.admit(address(2)).unwrap();
        stranger.arrived();
        admission.admit(address(3)).unwrap();
        assert!(admission.visitors().open.contains_key(&idle.number));
        assert!(!admission.visitors().open.contains_key(&stranger.number));
    }
}
