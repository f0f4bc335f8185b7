//! Requests that wait for the same thing, in the order in which they get it.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::classes::Class;

static ARRIVALS: AtomicU64 = AtomicU64::new(1);

/// Returns a number that grows with each request that begins to wait.
pub(super) fn arrival() -> u64 {
    ARRIVALS.fetch_add(1, Ordering::Relaxed)
}

/// A line. Whoever is of a higher class goes first; those of one class, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    class: Class,
    /// When it came.
    since: u64,
    turn: Arc<Notify>,
}

impl Waiter {
    fn is(&self, ticket: &Ticket) -> bool {
        Arc::ptr_eq(&self.turn, &ticket.turn)
    }
}

/// The place of one request in a line.
#[derive(Debug)]
pub(super) struct Ticket {
    turn: Arc<Notify>,
}

impl Ticket {
    /// Waits until it is told that its turn may have come. One that was told before does not wait.
    pub(super) async fn called(&self) {
        self.turn.notified().await;
    }
}

impl Line {
    pub(super) fn join(&mut self, class: Class, since: u64) -> Ticket {
        let turn = Arc::<Notify>::default();
        let place = self
            .waiting
            .partition_point(|waiter| (waiter.class, Reverse(waiter.since)) >= (class, Reverse(since)));
        self.waiting.insert(place, Waiter { class, since, turn: Arc::clone(&turn) });
        Ticket { turn }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn first(&self) -> Option<&Waiter> {
        self.waiting.front()
    }

    pub(super) fn is_first(&self, ticket: &Ticket) -> bool {
        self.first().is_some_and(|waiter| waiter.is(ticket))
    }

    /// Tells the first one that its turn may have come; it stays in the line.
    pub(super) fn call_first(&self) {
        if let Some(first) = self.first() {
            first.turn.notify_one();
        }
    }

    /// Takes a request out of the line. Returns false if it was not in it any more.
    pub(super) fn leave(&mut self, ticket: &Ticket) -> bool {
        let place = self.waiting.iter().position(|waiter| waiter.is(ticket));
        place.and_then(|place| self.waiting.remove(place)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn higher_classes_go_first_and_each_in_the_order_in_which_it_came() {
        let mut line = Line::default();
        let joined = [Class::Low, Class::Normal, Class::Normal, Class::High, Class::Low]
            .map(|class| line.join(class, arrival()));
        assert!(line.leave(&joined[2]) && !line.leave(&joined[2]));
        for place in [3, 1, 0, 4] {
            assert!(line.is_first(&joined[place]), "{place}");
            assert!(joined[place].called().now_or_never().is_none());
            line.call_first();
            assert!(joined[place].called().now_or_never().is_some(), "it was told before it waits");
            line.leave(&joined[place]);
        }
        assert!(line.is_empty() && joined[2].called().now_or_never().is_none());
    }
}
