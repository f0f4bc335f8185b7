//! Budgets of a fleet.
//!
//! An instance admits requests from what it was granted of each account. When that does not suffice, it asks the store for
//! more, of all accounts of the request in one step; so far from the limit most requests need no round trip, and near it each
//! one asks. What is granted counts as held for all others, so that no limit is passed. As soon as requests settle, the
//! instance stores what it has spent in all, not what was added; so a repeated call changes nothing, and an outage loses
//! nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::watch;
use tracing::warn;

use super::amount::CostUnit;
use super::ledger::keeping::Stored;
use super::ledger::{Account, AccountKey, Claim, Lasts, Ledger, NotReserved, Reservation, Short, Shortage};
use super::turns::Turns;
use crate::redis::LinkError;
use crate::redis::budgets::{BudgetStore, Entry, LEASE, Mode, Outcome};

/// How often the instance reports without a cause, and reads what others report.
const BEAT: Duration = Duration::from_secs(1);
/// How long the end of a lease is mistrusted, because clocks run differently.
const MARGIN: Duration = Duration::from_secs(2);
/// How many times its need a request may be granted.
const AHEAD: u64 = 64;
/// Accounts of one call.
const BATCH: usize = 100;
/// How long accounts are kept after their period.
const KEPT: Duration = Duration::from_secs(40 * 24 * 3600);
/// How long accounts of sessions are kept after their last use.
const KEPT_SESSION: Duration = Duration::from_secs(7 * 24 * 3600);
/// Pages of accounts that are read in one beat: a newcomer to a fleet with very many does not hold up requests meanwhile.
const PAGES: usize = 8;
/// The most accounts of which it is remembered what others have spent.
const MAX_OTHERS: usize = 100_000;
/// How long the last report may take.
const LEAVING: Duration = Duration::from_millis(500);

/// The budgets of an instance of a fleet.
#[derive(Debug)]
pub struct FleetBudgets {
    ledger: Arc<Ledger>,
    store: BudgetStore,
    /// Held during a call.
    turn: Turns<Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    /// The number of the last call.
    number: u64,
    is_registered: bool,
    /// Accounts of which something may be granted.
    granted: HashSet<AccountKey>,
    /// The reservations of the ledger at the last beat.
    reservations: u64,
    /// Until when changes of others are known, in milliseconds of the clock of Redis.
    seen: u64,
    /// What others have spent, by account and field.
    others: HashMap<String, Vec<(String, u64)>>,
    /// Whether what others had spent is to be written again.
    restores: bool,
    /// Where changes of accounts that are gone are looked for next.
    trimmed: u64,
}

impl Turn {
    /// Remembers what others have spent of an account.
    fn remember(&mut self, name: String, spent: Vec<(String, u64)>) {
        if spent.is_empty() {
            self.others.remove(&name);
            return;
        }
        if self.others.len() >= MAX_OTHERS && !self.others.contains_key(&name) {
            let any = self.others.keys().next().cloned();
            any.map(|any| self.others.remove(&any));
        }
        self.others.insert(name, spent);
    }
}

impl FleetBudgets {
    /// The budgets of `ledger`, shared in `store`.
    pub fn new(ledger: Arc<Ledger>, store: BudgetStore) -> Self {
        Self { ledger, store, turn: Turns::default() }
    }

