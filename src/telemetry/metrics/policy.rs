//! What rules have decided, and how long calls were held.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry};

use super::registry::{add, counters, histograms, options};
use super::{Gauge, Metrics, table};

/// Holds last seconds to minutes.
const HOLD_BUCKETS: &[f64] = &[1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, 540.0];
/// Services answer within milliseconds.
const EXTERNAL_BUCKETS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The counters.
pub(in crate::telemetry) struct PolicyMetrics {
    decisions: IntCounterVec,
    unknown: IntCounterVec,
    /// Read, and judged before.
    scanned: [IntCounter; 2],
    holds: HistogramVec,
    held: IntGauge,
    external: HistogramVec,
}

impl PolicyMetrics {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let scanned = counters(registry, &table::SCAN_BYTES)?;
        Ok(Self {
            decisions: counters(registry, &table::POLICY_DECISIONS)?,
            unknown: counters(registry, &table::POLICY_UNKNOWN)?,
            scanned: ["read", "judged"].map(|outcome| scanned.with_label_values(&[outcome])),
            external: histograms(registry, &table::EXTERNAL_SECONDS, EXTERNAL_BUCKETS)?,
            holds: histograms(registry, &table::HOLD_SECONDS, HOLD_BUCKETS)?,
            held: add(registry, IntGauge::with_opts(options(&table::HELD_CALLS))?)?,
        })
    }
}

impl Metrics {
    /// Counts that a rule holds. `action` and `mode` are from closed sets.
    pub fn rule_holds(&self, rule: &str, action: &'static str, mode: &'static str) {
        self.policy.decisions.with_label_values(&[rule, action, mode]).inc();
    }

    /// Records how long a call was held. `outcome` is from a closed set.
    pub fn call_was_held(&self, outcome: &'static str, time: Duration) {
        self.policy.holds.with_label_values(&[outcome]).observe(time.as_secs_f64());
    }

    /// Records how long a service took to answer. `result` is from a closed set.
    pub fn service_asked(&self, name: &str, result: &'static str, time: Duration) {
        self.policy.external.with_label_values(&[name, result]).observe(time.as_secs_f64());
    }

    /// The gauge of calls that are held.
    pub fn held_calls(&self) -> Gauge {
        Gauge(self.policy.held.clone())
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
