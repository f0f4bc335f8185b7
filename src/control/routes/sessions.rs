//! The list of sessions and one session in detail.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};

use crate::control::api::params::SessionQuery;
use crate::control::api::sessions::{SessionPage, SessionsQuery};
use crate::control::extract::ApiQuery;
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::session::{Filter, SessionRef, SessionView};

/// Returns the sessions that match, newest first.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    ApiQuery(query): ApiQuery<SessionsQuery>,
) -> Json<SessionPage> {
    let filter = Filter::from(query);
    let page = state.parts.manager.list(&filter).await;
    // Only a first page that is also the last knows the total.
    let is_whole = filter.cursor.is_none() && page.next_cursor.is_none() && !page.truncated;
    let total = is_whole.then_some(page.sessions.len());
    Json(SessionPage {
        sessions: page.sessions,
        next_cursor: page.next_cursor,
        total,
        truncated: page.truncated,
    })
}

/// Returns one session in detail, by its id or uid.
pub(super) async fn one(
    State(state): State<Arc<ControlState>>,
    Path(target): Path<String>,
    ApiQuery(SessionQuery { by }): ApiQuery<SessionQuery>,
) -> Result<Json<SessionView>, Problem> {
    let found = find(&state, SessionRef::new(&target, by)).await?;
    found.map(Json).ok_or_else(|| Problem::session_not_found(&target))
}

/// Returns the session that a kill of this name would mean; `None` when it is not known.
///
/// # Errors
/// 409 when several sessions have this name.
pub(super) async fn find(
    state: &ControlState,
    target: SessionRef<'_>,
) -> Result<Option<SessionView>, Problem> {
    let mut found = state.parts.manager.get(target).await;
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(Problem::ambiguous(target.text(), found.iter().map(|session| session.uid))),
    }
}
