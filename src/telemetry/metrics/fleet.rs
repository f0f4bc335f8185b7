//! Metrics of an instance that shares its sessions with others (`session.store: redis`).

use parking_lot::Mutex;

use super::Metrics;

/// The value of the `store` label.
const SHARED_STORE: &str = "redis";

/// What an instance of a fleet reports when the metrics are scraped. Counts are since start.
#[derive(Clone, Copy, Debug)]
pub struct FleetNumbers {
    /// Sessions active on this instance.
    pub active: usize,
    /// Whether the shared store responds.
    pub store_up: bool,
    /// Admissions decided without the store.
    pub fallbacks: u64,
    /// Kill orders that the store had lost and that this instance restored.
    pub lost_orders: u64,
    /// How often the store had lost the principals' key and this instance restored it.
    pub lost_keys: u64,
    /// Whether the store contains a different principals' key than this instance.
    pub other_key: bool,
    /// Events that were not published to the other instances.
    pub events_dropped: u64,
}

impl Metrics {
    /// Sets the source of the fleet's numbers. Only the first call has an effect. In a fleet, active sessions are read
    /// from this source, too, since a session may end on another instance.
    pub fn watch_fleet(&self, numbers: impl Fn() -> FleetNumbers + Send + 'static) {
        let _ = self.fleet.set(Mutex::new(Box::new(numbers)));
        self.store_up.with_label_values(&[SHARED_STORE]);
        self.store_outages.with_label_values(&[SHARED_STORE]);
    }

    /// Counts an outage of the shared store.
    pub fn store_lost(&self) {
        self.store_outages.with_label_values(&[SHARED_STORE]).inc();
    }

    /// Updates the metrics from the source.
    pub(in crate::telemetry) fn read_fleet(&self) {
        if let Some(numbers) = self.fleet.get() {
            // Hold the lock: concurrent scrapes must not count twice.
            let numbers = numbers.lock();
            let FleetNumbers {
                active,
                store_up,
                fallbacks,
                lost_orders,
                lost_keys,
                other_key,
                events_dropped,
            } = numbers();
            self.sessions_active.with_label_values(&["traffic"]).set(active as i64);
            self.store_up.with_label_values(&[SHARED_STORE]).set(store_up.into());
            let counter = self.store_fallbacks.with_label_values(&[SHARED_STORE]);
            counter.inc_by(fallbacks.saturating_sub(counter.get()));
            for (what, lost) in [("kill_order", lost_orders), ("principal_key", lost_keys)] {
                let counter = self.store_lost.with_label_values(&[SHARED_STORE, what]);
                counter.inc_by(lost.saturating_sub(counter.get()));
            }
            self.key_mismatch.set(other_key.into());
            let counter = self.store_events_dropped.with_label_values(&[SHARED_STORE]);
            counter.inc_by(events_dropped.saturating_sub(counter.get()));
        }
    }
}
