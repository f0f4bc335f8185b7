//! Why nothing is held of the accounts.

use std::sync::Arc;

use super::Claim;

/// Why a claim is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// What is spent leaves no room for it.
    Spent,
    /// What others hold leaves no room for it at present.
    Held,
    /// The fleet's store does not answer, so that others' spending is not known.
    Unknown,
}

/// A refused reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// The budget.
    pub budget: Arc<str>,
    /// What takes its room.
    pub shortage: Shortage,
    /// What was spent of the budget.
    pub spent: u64,
    /// The most that may be spent.
    pub limit: u64,
}

impl Default for Short {
    /// A refusal of nothing in particular.
    fn default() -> Self {
        Self { budget: "".into(), shortage: Shortage::Unknown, spent: 0, limit: 0 }
    }
}

impl Short {
    /// A refusal because of the claim in this place.
    pub(in crate::limits) fn of(claims: &[Claim], place: usize, shortage: Shortage, spent: u64) -> Self {
        let claim = claims.get(place);
        let budget = claim.map_or_else(|| "".into(), |claim| Arc::clone(&claim.key.budget));
        Self { budget, shortage, spent, limit: claim.map_or(0, |claim| claim.limit) }
    }
}

/// Why nothing was reserved.
#[derive(Debug, PartialEq, Eq)]
pub enum NotReserved {
    /// A claim does not fit.
    Short(Short),
    /// What was granted to this instance does not suffice.
    NeedsGrant(Vec<Claim>),
}
