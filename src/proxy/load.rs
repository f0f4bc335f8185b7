//! How busy this instance is: requests that are open and that wait. Counted only as far as the configuration needs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::telemetry::metrics::{Gauge, GaugeGuard};

/// How many requests are open and wait.
pub(crate) struct Load {
    open: Arc<AtomicU32>,
    pub(super) waiting: Gauge,
}

impl Load {
    pub(crate) fn new(waiting: Gauge) -> Self {
        Self { open: Arc::default(), waiting }
    }

    /// Counts one more open request. Returns how many there are with it.
    pub(super) fn open_one(&self) -> (Counted, u32) {
        let count = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        (Counted(Arc::clone(&self.open)), count)
    }
}

/// Counts a request as open until it is dropped.
pub(crate) struct Counted(Arc<AtomicU32>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request is counted as.
#[derive(Default)]
pub(crate) struct Counting {
    pub(super) open: Option<Counted>,
    pub(super) waiting: Option<GaugeGuard>,
}
