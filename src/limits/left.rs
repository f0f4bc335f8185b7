//! What budgets have left, as rules and limits ask for it.

use jiff::Timestamp;

use super::amount::CostUnit;
use super::budgets::{Budgets, Need};
use crate::policy::facts::Facts;

/// What is left of the budgets that concern a request; each is that of the budget with the least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Left {
    /// US dollars; `None` if no budget in money concerns it.
    pub usd: Option<f64>,
    /// The part of a budget, from 0 to 1; `None` if no budget concerns it.
    pub ratio: Option<f64>,
}

impl Budgets {
    /// Returns what is left of the budgets that concern a request, without what open requests hold.
    pub fn left(&self, facts: &dyn Facts, session: u128, now: Timestamp) -> Left {
        let nothing =
            Need { tokens: 0, nanodollars: Some(0), input_tokens: 0, input_nanodollars: 0, first_step: None };
        let claims = self.claims(facts, session, nothing, now).unwrap_or_default();
        let mut least = Left::default();
        for (claim, account) in claims.iter().zip(self.ledger.accounts_of(&claims)) {
            let left = claim.limit.saturating_sub(account.spent()).saturating_sub(account.all_held());
            let lesser = |known: Option<f64>, new: f64| Some(known.map_or(new, |known| known.min(new)));
            least.ratio = lesser(least.ratio, left as f64 / claim.limit.max(1) as f64);
            if claim.key.unit == CostUnit::Usd {
                least.usd = lesser(least.usd, CostUnit::Usd.shown(left));
            }
        }
        least
    }
}
