//! The silence of a backend, measured where it can be told from a slow reader.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

use super::ticket::Ticket;

/// The timer of the backend's silence. It is not set anew with each chunk: when it rings, it looks
/// whether bytes have moved meanwhile, and if so sleeps on.
#[derive(Default)]
pub(super) struct Silence(Option<Pin<Box<Sleep>>>);

impl Silence {
    /// Ready when the silence has become longer than the ticket bears.
    pub(super) fn poll_exceeded(&mut self, ticket: &Ticket, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(until) = ticket.silent_until() else {
                return Poll::Pending;
            };
            let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(until)));
            if until < timer.deadline() {
                timer.as_mut().reset(until);
            }
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}
