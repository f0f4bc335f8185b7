//! What was spent of budgets, and what open requests hold of them.
//!
//! A request **reserves** the most that it may need of all its budgets in one step, and **settles** once: what it held is
//! released and what it cost is spent. So the sum of both never passes a limit, however many requests come at once.
//!
//! In a fleet an instance admits requests only from what it was **granted** of an account, which counts as held for all others
//! ([`super::fleet`]).

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::amount::AmountText;
use super::waiting::AccountLines;

mod account_key;
pub(super) mod keeping;
mod refusal;
pub mod steps;

pub use account_key::AccountKey;
use account_key::ByAccount;
pub use refusal::{NotReserved, Short, Shortage};

/// The most accounts. Those that were not used for longest, of which nothing is held and all is stored, are forgotten first.
const MAX_ACCOUNTS: usize = 100_000;

/// How long an account is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lasts {
    /// As long as a session of this process or fleet.
    #[default]
    Session,
    /// Until this time, in seconds since 1970.
    Until(i64),
    /// For ever.
    Forever,
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
    /// What the request costs at least, if its instance dies.
    pub floor: u64,
    /// What [`steps::STEP`] output tokens cost, if the budget is held in steps; else 0.
    pub step: u64,
    /// How much may be spent before the soft limit is passed.
    pub soft: u64,
    /// How long the account is used.
    pub lasts: Lasts,
}

/// An account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// What requests cost that were settled by this process.
    pub own: u64,
    /// How much of that is stored.
    pub saved: u64,
    /// What was spent by other instances, and by earlier processes.
    pub others: u64,
    /// What open requests of this process may still cost.
    pub held: u64,
    /// How much of that the store of the fleet is asked for at present.
    pub asking: u64,
    /// What other instances hold.
    pub held_by_others: u64,
    /// What open requests cost at least.
    pub floor: u64,
    /// What this instance was granted of it for what is held and not yet stored; 0 without a fleet.
    pub granted: u64,
    /// How long it is used.
    pub lasts: Lasts,
    /// When it was used last, in reservations of the ledger.
    pub used: u64,
    /// Whether its soft limit was reported.
    soft_passed: bool,
    /// Whether it is among those that changed.
    is_changed: bool,
}

impl Account {
    /// What was spent in all.
    pub fn spent(&self) -> u64 {
        self.own.saturating_add(self.others)
    }

    /// What open requests may still cost, with those of other instances.
    pub fn all_held(&self) -> u64 {
        self.held.saturating_sub(self.asking).saturating_add(self.held_by_others)
    }

    /// What this process spent that is not stored yet.
    pub fn unsaved(&self) -> u64 {
        self.own.saturating_sub(self.saved)
    }

    fn release(&mut self, claim: &Claim) {
        self.held = self.held.saturating_sub(claim.need);
        self.floor = self.floor.saturating_sub(claim.floor);
    }

    fn is_idle(&self) -> bool {
        self.held == 0 && self.granted == 0 && !self.is_changed && self.unsaved() == 0
    }
}

/// What is kept of the accounts beside this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Keeping {
    /// Nothing.
    #[default]
    Nothing,
    /// What was spent, in a file.
    File,
    /// All, in the store of a fleet.
    Fleet,
}

/// All accounts.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: Mutex<Accounts>,
    keeping: Keeping,
    settled: Notify,
    /// Requests that wait until something is released.
    pub(super) lines: AccountLines,
}

#[derive(Debug, Default)]
struct Accounts {
    by_key: ByAccount<Account>,
    reservations: u64,
    /// How many accounts there are when idle ones are searched for again.
    crowded: usize,
    /// Accounts to be stored; empty when nothing is.
    changed: Vec<AccountKey>,
    /// Until when the grants of a fleet hold.
    granted_until: Option<Instant>,
}

