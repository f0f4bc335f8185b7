//! Documents that operators make: what is stored of them in `state.db`, and what other processes say.

use tracing::error;

use crate::history::state::State;
use crate::ids::SharedDocument;

/// Reads the stored documents of a kind. If the file cannot be used, that is logged with what follows, and there are none.
pub(super) fn stored(state: &State, kind: &str, consequence: &str) -> Vec<String> {
    state.documents(kind).unwrap_or_else(|fault| {
        error!(fault = format!("{fault:#}"), "state.db cannot be read: {consequence}");
        Vec::new()
    })
}

/// Stores what was learned of another process. It holds from now on; on disk it is for a start without the others.
pub(super) fn store_learned(
    what: &'static str,
    learned: Vec<SharedDocument>,
    store: impl FnOnce(&[SharedDocument]) -> Result<(), String> + Send + 'static,
) {
    tokio::task::spawn_blocking(move || {
        if let Err(fault) = store(&learned) {
            error!(
                fault,
                "{what} of another process cannot be stored in state.db: they hold until a restart"
            );
        }
    });
}
