//! What is kept of the accounts beside this process: in a file, or in the store of a fleet.

use std::time::Instant;

use super::{Account, AccountKey, Claim, Keeping, Lasts, Ledger};

impl Ledger {
    /// A ledger whose spending is kept in a file.
    pub fn of_file() -> Self {
        Self { keeping: Keeping::File, ..Self::default() }
    }

    /// A ledger of an instance of a fleet; nothing is granted to it yet.
    pub fn of_fleet() -> Self {
        Self { keeping: Keeping::Fleet, ..Self::default() }
    }

    /// Returns the accounts that changed since the last call.
    pub fn take_changed(&self) -> Vec<(AccountKey, Account)> {
        let mut accounts = self.accounts.lock();
        let changed = std::mem::take(&mut accounts.changed);
        let taken = changed.into_iter().filter_map(|key| {
            let account = accounts.by_key.get_mut(&key)?;
            account.is_changed = false;
            Some((key, *account))
        });
        taken.collect()
    }

    /// Has these accounts stored again.
    pub fn change_again<'a>(&self, keys: impl IntoIterator<Item = &'a AccountKey>) {
        let mut accounts = self.accounts.lock();
        keys.into_iter().for_each(|key| accounts.changes(key));
    }

    /// Notes that `own` of this process is stored, and that the store has `total` with it.
    pub fn saved(&self, key: &AccountKey, own: u64, total: u64) {
        if let Some(account) = self.accounts.lock().by_key.get_mut(key) {
            account.saved = own;
            account.others = total.saturating_sub(own);
        }
    }

    /// Notes what the file has of an account.
    pub fn load(&self, key: AccountKey, lasts: Lasts, total: u64) {
        let mut accounts = self.accounts.lock();
        accounts.make_room();
        let account = accounts.by_key.entry(key).or_default();
        account.others = total.saturating_sub(account.saved);
        account.lasts = lasts;
    }

    /// Notes what the store of a fleet has of an account. What it has lost of this instance is stored again.
    pub(in crate::limits) fn mirror(&self, key: AccountKey, stored: Stored) {
        let mut accounts = self.accounts.lock();
        accounts.make_room();
        let account = accounts.by_key.entry(key.clone()).or_default();
        account.others = stored.spent.saturating_sub(stored.own);
        account.held_by_others = stored.held_by_others;
        if stored.own < account.saved {
            account.saved = stored.own;
            accounts.changes(&key);
        }
        drop(accounts);
        // Other instances may hold less of it now.
        self.lines.freed(std::iter::once(&key));
    }

    /// Waits until a request has settled since the last time.
    pub(in crate::limits) async fn settled(&self) {
        self.settled.notified().await;
    }

    /// Notes what is granted of an account, and what others hold of it.
    pub(in crate::limits) fn grant(&self, key: &AccountKey, granted: u64, held_by_others: u64) {
        if let Some(account) = self.accounts.lock().by_key.get_mut(key) {
            (account.granted, account.held_by_others) = (granted, held_by_others);
        }
    }

    /// Grants hold until this time.
    pub(in crate::limits) fn granted_until(&self, until: Instant) {
        self.accounts.lock().granted_until = Some(until);
    }

    /// Gives up what is granted of an account beyond what is held, unless it was used after the reservation `since`. Returns
    /// whether something is granted of it still.
    pub(in crate::limits) fn shrink(&self, key: &AccountKey, since: u64) -> bool {
        let mut accounts = self.accounts.lock();
        let Some(account) = accounts.by_key.get_mut(key) else { return false };
        let used = account.unsaved().saturating_add(account.held);
        if account.used <= since && account.granted > used {
            account.granted = used;
            accounts.changes(key);
        }
        accounts.of(key).granted > 0
    }

    /// Nothing is granted any longer; what this instance has spent and holds is stored again.
    pub(in crate::limits) fn forgotten(&self) {
        let mut accounts = self.accounts.lock();
        let mut all = Vec::new();
        for (key, account) in &mut accounts.by_key {
            (account.granted, account.saved) = (0, 0);
            if account.own > 0 || account.held > 0 {
                all.push(key.clone());
            }
        }
        all.iter().for_each(|key| accounts.changes(key));
        drop(accounts);
        self.settled.notify_one();
    }

    /// Returns the number of reservations so far.
    pub(in crate::limits) fn reservations(&self) -> u64 {
        self.accounts.lock().reservations
    }

    /// Returns these accounts.
    pub(in crate::limits) fn accounts_of(&self, claims: &[Claim]) -> Vec<Account> {
        let accounts = self.accounts.lock();
        claims.iter().map(|claim| accounts.of(&claim.key)).collect()
    }
}

/// What the store of a fleet has of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::limits) struct Stored {
    /// What was spent in all.
    pub(in crate::limits) spent: u64,
    /// What of it this instance has spent.
    pub(in crate::limits) own: u64,
    /// What other instances hold.
    pub(in crate::limits) held_by_others: u64,
}
