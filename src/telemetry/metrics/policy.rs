//! What rules have decided.

use prometheus::{IntCounterVec, Registry};

use super::registry::counters;
use super::{Metrics, table};

/// The counters.
pub(in crate::telemetry) struct PolicyMetrics {
    decisions: IntCounterVec,
    unknown: IntCounterVec,
}

impl PolicyMetrics {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            decisions: counters(registry, &table::POLICY_DECISIONS)?,
            unknown: counters(registry, &table::POLICY_UNKNOWN)?,
        })
    }
}

impl Metrics {
    /// Counts that a rule holds. `action` and `mode` are from closed sets.
    pub fn rule_holds(&self, rule: &str, action: &'static str, mode: &'static str) {
        self.policy.decisions.with_label_values(&[rule, action, mode]).inc();
    }

    /// Counts a condition that could not be decided.
    pub fn rule_undecided(&self, rule: &str) {
        self.policy.unknown.with_label_values(&[rule]).inc();
    }
}
