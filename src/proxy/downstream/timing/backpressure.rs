//! Backpressure: while the client cannot be written to, nothing is read from the backend (docs/adr/0004).
//!
//! Pingora runs the two halves of a proxied request in one task, joined by a channel of four chunks of 64 KiB. While the
//! downstream half waits in a write, the upstream half reads on until the channel is full; with the data being written
//! that is 640 KiB per slow client. [`Backpressure`] sits between the task and Pingora: it does not pass on a poll that
//! is not for the pending write, and in the poll in which a write becomes pending it consumes tokio's coop budget, so
//! that the upstream half finds nothing ready. Responses in large chunks always get a small budget, since otherwise five
//! chunks would be read before the first write is pending. No wake-up of the upstream half is lost: after the write both
//! halves are polled.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use tokio::task::coop::{has_budget_remaining, poll_proceed};

/// Coop budget that tokio gives a task for one poll: the number of reads, writes and messages.
const WHOLE_BUDGET: usize = 128;

/// Budget of a response in large chunks: one chunk read and queued, or dequeued and written.
const LARGE_BUDGET: usize = 2;

/// Whether a write to the client is pending, and which task to wake.
#[derive(Default)]
pub(crate) struct Backpressure {
    /// A write is pending.
    waiting: AtomicBool,
    /// The pending write was woken: by a writable socket, a cut or its time limit.
    woken: AtomicBool,
    /// The response has large chunks.
    large: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Backpressure {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.task.wake();
    }
}

/// Resets `waiting` when the write ends or is cancelled.
struct Waiting<'a>(&'a Backpressure);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.store(false, SeqCst);
    }
}

impl Backpressure {
    /// Reads further chunks of the response one at a time.
    pub(crate) fn expect_large_chunks(&self) {
        self.large.store(true, Relaxed);
    }

    /// Runs the proxy, except while a write is pending.
    pub(crate) async fn run<T>(&self, proxy: impl Future<Output = T>) -> T {
        let mut proxy = pin!(proxy);
        poll_fn(|cx| {
            if self.waiting.load(SeqCst) {
                // Registers before it loads, so that a wake-up in between is not lost.
                self.task.register(cx.waker());
                if !self.woken.load(SeqCst) {
                    return Poll::Pending;
                }
            }
            if self.large.load(Relaxed) {
                leave(LARGE_BUDGET, cx);
            }
            proxy.as_mut().poll(cx)
        })
        .await
    }

    /// Runs a write to the client; while it is pending, nothing else is polled.
    pub(crate) async fn hold<T>(self: &Arc<Self>, write: impl Future<Output = T>) -> T {
        let mut write = pin!(write);
        let _waiting = Waiting(self);
        let mut waker = None;
        poll_fn(|cx| {
            self.task.register(cx.waker());
            self.woken.store(false, SeqCst);
            let waker = waker.get_or_insert_with(|| Waker::from(Arc::clone(self)));
            let polled = write.as_mut().poll(&mut Context::from_waker(waker));
            self.waiting.store(polled.is_pending(), SeqCst);
            if polled.is_pending() {
                consume(WHOLE_BUDGET, cx);
            }
            polled
        })
        .await
    }
}

/// Consumes up to `amount` of the budget.
fn consume(amount: usize, cx: &mut Context<'_>) {
    for _ in 0..amount {
        if !has_budget_remaining() {
            return;
        }
        if let Poll::Ready(step) = poll_proceed(cx) {
            step.made_progress();
        }
    }
}

/// Consumes all but `amount` of the budget. If tokio gave less than [`WHOLE_BUDGET`], consumes nothing, since a task
/// without budget could make no progress.
fn leave(amount: usize, cx: &mut Context<'_>) {
    let Poll::Ready(before) = poll_proceed(cx) else { return };
    consume(WHOLE_BUDGET - amount - 1, cx);
    match has_budget_remaining() {
        true => before.made_progress(),
        // Dropping it restores the budget.
        false => drop(before),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::oneshot;

    use super::*;

    /// The other half of a proxy, which always has something to do until `done`.
    async fn busy(polls: &AtomicUsize, done: &AtomicBool) {
        poll_fn(|cx| {
            polls.fetch_add(1, SeqCst);
            cx.waker().wake_by_ref();
            if done.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[tokio::test]
    async fn while_a_write_waits_nothing_else_is_polled() {
        let (room, write) = oneshot::channel::<()>();
        let (polls, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let backpressure = Arc::new(Backpressure::default());
        let counted = (Arc::clone(&polls), Arc::clone(&done));
        let running = tokio::spawn(async move {
            let written = async {
                backpressure.hold(write).await.unwrap();
                counted.1.store(true, SeqCst);
            };
            backpressure.run(async { tokio::join!(written, busy(&counted.0, &counted.1)) }).await;
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(polls.load(SeqCst), 1, "once in the poll in which the write began to wait");
        room.send(()).unwrap();
        running.await.unwrap();
        assert!(polls.load(SeqCst) > 1);
    }

    #[tokio::test]
    async fn a_write_that_is_given_up_holds_nobody() {
        let backpressure = Arc::new(Backpressure::default());
        let (_room, write) = oneshot::channel::<()>();
        backpressure
            .run(async {
                tokio::select! {
                    _ = backpressure.hold(write) => unreachable!("there is never room"),
                    () = std::future::ready(()) => {}
                }
                tokio::task::yield_now().await;
            })
            .await;
    }

    #[tokio::test]
    async fn large_answers_get_little_of_the_budget() {
        // Spawned, since only a task has a budget.
        let left = tokio::spawn(poll_fn(|cx| {
            leave(LARGE_BUDGET, cx);
            let mut left = 0;
            while has_budget_remaining() {
                consume(1, cx);
                left += 1;
            }
            Poll::Ready(left)
        }));
        assert_eq!(left.await.unwrap(), LARGE_BUDGET);
    }
}
