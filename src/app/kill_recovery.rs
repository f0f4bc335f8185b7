//! Restores the kill orders in the history after a restart.
//!
//! They are in force before the first request is admitted. With a shared store they are then compared with it: those that
//! were lifted there are removed, and those that it has lost are written again. Without one, while an old process and its
//! successor run side by side, each polls the history for orders that the other received.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::history::Archive;
use crate::session::Manager;

/// The most orders that are restored; the newest are preferred.
const MAX_ORDERS: usize = 10_000;
/// How often a process polls for orders of the other.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Restores kill orders from the history.
pub(super) struct KillRecovery {
    history: Arc<Archive>,
    sessions: Arc<Manager>,
    /// Row id of the newest order that was read.
    seen: AtomicI64,
}

impl KillRecovery {
    /// Restores the orders in the history. Returns `None` without a history, and with a shared store, which delivers later
    /// orders. An unreadable history is logged and does not stop the start.
    pub(super) fn restore(history: Option<&Arc<Archive>>, sessions: &Arc<Manager>) -> Option<Arc<Self>> {
        let (history, sessions) = (Arc::clone(history?), Arc::clone(sessions));
        let kills = Self { history, sessions, seen: AtomicI64::new(0) };
        match kills.poll() {
            Ok(0) => {}
            Ok(orders) => info!(orders, "kill orders given before this start stand"),
            Err(fault) => error!(%fault, "kill orders given before this start are forgotten: kill again"),
        }
        (!kills.sessions.is_shared()).then(|| Arc::new(kills))
    }

    /// Restores orders written since the last poll, and returns their number. Blocks.
    fn poll(&self) -> crate::history::Result<usize> {
        let after = self.seen.load(Ordering::Relaxed);
        let active = self.history.reader()?.active_kills(after, Timestamp::now(), MAX_ORDERS)?;
        self.seen.store(active.last, Ordering::Relaxed);
        if active.more {
            warn!(
                most = MAX_ORDERS,
                "more kill orders stand in the history than are taken over: the oldest do not hold"
            );
        }
        Ok(active.orders.into_iter().filter(|order| self.sessions.restore(order.clone())).count())
    }

    /// Polls while the other process is running, and once after it has ended.
    pub(super) async fn follow(self: Arc<Self>, is_running: impl Fn() -> bool) {
        let mut is_last = false;
        while !is_last {
            is_last = !is_running();
            let kills = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || kills.poll()).await {
                Ok(Ok(0)) => {}
                Ok(Ok(orders)) => info!(orders, "kill orders of the other process stand here too"),
                Ok(Err(fault)) => warn!(%fault, "kill orders of the other process are not known yet"),
                Err(fault) => error!(%fault, "a look at the kill orders of the other process broke off"),
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}
