//! Whose turn it is to call the store of a fleet.

use std::time::{Duration, Instant};

use parking_lot::Mutex as Lock;
use tokio::sync::{Mutex, MutexGuard};

/// The longest wait of a request for its turn.
const LONGEST: Duration = Duration::from_secs(1);
/// How long requests do without a store that has not answered.
const PAUSE: Duration = Duration::from_secs(1);

/// Lets one caller at a time to the store, so that one that answers slowly is not flooded; and nobody waits for a store that
/// does not answer at all but the one who finds that out.
#[derive(Debug, Default)]
pub(super) struct Turns<T> {
    state: Mutex<T>,
    /// When a call failed, if the last one did.
    failed: Lock<Option<Instant>>,
}

impl<T> Turns<T> {
    /// Waits for the turn of a request; `None` if the store does not answer at present, or too slowly.
    pub(super) async fn of_request(&self, is_up: impl Fn() -> bool) -> Option<MutexGuard<'_, T>> {
        let may_answer = || is_up() && self.failed.lock().is_none_or(|at| at.elapsed() >= PAUSE);
        if !may_answer() {
            return None;
        }
        let turn = tokio::time::timeout(LONGEST, self.state.lock()).await.ok()?;
        // Whoever was first may have found out.
        may_answer().then_some(turn)
    }

    /// Waits for the turn of a report.
    pub(super) async fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().await
    }

    /// Notes whether a call was answered.
    pub(super) fn called<R, F>(&self, answer: &Result<R, F>) {
        *self.failed.lock() = answer.is_err().then(Instant::now);
    }
}
