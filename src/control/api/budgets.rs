//! The budgets of the control API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::budgets::BudgetAccount;

/// Answer of `GET /control/budgets`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetList {
    /// What was spent and is held on this instance, by budget; the accounts with the least left first.
    pub budgets: Vec<BudgetAccount>,
}
