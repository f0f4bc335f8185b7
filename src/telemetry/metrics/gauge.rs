//! Gauges that count by guards.

use prometheus::IntGauge;

/// Counts the guards that exist now.
#[derive(Clone)]
pub struct Gauge(pub(in crate::telemetry) IntGauge);

impl Gauge {
    /// Increments the gauge until the returned guard is dropped.
    pub fn enter(&self) -> GaugeGuard {
        self.0.inc();
        GaugeGuard(self.0.clone())
    }

    /// The current value.
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

/// Decrements its [`Gauge`] when dropped.
#[must_use = "the gauge is decremented when this is dropped"]
pub struct GaugeGuard(IntGauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
