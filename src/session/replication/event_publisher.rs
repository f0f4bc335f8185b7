//! Events for the feeds of the other instances: published in batches, from a bounded queue.
//!
//! An event is for whoever watches; nothing is decided by it. So a store that is slow or away costs
//! events, which are counted, and never memory, the link, or the time of what has to be written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::replicator::Replicator;
use crate::session::core::event::Event;

/// Events that wait at most; one is 2 to 5 KB.
const QUEUE: usize = 4096;
/// Events published in one round trip: some 300 KB.
const BATCH: usize = 64;

/// The events that wait to be published.
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

    fn take(&self) -> Option<mpsc::Receiver<Arc<Event>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Publishes events until the fleet goes.
pub(super) async fn publish(fleet: Arc<Replicator>) {
    let Some(mut waiting) = fleet.feed.take() else { return };
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let texts: Vec<String> =
            batch.drain(..).map(|event| serde_json::to_string(&*event).unwrap_or_default()).collect();
        if !fleet.is_up() {
            fleet.feed.drop_some(texts.len());
            continue;
        }
        match fleet.store.tell_events(&texts).await {
            Ok(lost) => fleet.feed.drop_some(lost),
            // The beat finds out whether the store is away.
            Err(fault) => {
                tracing::debug!(%fault, events = texts.len(), "events did not reach the other instances");
                fleet.feed.drop_some(texts.len());
            }
        }
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
