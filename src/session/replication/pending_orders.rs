//! Kill orders that wait until the store is available.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::session::views::kill_order::KillOrder;

/// The most orders that wait; the comparison with the store finds the rest.
const MOST: usize = 10_000;

/// Orders that have not been written or published yet, the oldest first.
#[derive(Debug, Default)]
pub(super) struct PendingOrders(VecDeque<Arc<KillOrder>>);

impl PendingOrders {
    /// Adds an order in place of an older one against the same session or agent.
    pub(super) fn add(&mut self, order: Arc<KillOrder>) {
        self.0.retain(|other| !same(other, &order));
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(order);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn all(&self) -> Vec<Arc<KillOrder>> {
        self.0.iter().cloned().collect()
    }

    /// Removes exactly this order.
    pub(super) fn remove(&mut self, order: &Arc<KillOrder>) {
        self.0.retain(|other| !Arc::ptr_eq(other, order));
    }

    /// Returns up to `most` orders and moves them to the end.
    pub(super) fn rotate(&mut self, most: usize) -> Vec<Arc<KillOrder>> {
        let some = self.0.len().min(most);
        let orders = self.0.iter().take(some).cloned().collect();
        self.0.rotate_left(some);
        orders
    }
}

/// True when both orders are against the same session or agent.
pub(super) fn same(a: &KillOrder, b: &KillOrder) -> bool {
    (a.key(), &a.agent) == (b.key(), &b.agent)
}
