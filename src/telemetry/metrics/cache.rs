//! What the HTTP cache is good for. Read when the metrics are scraped.

use std::sync::OnceLock;

use parking_lot::Mutex;
use prometheus::{Gauge, IntCounter, IntGauge, Registry};

use super::Metrics;
use super::registry::{add, options};
use super::table;

/// Numbers of the HTTP cache since it was switched on.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheNumbers {
    /// Answers whose body came from the cache.
    pub hits: u64,
    /// Answers whose body came from a backend.
    pub misses: u64,
    /// Bytes that it takes.
    pub bytes: u64,
    /// The share of hits.
    pub hit_ratio: f64,
    /// Commands that Redis did not answer.
    pub store_errors: u64,
}

/// Returns the numbers; `None` while the cache is off.
type Source = Box<dyn Fn() -> Option<CacheNumbers> + Send>;

/// The metrics and their source.
pub(in crate::telemetry) struct CacheMetrics {
    hits: IntCounter,
    misses: IntCounter,
    store_errors: IntCounter,
    bytes: IntGauge,
    hit_ratio: Gauge,
    source: OnceLock<Mutex<Source>>,
}

impl CacheMetrics {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |spec: &table::Spec| add(registry, IntCounter::with_opts(options(spec))?);
        Ok(Self {
            hits: counter(&table::CACHE_HITS)?,
            misses: counter(&table::CACHE_MISSES)?,
            store_errors: counter(&table::CACHE_STORE_ERRORS)?,
            bytes: add(registry, IntGauge::with_opts(options(&table::CACHE_BYTES))?)?,
            hit_ratio: add(registry, Gauge::with_opts(options(&table::CACHE_HIT_RATIO))?)?,
            source: OnceLock::new(),
        })
    }

    /// Updates the metrics from the source.
    pub(in crate::telemetry) fn read(&self) {
        let Some(source) = self.source.get() else { return };
        // Hold the lock: concurrent scrapes must not count the same answers twice.
        let source = source.lock();
        let numbers = source().unwrap_or_default();
        for (counter, total) in [
            (&self.hits, numbers.hits),
            (&self.misses, numbers.misses),
            (&self.store_errors, numbers.store_errors),
        ] {
            if total < counter.get() {
                // A reload has replaced the cache, whose counters begin anew.
                counter.reset();
            }
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        self.bytes.set(i64::try_from(numbers.bytes).unwrap_or(i64::MAX));
        self.hit_ratio.set(numbers.hit_ratio);
    }
}

impl Metrics {
    /// Sets the source of the numbers of the HTTP cache. Only the first call has an effect.
    pub fn watch_cache(&self, numbers: impl Fn() -> Option<CacheNumbers> + Send + 'static) {
        let _ = self.capacity.cache.source.set(Mutex::new(Box::new(numbers)));
    }
}
