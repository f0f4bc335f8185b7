//! The gate of an answer that is judged before it leaves: what may not be written to the client yet, in its order.
//!
//! The gateway puts bytes, limits of time and waits into it; the session takes out what may leave (`session/gated.rs`). A
//! limit of time holds back what follows it until the gateway lifts it or it has passed, while the backend is read on. A wait
//! holds it back until its future is ready, while nothing is read from the backend and the client gets keep-alives.
//! An answer that is not judged has no queue, and each of its writes loads one flag.

use std::collections::VecDeque;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::Refusal;

/// What a wait is for: ready with `Ok` when the answer may go on, and with the refusal that ends it otherwise. It is dropped
/// when the client leaves or its leg is cut.
pub(crate) type GateWait = Pin<Box<dyn Future<Output = Result<(), Box<Refusal>>> + Send>>;

/// What a client is sent while it waits, so that it does not give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeepAlive {
    pub(crate) every: Duration,
    /// An event or frame by itself.
    pub(crate) bytes: &'static [u8],
}

/// A part of what may not leave yet.
enum Step {
    Bytes(Bytes),
    /// What follows stays until then, or until it is lifted.
    Until(Instant),
    Wait(GateWait, Option<KeepAlive>),
}

#[derive(Default)]
struct Queue {
    steps: VecDeque<Step>,
    /// The head stays until the first byte of the body leaves.
    holds_head: bool,
    /// Limits of time have passed since the last one was set.
    has_passed: bool,
    /// Why a wait has ended the answer.
    refusal: Option<Box<Refusal>>,
}

/// What the session does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Writes these bytes.
    Write(Bytes),
    /// Waits, sending keep-alives meanwhile.
    Wait(Option<KeepAlive>),
    /// Goes on reading from the backend.
    Nothing,
}

/// The gate of one answer.
#[derive(Default)]
pub(crate) struct Gate {
    is_on: AtomicBool,
    queue: Mutex<Option<Box<Queue>>>,
}

impl Gate {
    /// Begins an answer that is judged; with `holds_head`, also its head waits until the first byte of its body may leave.
    pub(crate) fn begin(&self, holds_head: bool) {
        *self.queue.lock() = Some(Box::new(Queue { holds_head, ..Queue::default() }));
        self.is_on.store(true, Relaxed);
    }

    /// Begins an answer that is not judged.
    pub(crate) fn open(&self) {
        if self.is_on.swap(false, Relaxed) {
            *self.queue.lock() = None;
        }
    }

