//! Suppressions of findings: stored in `state.db`, and shared with the other processes.

use std::sync::Arc;

use tracing::info;

use super::shared_documents::{store_learned, stored};
use crate::history::state::State;
use crate::ids::SharedDocument;
use crate::policy::suppressions::Suppressions;

/// The kind of these documents in `state.db`.
const KIND: &str = "suppression";

/// Reads the stored suppressions. If the file cannot be used, that is logged, and none is in force.
pub(super) fn open(state: &Arc<State>) -> Arc<Suppressions> {
    let stored = stored(state, KIND, "no suppression is in force");
    let state = Arc::clone(state);
    let store = move |SharedDocument { id, revision, text }: &SharedDocument| {
        state.put(KIND, id, *revision, text).map_err(|fault| format!("{fault:#}"))
    };
    Arc::new(Suppressions::new(&stored, Box::new(store)))
}

/// Takes suppressions of other processes, and stores those that are new here.
pub(super) fn learn(suppressions: &Arc<Suppressions>, documents: &[String]) {
    let learned = suppressions.learn(documents);
    if learned.is_empty() {
        return;
    }
    info!(suppressions = learned.len(), "suppressions were changed by another process");
    let suppressions = Arc::clone(suppressions);
    store_learned("suppressions", learned, move |learned| suppressions.store(learned));
}