impl Ledger {
    /// Holds the need of every claim, or of none.
    ///
    /// # Errors
    /// A claim does not fit; one that never will before the period ends, if there is such a one. In a fleet, more must be
    /// granted first.
    pub fn reserve(self: &Arc<Self>, claims: Vec<Claim>) -> Result<Reservation, NotReserved> {
        let accounts = self.accounts.lock();
        let short = |shortage: Shortage| {
            let is_short = |claim: &&Claim| {
                let account = accounts.of(&claim.key);
                let held = if shortage == Shortage::Held { account.held } else { 0 };
                account.spent().saturating_add(held).saturating_add(claim.need) > claim.limit
            };
            let claim = claims.iter().find(is_short)?;
            let (budget, spent) = (Arc::clone(&claim.key.budget), accounts.of(&claim.key).spent());
            Some(NotReserved::Short(Short { budget, shortage, spent, limit: claim.limit }))
        };
        if let Some(short) = short(Shortage::Spent) {
            return Err(short);
        }
        if self.keeping == Keeping::Fleet {
            if !accounts.are_granted(&claims) {
                return Err(NotReserved::NeedsGrant(claims));
            }
        } else if let Some(short) = short(Shortage::Held) {
            return Err(short);
        }
        Ok(self.hold_in(accounts, claims))
    }

    /// As [`Ledger::reserve`], without a fleet.
    ///
    /// # Errors
    /// A claim does not fit.
    pub fn reserve_alone(self: &Arc<Self>, claims: Vec<Claim>) -> Result<Reservation, Short> {
        self.reserve(claims).map_err(|refused| match refused {
            NotReserved::Short(short) => short,
            NotReserved::NeedsGrant(claims) => Short::of(&claims, 0, Shortage::Unknown, 0),
        })
    }

    /// Holds the need of every claim while more is asked for, so that no other request is admitted from what they need.
    pub(super) fn hold_asking(self: &Arc<Self>, claims: Vec<Claim>) -> Reservation {
        let mut held = self.hold_in(self.accounts.lock(), claims);
        held.is_asking = true;
        held.for_accounts(|account, claim| account.asking += claim.need);
        held
    }

    fn hold_in(self: &Arc<Self>, mut accounts: MutexGuard<'_, Accounts>, claims: Vec<Claim>) -> Reservation {
        accounts.reservations += 1;
        let used = accounts.reservations;
        for claim in &claims {
            accounts.make_room();
            let account = accounts.by_key.entry(claim.key.clone()).or_default();
            account.held = account.held.saturating_add(claim.need);
            account.floor = account.floor.saturating_add(claim.floor);
            (account.used, account.lasts) = (used, claim.lasts);
            if self.keeping == Keeping::Fleet {
                accounts.changes(&claim.key);
            }
        }
        drop(accounts);
        Reservation { ledger: Arc::clone(self), claims, is_asking: false }
    }

    /// Returns all accounts.
    pub fn accounts(&self) -> Vec<(AccountKey, Account)> {
        self.accounts.lock().by_key.iter().map(|(key, account)| (key.clone(), *account)).collect()
    }
}

impl Accounts {
    fn of(&self, key: &AccountKey) -> Account {
        self.by_key.get(key).copied().unwrap_or_default()
    }

    /// Whether there is room for these claims in what was granted.
    fn are_granted(&self, claims: &[Claim]) -> bool {
        let fits = |claim: &Claim| {
            let account = self.of(&claim.key);
            account.unsaved().saturating_add(account.held).saturating_add(claim.need) <= account.granted
        };
        self.granted_until.is_some_and(|until| Instant::now() < until) && claims.iter().all(fits)
    }

    fn changes(&mut self, key: &AccountKey) {
        if let Some(account) = self.by_key.get_mut(key)
            && !std::mem::replace(&mut account.is_changed, true)
        {
            self.changed.push(key.clone());
        }
    }

