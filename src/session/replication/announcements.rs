//! Sends what this instance announces to the other instances: the endpoints of MCP servers, so that the messages of a client
//! may arrive at any instance. An announcement is repeated while it holds, and others forget one that is not.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::replicator::Replicator;

/// How often an announcement is repeated.
pub const REPEAT: Duration = Duration::from_secs(10);
/// The most new announcements that wait to be sent. Those beyond are sent with the next repetition.
const QUEUE: usize = 1024;
/// Announcements that are sent in one round trip.
const BATCH: usize = 256;

/// What announces: the proxy.
pub trait Announcer: Send + Sync {
    /// Returns the announcements that hold here.
    fn held(&self) -> Vec<String>;

    /// Takes an announcement of another instance.
    fn learn(&self, announcement: &str);

    /// Announcements may have been missed.
    fn missed(&self);
}

/// The announcements of this instance.
pub(super) struct Announcements {
    announcer: OnceLock<Arc<dyn Announcer>>,
    new: mpsc::Sender<String>,
    waiting: Mutex<Option<mpsc::Receiver<String>>>,
}

impl Announcements {
    pub(super) fn new() -> Self {
        let (new, waiting) = mpsc::channel(QUEUE);
        Self { announcer: OnceLock::new(), new, waiting: Mutex::new(Some(waiting)) }
    }

    /// Takes an announcement of another instance.
    pub(super) fn learn(&self, announcement: &str) {
        if let Some(announcer) = self.announcer.get() {
            announcer.learn(announcement);
        }
    }

    /// Announcements may have been missed.
    pub(super) fn missed(&self) {
        if let Some(announcer) = self.announcer.get() {
            announcer.missed();
        }
    }
}

impl Replicator {
    /// Sends and receives the announcements of this announcer. Returns where it hands in new ones.
    pub fn announce_for(&self, announcer: Arc<dyn Announcer>) -> mpsc::Sender<String> {
        // There is one announcer in a process.
        let _ = self.announcements.announcer.set(announcer);
        self.announcements.new.clone()
    }
}

/// Sends announcements for as long as it is polled.
pub(super) async fn announce(replicator: Arc<Replicator>) {
    let Some(mut waiting) = replicator.announcements.waiting.lock().take() else { return };
    let mut ticks = interval(REPEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            count = waiting.recv_many(&mut batch, BATCH) => if count == 0 { return },
            _ = ticks.tick() => {
                batch = replicator.announcements.announcer.get().map(|announcer| announcer.held()).unwrap_or_default();
            }
        }
        for texts in batch.chunks(BATCH) {
            if !replicator.is_up() {
                break;
            }
            if let Err(fault) = replicator.store.publish_announcements(texts).await {
                tracing::debug!(%fault, "announcements did not reach the other instances");
                break;
            }
        }
        batch.clear();
    }
}
