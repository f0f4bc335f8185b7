//! Accounts of budgets in Redis, which the instances of a fleet share. All are in one slot of a cluster, so that a request can
//! reserve of all its budgets in one step.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::call::{Call, Script};
use super::connect::{Link, LinkError};
use super::keys::Keys;

/// How long an instance that does not call is waited for.
pub const LEASE: Duration = Duration::from_secs(10);
/// Accounts, or rates, of instances that are gone that one call looks after.
const SWEEPS: u32 = 20;
/// Accounts that are read at once.
pub(crate) const PAGE: usize = 500;
/// Changes that one call looks at for accounts that are gone.
const TRIM: usize = 200;
/// How old a change is at least that is removed with its account.
const TRIMMED: Duration = Duration::from_secs(60);

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A grant.
    Ask,
    /// Nothing: it tells what was spent and is held.
    Report,
    /// The same, at the end of the instance.
    Leave,
}

impl Mode {
    /// The word of the scripts.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Report => "report",
            Self::Leave => "leave",
        }
    }
}

/// Returns the arguments with which a call for budgets or rates begins: `prefixes` are those of the accounts or rates, and of
/// the sets of what instances hold.
pub(super) fn first_arguments(
    instance: &str,
    number: u64,
    mode: Mode,
    is_registered: bool,
    (accounts, holdings): (String, String),
) -> Vec<String> {
    vec![
        instance.to_owned(),
        number.to_string(),
        LEASE.as_millis().to_string(),
        mode.name().to_owned(),
        u8::from(is_registered).to_string(),
        accounts,
        holdings,
        SWEEPS.to_string(),
    ]
}

/// One account of a call. Amounts are below 2^53, because Lua has doubles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Milliseconds after which an unused account is forgotten; 0 for never.
    pub ttl: u64,
    /// What this instance has spent of it.
    pub own: u64,
    /// What this instance holds of it, with the need.
    pub hold: u64,
    /// What its open requests cost at least.
    pub floor: u64,
    /// What the request needs.
    pub need: u64,
    /// The limit.
    pub limit: u64,
    /// The most that is granted beyond.
    pub most: u64,
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the store has forgotten this instance since its last call.
    pub is_forgotten: bool,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// For each account what was spent in all, what is held in all, and what this instance holds.
    Booked(Vec<[u64; 3]>),
    /// What is spent leaves no room: the position of the account, and what is spent of it.
    Spent(usize, u64),
    /// What others hold leaves no room.
    Held(usize, u64),
}

/// The accounts in Redis.
#[derive(Debug)]
pub struct BudgetStore {
    link: Arc<Link>,
    keys: Keys,
    instance: String,
    book: Script,
    restore: Script,
    trim: Script,
}

impl BudgetStore {
    /// The accounts behind `link`, for this instance; its name is never used again.
    pub fn new(link: Arc<Link>, keys: Keys, instance: String) -> Self {
        Self {
            link,
            keys,
            instance,
            book: Script::new(include_str!("book_budgets.lua")),
            restore: Script::new(include_str!("restore_budgets.lua")),
            trim: Script::new(include_str!("trim_budgets.lua")),
        }
    }

    /// Whether Redis can be asked.
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// The name of this instance.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Stores what the instance has spent and holds, and asks for more in [`Mode::Ask`]. `number` grows with each call.
    ///
    /// # Errors
    /// Redis is unavailable; it may have carried out the call.
    pub async fn book(
        &self,
        number: u64,
        mode: Mode,
        is_registered: bool,
        entries: &[Entry],
    ) -> Result<Answer, LinkError> {
        let holdings = self.keys.budget_holdings();
        let keys = vec![
            self.keys.budget_instances(),
            self.keys.budget_changes(),
            format!("{holdings}{}", self.instance),
        ];
        let prefixes = (self.keys.budget_accounts(), holdings);
        let mut arguments = first_arguments(&self.instance, number, mode, is_registered, prefixes);
        for entry in entries {
            arguments.push(entry.name.clone());
            let Entry { ttl, own, hold, floor, need, limit, most, .. } = *entry;
            arguments.extend([ttl, own, hold, floor, need, limit, most].map(|number| number.to_string()));
        }
        let answer: Vec<String> = self.link.run(&self.book, keys, arguments).await?;
        read(&answer, entries.len())
            .map(|(outcome, known)| Answer { is_forgotten: is_registered && !known, outcome })
            .ok_or_else(|| LinkError::Away("a call for budgets came late".into()))
    }