    /// Whether the answer is judged.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    fn with<T: Default>(&self, then: impl FnOnce(&mut Queue) -> T) -> T {
        self.queue.lock().as_deref_mut().map_or_else(T::default, then)
    }

    /// Whether the head must not leave by itself.
    pub(crate) fn holds_head(&self) -> bool {
        self.with(|queue| queue.holds_head)
    }

    /// Whether something waits in it, behind which everything else has to be put.
    pub(crate) fn is_closed(&self) -> bool {
        self.with(|queue| !queue.steps.is_empty())
    }

    /// Adds bytes that may leave after everything that waits.
    pub(crate) fn push(&self, bytes: Bytes) {
        self.with(|queue| queue.steps.push_back(Step::Bytes(bytes)));
    }

    /// Holds back what is pushed from now on until `deadline`, unless that is lifted before.
    pub(crate) fn hold_until(&self, deadline: Instant) {
        self.with(|queue| {
            queue.has_passed = false;
            queue.steps.push_back(Step::Until(deadline));
        });
    }

    /// Lifts all limits of time.
    pub(crate) fn lift(&self) {
        self.with(|queue| {
            queue.has_passed = false;
            queue.steps.retain(|step| !matches!(step, Step::Until(_)));
        });
    }

    /// Whether a limit of time has passed since the last one was set.
    pub(crate) fn has_passed(&self) -> bool {
        self.with(|queue| queue.has_passed)
    }

    /// Holds back what is pushed from now on until `wait` is ready.
    pub(crate) fn wait(&self, wait: GateWait, keep_alive: Option<KeepAlive>) {
        self.with(|queue| queue.steps.push_back(Step::Wait(wait, keep_alive)));
    }

    /// Ends the answer with a refusal, behind what may leave.
    pub(crate) fn refuse(&self, refusal: Box<Refusal>) {
        if !self.is_on() {
            self.begin(false);
        }
        self.wait(Box::pin(ready(Err(refusal))), None);
    }

    /// Drops everything that has not left.
    pub(crate) fn clear(&self) {
        self.with(|queue| queue.steps.clear());
    }

    /// Takes the refusal with which a wait has ended.
    pub(crate) fn take_refusal(&self) -> Option<Box<Refusal>> {
        if self.is_on() { self.with(|queue| queue.refusal.take()) } else { None }
    }

    /// When the limit of time passes behind which everything waits.
    pub(in crate::proxy::downstream) fn deadline(&self) -> Option<Instant> {
        if !self.is_on() {
            return None;
        }
        self.with(|queue| match queue.steps.front() {
            Some(Step::Until(deadline)) => Some(*deadline),
            _ => None,
        })
    }

    /// Returns what may be done now.
    pub(crate) fn next(&self) -> Option<Next> {
        self.with(|queue| {
            loop {
                match queue.steps.front()? {
                    Step::Until(deadline) if *deadline > Instant::now() => return Some(Next::Nothing),
                    Step::Until(_) => {
                        queue.has_passed = true;
                        queue.steps.pop_front();
                    }
                    Step::Wait(_, keep_alive) => return Some(Next::Wait(*keep_alive)),
                    Step::Bytes(_) => {
                        let Some(Step::Bytes(bytes)) = queue.steps.pop_front() else { return None };
                        return Some(Next::Write(bytes));
                    }
                }
            }
        })
    }

    /// Polls the wait that is next. Ready with whether the answer may go on; if not, everything that has not left is dropped.
    pub(in crate::proxy::downstream) fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut queue = self.queue.lock();
        let Some(queue) = queue.as_deref_mut() else { return Poll::Ready(true) };
        let Some(Step::Wait(wait, _)) = queue.steps.front_mut() else { return Poll::Ready(true) };
        match wait.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                queue.steps.pop_front();
                Poll::Ready(true)
            }
            Poll::Ready(Err(refusal)) => {
                queue.refusal = Some(refusal);
                queue.steps.clear();
                Poll::Ready(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::oneshot;

    use super::*;
    use crate::error::ErrorKind;

    const SECOND: Duration = Duration::from_secs(1);

    fn gate() -> Gate {
        let gate = Gate::default();
        gate.begin(false);
        gate
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_a_limit_of_time_leaves_when_it_has_passed_or_is_lifted() {
        let gate = gate();
        gate.push(Bytes::from_static(b"a"));
        gate.hold_until(Instant::now() + SECOND);
        gate.push(Bytes::from_static(b"b"));
        assert_eq!(gate.next(), Some(Next::Write(Bytes::from_static(b"a"))));
        assert_eq!((gate.next(), gate.deadline()), (Some(Next::Nothing), Some(Instant::now() + SECOND)));
        tokio::time::advance(SECOND).await;
        assert!(!gate.has_passed());
        assert_eq!(gate.next(), Some(Next::Write(Bytes::from_static(b"b"))));
        assert!(gate.has_passed() && !gate.is_closed());
        gate.hold_until(Instant::now() + SECOND);
        gate.push(Bytes::from_static(b"c"));
        assert!(!gate.has_passed() && gate.is_closed());
        gate.lift();
        assert_eq!((gate.next(), gate.next()), (Some(Next::Write(Bytes::from_static(b"c"))), None));
    }

    #[tokio::test]
    async fn what_follows_a_wait_leaves_only_when_it_is_granted() {
        for granted in [true, false] {
            let (gate, (tell, told)) = (gate(), oneshot::channel::<()>());
            let wait =
                async move { told.await.map_err(|_| Box::new(Refusal::new(ErrorKind::PolicyBlocked, "no"))) };
            gate.wait(Box::pin(wait), None);
            gate.push(Bytes::from_static(b"a"));
            assert_eq!(gate.next(), Some(Next::Wait(None)));
            let mut context = Context::from_waker(std::task::Waker::noop());
            assert!(gate.poll_wait(&mut context).is_pending());
            if granted {
                tell.send(()).unwrap();
            } else {
                drop(tell);
            }
            assert_eq!(poll_fn(|cx| gate.poll_wait(cx)).await, granted);
            let left = granted.then(|| Next::Write(Bytes::from_static(b"a")));
            assert_eq!((gate.next(), gate.take_refusal().is_some()), (left, !granted));
        }
    }

    #[test]
    fn an_answer_that_is_not_judged_has_no_gate() {
        let gate = Gate::default();
        gate.push(Bytes::from_static(b"a"));
        assert!(!gate.is_on() && !gate.is_closed() && gate.next().is_none() && gate.deadline().is_none());
        gate.begin(true);
        assert!(gate.is_on() && gate.holds_head());
        gate.open();
        assert!(!gate.is_on() && !gate.holds_head());
    }
}
