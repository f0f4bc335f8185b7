//! Totals over all sessions.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::control::service::ControlState;
use crate::session::Stats;

/// Returns totals by state, backend and client.
pub(super) async fn stats(State(state): State<Arc<ControlState>>) -> Json<Stats> {
    Json(state.parts.manager.stats())
}