    /// Forgets the half of all idle accounts that was not used for longest when there is no room for another one.
    fn make_room(&mut self) {
        if self.by_key.len() < MAX_ACCOUNTS.max(self.crowded) {
            return;
        }
        let mut used: Vec<u64> = self.by_key.values().map(|account| account.used).collect();
        let middle = used.len() / 2;
        let (_, median, _) = used.select_nth_unstable(middle);
        let median = *median;
        self.by_key.retain(|_, account| !account.is_idle() || account.used > median);
        // If few are idle, the next search waits until there are noticeably more.
        self.crowded = self.by_key.len() + MAX_ACCOUNTS / 8;
    }
}

/// What an open request holds. Dropping it unsettled releases it.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    /// Empty once settled.
    claims: Vec<Claim>,
    /// Whether the store of the fleet was not asked yet.
    is_asking: bool,
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
        self.asked();
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
        let accounts = self.ledger.accounts.lock();
        self.claims.iter().find_map(|claim| {
            let spent = accounts.of(&claim.key).spent();
            (spent.saturating_add(claim.need) > claim.limit).then_some((claim, spent))
        })
    }

    /// Releases what is held of a request that was not forwarded.
    pub(super) fn undo(mut self) {
        self.asked();
        self.for_accounts(Account::release);
        self.claims.clear();
    }

    /// The store has answered.
    pub(super) fn asked(&mut self) {
        if std::mem::take(&mut self.is_asking) {
            self.for_accounts(|account, claim| account.asking = account.asking.saturating_sub(claim.need));
        }
    }

    fn for_accounts(&self, change: impl Fn(&mut Account, &Claim)) {
        let mut accounts = self.ledger.accounts.lock();
        for claim in &self.claims {
            if let Some(account) = accounts.by_key.get_mut(&claim.key) {
                change(account, claim);
            }
        }
    }

    /// What is held.
    pub(super) fn claims(&self) -> &[Claim] {
        &self.claims
    }
}

