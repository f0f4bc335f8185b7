//! A bounded queue of events for the other instances.
//!
//! No decision depends on an event. A store that is slow or unavailable therefore costs events, which are counted,
//! and never memory, the link, or the time of writes that matter.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::session::core::event::Event;

/// The longest queue; an event takes 2 to 5 KB.
const QUEUE: usize = 4096;

/// Events that wait to be published.
#[derive(Debug)]
pub(super) struct EventQueue {
    queue: mpsc::Sender<Arc<Event>>,
    waiting: Mutex<Option<mpsc::Receiver<Arc<Event>>>>,
    dropped: AtomicU64,
}

impl EventQueue {
    pub(super) fn new() -> Self {
        Self::with_room(QUEUE)
    }

    fn with_room(room: usize) -> Self {
        let (queue, waiting) = mpsc::channel(room);
        Self { queue, waiting: Mutex::new(Some(waiting)), dropped: AtomicU64::new(0) }
    }

    /// Queues an event; a full queue drops it.
    pub(super) fn push(&self, event: &Arc<Event>) {
        if self.queue.try_send(event.clone()).is_err() {
            self.drop_some(1);
        }
    }

    /// Counts events that are not published.
    pub(super) fn drop_some(&self, events: usize) {
        self.dropped.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Events that were not published.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Hands over the reading end, once.
    pub(super) fn take(&self) -> Option<mpsc::Receiver<Arc<Event>>> {
        self.waiting.lock().take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_counts() {
        let feed = EventQueue::with_room(2);
        let mut waiting = feed.take().unwrap();
        for _ in 0..5 {
            feed.push(&Arc::new(Event::StoreBack));
        }
        assert_eq!((waiting.len(), feed.dropped()), (2, 3));
        waiting.try_recv().unwrap();
        feed.push(&Arc::new(Event::StoreBack));
        assert_eq!((waiting.len(), feed.dropped()), (2, 3));
    }
}
