//! Legs on their way to the writer: in a queue of their own, so that however many there are, none of them takes
//! the place of a record or of an event.
//!
//! Who puts a leg here wakes nobody: the writer looks every [`GATHER`], so thousands of legs are one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use crate::session::ServedLeg;
use crate::telemetry::history::{HistoryMetrics, Kept};

/// Legs that wait at most, some 0.6 KB each: what a stall of the disk may cost in memory.
const MOST: usize = 32 << 10;
/// Legs of one transaction at most.
const BATCH: usize = 2048;
/// How long legs may wait for more of them.
pub(super) const GATHER: Duration = Duration::from_millis(100);

/// The end at which legs are put in.
pub(super) struct LegSender {
    queue: Sender<ServedLeg>,
    waiting: Arc<AtomicUsize>,
    metrics: HistoryMetrics,
}

/// The end of the writer, with what it took out and has not written yet.
pub(super) struct LegReceiver {
    queue: Receiver<ServedLeg>,
    /// Put in and not yet written.
    waiting: Arc<AtomicUsize>,
    batch: Vec<ServedLeg>,
}

/// An empty queue.
pub(super) fn leg_queue(metrics: HistoryMetrics) -> (LegSender, LegReceiver) {
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
    pub(super) fn send(&self, leg: ServedLeg) {
        let has_room = self.waiting.fetch_add(1, Ordering::Relaxed) < MOST;
        if !has_room || self.queue.send(leg).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.metrics.dropped(Kept::Leg, 1);
        }
    }
}

impl LegReceiver {
    /// Adds what has come to the batch; true when more may have.
    pub(super) fn take(&mut self) -> bool {
        let room = BATCH - self.batch.len();
        self.batch.extend(self.queue.try_iter().take(room));
        self.batch.len() == BATCH
    }

    /// What is to be written next.
    pub(super) fn batch(&self) -> &[ServedLeg] {
        &self.batch
    }

    /// The batch is written.
    pub(super) fn written(&mut self) {
        self.waiting.fetch_sub(self.batch.len(), Ordering::Relaxed);
        self.batch.clear();
    }

    /// Nothing can be written any more; gives how many legs are lost.
    pub(super) fn give_up(&mut self) -> usize {
        let lost = self.batch.len() + self.queue.try_iter().count();
        self.batch.clear();
        self.waiting.fetch_sub(lost, Ordering::Relaxed);
        lost
    }
}
