//! Changes of documents that operators make and all processes share.

use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::ids::SharedDocument;
use crate::ids::documents::Document;

/// Changes a document where it may block, and tells the other processes. `what` names one, as in "an override".
///
/// # Errors
/// Nothing was changed, for the reason that `problem` words.
pub(super) async fn change<D: Document + Send + 'static, E: Send + 'static>(
    state: &ControlState,
    what: &str,
    problem: fn(&E) -> Problem,
    work: impl FnOnce() -> Result<(D, SharedDocument), E> + Send + 'static,
) -> Result<D, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|_| Problem::internal("the change failed; see the server log"))?;
    let (document, shared) = done.map_err(|fault| problem(&fault))?;
    if !state.parts.manager.share_client_key(shared).await {
        let id = document.id();
        tracing::warn!(id, "the other instances do not know of {what} yet, because redis is unavailable");
    }
    Ok(document)
}