impl Ledger {
    fn book(&self, claims: &[Claim], cost: impl Fn(&Claim) -> u64, releases: bool) -> Vec<AccountKey> {
        let mut passed = Vec::new();
        let mut accounts = self.accounts.lock();
        for claim in claims {
            let Some(account) = accounts.by_key.get_mut(&claim.key) else { continue };
            if releases {
                account.release(claim);
            }
            account.own = account.own.saturating_add(cost(claim));
            if account.spent() >= claim.soft && !account.soft_passed {
                account.soft_passed = true;
                passed.push(claim.key.clone());
            }
            match self.keeping {
                Keeping::Nothing => account.saved = account.own,
                Keeping::File if account.lasts == Lasts::Session => account.saved = account.own,
                // What cost nothing needs no line in the file.
                Keeping::File if account.unsaved() == 0 => {}
                Keeping::File | Keeping::Fleet => accounts.changes(&claim.key),
            }
        }
        drop(accounts);
        self.lines.freed(claims.iter().map(|claim| &claim.key));
        if self.keeping == Keeping::Fleet {
            self.settled.notify_one();
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
    use crate::limits::amount::CostUnit;

    fn claim(budget: &str, limit: u64, need: u64) -> Claim {
        let key = AccountKey::new(budget.into(), CostUnit::Tokens, "n".into(), 0);
        Claim { key, limit, need, floor: 0, step: 0, soft: u64::MAX, lasts: Lasts::Forever }
    }

    fn account(ledger: &Ledger, budget: &str) -> (u64, u64) {
        let accounts = ledger.accounts();
        let found = accounts.into_iter().find(|(key, _)| &*key.budget == budget);
        found.map(|(_, account)| (account.spent(), account.held)).unwrap_or_default()
    }

    #[test]
    fn all_budgets_or_none() {
        let ledger = Arc::<Ledger>::default();
        let mut first = ledger.reserve(vec![claim("a", 100, 60), claim("b", 1000, 60)]).unwrap();
        let short = ledger.reserve(vec![claim("b", 1000, 60), claim("a", 100, 60)]).unwrap_err();
        assert_eq!(
            short,
            NotReserved::Short(Short { budget: "a".into(), shortage: Shortage::Held, spent: 0, limit: 100 })
        );
        assert_eq!((account(&ledger, "a"), account(&ledger, "b")), ((0, 60), (0, 60)));
        assert!(first.settle(|_| 45).is_empty());
        first.settle(|_| 45);
        drop(first);
        assert_eq!((account(&ledger, "a"), account(&ledger, "b")), ((45, 0), (45, 0)));
        let short = ledger.reserve(vec![claim("a", 100, 60)]).unwrap_err();
        assert_eq!(
            short,
            NotReserved::Short(Short {
                budget: "a".into(),
                shortage: Shortage::Spent,
                spent: 45,
                limit: 100
            })
        );
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
            let key = AccountKey::new("a".into(), CostUnit::Tokens, name.to_string().into(), 0);
            Claim { key, limit: 100, need: 10, floor: 0, step: 0, soft: 100, lasts: Lasts::Forever }
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

    /// Two processes that share a file, in which each adds what it has spent.
    #[test]
    fn what_others_have_spent_counts_and_nothing_counts_twice() {
        let ledger = Arc::new(Ledger::of_file());
        let key = claim("a", 100, 10).key;
        ledger.load(key.clone(), Lasts::Forever, 40);
        ledger.reserve(vec![claim("a", 100, 10)]).unwrap().settle(|_| 7);
        assert_eq!(account(&ledger, "a"), (47, 0));
        let changed = ledger.take_changed();
        assert_eq!((changed.len(), changed[0].1.unsaved()), (1, 7));
        assert!(ledger.take_changed().is_empty());
        ledger.change_again([&key]);
        assert_eq!(ledger.take_changed().len(), 1, "it could not be stored");
        ledger.reserve(vec![claim("a", 100, 10)]).unwrap().settle(|_| 5);
        // The other one has added 30 meanwhile.
        ledger.saved(&key, 7, 77);
        assert_eq!((account(&ledger, "a"), ledger.take_changed()[0].1.unsaved()), ((82, 0), 5));
        let short = ledger.reserve(vec![claim("a", 100, 20)]).unwrap_err();
        assert_eq!(
            short,
            NotReserved::Short(Short {
                budget: "a".into(),
                shortage: Shortage::Spent,
                spent: 82,
                limit: 100
            })
        );
    }

    #[test]
    fn an_instance_of_a_fleet_admits_from_its_grant_only() {
        let ledger = Arc::new(Ledger::of_fleet());
        let key = claim("a", 100, 10).key;
        let asks = |ledger: &Arc<Ledger>| {
            matches!(ledger.reserve(vec![claim("a", 100, 10)]), Err(NotReserved::NeedsGrant(_)))
        };
        assert!(asks(&ledger));
        ledger.load(key.clone(), Lasts::Forever, 20);
        ledger.grant(&key, 25, 0);
        assert!(asks(&ledger), "grants do not hold yet");
        ledger.granted_until(Instant::now() + std::time::Duration::from_secs(60));
        ledger.reserve(vec![claim("a", 100, 10)]).unwrap().settle(|_| 8);
        let held = ledger.reserve(vec![claim("a", 100, 10)]).unwrap();
        assert!(asks(&ledger), "8 of it are spent and 10 held");
        drop(held);
        ledger.saved(&key, 8, 85);
        ledger.grant(&key, 17, 0);
        assert!(ledger.reserve(vec![claim("a", 100, 10)]).is_ok());
        ledger.granted_until(Instant::now());
        assert!(asks(&ledger), "they hold no longer");
        ledger.load(key, Lasts::Forever, 103);
        assert!(matches!(ledger.reserve(vec![claim("a", 100, 10)]), Err(NotReserved::Short(_))));
    }
}
