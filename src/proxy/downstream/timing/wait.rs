//! The limits of time of a wait for the client, in one timer: the backend is idle for too long, the request body does not
//! come, or a keep-alive comment is due in an event stream whose backend is quiet (`server.timeouts.stream_keep_alive`,
//! ADR 12), so that no proxy between here and the client closes the connection as idle.
//!
//! Comments are allowed only between two events of a response whose head was sent. They do not count as activity of
//! the session and do not extend the idle limit of the backend.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::gate::Gate;
use super::idle::{Activity, IdleTimer};

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The backend has been idle for longer than it may be.
    BackendIdle,
    /// Nothing of the request body has come for too long.
    ReadLimit,
    /// The client has received nothing for so long that a comment is due.
    Comment,
    /// What was held back of the response may leave.
    Gate,
}

/// The limits of the waits for the client of one request.
pub(crate) struct WaitLimits {
    /// When the last comment was due; at first, when the request arrived.
    last_comment: Instant,
    /// Since when the request body is waited for.
    reading_since: Option<Instant>,
}

impl WaitLimits {
    pub(crate) fn new(arrived: Instant) -> Self {
        Self { last_comment: arrived, reading_since: None }
    }

    /// Ready when something is due, by this timer. `read_limit` is the longest wait for bytes of the request body; `None`
    /// when there is no limit, or when it is not the body that is waited for.
    pub(crate) fn poll_due(
        &mut self,
        timer: &mut IdleTimer,
        (activity, gate): (&Activity, &Gate),
        read_limit: Option<Duration>,
        cx: &mut Context<'_>,
    ) -> Poll<Due> {
        let last_comment = self.last_comment;
        let reading_since = read_limit.map(|limit| {
            let since = *self.reading_since.get_or_insert_with(Instant::now);
            since.checked_add(limit)
        });
        let deadlines = || {
            [
                (activity.idle_deadline(), Due::BackendIdle),
                (reading_since.flatten(), Due::ReadLimit),
                (activity.comment_deadline(last_comment), Due::Comment),
                (gate.deadline(), Due::Gate),
            ]
        };
        let earliest =
            || deadlines().into_iter().filter_map(|(at, due)| Some((at?, due))).min_by_key(|(at, _)| *at);
        timer.poll_past(|| earliest().map(|(at, _)| at), cx).map(|()| {
            // The earliest has passed; without one the timer is never ready.
            earliest().map_or(Due::BackendIdle, |(_, due)| due)
        })
    }

    /// Counts the time to the next comment from now.
    pub(crate) fn restart_comments(&mut self) {
        self.last_comment = Instant::now();
    }

    /// Bytes of the request body have come.
    pub(crate) fn restart_read(&mut self) {
        self.reading_since = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_due_first_ends_the_wait() {
        let (arrived, gate) = (Instant::now(), Gate::default());
        let (activity, mut limits) = (Activity::new(arrived), WaitLimits::new(arrived));
        let timer = &mut IdleTimer::default();
        let [short, long] = [Duration::ZERO, Duration::from_secs(3600)];
        activity.limit_idle(long);
        let due = poll_fn(|cx| limits.poll_due(timer, (&activity, &gate), Some(short), cx)).await;
        assert_eq!(due, Due::ReadLimit);
        gate.begin(false);
        gate.hold_until(arrived);
        assert_eq!(poll_fn(|cx| limits.poll_due(timer, (&activity, &gate), None, cx)).await, Due::Gate);
        gate.lift();
        activity.allow_comments(Some(short));
        assert_eq!(poll_fn(|cx| limits.poll_due(timer, (&activity, &gate), None, cx)).await, Due::Comment);
        activity.limit_idle(short);
        activity.allow_comments(None);
        assert_eq!(
            poll_fn(|cx| limits.poll_due(timer, (&activity, &gate), Some(long), cx)).await,
            Due::BackendIdle
        );
    }
}
