//! Kill orders of a gateway without a shared store, over restarts: those that the history holds stand in the
//! book before the first request is admitted. While an old process and its heir stand side by side, each
//! looks for what the other was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::history::Archive;
use crate::session::Manager;

/// The newest so many are taken over.
const MOST: usize = 10_000;
/// How often one process looks for what the other was told.
const LOOK: Duration = Duration::from_millis(100);

/// The orders in the history's file.
pub(super) struct Kills {
    history: Arc<Archive>,
    sessions: Arc<Manager>,
    /// The newest row that was read.
    seen: AtomicI64,
}

impl Kills {
    /// Takes over what stands in the file; nothing when there is a shared store, which knows more. A file
    /// that cannot be read is told, and traffic goes on.
    pub(super) fn restore(history: Option<&Arc<Archive>>, sessions: &Arc<Manager>) -> Option<Arc<Self>> {
        if sessions.is_shared() {
            return None;
        }
        let (history, sessions) = (Arc::clone(history?), Arc::clone(sessions));
        let kills = Self { history, sessions, seen: AtomicI64::new(0) };
        match kills.look() {
            Ok(0) => {}
            Ok(orders) => info!(orders, "kill orders given before this start stand"),
            Err(fault) => error!(%fault, "kill orders given before this start are forgotten: kill again"),
        }
        Some(Arc::new(kills))
    }

    /// Takes over what came since the last look. Blocks.
    fn look(&self) -> crate::history::Result<usize> {
        let after = self.seen.load(Ordering::Relaxed);
        let standing = self.history.reader()?.active_kills(after, Timestamp::now(), MOST)?;
        self.seen.store(standing.last, Ordering::Relaxed);
        if standing.more {
            warn!(
                most = MOST,
                "more kill orders stand in the history than are taken over: the oldest do not hold"
            );
        }
        Ok(standing.orders.into_iter().filter(|order| self.sessions.restore(order.clone())).count())
    }

    /// Looks again and again as long as the other process is there, and once more.
    pub(super) async fn follow(self: Arc<Self>, is_there: impl Fn() -> bool) {
        let mut is_last = false;
        while !is_last {
            is_last = !is_there();
            let kills = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || kills.look()).await {
                Ok(Ok(0)) => {}
                Ok(Ok(orders)) => info!(orders, "kill orders of the other process stand here too"),
                Ok(Err(fault)) => warn!(%fault, "kill orders of the other process are not known yet"),
                Err(fault) => error!(%fault, "a look at the kill orders of the other process broke off"),
            }
            sleep(LOOK).await;
        }
    }
}
