//! How long a backend has been idle, measured where it can be told from a client that reads slowly.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora_timeout::sleep;
use tokio::time::Instant;

use crate::clock::millis;

/// The longest sleep of a timer. Pingora's timers do not wake tokio's driver, as a timer of tokio in every request
/// would; but each lives until it fires, so a limit of minutes is slept through in pieces.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// Marks a limit that is not set.
const NO_LIMIT: u64 = u64::MAX;

/// When bytes of a request last moved, and the limits that count from then.
pub(crate) struct Activity {
    /// When the request arrived; the times below are milliseconds after it.
    arrived: Instant,
    last: AtomicU64,
    /// When the client was last sent some of them.
    shown: AtomicU64,
    /// Milliseconds, or [`NO_LIMIT`].
    idle_limit: AtomicU64,
    /// Milliseconds, or [`NO_LIMIT`] while no comment may be sent.
    comment_after: AtomicU64,
}

impl Activity {
    pub(crate) fn new(arrived: Instant) -> Self {
        Self {
            arrived,
            last: AtomicU64::new(0),
            shown: AtomicU64::new(0),
            idle_limit: AtomicU64::new(NO_LIMIT),
            comment_after: AtomicU64::new(NO_LIMIT),
        }
    }

    /// Records that bytes moved, which restarts the limits.
    pub(crate) fn record(&self) {
        self.record_at(Instant::now());
    }

    /// Records that bytes moved at this time.
    pub(crate) fn record_at(&self, at: Instant) {
        self.record_withheld_at(at);
        self.shown.store(self.last.load(Relaxed), Relaxed);
    }

    /// Records that the backend sent bytes at this time, of which the client gets none yet.
    pub(crate) fn record_withheld_at(&self, at: Instant) {
        self.last.store(millis(at.saturating_duration_since(self.arrived)), Relaxed);
    }

    /// Ends the leg when the backend is idle for longer than `limit`, counted from now.
    pub(crate) fn limit_idle(&self, limit: Duration) {
        self.record();
        self.idle_limit.store(millis(limit), Relaxed);
    }

    /// Sends the client a keep-alive comment after it got nothing for this long; `None` while the response may not contain one.
    pub(crate) fn allow_comments(&self, after: Option<Duration>) {
        self.comment_after.store(after.map_or(NO_LIMIT, millis), Relaxed);
    }

    /// Returns when the idle limit is reached; `None` without a limit.
    pub(super) fn idle_deadline(&self) -> Option<Instant> {
        let limit = self.idle_limit.load(Relaxed);
        (limit != NO_LIMIT)
            .then(|| self.arrived + Duration::from_millis(self.last.load(Relaxed).saturating_add(limit)))
    }

    /// Returns when the next comment is due after the one at `last`; `None` while none may be sent.
    pub(super) fn comment_deadline(&self, last: Instant) -> Option<Instant> {
        let after = self.comment_after.load(Relaxed);
        (after != NO_LIMIT).then(|| {
            let shown = self.arrived + Duration::from_millis(self.shown.load(Relaxed));
            shown.max(last) + Duration::from_millis(after)
        })
    }
}

/// A timer over a deadline that moves. It is not reset with each chunk or each request of a connection: when it fires, it
/// reads the deadline again and sleeps on if that has moved.
#[derive(Default)]
pub(crate) struct IdleTimer(Option<Sleep>);

struct Sleep {
    ends: Instant,
    timer: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl IdleTimer {
    /// Ready when the backend has been idle for longer than `activity` allows.
    pub(crate) fn poll_idle(&mut self, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_past(|| activity.idle_deadline(), cx)
    }

    /// Ready when the time `deadline` returns has passed; it is read at each poll and each time the timer fires. Never
    /// ready while it returns `None`.
    pub(crate) fn poll_past(
        &mut self,
        deadline: impl Fn() -> Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            let Some(deadline) = deadline() else {
                return Poll::Pending;
            };
            let sleeping = match self.0.take() {
                Some(sleeping) if sleeping.ends <= deadline => sleeping,
                _ => {
                    let now = Instant::now();
                    if now >= deadline {
                        return Poll::Ready(());
                    }
                    let length = MAX_SLEEP.min(deadline - now);
                    Sleep { ends: now + length, timer: Box::pin(sleep(length)) }
                }
            };
            let sleeping = self.0.insert(sleeping);
            ready!(sleeping.timer.as_mut().poll(cx));
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn limits_count_from_the_last_bytes() {
        let arrived = Instant::now();
        let activity = Activity::new(arrived);
        assert_eq!((activity.idle_deadline(), activity.comment_deadline(arrived)), (None, None));
        let second = Duration::from_secs(1);
        activity.limit_idle(5 * second);
        activity.allow_comments(Some(2 * second));
        assert_eq!(activity.idle_deadline(), Some(arrived + 5 * second));
        tokio::time::advance(second).await;
        activity.record();
        assert_eq!(activity.idle_deadline(), Some(arrived + 6 * second));
        assert_eq!(activity.comment_deadline(arrived), Some(arrived + 3 * second));
        activity.record_withheld_at(arrived + 2 * second);
        assert_eq!(activity.idle_deadline(), Some(arrived + 7 * second));
        assert_eq!(activity.comment_deadline(arrived), Some(arrived + 3 * second), "the client saw nothing");
        activity.record();
        assert_eq!(activity.idle_deadline(), Some(arrived + 6 * second));
        let comment = arrived + 3 * second;
        assert_eq!(
            activity.comment_deadline(comment),
            Some(comment + 2 * second),
            "a comment restarts it, too"
        );
        activity.limit_idle(Duration::MAX);
        activity.allow_comments(None);
        assert_eq!((activity.idle_deadline(), activity.comment_deadline(arrived)), (None, None));
    }
}
