//! Compares the kill orders of this instance, and the set of sessions with orders, with the store. Each sync takes
//! only a few pieces, so that it stays short however many orders there are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::orders::CHUNK;
use super::replicator::Replicator;
use crate::redis::LinkError;
use crate::session::core::manager::Manager;
use crate::session::store::redis::Cursor;
use crate::session::views::kill_order::KillOrder;

/// How often the whole set is walked through.
const WALK: Duration = Duration::from_secs(30);
/// Pieces of the orders and of the set that one sync takes: normally, and when something may be missing.
const PIECES: (usize, usize) = (2, 16);
/// The most sessions in the set, the latest ones; the orders of others remain in force.
const MOST_SESSIONS: usize = 250_000;
/// How often the store is asked whether it evicts.
const EVICTIONS: Duration = Duration::from_secs(5);

/// Progress of the comparison.
#[derive(Debug)]
pub(super) struct ComparisonRounds {
    /// Orders still to be compared in this round, the newest at the end.
    orders: Vec<Arc<KillOrder>>,
    are_orders_urgent: bool,
    walk: Option<Cursor>,
    is_walk_urgent: bool,
    walked: Instant,
    /// Sessions seen in this walk, and the excess found in the last one.
    seen: usize,
    excess: usize,
    watched: Option<Instant>,
    evicted: u64,
}

impl ComparisonRounds {
    pub(super) fn new() -> Self {
        Self {
            orders: Vec::new(),
            are_orders_urgent: false,
            walk: None,
            is_walk_urgent: false,
            walked: Instant::now(),
            seen: 0,
            excess: 0,
            watched: None,
            evicted: 0,
        }
    }

    /// Walks through the set without pauses, because not every order could be read at once.
    pub(super) fn walk_soon(&mut self) {
        (self.walk, self.is_walk_urgent, self.seen) = (Some(Cursor::default()), true, 0);
    }

    /// Compares all orders, the newest piece at once, because the store may have lost some.
    pub(super) async fn restore(
        &mut self,
        manager: &Manager,
        replicator: &Replicator,
    ) -> Result<(), LinkError> {
        self.orders.clear();
        self.are_orders_urgent = true;
        self.compare(manager, replicator).await
    }

    /// Takes the next pieces. Returns true to continue without a pause.
    pub(super) async fn advance(
        &mut self,
        manager: &Manager,
        replicator: &Replicator,
    ) -> Result<bool, LinkError> {
        if self.watched.is_none_or(|at| at.elapsed() >= EVICTIONS) {
            self.watched = Some(Instant::now());
            let found = replicator.store.evictions().await;
            replicator.health.evicts(found.as_ref());
            let evicted = found.map_or(0, |(_, evicted)| evicted);
            if std::mem::replace(&mut self.evicted, evicted) < evicted {
                self.are_orders_urgent = true;
            }
        }
        self.compare(manager, replicator).await?;
        self.walk(manager, replicator).await?;
        Ok(self.are_orders_urgent || self.is_walk_urgent)
    }

    async fn compare(&mut self, manager: &Manager, replicator: &Replicator) -> Result<(), LinkError> {
        if self.orders.is_empty() {
            self.orders = manager.kill_orders().all(manager.clock().now());
            self.orders.reverse();
            if !self.orders.is_empty() && !replicator.store.has_change_set().await? {
                replicator.record_changes_again(&self.orders).await?;
            }
        }
        let pieces = if self.are_orders_urgent { PIECES.1 } else { PIECES.0 };
        for _ in 0..pieces {
            if self.orders.is_empty() {
                self.are_orders_urgent = false;
                return Ok(());
            }
            let piece = self.orders.split_off(self.orders.len().saturating_sub(CHUNK));
            if replicator.compare_orders(manager, &piece).await? > 0 {
                replicator.health.lost("kill orders");
                self.are_orders_urgent = true;
            }
        }
        Ok(())
    }

    async fn walk(&mut self, manager: &Manager, replicator: &Replicator) -> Result<(), LinkError> {
        if self.walk.is_none() && self.walked.elapsed() >= WALK {
            (self.walk, self.walked, self.seen) = (Some(Cursor::default()), Instant::now(), 0);
        }
        let pieces = if self.is_walk_urgent { PIECES.1 } else { PIECES.0 };
        for _ in 0..pieces {
            let Some(from) = self.walk else { break };
            let (next, seen) = replicator.walk_changes(manager, from, self.excess).await?;
            self.excess = self.excess.saturating_sub(seen);
            self.seen += seen;
            self.walk = next;
            if next.is_none() {
                (self.is_walk_urgent, self.walked) = (false, Instant::now());
                self.excess = self.seen.saturating_sub(MOST_SESSIONS);
            }
        }
        Ok(())
    }
}
