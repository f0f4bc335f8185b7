//! Where metrics and readiness read what other components know.

use std::sync::Arc;

use crate::limits::ledger::Ledger;
use crate::proxy::runtime_settings::SharedSettings;
use crate::session::replication::Replicator;
use crate::session::{Capacity, Limit, Manager};
use crate::telemetry::metrics::{CapacityNumbers, FleetNumbers, Metrics};
use crate::telemetry::readiness::Readiness;

/// Lets the metrics and the readiness read the state of a fleet.
pub(super) fn watch_fleet(
    metrics: &Metrics,
    readiness: &Readiness,
    sessions: &Arc<Manager>,
    replicator: &Arc<Replicator>,
) {
    let warned = Arc::clone(replicator);
    readiness.watch(move || warned.warnings());
    let (sessions, replicator) = (Arc::clone(sessions), Arc::clone(replicator));
    metrics.watch_fleet(move || FleetNumbers {
        active: sessions.active(),
        store_up: replicator.is_up(),
        fallbacks: replicator.fallbacks(),
        lost_orders: replicator.lost_orders(),
        lost_keys: replicator.lost_keys(),
        other_key: replicator.is_other_key(),
        events_dropped: replicator.events_dropped(),
    });
}

/// Lets the metrics read how full limits, budgets and the cache are.
pub(super) fn watch(metrics: &Metrics, live: &SharedSettings, ledger: &Arc<Ledger>, sessions: &Arc<Manager>) {
    watch_capacity(metrics, sessions);
    watch_budgets(metrics, live, ledger);
    watch_cache(metrics, live);
}

fn watch_cache(metrics: &Metrics, live: &SharedSettings) {
    let live = Arc::clone(live);
    metrics.watch_cache(move || live.load().cache.as_ref().map(|cache| cache.numbers()));
}

fn watch_budgets(metrics: &Metrics, live: &SharedSettings, ledger: &Arc<Ledger>) {
    let (live, ledger) = (Arc::clone(live), Arc::clone(ledger));
    metrics.watch_budgets(move || live.load().budgets.spent_shares(&ledger));
}

fn watch_capacity(metrics: &Metrics, sessions: &Arc<Manager>) {
    let sessions = Arc::clone(sessions);
    metrics.watch_capacity(move || {
        let Capacity { all, largest_principal, refused, evicted } = sessions.capacity();
        CapacityNumbers {
            used: vec![(Limit::Active.key(), all), (Limit::ActivePerPrincipal.key(), largest_principal)],
            refused: refused.to_vec(),
            evicted: evicted.to_vec(),
        }
    });
}
