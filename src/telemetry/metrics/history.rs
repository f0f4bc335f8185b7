//! Metrics of the history.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::registry::{add, options};
use super::table;

/// What the history stores; the `kind` label of `elida_history_dropped_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A session's record.
    Record,
    /// An event of a session.
    Event,
    /// A leg of a session.
    Leg,
    /// A line of the audit log.
    Audit,
}

/// The metric handles of the history.
#[derive(Clone)]
pub struct HistoryMetrics {
    up: IntGauge,
    /// Indexed by [`Item`].
    dropped: [IntCounter; 4],
    captures_dropped: IntCounter,
    intact: IntGauge,
}

impl HistoryMetrics {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let spec = &table::HISTORY_DROPPED;
        let intact = add(registry, IntGauge::with_opts(options(&table::HISTORY_INTACT))?)?;
        // Intact until a check fails.
        intact.set(1);
        let dropped = add(registry, IntCounterVec::new(options(spec), spec.labels)?)?;
        Ok(Self {
            up: add(registry, IntGauge::with_opts(options(&table::HISTORY_UP))?)?,
            dropped: ["records", "events", "legs", "audit"].map(|kind| dropped.with_label_values(&[kind])),
            captures_dropped: add(registry, IntCounter::with_opts(options(&table::CAPTURES_DROPPED))?)?,
            intact,
        })
    }

    /// Sets whether the history can be written.
    pub fn up(&self, is_up: bool) {
        self.up.set(is_up.into());
    }

    /// Sets whether the history continues from the last signed head.
    pub fn intact(&self, is_intact: bool) {
        self.intact.set(is_intact.into());
    }

    /// Returns true while the history can be written.
    pub fn is_up(&self) -> bool {
        self.up.get() != 0
    }

    /// Counts dropped items.
    pub fn dropped(&self, item: Item, count: u64) {
        self.dropped[item as usize].inc_by(count);
    }

    /// Counts dropped captures.
    pub fn captures_dropped(&self, captures: u64) {
        self.captures_dropped.inc_by(captures);
    }
}
