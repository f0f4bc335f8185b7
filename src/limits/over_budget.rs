//! Why a budget refuses a request.

use std::sync::Arc;

use jiff::Timestamp;

use super::amount::AmountText;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverBudget {
    /// The budget does not last for it.
    Exceeded {
        /// The budget.
        budget: Arc<str>,
        /// What was spent, and the limit, for people.
        spent: String,
        /// The same of the limit.
        limit: AmountText,
        /// When the next period begins, as far as there is one.
        resets_at: Option<Timestamp>,
    },
    /// Open requests hold what is left of it.
    Busy {
        /// The budget.
        budget: Arc<str>,
    },
    /// The fleet's store does not answer, and what was granted to this instance is used up.
    Unknown {
        /// The budget.
        budget: Arc<str>,
    },
    /// It is in money, and the model has no price.
    Unpriced {
        /// The budget.
        budget: Arc<str>,
    },
}

impl OverBudget {
    /// The budget.
    pub fn budget(&self) -> &Arc<str> {
        match self {
            Self::Exceeded { budget, .. }
            | Self::Busy { budget }
            | Self::Unknown { budget }
            | Self::Unpriced { budget } => budget,
        }
    }
}