    /// Holds the need of every claim, or of none.
    ///
    /// # Errors
    /// A claim does not fit, or the store does not answer and what was granted does not suffice.
    pub fn reserve(&self, claims: Vec<Claim>) -> BoxFuture<'_, Result<Reservation, Short>> {
        match self.ledger.reserve(claims) {
            Ok(reservation) => std::future::ready(Ok(reservation)).boxed(),
            Err(NotReserved::Short(short)) => std::future::ready(Err(short)).boxed(),
            Err(NotReserved::NeedsGrant(claims)) => self.ask(claims).boxed(),
        }
    }

    async fn ask(&self, claims: Vec<Claim>) -> Result<Reservation, Short> {
        let Some(mut turn) = self.turn.of_request(|| self.store.is_up()).await else {
            return Err(unknown(&claims));
        };
        // Requests that were earlier may have been granted enough for this one.
        let claims = match self.ledger.reserve(claims) {
            Ok(reservation) => return Ok(reservation),
            Err(NotReserved::Short(short)) => return Err(short),
            Err(NotReserved::NeedsGrant(claims)) => claims,
        };
        // Released if the client leaves meanwhile.
        let mut held = self.ledger.hold_asking(claims);
        let accounts = self.ledger.accounts_of(held.claims());
        let asked: Vec<_> = held.claims().iter().zip(accounts).collect();
        let entries = asked.iter().map(|(claim, account)| Entry {
            need: claim.need,
            limit: claim.limit,
            most: claim.need.saturating_mul(AHEAD),
            ..entry(&claim.key, account)
        });
        let entries: Vec<Entry> = entries.collect();
        let keyed: Vec<_> = asked.iter().map(|(claim, account)| (&claim.key, *account)).collect();
        let outcome = self.book(&mut turn, Mode::Ask, &keyed, &entries).await;
        let short = match outcome {
            Ok(Outcome::Booked(_)) => {
                held.asked();
                return Ok(held);
            }
            Ok(Outcome::Spent(place, spent)) => Short::of(held.claims(), place, Shortage::Spent, spent),
            Ok(Outcome::Held(place, spent)) => Short::of(held.claims(), place, Shortage::Held, spent),
            Err(_) => unknown(held.claims()),
        };
        held.undo();
        Err(short)
    }

    /// Sends a call, and takes over what it answers.
    async fn book(
        &self,
        turn: &mut Turn,
        mode: Mode,
        accounts: &[(&AccountKey, Account)],
        entries: &[Entry],
    ) -> Result<Outcome, LinkError> {
        turn.number += 1;
        let until = Instant::now() + LEASE - MARGIN;
        let answer = self.store.book(turn.number, mode, turn.is_registered, entries).await;
        self.turn.called(&answer);
        let answer = answer?;
        if answer.is_forgotten {
            warn!("redis has forgotten what this instance holds of budgets: it is written again");
            self.ledger.forgotten();
            turn.restores = true;
            (turn.granted, turn.seen) = (HashSet::new(), 0);
        }
        if let Outcome::Booked(booked) = &answer.outcome {
            turn.is_registered = mode != Mode::Leave;
            self.ledger.granted_until(until);
            for ((key, account), [spent, held, granted]) in accounts.iter().zip(booked) {
                self.ledger.saved(key, account.own, *spent);
                self.ledger.grant(key, *granted, held.saturating_sub(*granted));
                if *granted > 0 {
                    turn.granted.insert((*key).clone());
                }
            }
        }
        Ok(answer.outcome)
    }

    /// Reports until `stop` is true, once there are budgets.
    pub async fn run(&self, mut stop: watch::Receiver<bool>, has_budgets: impl Fn() -> bool) {
        let mut next_beat = Instant::now();
        loop {
            let is_beat = Instant::now() >= next_beat;
            if is_beat {
                next_beat = Instant::now() + BEAT;
            }
            if self.store.is_up() {
                let mut turn = self.turn.lock().await;
                if turn.is_registered || has_budgets() {
                    // What could not be stored is stored later.
                    let _ = self.report(&mut turn, is_beat).await;
                }
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.ledger.settled(), if self.store.is_up() => {}
                () = tokio::time::sleep_until(next_beat.into()) => {}
            }
        }
    }

    /// Stores what is left at the end of the instance, and gives up all grants.
    pub async fn leave(&self) {
        let last = async {
            let mut turn = self.turn.lock().await;
            turn.granted.retain(|key| self.ledger.shrink(key, u64::MAX));
            self.store_changed(&mut turn, Mode::Leave).await
        };
        let is_registered = self.turn.lock().await.is_registered;
        if is_registered
            && self.store.is_up()
            && !matches!(tokio::time::timeout(LEAVING, last).await, Ok(Ok(())))
        {
            warn!("redis does not answer: what this instance spent last of budgets may be missing there");
        }
    }

    async fn report(&self, turn: &mut Turn, is_beat: bool) -> Result<(), LinkError> {
        if is_beat {
            let since = turn.reservations;
            turn.granted.retain(|key| self.ledger.shrink(key, since));
            turn.reservations = self.ledger.reservations();
        }
        self.store_changed(turn, Mode::Report).await?;
        if std::mem::take(&mut turn.restores)
            && let Err(fault) = self.restore(turn).await
        {
            turn.restores = true;
            return Err(fault);
        }
        if is_beat {
            self.read_others(turn).await?;
            turn.trimmed = self.store.trim(turn.trimmed).await?;
        }
        Ok(())
    }

    /// Stores the accounts that changed. The call is made without any, too: it keeps the lease.
    async fn store_changed(&self, turn: &mut Turn, mode: Mode) -> Result<(), LinkError> {
        let changed = self.ledger.take_changed();
        let mut batches = changed.chunks(BATCH);
        let mut stored = 0;
        loop {
            let batch = batches.next().unwrap_or_default();
            let keyed: Vec<_> = batch.iter().map(|(key, account)| (key, *account)).collect();
            let entries: Vec<Entry> = batch.iter().map(|(key, account)| entry(key, account)).collect();
            if let Err(fault) = self.book(turn, mode, &keyed, &entries).await {
                self.ledger.change_again(changed[stored..].iter().map(|(key, _)| key));
                return Err(fault);
            }
            stored += batch.len();
            if stored >= changed.len() {
                return Ok(());
            }
        }
    }

    /// Reads what other instances have stored, as far as one beat allows.
    async fn read_others(&self, turn: &mut Turn) -> Result<(), LinkError> {
        let own = self.store.instance();
        for _ in 0..PAGES {
            let (accounts, next) = self.store.changed(turn.seen).await?;
            let is_all = accounts.is_empty() || next == turn.seen;
            turn.seen = next;
            for (name, fields) in accounts {
                let Some(key) = key_of(&name) else { continue };
                let number = |field: &str| fields.get(field).and_then(|text| text.parse().ok()).unwrap_or(0);
                let (held, held_here): (u64, u64) = (number("held"), number(&format!("h:{own}")));
                let stored = Stored {
                    spent: number("spent"),
                    own: number(&format!("s:{own}")),
                    held_by_others: held.saturating_sub(held_here),
                };
                self.ledger.mirror(key, stored);
                let is_others = |field: &str| {
                    let instance = field.strip_prefix("s:").or_else(|| field.strip_prefix("x:"));
                    instance.is_some_and(|instance| instance != own)
                };
                let spent = fields.iter().filter(|(field, _)| is_others(field));
                let spent: Vec<_> = spent.map(|(field, _)| (field.clone(), number(field))).collect();
                turn.remember(name, spent);
            }
            if is_all {
                break;
            }
        }
        Ok(())
    }

    /// Writes what others had spent again. Those that run do so themselves; this is for those that do not.
    async fn restore(&self, turn: &Turn) -> Result<(), LinkError> {
        let ttl = millis(KEPT);
        let all: Vec<_> = turn
            .others
            .iter()
            .flat_map(|(name, spent)| {
                spent.iter().map(|(field, spent)| (name.clone(), ttl, field.clone(), *spent))
            })
            .collect();
        for batch in all.chunks(BATCH) {
            self.store.restore(batch.to_vec()).await?;
        }
        Ok(())
    }
}