    /// Returns the accounts that changed since this time of the clock of Redis, in milliseconds, and the time to ask with next.
    /// An account that is gone has no fields.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn changed(
        &self,
        since: u64,
    ) -> Result<(Vec<(String, HashMap<String, String>)>, u64), LinkError> {
        let range = [
            self.keys.budget_changes(),
            since.to_string(),
            "+inf".into(),
            "WITHSCORES".into(),
            "LIMIT".into(),
            "0".into(),
            PAGE.to_string(),
        ];
        let found: Vec<String> = self.link.call(Call::new("ZRANGEBYSCORE", range)).await?.convert()?;
        let mut found = found.into_iter();
        let pairs = std::iter::from_fn(|| Some((found.next()?, found.next()?)));
        let (names, times): (Vec<String>, Vec<String>) = pairs.unzip();
        let last = times.last().and_then(|time| time.parse().ok()).unwrap_or(since);
        // More accounts than fit may have changed in one millisecond.
        let next = if names.len() == PAGE && last <= since { since + 1 } else { last };
        let prefix = self.keys.budget_accounts();
        let calls = names.iter().map(|name| Call::new("HGETALL", [format!("{prefix}{name}")])).collect();
        let mut accounts = Vec::with_capacity(names.len());
        if !names.is_empty() {
            for (name, fields) in names.into_iter().zip(self.link.calls(calls).await?) {
                accounts
                    .push((name, fields.ok().and_then(|fields| fields.convert().ok()).unwrap_or_default()));
            }
        }
        Ok((accounts, next))
    }

    /// Looks at a part of the changes, and removes those of accounts that have expired: the set has no end otherwise. Returns
    /// where the next part begins, 0 after the last one.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn trim(&self, from: u64) -> Result<u64, LinkError> {
        let arguments = [
            from.to_string(),
            TRIMMED.as_millis().to_string(),
            TRIM.to_string(),
            self.keys.budget_accounts(),
        ];
        let next: String =
            self.link.run(&self.trim, vec![self.keys.budget_changes()], arguments.to_vec()).await?;
        Ok(next.parse().unwrap_or(0))
    }

    /// Writes what other instances had spent again, if Redis has lost it: the account, its time to live in milliseconds, the
    /// field and the value.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn restore(&self, values: Vec<(String, u64, String, u64)>) -> Result<(), LinkError> {
        let keys = vec![self.keys.budget_instances(), self.keys.budget_changes()];
        let mut arguments = vec![self.keys.budget_accounts()];
        for (name, ttl, field, value) in values {
            arguments.extend([name, ttl.to_string(), field, value.to_string()]);
        }
        self.link.run::<u8>(&self.restore, keys, arguments).await.map(drop)
    }
}

/// Reads the answer to a call for `count` accounts, and whether the instance was known; `None` if it came late.
fn read(answer: &[String], count: usize) -> Option<(Outcome, bool)> {
    let number = |place: usize| answer.get(place)?.parse::<u64>().ok();
    let short = || Some((usize::try_from(number(1)?.checked_sub(1)?).ok()?, number(2)?));
    match answer.first()?.as_str() {
        "booked" => {
            let account =
                |place: usize| Some([number(2 + 3 * place)?, number(3 + 3 * place)?, number(4 + 3 * place)?]);
            Some((Outcome::Booked((0..count).map(account).collect::<Option<_>>()?), number(1)? == 1))
        }
        "spent" => short().map(|(place, spent)| (Outcome::Spent(place, spent), number(3) == Some(1))),
        "held" => short().map(|(place, spent)| (Outcome::Held(place, spent), number(3) == Some(1))),
        _ => None,
    }
}
