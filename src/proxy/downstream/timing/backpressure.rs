//! The pace of an answer: while its client cannot be written to, nothing is read from the backend.
//!
//! Pingora's two halves of a proxied request run in one task, joined by a channel of four chunks of 64 KiB.
//! While the half towards the client waits in a write, the other one reads on until the channel is full; with
//! what is being written that is 640 KiB for each client that reads slowly. So this stands between the task
//! and Pingora: a poll that is not for the waiting write is not passed on, and in the poll in which a write
//! begins to wait, tokio's budget is spent, so that the other half finds nothing ready. Answers in large
//! chunks get a small budget all the time, else five chunks would be there before the first write waits.
//! The backend's own wake-up is not lost by this: after the write both halves are polled.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use tokio::task::coop::{has_budget_remaining, poll_proceed};

/// What tokio gives a task for one poll: so many reads, writes and messages.
const WHOLE_BUDGET: usize = 128;

/// What an answer in large chunks gets of it: one chunk read and sent on, or taken and written.
const LARGE_BUDGET: usize = 2;

/// Whether a write waits for the client, and whom to wake.
#[derive(Default)]
pub(crate) struct Backpressure {
    /// A write waits.
    waiting: AtomicBool,
    /// What it waits for has happened: room to write, a cut, the end of its time.
    woken: AtomicBool,
    /// The answer comes in large chunks.
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

/// Nothing waits any more, also when the write was given up.
struct Waiting<'a>(&'a Backpressure);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.store(false, SeqCst);
    }
}

impl Backpressure {
    /// From now on the answer's chunks are taken one by one.
    pub(crate) fn expect_large_chunks(&self) {
        self.large.store(true, Relaxed);
    }

    /// Runs the proxy, unless a write waits.
    pub(crate) async fn run<T>(&self, proxy: impl Future<Output = T>) -> T {
        let mut proxy = pin!(proxy);
        poll_fn(|cx| {
            if self.waiting.load(SeqCst) {
                // In this order, so that a wake-up in between is heard or seen.
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

    /// Runs a write to the client; while it waits, it alone is polled.
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
                spend(WHOLE_BUDGET, cx);
            }
            polled
        })
        .await
    }
}

/// Spends up to `amount` of the budget.
fn spend(amount: usize, cx: &mut Context<'_>) {
    for _ in 0..amount {
        if !has_budget_remaining() {
            return;
        }
        if let Poll::Ready(step) = poll_proceed(cx) {
            step.made_progress();
        }
    }
}

/// Spends all but `amount` of the budget. If tokio gave less than is thought here, nothing is spent: a task
/// without a budget would be polled in vain for ever.
fn leave(amount: usize, cx: &mut Context<'_>) {
    let Poll::Ready(before) = poll_proceed(cx) else { return };
    spend(WHOLE_BUDGET - amount - 1, cx);
    match has_budget_remaining() {
        true => before.made_progress(),
        // Gives back what there was.
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
                spend(1, cx);
                left += 1;
            }
            Poll::Ready(left)
        }));
        assert_eq!(left.await.unwrap(), LARGE_BUDGET);
    }
}
