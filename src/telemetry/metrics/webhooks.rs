//! What is sent to webhooks.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::registry::{counters, gauges};
use super::{Metrics, table};

/// The counters.
pub(in crate::telemetry) struct WebhookMetrics {
    sent: IntCounterVec,
    waiting: IntGaugeVec,
    ocsf: IntCounterVec,
}

impl WebhookMetrics {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            sent: counters(registry, &table::WEBHOOK_MESSAGES)?,
            ocsf: counters(registry, &table::OCSF_EVENTS)?,
            waiting: gauges(registry, &table::WEBHOOK_WAITING)?,
        })
    }
}

impl Metrics {
    /// Counts messages to a webhook. `result` is `delivered`, `failed` (an attempt) or `lost`.
    pub fn webhook_sent(&self, name: &str, result: &'static str, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.webhooks.sent.with_label_values(&[name, result]).inc_by(count);
    }

    /// Counts an OCSF event that was written or lost.
    pub fn ocsf_event(&self, result: &'static str) {
        self.webhooks.ocsf.with_label_values(&[result]).inc();
    }

    /// Sets how many messages wait for a webhook.
    pub fn webhook_waiting(&self, name: &str, count: usize) {
        self.webhooks.waiting.with_label_values(&[name]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
