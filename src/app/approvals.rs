//! Approvals of held calls: stored in `state.db`, and shared with the other processes.

use std::sync::Arc;

use super::shared_documents::{store_learned, stored};
use crate::history::state::State;
use crate::ids::SharedDocument;
use crate::policy::approvals::{ApprovalStorage, Approvals};

/// The kind of these documents in `state.db`.
const KIND: &str = "approval";

/// Stores approvals in `state.db`.
struct InState(Arc<State>);

impl ApprovalStorage for InState {
    fn put(&self, SharedDocument { id, revision, text }: &SharedDocument) -> Result<bool, String> {
        self.0.put_first(KIND, id, *revision, text).map_err(|fault| format!("{fault:#}"))
    }

    fn remove(&self, ids: &[String]) -> Result<(), String> {
        self.0.remove(KIND, ids).map_err(|fault| format!("{fault:#}"))
    }
}

/// Reads the stored approvals. If the file cannot be used, that is logged, and held calls ask anew.
pub(super) fn open(state: &Arc<State>) -> Arc<Approvals> {
    let stored = stored(state, KIND, "no stored approval is in force");
    Arc::new(Approvals::new(&stored, Box::new(InState(Arc::clone(state)))))
}

/// Takes approvals of other processes, and stores those that changed here.
pub(super) fn learn(approvals: &Arc<Approvals>, documents: &[String]) {
    let learned = approvals.learn(documents);
    if learned.is_empty() {
        return;
    }
    let approvals = Arc::clone(approvals);
    store_learned("approvals", learned, move |learned| approvals.store(learned));
}
