//! Requests, tokens and cost by tenant. An identity provider may name any number of tenants, so the number of label values
//! is bounded here.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus::{Counter, CounterVec, IntCounter, IntCounterVec, Registry};

use super::BackendMetrics;
use super::labels::{OTHER, TokenKind};
use super::registry::{add, counters, options};
use super::table;

/// The counters of all tenants.
pub(in crate::telemetry) struct Tenants {
    requests: IntCounterVec,
    tokens: IntCounterVec,
    cost: CounterVec,
    known: RwLock<HashMap<Box<str>, Arc<Tenant>>>,
}

/// The counters of a tenant.
struct Tenant {
    requests: IntCounter,
    tokens: IntCounterVec,
    cost: Counter,
    label: Box<str>,
}

impl Tenants {
    pub(in crate::telemetry) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let cost = &table::TENANT_COST;
        Ok(Self {
            requests: counters(registry, &table::TENANT_REQUESTS)?,
            tokens: counters(registry, &table::TENANT_TOKENS)?,
            cost: add(registry, CounterVec::new(options(cost), cost.labels)?)?,
            known: RwLock::default(),
        })
    }

    /// Counts a finished request. At most `max` tenants are told apart.
    pub(in crate::telemetry) fn request(&self, tenant: &str, max: u16) {
        if let Some(counters) = self.of(tenant, max) {
            counters.requests.inc();
        }
    }

    /// Adds the tokens of an answer and its cost in US dollars.
    pub(in crate::telemetry) fn usage(&self, tenant: &str, max: u16, counts: &[(TokenKind, u64)], usd: f64) {
        let Some(counters) = self.of(tenant, max) else { return };
        for (kind, count) in counts.iter().filter(|(_, count)| *count > 0) {
            counters.tokens.with_label_values(&[&counters.label, kind.label()]).inc_by(*count);
        }
        if usd > 0.0 {
            counters.cost.inc_by(usd);
        }
    }

    fn of(&self, tenant: &str, max: u16) -> Option<Arc<Tenant>> {
        if max == 0 {
            return None;
        }
        let known = self.known.read().get(tenant).cloned();
        known.or_else(|| {
            let mut known = self.known.write();
            let named = known.len() - usize::from(known.contains_key(OTHER));
            let label = if named < usize::from(max) { tenant } else { OTHER };
            Some(Arc::clone(known.entry(label.into()).or_insert_with(|| Arc::new(self.labelled(label)))))
        })
    }

    fn labelled(&self, label: &str) -> Tenant {
        Tenant {
            requests: self.requests.with_label_values(&[label]),
            tokens: self.tokens.clone(),
            cost: self.cost.with_label_values(&[label]),
            label: label.into(),
        }
    }
}

impl BackendMetrics {
    /// Counts a finished request of a tenant. At most `max` tenants are told apart.
    pub fn tenant_request(&self, tenant: &str, max: u16) {
        self.tenants.request(tenant, max);
    }

    /// Adds the tokens of a tenant's answer and its cost in US dollars.
    pub fn tenant_usage(&self, tenant: &str, max: u16, counts: &[(TokenKind, u64)], usd: f64) {
        self.tenants.usage(tenant, max, counts, usd);
    }
}
