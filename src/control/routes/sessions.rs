//! The list of sessions and one session in detail.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};

use crate::control::api::params::SessionQuery;
use crate::control::api::sessions::{SessionPage, SessionsQuery};
use crate::control::extract::ApiQuery;
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::identity::roles::Reach;
use crate::session::{Filter, SessionRef, SessionView};

/// Returns the sessions that match, newest first.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    ApiQuery(query): ApiQuery<SessionsQuery>,
) -> Json<SessionPage> {
    let filter = Filter { tenants: reach.tenants(), ..Filter::from(query) };
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
    Extension(reach): Extension<Reach>,
    Path(target): Path<String>,
    ApiQuery(SessionQuery { by }): ApiQuery<SessionQuery>,
) -> Result<Json<SessionView>, Problem> {
    let found = find(&state, SessionRef::new(&target, by), &reach).await?;
    found.map(Json).ok_or_else(|| Problem::session_not_found(&target))
}

/// Returns the session within reach that a kill of this name would mean; `None` when there is none.
///
/// # Errors
/// 409 when several sessions have this name.
pub(super) async fn find(
    state: &ControlState,
    target: SessionRef<'_>,
    reach: &Reach,
) -> Result<Option<SessionView>, Problem> {
    let mut found = state.parts.manager.get(target).await;
    found.retain(|session| reach.covers(session.principal.tenant.as_deref()));
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ => Err(Problem::ambiguous(target.text(), found.iter().map(|session| session.uid))),
    }
}
