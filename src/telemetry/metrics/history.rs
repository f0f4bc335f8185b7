//! The numbers of the history.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::registry::{add, options};
use super::table;

/// What the history keeps, one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The record of a session.
    Record,
    /// That something happened to a session.
    Event,
    /// One of its legs.
    Leg,
}

/// The handles of the history, resolved.
#[derive(Clone)]
pub struct HistoryMetrics {
    up: IntGauge,
    /// In the order of [`Item`].
    dropped: [IntCounter; 3],
    captures_dropped: IntCounter,
    intact: IntGauge,
}

impl HistoryMetrics {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let spec = &table::HISTORY_DROPPED;
        let intact = add(registry, IntGauge::with_opts(options(&table::HISTORY_INTACT))?)?;
        // Until something is found.
        intact.set(1);
        let dropped = add(registry, IntCounterVec::new(options(spec), spec.labels)?)?;
        Ok(Self {
            up: add(registry, IntGauge::with_opts(options(&table::HISTORY_UP))?)?,
            dropped: ["records", "events", "legs"].map(|kind| dropped.with_label_values(&[kind])),
            captures_dropped: add(registry, IntCounter::with_opts(options(&table::CAPTURES_DROPPED))?)?,
            intact,
        })
    }

    /// Whether it can be written.
    pub fn up(&self, is_up: bool) {
        self.up.set(is_up.into());
    }

    /// Whether it leads to the last signed head.
    pub fn intact(&self, is_intact: bool) {
        self.intact.set(is_intact.into());
    }

    /// True while the file can be written to.
    pub fn is_up(&self) -> bool {
        self.up.get() != 0
    }

    /// So many could not be taken.
    pub fn dropped(&self, kept: Item, count: u64) {
        self.dropped[kept as usize].inc_by(count);
    }

    /// The bodies of so many requests could not be taken.
    pub fn captures_dropped(&self, captures: u64) {
        self.captures_dropped.inc_by(captures);
    }
}
