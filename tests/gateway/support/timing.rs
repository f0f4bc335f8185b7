//! Percentiles of measured times.

use std::fmt;
use std::time::{Duration, Instant};

/// Measured times of one kind.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest time that `percent` per cent of all times do not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, max] = [50, 90, 99, 100].map(|percent| self.percentile(percent));
        write!(f, "n {} p50 {p50:?} p90 {p90:?} p99 {p99:?} max {max:?}", self.len())
    }
}

/// The time from `start` to `end`; zero when `end` is earlier.
pub fn after(start: Instant, end: Instant) -> Duration {
    end.saturating_duration_since(start)
}
