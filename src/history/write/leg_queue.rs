//! Legs on their way to the writer: in a queue of their own, so that however many there are, none of them takes
//! the place of a record or of an event.
//!
//! Who puts a leg here wakes nobody: the writer looks every [`GATHER_TIME`], so thousands of legs are one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use crate::session::Served;
use crate::telemetry::metrics::{HistoryMetrics, Item};

/// Legs that wait at most, some 0.6 KB each: what a stall of the disk may cost in memory.
const MAX_LEGS: usize = 32 << 10;
/// Legs of one transaction at most.
const BATCH: usize = 2048;
/// How long legs may wait for more of them.
pub(in crate::history) const GATHER_TIME: Duration = Duration::from_millis(100);

/// The end at which legs are put in.
pub(in crate::history) struct LegSender {
    queue: Sender<Served>,
    waiting: Arc<AtomicUsize>,
    metrics: HistoryMetrics,
}

/// The end of the writer, with what it took out and has not written yet.
pub(in crate::history) struct LegReceiver {
    queue: Receiver<Served>,
    /// Put in and not yet written.
    waiting: Arc<AtomicUsize>,
    batch: Vec<Served>,
}

/// An empty queue.
pub(in crate::history) fn leg_queue(metrics: HistoryMetrics) -> (LegSender, LegReceiver) {
    let (sender, receiver) = mpsc::channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let batch = Vec::with_capacity(BATCH);
    (
        LegSender { queue: sender, waiting: Arc::clone(&waiting), metrics },
        LegReceiver { queue: receiver, waiting, batch },
    )
}

impl LegSender {
    /// Puts a leg in and never waits; one too many is counted as dropped.
    pub(in crate::history) fn send(&self, leg: Served) {
        let has_room = self.waiting.fetch_add(1, Ordering::Relaxed) < MAX_LEGS;
        if !has_room || self.queue.send(leg).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.metrics.dropped(Item::Leg, 1);
        }
    }
}

impl LegReceiver {
    /// Adds what has come to the batch; true when more may have.
    pub(in crate::history) fn take(&mut self) -> bool {
        let room = BATCH - self.batch.len();
        self.batch.extend(self.queue.try_iter().take(room));
        self.batch.len() == BATCH
    }

    /// What is to be written next.
    pub(in crate::history) fn batch(&self) -> &[Served] {
        &self.batch
    }

    /// The batch is written.
    pub(in crate::history) fn written(&mut self) {
        self.waiting.fetch_sub(self.batch.len(), Ordering::Relaxed);
        self.batch.clear();
    }

    /// Nothing can be written any more; gives how many legs are lost.
    pub(in crate::history) fn give_up(&mut self) -> usize {
        let lost = self.batch.len() + self.queue.try_iter().count();
        self.batch.clear();
        self.waiting.fetch_sub(lost, Ordering::Relaxed);
        lost
    }
}
