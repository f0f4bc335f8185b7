//! Token counters by model. Clients choose the model name, so the number of label values is bounded here. The handles of
//! a model need one lookup per response.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use prometheus::{Counter, CounterVec, IntCounter, IntCounterVec};

use super::BackendMetrics;
use super::labels::{OTHER, TokenKind};

/// The largest number of distinct models; further ones are counted as `other`.
const MODELS_MAX: usize = 200;
/// The longest model name in bytes; a longer one is counted as `other`.
const MODEL_NAME_MAX: usize = 128;

/// The models that have a label value of their own, across all backends.
#[derive(Default)]
pub(in crate::telemetry) struct Models(Mutex<HashSet<Box<str>>>);

impl Models {
    fn admit(&self, model: &str) -> bool {
        if model.is_empty() || model.len() > MODEL_NAME_MAX {
            return false;
        }
        let mut known = self.0.lock();
        known.contains(model) || (known.len() < MODELS_MAX && known.insert(model.into()))
    }
}

/// The handles of one model.
#[derive(Default)]
struct Handles {
    tokens: [OnceLock<IntCounter>; TokenKind::COUNT],
    cost: OnceLock<Counter>,
    unpriced: OnceLock<IntCounter>,
}

/// The token counters of one backend.
pub(in crate::telemetry) struct ByModel {
    backend: Box<str>,
    tokens: IntCounterVec,
    cost: CounterVec,
    unpriced: IntCounterVec,
    models: Arc<Models>,
    known: RwLock<HashMap<Box<str>, Arc<Handles>>>,
    other: Arc<Handles>,
}

impl ByModel {
    pub(in crate::telemetry) fn new(
        backend: &str,
        tokens: IntCounterVec,
        cost: CounterVec,
        unpriced: IntCounterVec,
        models: Arc<Models>,
    ) -> Self {
        let (known, other) = (RwLock::default(), Arc::default());
        Self { backend: backend.into(), tokens, cost, unpriced, models, known, other }
    }

    /// Adds token counts.
    pub(in crate::telemetry) fn count(&self, model: &str, counts: &[(TokenKind, u64)]) {
        let (handles, label) = self.handles(model);
        for (kind, count) in counts.iter().filter(|(_, count)| *count > 0) {
            handles.tokens[*kind as usize]
                .get_or_init(|| self.tokens.with_label_values(&[&self.backend, label, kind.label()]))
                .inc_by(*count);
        }
    }

    /// Adds a cost in US dollars.
    pub(in crate::telemetry) fn spend(&self, model: &str, usd: f64) {
        let (handles, label) = self.handles(model);
        handles.cost.get_or_init(|| self.cost.with_label_values(&[&self.backend, label])).inc_by(usd);
    }

    /// Counts answers without a price.
    pub(in crate::telemetry) fn unpriced(&self, model: &str, answers: u64) {
        let (handles, label) = self.handles(model);
        handles
            .unpriced
            .get_or_init(|| self.unpriced.with_label_values(&[&self.backend, label]))
            .inc_by(answers);
    }

    /// Returns the handles of a model and its label value.
    fn handles<'m>(&self, model: &'m str) -> (Arc<Handles>, &'m str) {
        let known = self.known.read().get(model).cloned();
        match known {
            Some(handles) => (handles, model),
            None if self.models.admit(model) => (self.remember(model), model),
            None => (Arc::clone(&self.other), OTHER),
        }
    }

    fn remember(&self, model: &str) -> Arc<Handles> {
        let mut known = self.known.write();
        Arc::clone(known.entry(model.into()).or_default())
    }
}

impl BackendMetrics {
    /// Adds the cost of tokens, in US dollars.
    pub fn cost(&self, model: &str, usd: f64) {
        if usd > 0.0 {
            self.tokens.spend(model, usd);
        }
    }

    /// Counts answers whose tokens have no price.
    pub fn unpriced(&self, model: &str, answers: u64) {
        if answers > 0 {
            self.tokens.unpriced(model, answers);
        }
    }
}
