//! What was spent of the budgets.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::control::api::budgets::BudgetList;
use crate::control::service::ControlState;

/// Lists the accounts of all budgets.
pub(super) async fn list(State(state): State<Arc<ControlState>>) -> Json<BudgetList> {
    Json(BudgetList { budgets: state.parts.runtime.budgets() })
}
