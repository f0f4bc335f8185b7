//! Requests that wait until open ones release what they hold of a budget.
//!
//! Only the first in the line of an account asks again, each time when something of it was released. Whoever comes later
//! joins the line, however little it needs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::classes::Class;
use super::ledger::{AccountKey, Claim, Ledger, Short, Shortage};
use super::line::{Line, Ticket};

/// The most requests that wait for one account.
const MOST_WAITING: usize = 256;

/// The lines of all accounts that requests wait for.
#[derive(Debug, Default)]
pub struct AccountLines {
    /// Requests in all lines, so that settling costs no look-up when there are none.
    waiting: AtomicUsize,
    lines: Mutex<HashMap<AccountKey, Line>>,
}

impl AccountLines {
    /// Returns the claim of an account that requests wait for already.
    fn ahead_of<'c>(&self, claims: &'c [Claim]) -> Option<&'c Claim> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let lines = self.lines.lock();
        claims.iter().find(|claim| lines.contains_key(&claim.key))
    }

    /// Joins the line of an account; `None` if it is too long already.
    pub fn join(&self, account: AccountKey, class: Class, since: u64) -> Option<PlaceInLine<'_>> {
        let mut lines = self.lines.lock();
        let line = lines.entry(account.clone()).or_default();
        if line.len() >= MOST_WAITING {
            return None;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let ticket = line.join(class, since);
        drop(lines);
        Some(PlaceInLine { lines: self, account, ticket })
    }

    /// Something of these accounts was released, or may have been.
    pub(super) fn freed<'k>(&self, accounts: impl Iterator<Item = &'k AccountKey>) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let lines = self.lines.lock();
        accounts.filter_map(|account| lines.get(account)).for_each(Line::call_first);
    }
}

impl Ledger {
    /// The requests that wait until something is released.
    pub fn lines(&self) -> &AccountLines {
        &self.lines
    }

    /// Returns why these claims have to wait behind others, if they have; one that never fits does not.
    pub fn ahead_of(&self, claims: &[Claim]) -> Option<Short> {
        let claim = self.lines().ahead_of(claims)?;
        let accounts = self.accounts_of(claims);
        let spent = claims
            .iter()
            .zip(&accounts)
            .find(|(claim, account)| account.spent().saturating_add(claim.need) > claim.limit);
        Some(match spent {
            Some((claim, account)) => Short {
                budget: Arc::clone(&claim.key.budget),
                shortage: Shortage::Spent,
                spent: account.spent(),
                limit: claim.limit,
            },
            None => Short {
                budget: Arc::clone(&claim.key.budget),
                shortage: Shortage::Held,
                spent: 0,
                limit: claim.limit,
            },
        })
    }
}

/// A place in the line of an account. Dropping it leaves the line.
#[derive(Debug)]
pub struct PlaceInLine<'l> {
    lines: &'l AccountLines,
    account: AccountKey,
    ticket: Ticket,
}

impl PlaceInLine<'_> {
    /// The account.
    pub fn account(&self) -> &AccountKey {
        &self.account
    }

    /// Returns whether it is this one's turn.
    pub fn is_first(&self) -> bool {
        self.lines.lines.lock().get(&self.account).is_some_and(|line| line.is_first(&self.ticket))
    }

    /// Waits until it may be this one's turn, or something was released since the last time.
    pub async fn called(&self) {
        self.ticket.called().await;
    }
}

impl Drop for PlaceInLine<'_> {
    fn drop(&mut self) {
        let mut lines = self.lines.lines.lock();
        if let Some(line) = lines.get_mut(&self.account) {
            line.leave(&self.ticket);
            // There may be room for the next one, too.
            line.call_first();
            if line.is_empty() {
                lines.remove(&self.account);
            }
        }
        drop(lines);
        self.lines.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::arrival;
    use super::*;
    use crate::limits::amount::CostUnit;

    #[test]
    fn one_account_does_not_take_all_places_of_those_that_wait() {
        let lines = AccountLines::default();
        let join = |name: &str| {
            let account = AccountKey::new("b".into(), CostUnit::Tokens, name.into(), 0);
            lines.join(account, Class::Normal, arrival())
        };
        let mut places: Vec<_> = (0..300).filter_map(|_| join("a")).collect();
        assert!(places.len() == MOST_WAITING && join("b").is_some());
        places.pop();
        assert!(join("a").is_some());
    }
}
