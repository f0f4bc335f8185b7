//! When a comment is due in an event stream whose backend is quiet (`server.timeouts.stream_keep_alive`, ADR 12), so
//! that no proxy between here and the client closes the connection as idle.
//!
//! Comments are allowed only between two events of a response whose head was sent. They do not count as activity of
//! the session and do not extend the idle limit of the backend.

use std::task::{Context, Poll};

use tokio::time::Instant;

use super::idle::{Activity, IdleTimer};

/// Timer of keep-alive comments.
pub(crate) struct KeepAlive {
    timer: IdleTimer,
    /// When the last comment was due; at first, when the request arrived.
    last: Instant,
}

impl KeepAlive {
    pub(crate) fn new(arrived: Instant) -> Self {
        Self { timer: IdleTimer::default(), last: arrived }
    }

    /// Ready when the client has received nothing for as long as `activity` allows.
    pub(crate) fn poll_due(&mut self, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        let Self { timer, last } = self;
        timer.poll_past(|| activity.comment_deadline(*last), cx)
    }

    /// Counts the time to the next comment from now.
    pub(crate) fn restart(&mut self) {
        self.last = Instant::now();
    }
}
