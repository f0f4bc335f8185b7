//! The numbers of an instance that shares its sessions with others.

use std::sync::{Mutex, PoisonError};

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
            let numbers = numbers.lock().unwrap_or_else(PoisonError::into_inner);
            let FleetNumbers { active, store_up, fallbacks, events_dropped } = numbers();
            self.sessions_active.with_label_values(&["traffic"]).set(active as i64);
            self.store_up.with_label_values(&[SHARED_STORE]).set(store_up.into());
            let told = self.store_fallbacks.with_label_values(&[SHARED_STORE]);
            told.inc_by(fallbacks.saturating_sub(told.get()));
            let told = self.store_events_dropped.with_label_values(&[SHARED_STORE]);
            told.inc_by(events_dropped.saturating_sub(told.get()));
        }
    }
}
