//! Limits what runs on the blocking threads of the control runtime. tokio has 512 of them; a flood of slow history
//! queries, exports, searches or reloads waits here instead, and is refused with `Retry-After` when the wait is too long. A kill
//! needs no blocking thread.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio::time::timeout;

use super::api::error::ErrorCode;
use super::problem::Problem;
use crate::history::read::reader::Reader;
use crate::history::{self, Archive, InterruptHandle};

/// History queries that run at the same time.
const QUERIES: usize = 16;
/// How long a query waits for a permit.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a query may run.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Other work that takes a while and runs at the same time: searches in the audit log, trials of rules.
const OTHERS: usize = 4;
/// Exports that run at the same time.
const EXPORTS: usize = 4;
/// `Retry-After` of a refused request, in seconds.
const RETRY_AFTER: u32 = 5;

/// Permits for blocking work.
#[derive(Debug)]
pub(super) struct BlockingLimits {
    queries: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    others: Arc<Semaphore>,
    reloads: Arc<Semaphore>,
}

impl Default for BlockingLimits {
    fn default() -> Self {
        Self {
            queries: Arc::new(Semaphore::new(QUERIES)),
            exports: Arc::new(Semaphore::new(EXPORTS)),
            others: Arc::new(Semaphore::new(OTHERS)),
            reloads: Arc::new(Semaphore::new(1)),
        }
    }
}

impl BlockingLimits {
    /// Runs a history query on a blocking thread.
    ///
    /// # Errors
    /// 503 when no permit is free in time, when the query takes too long, or when the history cannot be read.
    pub(super) async fn query<T: Send + 'static>(
        &self,
        archive: Arc<Archive>,
        query: impl FnOnce(&Reader) -> history::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit =
            permit(&self.queries, ErrorCode::HistoryBusy, "too many history queries are running").await?;
        let stop = InterruptOnDrop::default();
        let handle = Arc::clone(&stop.0);
        let running = tokio::task::spawn_blocking(move || {
            // Held as long as the thread works, even when the client has gone.
            let _permit = permit;
            let reader = archive.reader()?;
            let _ = handle.set(reader.interrupt());
            query(&reader)
        });
        match timeout(QUERY_TIMEOUT, running).await {
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(fault))) => {
                tracing::error!(%fault, "the history cannot be read");
                let detail = "the history cannot be read; see the server log";
                Err(Problem::new(ErrorCode::HistoryUnavailable, detail))
            }
            Ok(Err(_)) => Err(Problem::internal("history query failed; see the server log")),
            Err(_) => {
                let detail = format!(
                    "the history query took longer than {} s; shorten the time range with from and to",
                    QUERY_TIMEOUT.as_secs()
                );
                Err(Problem::new(ErrorCode::HistorySlow, detail))
            }
        }
    }

    /// Runs other work that takes a while on a blocking thread, as soon as a permit is free.
    ///
    /// # Errors
    /// The work panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.others).acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
    }

    /// Returns a permit for an export.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub(super) fn export(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.exports).try_acquire_owned().map_err(|_| {
            let detail = format!("{EXPORTS} exports are running; try again when one has ended");
            Problem::new(ErrorCode::TooManyExports, detail).retry_after(RETRY_AFTER)
        })
    }

    /// Waits for the permit to reload: one reload runs at a time.
    ///
    /// # Errors
    /// 503 when the running reload takes too long.
    pub(super) async fn reload(&self) -> Result<OwnedSemaphorePermit, Problem> {
        permit(&self.reloads, ErrorCode::ReloadBusy, "another reload of the configuration is running").await
    }
}

async fn permit(
    permits: &Arc<Semaphore>,
    code: ErrorCode,
    detail: &'static str,
) -> Result<OwnedSemaphorePermit, Problem> {
    match timeout(PERMIT_TIMEOUT, Arc::clone(permits).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Problem::new(code, detail).retry_after(RETRY_AFTER)),
    }
}

/// Interrupts a query when it is dropped: the client has the answer, has gone, or waited too long.
#[derive(Default)]
struct InterruptOnDrop(Arc<OnceLock<InterruptHandle>>);

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        if let Some(handle) = self.0.get() {
            handle.interrupt();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn no_more_than_few_blocking_threads_work_for_slow_requests() {
        let blocking = Arc::new(BlockingLimits::default());
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let all: Vec<_> = (0..50)
            .map(|_| {
                let (blocking, running, most) = (blocking.clone(), running.clone(), most.clone());
                tokio::spawn(async move {
                    let work = move || {
                        most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                        std::thread::sleep(Duration::from_millis(2));
                        running.fetch_sub(1, Relaxed);
                    };
                    blocking.run(work).await.unwrap();
                })
            })
            .collect();
        for one in all {
            one.await.unwrap();
        }
        assert!((1..=OTHERS).contains(&most.load(Relaxed)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_the_bound_is_refused_and_a_place_is_free_again_after_its_holder() {
        let blocking = BlockingLimits::default();
        let mut held: Vec<_> = (0..EXPORTS).map(|_| blocking.export().unwrap()).collect();
        let refused = format!("{:?}", blocking.export().unwrap_err());
        assert!(refused.contains("too_many_exports") && refused.contains("429"), "{refused}");
        held.pop();
        assert!(blocking.export().is_ok());
        let _reload = blocking.reload().await.unwrap();
        let refused = format!("{:?}", blocking.reload().await.unwrap_err());
        assert!(refused.contains("reload_busy"), "{refused}");
    }
}