fn unknown(claims: &[Claim]) -> Short {
    Short::of(claims, 0, Shortage::Unknown, 0)
}

/// What the instance has spent and holds of an account. What was granted and is not used stays granted.
fn entry(key: &AccountKey, account: &Account) -> Entry {
    Entry {
        name: name_of(key),
        ttl: ttl(account.lasts),
        own: account.own,
        hold: account.held.max(account.granted.saturating_sub(account.unsaved())),
        floor: account.floor,
        need: 0,
        limit: 0,
        most: 0,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ttl(lasts: Lasts) -> u64 {
    match lasts {
        Lasts::Session => millis(KEPT_SESSION),
        Lasts::Forever => 0,
        Lasts::Until(end) => {
            let left = u64::try_from(end - Timestamp::now().as_second()).unwrap_or(0);
            left.saturating_mul(1000).saturating_add(millis(KEPT))
        }
    }
}

/// The name of an account in the store.
fn name_of(key: &AccountKey) -> String {
    let AccountKey { budget, unit, name, start, .. } = key;
    serde_json::to_string(&(&**budget, unit, start.to_string(), &**name)).unwrap_or_default()
}

fn key_of(text: &str) -> Option<AccountKey> {
    let (budget, unit, start, name): (String, CostUnit, String, String) = serde_json::from_str(text).ok()?;
    Some(AccountKey::new(budget.into(), unit, name.into(), start.parse().ok()?))
}

#[cfg(test)]
mod tests;
