//! Bounds on what runs on the blocking threads of the control runtime. tokio has 512 of them; a flood of slow
//! questions, exports or reloads waits here, not there, and is refused with `Retry-After` when that takes too long.
//! A kill needs none of them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::problem::Problem;
use crate::history::read::reader::Reader;
use crate::history::{self, Archive, InterruptHandle};

/// Questions to the history that are answered at the same time.
const QUESTIONS: usize = 16;
/// How long a question waits for its turn, and then for its answer.
const TURN: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// Exports under way at the same time.
const EXPORTS: usize = 4;
/// Seconds after which a refused caller may come again.
const AGAIN: u32 = 5;

/// The turns.
#[derive(Debug)]
pub(super) struct Blocking {
    questions: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    reloads: Arc<Semaphore>,
}

impl Default for Blocking {
    fn default() -> Self {
        Self {
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            exports: Arc::new(Semaphore::new(EXPORTS)),
            reloads: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Blocking {
    /// Asks the history on a blocking thread.
    ///
    /// # Errors
    /// 503 when no thread is free for too long, when the answer takes too long, or when the history cannot be read.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        archive: Arc<Archive>,
        question: impl FnOnce(&Reader) -> history::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn =
            turn(&self.questions, "history_busy", "too many questions to the history are under way").await?;
        let stop = Stop::default();
        let handle = Arc::clone(&stop.0);
        let answer = tokio::task::spawn_blocking(move || {
            // Held as long as the thread works, also when nobody waits any more.
            let _turn = turn;
            let reader = archive.reader()?;
            let _ = handle.set(reader.interrupt());
            question(&reader)
        });
        match timeout(ANSWER, answer).await {
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(fault))) => {
                tracing::error!(%fault, "the history cannot be read");
                let detail = "the history cannot be read; the log says why";
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "history_unavailable", detail))
            }
            Ok(Err(_)) => Err(Problem::internal("the question to the history broke off; the log says why")),
            Err(_) => {
                let detail = format!(
                    "the history has not answered within {} s; ask for a shorter time with from and to",
                    ANSWER.as_secs()
                );
                Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "history_slow", detail))
            }
        }
    }

    /// A place among the exports under way.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub(super) fn export(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.exports).try_acquire_owned().map_err(|_| {
            let detail = format!("{EXPORTS} exports are under way; come again when one has ended");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_exports", detail).retry_after(AGAIN)
        })
    }

    /// The turn to reload: one reload at a time takes a thread.
    ///
    /// # Errors
    /// 503 when the reload under way takes too long.
    pub(super) async fn reload(&self) -> Result<OwnedSemaphorePermit, Problem> {
        turn(&self.reloads, "reload_busy", "another reload of the configuration is under way").await
    }
}

async fn turn(
    turns: &Arc<Semaphore>,
    code: &'static str,
    detail: &'static str,
) -> Result<OwnedSemaphorePermit, Problem> {
    match timeout(TURN, Arc::clone(turns).acquire_owned()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(AGAIN)),
    }
}

/// Ends a question when it goes: its caller has the answer, has left, or waited too long.
#[derive(Default)]
struct Stop(Arc<OnceLock<InterruptHandle>>);

impl Drop for Stop {
    fn drop(&mut self) {
        if let Some(handle) = self.0.get() {
            handle.interrupt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_over_the_bound_is_refused_and_a_place_is_free_again_after_its_holder() {
        let blocking = Blocking::default();
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
