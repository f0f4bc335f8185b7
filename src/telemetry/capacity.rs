//! How near the limits of sessions are: numbers that are read when they are asked for.

use std::sync::OnceLock;

use parking_lot::Mutex;
use prometheus::{GaugeVec, IntCounterVec, Registry};

use super::metrics::{Metrics, add, options};
use super::table;

/// How near the limits are, and what they did since the start, by the key of the limit.
#[derive(Clone, Debug, Default)]
pub struct CapacityNumbers {
    /// The share of each limit that is in use; 1 is all of it.
    pub used: Vec<(&'static str, f64)>,
    /// Sessions that were refused.
    pub refused: Vec<(&'static str, u64)>,
    /// Sessions that ended to make room.
    pub evicted: Vec<(&'static str, u64)>,
}

/// The metrics, and where their numbers come from.
pub(super) struct CapacityMetrics {
    used: GaugeVec,
    refused: IntCounterVec,
    evicted: IntCounterVec,
    source: OnceLock<Mutex<Box<dyn Fn() -> CapacityNumbers + Send>>>,
}

impl CapacityMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |spec: &table::Spec| add(registry, IntCounterVec::new(options(spec), spec.labels)?);
        let used = &table::SESSIONS_LIMIT_USED;
        Ok(Self {
            used: add(registry, GaugeVec::new(options(used), used.labels)?)?,
            refused: counters(&table::SESSIONS_REFUSED)?,
            evicted: counters(&table::SESSIONS_EVICTED)?,
            source: OnceLock::new(),
        })
    }

    /// Takes over the numbers as they are now.
    pub(super) fn read(&self) {
        let Some(source) = self.source.get() else { return };
        // Locked, so that two readers at once do not count the same sessions twice.
        let source = source.lock();
        let numbers = source();
        for (limit, used) in numbers.used {
            self.used.with_label_values(&[limit]).set(used);
        }
        for (counter, counts) in [(&self.refused, numbers.refused), (&self.evicted, numbers.evicted)] {
            for (limit, count) in counts {
                let counter = counter.with_label_values(&[limit]);
                counter.inc_by(count.saturating_sub(counter.get()));
            }
        }
    }
}

impl Metrics {
    /// Takes the numbers of the limits of sessions from here; the first source given is the one.
    pub fn watch_capacity(&self, numbers: impl Fn() -> CapacityNumbers + Send + 'static) {
        let _ = self.capacity.source.set(Mutex::new(Box::new(numbers)));
    }
}
