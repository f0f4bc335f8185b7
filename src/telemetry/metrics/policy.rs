//! What rules have decided.

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::registry::counters;
use super::{Metrics, table};

/// The counters.
pub(in crate::telemetry) struct PolicyMetrics {
    decisions: IntCounterVec,
    unknown: IntCounterVec,
    /// Read, and judged before.
    scanned: [IntCounter; 2],
}

impl PolicyMetrics {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let scanned = counters(registry, &table::SCAN_BYTES)?;
        Ok(Self {
            decisions: counters(registry, &table::POLICY_DECISIONS)?,
            unknown: counters(registry, &table::POLICY_UNKNOWN)?,
            scanned: ["read", "judged"].map(|outcome| scanned.with_label_values(&[outcome])),
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

    /// Counts bytes of requests that were read for the rules, and those that had been judged before.
    pub fn scanned(&self, read: u64, judged: u64) {
        self.policy.scanned[0].inc_by(read);
        self.policy.scanned[1].inc_by(judged);
    }
}
