//! Idle limit of a request after its `101 Switching Protocols`.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;

use super::idle::{Activity, IdleTimer};

/// A request whose bytes flow in both directions at once, once [`Tunnel::open`] was called.
#[derive(Default)]
pub(crate) struct Tunnel {
    is_open: AtomicBool,
    was_abandoned: AtomicBool,
}

impl Tunnel {
    pub(crate) fn open(&self) {
        self.is_open.store(true, Relaxed);
    }

    /// Waits until the open tunnel has been idle for longer than `activity` allows; never ready for other responses.
    /// It is polled in the task that runs the request, so `open` need not wake it.
    pub(crate) async fn idle(&self, activity: &Activity) {
        let mut timer = IdleTimer::default();
        poll_fn(|cx| match self.is_open.load(Relaxed) {
            true => timer.poll_idle(activity, cx),
            false => Poll::Pending,
        })
        .await;
    }

    /// Marks the tunnel as dropped because it was idle, as the proxy returns no error for it.
    pub(crate) fn abandon(&self) {
        self.was_abandoned.store(true, Relaxed);
    }

    /// Whether the tunnel was dropped because it was idle.
    pub(crate) fn was_abandoned(&self) -> bool {
        self.was_abandoned.load(Relaxed)
    }
}
