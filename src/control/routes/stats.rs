//! The sums over all sessions.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::control::service::Door;
use crate::session::Stats;

/// Totals by state, backend and client, and what moves now.
pub(super) async fn stats(State(door): State<Arc<Door>>) -> Json<Stats> {
    Json(door.parts.manager.stats())
}
