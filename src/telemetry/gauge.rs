//! Numbers of things that are there now, counted by guards.

use prometheus::IntGauge;

/// A number of things that are there now.
#[derive(Clone)]
pub struct Gauge(pub(super) IntGauge);

impl Gauge {
    /// One more is there, until the returned guard is dropped.
    pub fn enter(&self) -> GaugeGuard {
        self.0.inc();
        GaugeGuard(self.0.clone())
    }

    /// How many are there now.
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

/// One thing that a [`Gauge`] counts.
#[must_use = "the thing is counted as gone when this is dropped"]
pub struct GaugeGuard(IntGauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
