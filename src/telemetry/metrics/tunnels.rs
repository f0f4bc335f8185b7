//! The forward proxy: tunnels, their bytes, and what was refused because of where it led.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::Metrics;
use super::gauge::Gauge;
use super::registry::{add, counters, options};
use super::table;

/// The metrics.
pub(in crate::telemetry) struct TunnelMetrics {
    open: IntGauge,
    bytes: IntCounterVec,
    filtered: IntCounterVec,
}

/// Counts the bytes in tunnels.
#[derive(Clone)]
pub struct TunnelBytes {
    inward: IntCounter,
    outward: IntCounter,
}

impl TunnelBytes {
    /// Counts bytes from a client.
    pub fn add_in(&self, bytes: usize) {
        self.inward.inc_by(bytes as u64);
    }

    /// Counts bytes to a client.
    pub fn add_out(&self, bytes: usize) {
        self.outward.inc_by(bytes as u64);
    }
}

impl TunnelMetrics {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            open: add(registry, IntGauge::with_opts(options(&table::TUNNELS_OPEN))?)?,
            bytes: counters(registry, &table::TUNNEL_BYTES)?,
            filtered: counters(registry, &table::FILTERED)?,
        })
    }
}

impl Metrics {
    /// The gauge of open tunnels.
    pub fn tunnels_open(&self) -> Gauge {
        Gauge(self.tunnels.open.clone())
    }

    /// The counters of bytes in tunnels.
    pub fn tunnel_bytes(&self) -> TunnelBytes {
        let of = |direction| self.tunnels.bytes.with_label_values(&[direction]);
        TunnelBytes { inward: of("in"), outward: of("out") }
    }

    /// Counts what was refused or cut because of where it led. `reason` is from a closed set.
    pub fn filtered(&self, reason: &'static str) {
        self.tunnels.filtered.with_label_values(&[reason]).inc();
    }
}
