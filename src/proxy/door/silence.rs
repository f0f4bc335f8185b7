//! The silence of a backend, measured where it can be told from a slow reader.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pingora_timeout::sleep;
use tokio::time::Instant;

use super::ticket::Ticket;

/// The longest nap. Pingora's timers cost no wake-up of tokio's driver, as every second request's own timers
/// would; but each lives until it rings, so a silence of minutes is slept through in naps.
const NAP: Duration = Duration::from_secs(5);

/// The timer of the backend's silence. It is not set anew with each chunk: when it rings, it looks
/// whether bytes have moved meanwhile, and if so sleeps on.
#[derive(Default)]
pub(super) struct Silence(Option<Nap>);

struct Nap {
    ends: Instant,
    timer: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl Silence {
    /// Ready when the silence has become longer than the ticket bears.
    pub(super) fn poll_exceeded(&mut self, ticket: &Ticket, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_past(|| ticket.silent_until(), cx)
    }

    /// Ready when the instant is past that `until` gives, also anew when the timer rings; never for none.
    pub(super) fn poll_past(
        &mut self,
        until: impl Fn() -> Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            let Some(until) = until() else {
                return Poll::Pending;
            };
            let nap = match self.0.take() {
                Some(nap) if nap.ends <= until => nap,
                _ => {
                    let now = Instant::now();
                    if now >= until {
                        return Poll::Ready(());
                    }
                    let length = NAP.min(until - now);
                    Nap { ends: now + length, timer: Box::pin(sleep(length)) }
                }
            };
            let nap = self.0.insert(nap);
            ready!(nap.timer.as_mut().poll(cx));
            self.0 = None;
        }
    }
}
