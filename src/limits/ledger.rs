//! What was spent of budgets, and what open requests hold of them.
//!
//! A request **reserves** the most that it may need of all its budgets in one step, and **settles** once: what it held is
//! released and what it cost is spent. So the sum of both never passes a limit, however many requests come at once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::amount::{AmountText, CostUnit};

/// The most accounts. Those that were not used for longest and of which nothing is held are forgotten first.
const MAX_ACCOUNTS: usize = 100_000;

/// Identifies an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccountKey {
    /// The budget.
    pub budget: Arc<str>,
    /// What it counts.
    pub unit: CostUnit,
    /// The name that its expression gives.
    pub name: Box<str>,
    /// The beginning of the period as a number that is larger for later ones; so nothing is ever reset.
    pub start: u128,
}

/// What one request asks of one budget. Amounts are nanodollars or tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The account.
    pub key: AccountKey,
    /// The most that may be spent.
    pub limit: u64,
    /// The most that the request may need.
    pub need: u64,
    /// How much may be spent before the soft limit is passed.
    pub soft: u64,
}

/// An account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// What settled requests cost.
    pub spent: u64,
    /// What open requests may still cost.
    pub held: u64,
    /// Whether its soft limit was reported.
    soft_passed: bool,
    /// When it was used last, in reservations of the ledger.
    used: u64,
}

/// Why a claim is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// What is spent leaves no room for it.
    Spent,
    /// What others hold leaves no room for it at present.
    Held,
}

/// A refused reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// The position of the claim.
    pub claim: usize,
    /// What takes its room.
    pub shortage: Shortage,
    /// What was spent of the budget.
    pub spent: u64,
}

/// All accounts.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Accounts>);

#[derive(Debug, Default)]
struct Accounts {
    by_key: HashMap<AccountKey, Account>,
    reservations: u64,
}

impl Ledger {
    /// Holds the need of every claim, or of none.
    ///
    /// # Errors
    /// A claim does not fit; one that never will before the period ends, if there is such a one.
    pub fn reserve(self: &Arc<Self>, claims: Vec<Claim>) -> Result<Reservation, Short> {
        let mut accounts = self.0.lock();
        let short = |shortage: Shortage| {
            let is_short = |(_, claim): &(usize, &Claim)| {
                let account = accounts.of(&claim.key);
                let held = if shortage == Shortage::Held { account.held } else { 0 };
                account.spent.saturating_add(held).saturating_add(claim.need) > claim.limit
            };
            let (place, claim) = claims.iter().enumerate().find(is_short)?;
            Some(Short { claim: place, shortage, spent: accounts.of(&claim.key).spent })
        };
        if let Some(short) = short(Shortage::Spent).or_else(|| short(Shortage::Held)) {
            return Err(short);
        }
        accounts.reservations += 1;
        let used = accounts.reservations;
        for claim in &claims {
            accounts.make_room();
            let account = accounts.by_key.entry(claim.key.clone()).or_default();
            account.held += claim.need;
            account.used = used;
        }
        drop(accounts);
        Ok(Reservation { ledger: Arc::clone(self), claims })
    }

    /// Returns all accounts.
    pub fn accounts(&self) -> Vec<(AccountKey, Account)> {
        self.0.lock().by_key.iter().map(|(key, account)| (key.clone(), *account)).collect()
    }
}

impl Accounts {
    fn of(&self, key: &AccountKey) -> Account {
        self.by_key.get(key).copied().unwrap_or_default()
    }

    /// Forgets the half of all idle accounts that was not used for longest when there is no room for another one.
    fn make_room(&mut self) {
        if self.by_key.len() < MAX_ACCOUNTS {
            return;
        }
        let mut used: Vec<u64> = self.by_key.values().map(|account| account.used).collect();
        let middle = used.len() / 2;
        let (_, median, _) = used.select_nth_unstable(middle);
        let median = *median;
        self.by_key.retain(|_, account| account.held > 0 || account.used > median);
    }
}

/// What an open request holds. Dropping it unsettled releases it.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    /// Empty once settled.
    claims: Vec<Claim>,
}

impl Reservation {
    /// Returns the budget that leaves no room for another answer, what was spent of it, and its limit.
    pub fn overdrawn(&self) -> Option<(Arc<str>, AmountText, AmountText)> {
        let (claim, spent) = self.short()?;
        let text = |amount| AmountText { amount, unit: claim.key.unit };
        Some((Arc::clone(&claim.key.budget), text(spent), text(claim.limit)))
    }

    /// Releases what is held, and spends what `cost` returns for each claim. A second one changes nothing. Returns the
    /// budgets whose soft limits are passed by this.
    pub fn settle(&mut self, cost: impl Fn(&Claim) -> u64) -> Vec<AccountKey> {
        let claims = std::mem::take(&mut self.claims);
        self.ledger.book(&claims, cost, true)
    }

    /// Spends what `cost` returns for each claim and holds as much as before, for the next answer of a WebSocket. Returns the
    /// budgets whose soft limits are passed by this.
    pub fn spend(&self, cost: impl Fn(&Claim) -> u64) -> Vec<AccountKey> {
        self.ledger.book(&self.claims, cost, false)
    }

    /// Returns the claim that no longer fits, and what was spent of its budget, if there is one.
    pub fn short(&self) -> Option<(&Claim, u64)> {
        let accounts = self.ledger.0.lock();
        self.claims.iter().find_map(|claim| {
            let spent = accounts.of(&claim.key).spent;
            (spent.saturating_add(claim.need) > claim.limit).then_some((claim, spent))
        })
    }
}

