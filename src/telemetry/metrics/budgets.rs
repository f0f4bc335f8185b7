//! How much of the budgets is spent, which is read when the metrics are scraped; and how many requests wait for room.

use std::sync::OnceLock;

use parking_lot::Mutex;
use prometheus::{GaugeVec, IntCounterVec, IntGauge, Registry};

use super::registry::{add, options};
use super::table;
use super::{Gauge, Metrics};

/// Returns the share of each budget that is spent.
type Source = Box<dyn Fn() -> Vec<(String, f64)> + Send>;

/// The metrics and their source.
pub(in crate::telemetry) struct BudgetMetrics {
    ratio: GaugeVec,
    refused: IntCounterVec,
    waiting: IntGauge,
    source: OnceLock<Mutex<Source>>,
}

impl BudgetMetrics {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let (ratio, refused) = (&table::BUDGET_RATIO, &table::BUDGET_REFUSED);
        Ok(Self {
            ratio: add(registry, GaugeVec::new(options(ratio), ratio.labels)?)?,
            refused: add(registry, IntCounterVec::new(options(refused), refused.labels)?)?,
            waiting: add(registry, IntGauge::with_opts(options(&table::ADMISSION_WAITING))?)?,
            source: OnceLock::new(),
        })
    }

    /// Updates the gauge from the source. A budget that is no longer configured loses its series.
    pub(in crate::telemetry) fn read(&self) {
        let Some(source) = self.source.get() else { return };
        let shares = source.lock()();
        self.ratio.reset();
        for (budget, share) in shares {
            self.ratio.with_label_values(&[budget.as_str()]).set(share);
        }
    }
}

impl Metrics {
    /// Sets the source of the spent shares of the budgets. Only the first call has an effect.
    pub fn watch_budgets(&self, shares: impl Fn() -> Vec<(String, f64)> + Send + 'static) {
        let _ = self.budgets.source.set(Mutex::new(Box::new(shares)));
    }

    /// The gauge of requests that wait for room.
    pub fn admission_waiting(&self) -> Gauge {
        Gauge(self.budgets.waiting.clone())
    }

    /// Counts a request that a budget refused. `reason` is from a closed set.
    pub fn budget_refused(&self, budget: &str, reason: &'static str) {
        self.budgets.refused.with_label_values(&[budget, reason]).inc();
    }
}
