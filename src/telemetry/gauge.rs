//! Numbers of things that are there now, counted by guards.

use prometheus::IntGauge;

/// A number of things that are there now.
#[derive(Clone)]
pub struct Gauge(pub(super) IntGauge);

impl Gauge {
    /// One more is there, until the returned guard is dropped.
    pub fn enter(&self) -> Inside {
        self.0.inc();
        Inside(self.0.clone())
    }

    /// How many are there now.
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

/// One thing that a [`Gauge`] counts.
#[must_use = "the thing is counted as gone when this is dropped"]
pub struct Inside(IntGauge);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.dec();
    }
}
