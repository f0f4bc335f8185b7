//! The numbers of an instance that shares its sessions with others.

use parking_lot::Mutex;

use super::metrics::Metrics;

/// The value of the store label.
const SHARED_STORE: &str = "redis";

/// What an instance in a fleet is asked for when its numbers are read.
#[derive(Clone, Copy, Debug)]
pub struct FleetNumbers {
    /// Sessions active here.
    pub active: usize,
    /// Whether the shared store answers.
    pub store_up: bool,
    /// Admissions decided without it.
    pub fallbacks: u64,
    /// Kill orders that the store had lost and that were written again here.
    pub lost_orders: u64,
    /// How often the store had lost the principals' key and it was written again here.
    pub lost_keys: u64,
    /// Whether another principals' key than the one of this instance stands in the store.
    pub other_key: bool,
    /// Events that were not published to the other instances.
    pub events_dropped: u64,
}

impl Metrics {
    /// Takes the numbers of an instance in a fleet from here; the first source given is the one. There a
    /// session may end elsewhere, so events do not tell how many are active.
    pub fn watch_fleet(&self, numbers: impl Fn() -> FleetNumbers + Send + 'static) {
        let _ = self.fleet.set(Mutex::new(Box::new(numbers)));
        self.store_up.with_label_values(&[SHARED_STORE]);
        self.store_outages.with_label_values(&[SHARED_STORE]);
    }

    /// The shared store stopped answering.
    pub fn store_lost(&self) {
        self.store_outages.with_label_values(&[SHARED_STORE]).inc();
    }

    /// Takes over what the fleet says now.
    pub(super) fn read_fleet(&self) {
        if let Some(numbers) = self.fleet.get() {
            // Locked, as below.
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
            let told = self.store_fallbacks.with_label_values(&[SHARED_STORE]);
            told.inc_by(fallbacks.saturating_sub(told.get()));
            for (what, lost) in [("kill_order", lost_orders), ("principal_key", lost_keys)] {
                let told = self.store_lost.with_label_values(&[SHARED_STORE, what]);
                told.inc_by(lost.saturating_sub(told.get()));
            }
            self.key_mismatch.set(other_key.into());
            let told = self.store_events_dropped.with_label_values(&[SHARED_STORE]);
            told.inc_by(events_dropped.saturating_sub(told.get()));
        }
    }
}
