//! Lists held calls, and takes the answers of operators.

use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Extension, Path, State};
use jiff::Timestamp;

use crate::control::api::approvals::{ApprovalList, ApprovalView, ApprovalsQuery, DecisionBody, StateFilter};
use crate::control::api::error::ErrorCode;
use crate::control::extract::{ApiBody, ApiQuery};
use crate::control::listen::Peer;
use crate::control::operator::{Change, Operator, digest_of};
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::identity::roles::Reach;
use crate::policy::approval::{Approval, DecisionFault};
use crate::policy::approvals::ApprovalError;
use crate::session::Event;

/// Lists approvals, those that are pending if the query names no state.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    ApiQuery(ApprovalsQuery { state: filter, limit, cursor }): ApiQuery<ApprovalsQuery>,
) -> Json<ApprovalList> {
    let (filter, now) = (filter.unwrap_or(StateFilter::Pending), Timestamp::now());
    let fit = |one: &Approval| reach.covers(one.call.tenant.as_deref()) && filter.has(one.state(now));
    let (page, is_cut) = state.parts.approvals.page(cursor.as_deref(), limit.get(), fit);
    let next_cursor = page.last().filter(|_| is_cut).map(|last| last.id.clone());
    Json(ApprovalList { approvals: page.iter().map(ApprovalView::from).collect(), next_cursor })
}

/// Returns an approval.
pub(super) async fn one(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    Path(id): Path<String>,
) -> Result<Json<ApprovalView>, Problem> {
    Ok(Json(ApprovalView::from(&within(&state, &reach, &id)?)))
}

/// Takes the answer of an operator.
pub(super) async fn decide(
    State(state): State<Arc<ControlState>>,
    Extension(operator): Extension<Operator>,
    Extension(reach): Extension<Reach>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(id): Path<String>,
    ApiBody(DecisionBody { decision, reason }): ApiBody<DecisionBody>,
) -> Result<(Extension<Change>, Json<ApprovalView>), Problem> {
    let before = digest(&within(&state, &reach, &id)?);
    let decision = decision.ok_or_else(|| Problem::bad_request("decision: write approve or deny"))?;
    // One token that several share is one operator: an address proves nobody's identity.
    let by = match operator.id().contains(':') {
        true => operator.author(peer.address),
        false => format!("control:{}", operator.id()),
    };
    let (approvals, given) = (Arc::clone(&state.parts.approvals), reason.clone());
    let done = tokio::task::spawn_blocking(move || approvals.decide(&id, &by, decision, given)).await;
    let done = done.map_err(|_| Problem::internal("the decision failed; see the server log"))?;
    let decided = Arc::new(done.map_err(|fault| problem(&fault))?);
    if !state.parts.manager.share_client_key(decided.shared()).await {
        let id = &decided.id;
        tracing::warn!(id, "the other instances do not know of a decision yet, because redis is unavailable");
    }
    state.parts.manager.publish(Event::ApprovalDecided(Arc::clone(&decided)));
    let change = Change { reason, before: Some(before), after: Some(digest(&decided)), ..Change::default() };
    Ok((Extension(change), Json(ApprovalView::from(&*decided))))
}

/// Returns the approval with this id.
///
/// # Errors
/// None has it, or it is of another tenant.
fn within(state: &ControlState, reach: &Reach, id: &str) -> Result<Approval, Problem> {
    let found = state.parts.approvals.find(id).filter(|one| reach.covers(one.call.tenant.as_deref()));
    found.ok_or_else(|| problem(&ApprovalError::Unknown(id.to_owned())))
}

fn digest(approval: &Approval) -> String {
    digest_of(&serde_json::to_value(approval).unwrap_or_default())
}

fn problem(fault: &ApprovalError) -> Problem {
    let code = match fault {
        ApprovalError::Unknown(_) => ErrorCode::ApprovalNotFound,
        ApprovalError::Decision(DecisionFault::Own(_)) => ErrorCode::OwnApproval,
        ApprovalError::Decision(DecisionFault::Reason) => ErrorCode::BadRequest,
        ApprovalError::Decision(DecisionFault::Twice(_) | DecisionFault::Over(_)) => ErrorCode::ApprovalOver,
        ApprovalError::Storage(_) => ErrorCode::StateUnavailable,
    };
    Problem::new(code, fault.to_string())
}
