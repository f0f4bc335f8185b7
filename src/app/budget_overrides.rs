//! Overrides of budgets: stored in `state.db`, and shared with the other processes.

use std::sync::Arc;

use tracing::info;

use super::shared_documents::{store_learned, stored};
use crate::history::state::State;
use crate::ids::SharedDocument;
use crate::limits::overrides::{OverrideStorage, Overrides};

/// The kind of these documents in `state.db`.
const KIND: &str = "override";

/// Stores overrides in `state.db`.
struct InState(Arc<State>);

impl OverrideStorage for InState {
    fn put(&self, SharedDocument { id, revision, text }: &SharedDocument) -> Result<(), String> {
        self.0.put(KIND, id, *revision, text).map_err(|fault| format!("{fault:#}"))
    }
}

/// Reads the stored overrides. If the file cannot be used, that is logged, and no stored override is in force.
pub(super) fn open(state: &Arc<State>) -> Arc<Overrides> {
    let stored = stored(state, KIND, "no override of a budget is in force");
    Arc::new(Overrides::new(stored, Box::new(InState(Arc::clone(state)))))
}

/// Takes overrides of other processes, and stores those that are new here.
pub(super) fn learn(overrides: &Arc<Overrides>, documents: &[String]) {
    let learned = overrides.learn(documents);
    if learned.is_empty() {
        return;
    }
    info!(overrides = learned.len(), "overrides of budgets were changed by another process");
    let overrides = Arc::clone(overrides);
    store_learned("overrides", learned, move |learned| overrides.store(learned));
}
