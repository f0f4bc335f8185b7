//! The slot through which one leg is cut: set once when the session ends, awaited by the leg.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;

/// Why a leg is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutReason {
    /// Its session was killed.
    Killed,
    /// The agent that opened it, or one of its ancestors, was killed.
    AgentKilled,
    /// Its session was idle or open for too long.
    TimedOut,
    /// This instance is shutting down.
    Shutdown,
    /// Its caller is no longer accepted: its key was revoked or has expired, or one is required now.
    KeyRevoked,
    /// The host that a tunnel leads to is blocked now.
    HostBlocked,
}

/// The slot of one leg. It has two waiters: `soft` is the proxy's wait for the client, which can still write a
/// proper ending; `hard` is the outer select, which drops the whole future after the grace period. Both are woken
/// at once; the waiter enforces the grace period.
#[derive(Debug, Default)]
pub struct Cut {
    reason: AtomicU8,
    at: OnceLock<Instant>,
    soft: AtomicWaker,
    hard: AtomicWaker,
}

impl Cut {
    /// An open slot.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Cuts the leg. The first reason wins; later calls change nothing. Returns whether this one is the first.
    pub fn cut(&self, reason: CutReason) -> bool {
        let code = match reason {
            CutReason::Killed => 1,
            CutReason::TimedOut => 2,
            CutReason::Shutdown => 3,
            CutReason::AgentKilled => 4,
            CutReason::KeyRevoked => 5,
            CutReason::HostBlocked => 6,
        };
        self.at.get_or_init(Instant::now);
        let is_first = self.reason.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if is_first {
            self.soft.wake();
            self.hard.wake();
        }
        is_first
    }

    /// The reason, once the leg is cut.
    pub fn reason(&self) -> Option<CutReason> {
        match self.reason.load(Ordering::Acquire) {
            0 => None,
            1 => Some(CutReason::Killed),
            2 => Some(CutReason::TimedOut),
            3 => Some(CutReason::Shutdown),
            4 => Some(CutReason::AgentKilled),
            5 => Some(CutReason::KeyRevoked),
            _ => Some(CutReason::HostBlocked),
        }
    }

    /// Time since the leg was cut; `None` if it is open.
    pub fn since(&self) -> Option<Duration> {
        self.at.get().map(Instant::elapsed)
    }

    /// Waits for the cut on the client side. One waiter at a time: a second one replaces the first.
    pub async fn soft(&self) -> CutReason {
        self.wait(&self.soft).await
    }

    /// Waits for the cut around the whole leg. One waiter at a time: a second one replaces the first.
    pub async fn hard(&self) -> CutReason {
        self.wait(&self.hard).await
    }

    async fn wait(&self, waker: &AtomicWaker) -> CutReason {
        poll_fn(|context| {
            if let Some(reason) = self.reason() {
                return Poll::Ready(reason);
            }
            waker.register(context.waker());
            // A cut between the check and the registration has woken nobody.
            self.reason().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_first_reason_wins() {
        let cut = Cut::new();
        assert_eq!(cut.reason(), None);
        assert_eq!(cut.soft().now_or_never(), None);
        cut.cut(CutReason::TimedOut);
        cut.cut(CutReason::Killed);
        assert_eq!(cut.reason(), Some(CutReason::TimedOut));
        assert_eq!(cut.soft().now_or_never(), Some(CutReason::TimedOut));
        assert_eq!(cut.hard().now_or_never(), Some(CutReason::TimedOut));
    }

    #[tokio::test]
    async fn a_cut_wakes_both_waiters() {
        let cut = Cut::new();
        let waiter = |hard: bool| {
            let cut = cut.clone();
            tokio::spawn(async move { if hard { cut.hard().await } else { cut.soft().await } })
        };
        let (soft, hard) = (waiter(false), waiter(true));
        tokio::task::yield_now().await;
        cut.cut(CutReason::Killed);
        assert_eq!(soft.await.unwrap(), CutReason::Killed);
        assert_eq!(hard.await.unwrap(), CutReason::Killed);
    }
}
