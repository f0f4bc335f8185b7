//! The numbers of the history.

use prometheus::{IntCounter, IntGauge, Registry};

use super::metrics::{add, options};
use super::table;

/// The handles of the history, resolved.
#[derive(Clone)]
pub struct HistoryMetrics {
    up: IntGauge,
    dropped: IntCounter,
    captures_dropped: IntCounter,
}

impl HistoryMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            up: add(registry, IntGauge::with_opts(options(&table::HISTORY_UP))?)?,
            dropped: add(registry, IntCounter::with_opts(options(&table::HISTORY_DROPPED))?)?,
            captures_dropped: add(registry, IntCounter::with_opts(options(&table::CAPTURES_DROPPED))?)?,
        })
    }

    /// Whether it can be written.
    pub fn up(&self, is_up: bool) {
        self.up.set(is_up.into());
    }

    /// True while the file can be written to.
    pub fn is_up(&self) -> bool {
        self.up.get() != 0
    }

    /// So many entries could not be taken.
    pub fn dropped(&self, entries: u64) {
        self.dropped.inc_by(entries);
    }

    /// The bodies of so many requests could not be taken.
    pub fn captures_dropped(&self, captures: u64) {
        self.captures_dropped.inc_by(captures);
    }
}
