//! Who calls, and the audit log.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use serde_json::value::RawValue;

use crate::control::api::audit::{
    AuditList, AuditQuery, AuditVerification, Features, GrantedRole, PermissionReach, Whoami,
};
use crate::control::api::error::ErrorCode;
use crate::control::extract::ApiQuery;
use crate::control::operator::Operator;
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::identity::roles::{Reach, Right};

/// Returns the caller, what it may do, and what is on.
pub(super) async fn whoami(
    State(state): State<Arc<ControlState>>,
    Extension(operator): Extension<Operator>,
) -> Json<Whoami> {
    let grants = operator.grants();
    let roles = grants.iter();
    let roles = roles.map(|(role, tenant)| GrantedRole { role, tenant: tenant.map(ToString::to_string) });
    let permissions = Right::ALL.into_iter().filter_map(|right| {
        let reach = match grants.reach(right)? {
            Reach::All => PermissionReach::All,
            Reach::Tenants(_) => PermissionReach::Tenant,
        };
        Some((right.name().into(), reach))
    });
    let features = Features {
        login: !state.parts.settings.load().is_open(),
        people: state.parts.people.is_on(),
        history: state.parts.history.is_some(),
        policy: !state.parts.runtime.rules().is_empty(),
    };
    Json(Whoami {
        id: operator.id().to_owned(),
        roles: roles.collect(),
        permissions: permissions.collect(),
        features,
        version: env!("CARGO_PKG_VERSION").into(),
    })
}

/// Returns lines of the audit log, newest first.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    ApiQuery(query): ApiQuery<AuditQuery>,
) -> Result<Json<AuditList<Box<RawValue>>>, Problem> {
    let audit = Arc::clone(&state.parts.audit);
    let (filter, cursor) = (query.filter(), query.cursor.map(|cursor| cursor.0));
    let page = state.blocking.run(move || audit.page(&filter, cursor, query.limit.get())).await;
    let page = page.map_err(|_| Problem::internal(UNREADABLE))?.map_err(|fault| unreadable(&fault))?;
    Ok(Json(AuditList { lines: page.lines, next_cursor: page.next_cursor }))
}

/// Verifies the whole log. Reads as much as an export, so that it takes the place of one.
pub(super) async fn verify(
    State(state): State<Arc<ControlState>>,
) -> Result<Json<AuditVerification>, Problem> {
    let permit = state.blocking.export()?;
    let audit = Arc::clone(&state.parts.audit);
    let found = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        audit.verify()
    });
    let found =
        found.await.map_err(|_| Problem::internal(UNREADABLE))?.map_err(|fault| unreadable(&fault))?;
    if let Err(breach) = &found {
        tracing::error!(%breach, "the audit log is not as it was written");
    }
    let fault = found.as_ref().err().map(ToString::to_string);
    let found = found.unwrap_or_default();
    let hash = (found.to > 0).then_some(found.hash);
    Ok(Json(AuditVerification { verified: fault.is_none(), fault, lines: found.to, hash }))
}

const UNREADABLE: &str = "the audit log cannot be read; see the server log";

fn unreadable(fault: &anyhow::Error) -> Problem {
    tracing::error!(fault = format!("{fault:#}"), "the audit log cannot be read");
    Problem::new(ErrorCode::StateUnavailable, UNREADABLE)
}
