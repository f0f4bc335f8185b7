//! Legs on their way to the writer. They have a queue of their own, so that a flood of legs never displaces a record or
//! an event.
//!
//! Sending a leg does not wake the writer: it polls every [`GATHER_TIME`] and writes thousands of legs in one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use crate::session::ServedLeg;
use crate::telemetry::metrics::{HistoryMetrics, Item};

/// The largest number of queued legs. A leg takes about 0.6 KB, so this bounds the memory that a stalled disk costs.
const MAX_LEGS: usize = 32 << 10;
/// The largest number of legs in one transaction.
const BATCH: usize = 2048;
/// How long the writer lets legs accumulate.
pub(in crate::history) const GATHER_TIME: Duration = Duration::from_millis(100);

/// The sending end of the queue.
pub(in crate::history) struct LegSender {
    queue: Sender<ServedLeg>,
    waiting: Arc<AtomicUsize>,
    metrics: HistoryMetrics,
}

/// The writer's end of the queue, with the legs that it has taken but not yet written.
pub(in crate::history) struct LegReceiver {
    queue: Receiver<ServedLeg>,
    /// Legs that were sent and are not yet written.
    waiting: Arc<AtomicUsize>,
    batch: Vec<ServedLeg>,
}

/// Creates a queue.
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
    /// Queues a leg. Never blocks: above [`MAX_LEGS`] the leg is dropped and counted.
    pub(in crate::history) fn send(&self, leg: ServedLeg) {
        let has_room = self.waiting.fetch_add(1, Ordering::Relaxed) < MAX_LEGS;
        if !has_room || self.queue.send(leg).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.metrics.dropped(Item::Leg, 1);
        }
    }
}

impl LegReceiver {
    /// Moves queued legs into the batch. Returns true if the batch is full, so there may be more.
    pub(in crate::history) fn take(&mut self) -> bool {
        let room = BATCH - self.batch.len();
        self.batch.extend(self.queue.try_iter().take(room));
        self.batch.len() == BATCH
    }

    /// The legs to write next.
    pub(in crate::history) fn batch(&self) -> &[ServedLeg] {
        &self.batch
    }

    /// Clears the batch after it was written.
    pub(in crate::history) fn written(&mut self) {
        self.waiting.fetch_sub(self.batch.len(), Ordering::Relaxed);
        self.batch.clear();
    }

    /// Drops everything, because the process ends and the file cannot be written. Returns the number of lost legs.
    pub(in crate::history) fn give_up(&mut self) -> usize {
        let lost = self.batch.len() + self.queue.try_iter().count();
        self.batch.clear();
        self.waiting.fetch_sub(lost, Ordering::Relaxed);
        lost
    }
}
