//! Who calls, and the audit log.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use serde_json::value::RawValue;

use crate::control::api::audit::{AuditList, AuditQuery, GrantedRole, Whoami};
use crate::control::api::error::ErrorCode;
use crate::control::extract::ApiQuery;
use crate::control::operator::Operator;
use crate::control::problem::Problem;
use crate::control::service::ControlState;

/// Returns the caller and its roles.
pub(super) async fn whoami(Extension(operator): Extension<Operator>) -> Json<Whoami> {
    let roles = operator.grants().iter();
    let roles = roles.map(|(role, tenant)| GrantedRole { role, tenant: tenant.map(ToString::to_string) });
    Json(Whoami { id: operator.id().to_owned(), roles: roles.collect() })
}

/// Returns lines of the audit log, newest first.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    ApiQuery(query): ApiQuery<AuditQuery>,
) -> Result<Json<AuditList<Box<RawValue>>>, Problem> {
    let audit = Arc::clone(&state.parts.audit);
    let (filter, cursor) = (query.filter(), query.cursor.map(|cursor| cursor.0));
    let page = tokio::task::spawn_blocking(move || audit.page(&filter, cursor, query.limit.get())).await;
    match page.map_err(|_| Problem::internal("the audit log cannot be read; see the server log"))? {
        Ok(page) => Ok(Json(AuditList { lines: page.lines, next_cursor: page.next_cursor })),
        Err(fault) => {
            tracing::error!(fault = format!("{fault:#}"), "the audit log cannot be read");
            let detail = "the audit log cannot be read; see the server log";
            Err(Problem::new(ErrorCode::StateUnavailable, detail))
        }
    }
}