impl Ledger {
    fn book(&self, claims: &[Claim], cost: impl Fn(&Claim) -> u64, releases: bool) -> Vec<AccountKey> {
        let mut passed = Vec::new();
        let mut accounts = self.0.lock();
        for claim in claims {
            let Some(account) = accounts.by_key.get_mut(&claim.key) else { continue };
            if releases {
                account.held = account.held.saturating_sub(claim.need);
            }
            account.spent = account.spent.saturating_add(cost(claim));
            if account.spent >= claim.soft && !account.soft_passed {
                account.soft_passed = true;
                passed.push(claim.key.clone());
            }
        }
        passed
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.claims.is_empty() {
            self.settle(|_| 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn claim(budget: &str, limit: u64, need: u64) -> Claim {
        let key = AccountKey { budget: budget.into(), unit: CostUnit::Tokens, name: "n".into(), start: 0 };
        Claim { key, limit, need, soft: u64::MAX }
    }

    fn account(ledger: &Ledger, budget: &str) -> (u64, u64) {
        let accounts = ledger.accounts();
        let found = accounts.into_iter().find(|(key, _)| &*key.budget == budget);
        found.map(|(_, account)| (account.spent, account.held)).unwrap_or_default()
    }

    #[test]
    fn all_budgets_or_none() {
        let ledger = Arc::<Ledger>::default();
        let mut first = ledger.reserve(vec![claim("a", 100, 60), claim("b", 1000, 60)]).unwrap();
        let short = ledger.reserve(vec![claim("b", 1000, 60), claim("a", 100, 60)]).unwrap_err();
        assert_eq!(short, Short { claim: 1, shortage: Shortage::Held, spent: 0 });
        assert_eq!((account(&ledger, "a"), account(&ledger, "b")), ((0, 60), (0, 60)));
        assert!(first.settle(|_| 45).is_empty());
        first.settle(|_| 45);
        drop(first);
        assert_eq!((account(&ledger, "a"), account(&ledger, "b")), ((45, 0), (45, 0)));
        let short = ledger.reserve(vec![claim("a", 100, 60)]).unwrap_err();
        assert_eq!(short, Short { claim: 0, shortage: Shortage::Spent, spent: 45 });
        drop(ledger.reserve(vec![claim("a", 100, 55)]).unwrap());
        assert_eq!(account(&ledger, "a"), (45, 0), "nothing was used");
    }

    #[test]
    fn a_soft_limit_is_reported_once() {
        let ledger = Arc::<Ledger>::default();
        let soft = || vec![Claim { soft: 80, ..claim("a", 100, 10) }];
        assert_eq!(ledger.reserve(soft()).unwrap().settle(|_| 79).len(), 0);
        assert_eq!(ledger.reserve(soft()).unwrap().settle(|_| 1).len(), 1);
        assert_eq!(ledger.reserve(soft()).unwrap().settle(|_| 1).len(), 0);
    }

    #[test]
    fn a_socket_spends_while_it_holds() {
        let ledger = Arc::<Ledger>::default();
        let held = ledger.reserve(vec![claim("a", 100, 10)]).unwrap();
        held.spend(|_| 85);
        assert_eq!((account(&ledger, "a"), held.short()), ((85, 10), None));
        held.spend(|_| 10);
        assert_eq!(held.short().map(|(claim, spent)| (claim.need, spent)), Some((10, 95)));
        drop(held);
        assert_eq!(account(&ledger, "a"), (95, 0));
    }

    #[test]
    fn a_thousand_at_once_never_pass_a_limit() {
        let ledger = Arc::<Ledger>::default();
        let cost = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (ledger, cost) = (&ledger, &cost);
                scope.spawn(move || {
                    for turn in 0..125 {
                        let Ok(mut held) = ledger.reserve(vec![claim("a", 1000, 10), claim("b", 5000, 10)])
                        else {
                            continue;
                        };
                        let (spent, held_now) = account(ledger, "a");
                        assert!(spent + held_now <= 1000);
                        if (thread + turn) % 3 == 0 {
                            drop(held);
                        } else {
                            cost.fetch_add(7, Ordering::Relaxed);
                            held.settle(|_| 7);
                        }
                    }
                });
            }
        });
        let cost = cost.into_inner();
        assert_eq!((account(&ledger, "a"), account(&ledger, "b")), ((cost, 0), (cost, 0)));
        assert!(cost <= 1000 && cost > 980, "{cost}");
    }

    #[test]
    fn accounts_are_bounded() {
        let ledger = Arc::<Ledger>::default();
        let named = |name: usize| {
            let key = AccountKey {
                budget: "a".into(),
                unit: CostUnit::Tokens,
                name: name.to_string().into(),
                start: 0,
            };
            Claim { key, limit: 100, need: 10, soft: 100 }
        };
        let held = ledger.reserve(vec![named(0)]).unwrap();
        for name in 1..=2 * MAX_ACCOUNTS {
            ledger.reserve(vec![named(name)]).unwrap().settle(|_| 1);
        }
        let accounts = ledger.accounts();
        assert!(accounts.len() <= MAX_ACCOUNTS && accounts.len() > MAX_ACCOUNTS / 3, "{}", accounts.len());
        assert!(accounts.iter().any(|(key, account)| &*key.name == "0" && account.held == 10));
        drop(held);
    }
}
