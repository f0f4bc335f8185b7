//! What was spent of budgets, in `state.db`. Each process adds what it has spent; so two of them, during an upgrade, share the
//! file, and nothing is added twice.

use rusqlite::{Connection, Row, params};

use super::state::State;
use crate::limits::amount::CostUnit;
use crate::limits::ledger::{Account, AccountKey, Lasts};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS spending (
    budget TEXT NOT NULL,
    unit TEXT NOT NULL,
    name TEXT NOT NULL,
    starts_at INTEGER NOT NULL,
    ends_at INTEGER,
    spent INTEGER NOT NULL,
    PRIMARY KEY (budget, unit, name, starts_at)
) STRICT";

/// How long an account is kept after its period, in seconds.
const KEPT: i64 = 40 * 24 * 3600;

impl State {
    /// Adds what these accounts have spent and not saved, of all or of none. Returns what each has spent in all. Returns after
    /// it is on disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_spending(&self, accounts: &[(AccountKey, Account)]) -> anyhow::Result<Vec<u64>> {
        self.with(|connection| {
            connection.execute_batch(TABLE)?;
            let transaction = connection.unchecked_transaction()?;
            let totals = accounts.iter().map(|(key, account)| add(&transaction, key, account));
            let totals = totals.collect::<rusqlite::Result<_>>()?;
            transaction.commit()?;
            Ok(totals)
        })
    }

    /// Returns what was spent of each account; removes those whose period ended long before `now`, in seconds since 1970.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn spending(&self, now: i64) -> anyhow::Result<Vec<(AccountKey, Lasts, u64)>> {
        self.with(|connection| {
            connection.execute_batch(TABLE)?;
            remove_old(connection, now)?;
            let mut rows = connection.prepare(
                "SELECT budget, unit, name, starts_at, ends_at, spent FROM spending ORDER BY starts_at DESC LIMIT 100000",
            )?;
            rows.query_map([], read)?.collect()
        })
    }

    /// Removes accounts whose period ended long before `now`, in seconds since 1970.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn prune_spending(&self, now: i64) -> anyhow::Result<()> {
        self.with(|connection| {
            connection.execute_batch(TABLE)?;
            remove_old(connection, now)
        })
    }

    /// Returns a number that changes when another process has written.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn version(&self) -> anyhow::Result<i64> {
        self.with(|connection| connection.query_row("PRAGMA data_version", [], |row| row.get(0)))
    }
}

fn remove_old(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM spending WHERE ends_at < ?1", [now - KEPT]).map(drop)
}

fn add(connection: &Connection, key: &AccountKey, account: &Account) -> rusqlite::Result<u64> {
    let ends_at = match account.lasts {
        Lasts::Until(end) => Some(end),
        Lasts::Session | Lasts::Forever => None,
    };
    let mut insert = connection.prepare_cached(
        "INSERT INTO spending (budget, unit, name, starts_at, ends_at, spent) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (budget, unit, name, starts_at) DO UPDATE SET spent = spent + excluded.spent, ends_at = excluded.ends_at
         RETURNING spent",
    )?;
    // Amounts and seconds are below 2^53.
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let starts_at = i64::try_from(key.start).unwrap_or(i64::MAX);
    let row =
        params![&*key.budget, unit(key.unit), &*key.name, starts_at, ends_at, number(account.unsaved())];
    insert.query_row(row, |row| row.get::<_, i64>(0)).map(|spent| u64::try_from(spent).unwrap_or(0))
}

fn unit(unit: CostUnit) -> &'static str {
    match unit {
        CostUnit::Usd => "usd",
        CostUnit::Tokens => "tokens",
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<(AccountKey, Lasts, u64)> {
    let (budget, unit, name): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let unit = if unit == "usd" { CostUnit::Usd } else { CostUnit::Tokens };
    let start = u128::try_from(row.get::<_, i64>(3)?).unwrap_or(0);
    let lasts = row.get::<_, Option<i64>>(4)?.map_or(Lasts::Forever, Lasts::Until);
    let spent = u64::try_from(row.get::<_, i64>(5)?).unwrap_or(0);
    Ok((AccountKey::new(budget.into(), unit, name.into(), start), lasts, spent))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::limits::ledger::{Claim, Ledger};

    fn claim(name: &str, lasts: Lasts) -> Claim {
        let key = AccountKey::new("b".into(), CostUnit::Usd, name.into(), 1_000_000);
        Claim { key, limit: 1 << 53, need: 10, floor: 0, step: 0, soft: u64::MAX, lasts }
    }

    #[test]
    fn two_processes_add_and_old_periods_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (State::new(folder.path()), State::new(folder.path()));
        assert!(one.spending(0).unwrap().is_empty());
        let spend = |state: &State, name: &str, cost: u64, lasts: Lasts| {
            let ledger = Arc::new(Ledger::of_file());
            ledger.reserve(vec![claim(name, lasts)]).unwrap().settle(|_| cost);
            state.add_spending(&ledger.take_changed()).unwrap()
        };
        assert_eq!(spend(&one, "a", 1 << 52, Lasts::Until(2_000_000)), [1 << 52]);
        let before = one.version().unwrap();
        assert_eq!(spend(&two, "a", 5, Lasts::Until(2_000_000)), [(1 << 52) + 5]);
        assert_ne!(one.version().unwrap(), before);
        spend(&two, "old", 7, Lasts::Until(100));
        spend(&two, "total", 9, Lasts::Forever);
        let kept = State::new(folder.path()).spending(2_000_000 + KEPT).unwrap();
        let kept: Vec<_> = kept.iter().map(|(key, lasts, spent)| (&*key.name, *lasts, *spent)).collect();
        assert_eq!(kept, [("a", Lasts::Until(2_000_000), (1 << 52) + 5), ("total", Lasts::Forever, 9)]);
        one.prune_spending(2_000_001 + KEPT).unwrap();
        assert_eq!(one.spending(0).unwrap().len(), 1, "its period is long over");
        let before = one.version().unwrap();
        let ledger = Arc::new(Ledger::of_file());
        drop(ledger.reserve(vec![claim("free", Lasts::Until(2_000_000))]).unwrap());
        assert!(ledger.take_changed().is_empty(), "what costs nothing is not written");
        assert_eq!(two.spending(0).unwrap().len(), 1);
        assert_eq!(one.version().unwrap(), before);
    }
}
