//! What a request holds more of its budgets while its answer is written (`hold: steps`).

use super::{Claim, Reservation, Short, Shortage};

/// Output tokens of a step.
pub const STEP: u64 = 4096;

impl Reservation {
    /// Returns claims for so many more output tokens, of the budgets that are held in steps.
    pub fn more(&self, tokens: u64) -> Vec<Claim> {
        let stepping = self.claims.iter().filter(|claim| claim.step > 0);
        let more = stepping.map(|claim| {
            let need = u128::from(claim.step) * u128::from(tokens);
            let need = u64::try_from(need.div_ceil(u128::from(STEP))).unwrap_or(u64::MAX);
            Claim { need, floor: 0, ..claim.clone() }
        });
        more.collect()
    }

    /// Follows changes of the budgets since it was made: `renew` brings the limit of a claim up to date, and returns a claim on
    /// another account if what is held is to be held of that one instead.
    pub fn renew(&mut self, renew: impl Fn(&mut Claim) -> Option<Claim>) {
        let (mut left, mut next) = (Vec::new(), Vec::new());
        for claim in &mut self.claims {
            if let Some(new) = renew(claim) {
                next.push(new.clone());
                left.push(std::mem::replace(claim, new));
            }
        }
        if !left.is_empty() {
            // The claims are this reservation's.
            self.ledger.hold_in(self.ledger.accounts.lock(), next).claims.clear();
            self.ledger.book(&left, |_| 0, true);
        }
    }

    /// Whether some budget is held in steps.
    pub fn is_in_steps(&self) -> bool {
        self.claims.iter().any(|claim| claim.step > 0)
    }

    /// Returns the budget that does not last for these claims beside what is held already, even if nobody else held anything.
    pub fn spent_by_itself(&self, more: &[Claim]) -> Option<Short> {
        let accounts = self.ledger.accounts_of(more);
        let own =
            |claim: &Claim| self.claims.iter().find(|own| own.key == claim.key).map_or(0, |own| own.need);
        more.iter().zip(&accounts).enumerate().find_map(|(place, (claim, account))| {
            let all = account.spent().saturating_add(own(claim)).saturating_add(claim.need);
            (all > claim.limit).then(|| Short::of(more, place, Shortage::Spent, account.spent()))
        })
    }

    /// Holds what another one holds of the same accounts, too.
    pub fn absorb(&mut self, mut more: Self) {
        for claim in std::mem::take(&mut more.claims) {
            match self.claims.iter_mut().find(|own| own.key == claim.key) {
                Some(own) => own.need = own.need.saturating_add(claim.need),
                None => self.claims.push(claim),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{AccountKey, Lasts, Ledger};
    use super::*;
    use crate::limits::amount::CostUnit;

    fn claim(budget: &str, need: u64, step: u64) -> Claim {
        let key = AccountKey::new(budget.into(), CostUnit::Tokens, "n".into(), 0);
        Claim { key, limit: 10_000, need, floor: 0, step, soft: u64::MAX, lasts: Lasts::Forever }
    }

    fn account(ledger: &Ledger, budget: &str) -> (u64, u64) {
        let found = ledger.accounts().into_iter().find(|(key, _)| &*key.budget == budget);
        found.map(|(_, account)| (account.spent(), account.held)).unwrap_or_default()
    }

    #[test]
    fn what_others_hold_is_told_from_what_the_answer_needs_itself() {
        let ledger = Arc::<Ledger>::default();
        let other = ledger.reserve_alone(vec![claim("steps", 5000, 0)]).unwrap();
        let mut held = ledger.reserve_alone(vec![claim("steps", 4500, STEP)]).unwrap();
        let more = held.more(STEP);
        assert_eq!(ledger.reserve_alone(more.clone()).unwrap_err().shortage, Shortage::Held);
        assert_eq!(held.spent_by_itself(&more), None, "the other one may release it");
        drop(other);
        held.absorb(ledger.reserve_alone(more).unwrap());
        let short = held.spent_by_itself(&held.more(STEP)).unwrap();
        assert_eq!((short.shortage, &*short.budget), (Shortage::Spent, "steps"));
    }

    #[test]
    fn what_is_held_follows_its_limit_and_moves_to_another_account() {
        let ledger = Arc::<Ledger>::default();
        let mut held = ledger.reserve_alone(vec![claim("old", 4500, STEP)]).unwrap();
        held.renew(|claim| {
            claim.limit = 4000;
            None
        });
        assert!(held.overdrawn().is_some());
        held.renew(|_| Some(claim("new", 4500, STEP)));
        assert_eq!((account(&ledger, "old"), account(&ledger, "new")), ((0, 0), (0, 4500)));
        held.settle(|_| 100);
        assert_eq!((account(&ledger, "old"), account(&ledger, "new")), ((0, 0), (100, 0)));
    }

    #[test]
    fn a_step_is_held_beside_the_first_and_settled_with_it() {
        let ledger = Arc::<Ledger>::default();
        let claims = vec![claim("whole", 9000, 0), claim("steps", 5000, STEP)];
        let mut held = ledger.reserve_alone(claims).unwrap();
        assert!(held.is_in_steps());
        let more = held.more(STEP / 2);
        assert_eq!(
            more.iter().map(|claim| (&*claim.key.budget, claim.need)).collect::<Vec<_>>(),
            [("steps", 2048)]
        );
        held.absorb(ledger.reserve_alone(more).unwrap());
        assert_eq!((account(&ledger, "whole"), account(&ledger, "steps")), ((0, 9000), (0, 7048)));
        assert!(ledger.reserve_alone(held.more(STEP)).is_err(), "it does not last for another one");
        held.settle(|_| 6000);
        drop(held);
        assert_eq!((account(&ledger, "whole"), account(&ledger, "steps")), ((6000, 0), (6000, 0)));
    }
}
