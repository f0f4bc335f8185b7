//! The budgets of the control API.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::params::Limit;
use crate::limits::amount::AmountText;
use crate::limits::budgets::BudgetAccount;
use crate::limits::overrides::Override;

/// Query of `GET /control/budgets`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetsQuery {
    /// Accounts of this budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// Accounts with this name, as the budget's `by` gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Most accounts in the answer.
    pub limit: Limit<1000, 10_000>,
}

/// Answer of `GET /control/budgets`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetList {
    /// What was spent and is held on this instance, by budget; the accounts with the least left first.
    pub budgets: Vec<BudgetAccount>,
    /// There are more: ask for one budget, or one account.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// Body of a new override; `add` and `until` are required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewOverride {
    /// What it adds to the limit, in the unit of the budget.
    pub add: Option<AmountText>,
    /// For how long (`24h`), or until when: a day (its first moment, UTC) or a time (RFC 3339).
    pub until: String,
    /// The account that it is for, by the name that the budget's `by` gives; all accounts, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// An override that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OverrideView {
    /// Its id.
    pub id: String,
    /// The budget.
    pub budget: String,
    /// The account that it is for; null for all.
    pub account: Option<String>,
    /// What it adds to the limit.
    pub add: AmountText,
    /// Until when.
    pub until: Timestamp,
    /// When it was made.
    pub made: Timestamp,
    /// Who made it.
    pub by: String,
}

/// Answer of `GET /control/budgets/{name}/override`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OverrideList {
    /// The overrides in force, the oldest first.
    pub overrides: Vec<OverrideView>,
}

impl From<Override> for OverrideView {
    fn from(one: Override) -> Self {
        let Override { id, budget, account, add, until, made, by, revision: _, taken_back: _ } = one;
        Self { id, budget, account, add, until, made, by }
    }
}
