//! The metrics of the OTLP exporter.

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::registry::{add, options};
use super::{Metrics, table};

/// Counts what could not be delivered to a collector, by signal.
#[derive(Clone)]
pub struct OtlpDropped {
    pub(in crate::telemetry) spans: IntCounter,
    pub(in crate::telemetry) logs: IntCounter,
    pub(in crate::telemetry) metrics: IntCounter,
}

impl OtlpDropped {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let spec = &table::OTLP_DROPPED;
        let counters = add(registry, IntCounterVec::new(options(spec), spec.labels)?)?;
        let of = |signal| counters.with_label_values(&[signal]);
        Ok(Self { spans: of("spans"), logs: of("logs"), metrics: of("metrics") })
    }
}

impl Metrics {
    /// The counters of telemetry that was not delivered to a collector.
    pub fn otlp_dropped(&self) -> OtlpDropped {
        self.otlp_dropped.clone()
    }
}
