//! How close the session limits are, how many browsers are logged in, and what the HTTP cache holds. Read when the metrics are
//! scraped.

use std::sync::OnceLock;

use parking_lot::Mutex;
use prometheus::{GaugeVec, IntCounterVec, IntGauge, Registry};

use super::Metrics;
use super::cache::CacheMetrics;
use super::registry::{add, options};
use super::table;

/// The use of the session limits, by the configuration key of the limit.
#[derive(Clone, Debug, Default)]
pub struct CapacityNumbers {
    /// The share of each limit in use, from 0 to 1.
    pub used: Vec<(&'static str, f64)>,
    /// Sessions refused since start.
    pub refused: Vec<(&'static str, u64)>,
    /// Sessions ended to make room since start.
    pub evicted: Vec<(&'static str, u64)>,
}

/// The metrics and their source.
pub(in crate::telemetry) struct CapacityMetrics {
    used: GaugeVec,
    refused: IntCounterVec,
    evicted: IntCounterVec,
    dashboards: IntGauge,
    pub(super) cache: CacheMetrics,
    source: OnceLock<Mutex<Box<dyn Fn() -> CapacityNumbers + Send>>>,
}

impl CapacityMetrics {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |spec: &table::Spec| add(registry, IntCounterVec::new(options(spec), spec.labels)?);
        let used = &table::SESSIONS_LIMIT_USED;
        Ok(Self {
            used: add(registry, GaugeVec::new(options(used), used.labels)?)?,
            refused: counters(&table::SESSIONS_REFUSED)?,
            evicted: counters(&table::SESSIONS_EVICTED)?,
            dashboards: add(registry, IntGauge::with_opts(options(&table::DASHBOARD_SESSIONS))?)?,
            cache: CacheMetrics::new(registry)?,
            source: OnceLock::new(),
        })
    }

    /// Updates the metrics from the source.
    pub(in crate::telemetry) fn read(&self) {
        self.cache.read();
        let Some(source) = self.source.get() else { return };
        // Hold the lock: concurrent scrapes must not count the same sessions twice.
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
    /// Counts a connection or HTTP/2 request that a listener (`proxy`, `control`) had no room for. `reason` is from a
    /// closed set.
    pub fn connection_refused(&self, listener: &'static str, reason: &'static str) {
        self.connections_refused.with_label_values(&[listener, reason]).inc();
    }

    /// Sets how many browsers are logged in to the dashboard.
    pub fn dashboards(&self, open: usize) {
        self.capacity.dashboards.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    /// Sets the source of the session limits' numbers. Only the first call has an effect.
    pub fn watch_capacity(&self, numbers: impl Fn() -> CapacityNumbers + Send + 'static) {
        let _ = self.capacity.source.set(Mutex::new(Box::new(numbers)));
    }
}
