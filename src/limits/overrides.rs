//! Overrides: what operators add to the limit of a budget until some time. What was spent is never touched. Each is a
//! document with a revision, stored before it is in force; one that is taken back stays as a tombstone, so that no older copy
//! revives it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::amount::{AmountText, CostUnit};
use crate::ids::SharedDocument;

/// Most overrides, tombstones included.
const MAX_OVERRIDES: usize = 10_000;
/// How long an override is kept after its end.
const TOMBSTONE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How the name of a shared document begins; no key of a caller has such an id.
const SHARED: &str = "override:";
/// The revision of one that is in force, and of one that was taken back.
const IN_FORCE: u64 = 1;
const TAKEN_BACK: u64 = 2;

/// An override, as it is stored and shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Override {
    /// Its id.
    pub id: String,
    /// Grows with each change.
    pub revision: u64,
    /// The budget.
    pub budget: String,
    /// The account of the budget that it is for, by the name that `by` gives; all accounts, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What it adds to the limit.
    pub add: AmountText,
    /// Until when.
    pub until: Timestamp,
    /// When it was made.
    pub made: Timestamp,
    /// Who made it.
    pub by: String,
    /// When it was taken back; absent while it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_back: Option<Timestamp>,
}

impl Override {
    /// Whether it adds to the limit at this time.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.taken_back.is_none() && now < self.until
    }

    /// Whether it ended so long ago that no instance still needs it.
    fn is_over(&self, now: Timestamp) -> bool {
        let end = self.taken_back.unwrap_or(self.until).max(self.until);
        end.checked_add(TOMBSTONE).is_ok_and(|until| until < now)
    }
}

/// Where overrides are stored.
pub trait OverrideStorage: Send + Sync {
    /// Stores a document; returns after it is on disk.
    ///
    /// # Errors
    /// Why it cannot be stored.
    fn put(&self, document: &SharedDocument) -> Result<(), String>;
}

/// Why an override was not made or taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    /// There are too many.
    #[error("there are {MAX_OVERRIDES} overrides, which is the most; take back those that are not needed")]
    Full,
    /// The budget has no such override in force.
    #[error("the budget '{0}' has no override '{1}'")]
    Unknown(String, String),
    /// The document cannot be stored.
    #[error("the override cannot be stored, so nothing was changed: {0}")]
    Storage(String),
}

/// What is added to the limits of budgets; empty in most gateways.
#[derive(Debug, Default)]
pub struct Additions(HashMap<String, Vec<Override>>);

impl Additions {
    /// Returns how much is added to the limit of an account.
    pub(super) fn to(&self, budget: &str, unit: CostUnit, account: &str, now: Timestamp) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        let is_for = |one: &&Override| {
            one.add.unit == unit
                && one.account.as_deref().is_none_or(|name| name == account)
                && one.is_in_force(now)
        };
        let all = self.0.get(budget).into_iter().flatten().filter(is_for);
        all.fold(0, |sum, one| sum.saturating_add(one.add.amount))
    }
}

/// All overrides.
pub struct Overrides {
    additions: Arc<ArcSwap<Additions>>,
    entries: Mutex<BTreeMap<String, Entry>>,
    storage: Box<dyn OverrideStorage>,
}

struct Entry {
    document: Override,
    /// The document as it was written: all instances compare the same text.
    text: String,
}

impl Entry {
    fn of(document: Override) -> Self {
        Self { text: serde_json::to_string(&document).unwrap_or_default(), document }
    }

    fn shared(&self) -> SharedDocument {
        let Override { id, revision, .. } = &self.document;
        SharedDocument { id: format!("{SHARED}{id}"), revision: *revision, text: self.text.clone() }
    }
}

impl Overrides {
    /// Reads the stored documents. One that cannot be read is logged and adds nothing.
    pub fn new(stored: Vec<String>, storage: Box<dyn OverrideStorage>) -> Self {
        let overrides = Self { additions: Arc::default(), entries: Mutex::default(), storage };
        overrides.learn(&stored);
        overrides
    }

    /// What they add, for [`super::budgets::Budgets::with_additions`].
    pub fn additions(&self) -> &Arc<ArcSwap<Additions>> {
        &self.additions
    }

    /// Adds to the limit of a budget until some time. Blocks. Returns the override, and its document for the other processes.
    ///
    /// # Errors
    /// There are too many, or it cannot be stored.
    pub fn add(
        &self,
        budget: String,
        account: Option<String>,
        add: AmountText,
        until: Timestamp,
        by: String,
    ) -> Result<(Override, SharedDocument), OverrideError> {
        let mut entries = self.entries.lock();
        if entries.len() >= MAX_OVERRIDES {
            return Err(OverrideError::Full);
        }
        let id = format!("over_{}", Uuid::now_v7().simple());
        let made = Timestamp::now();
        let document =
            Override { id, revision: IN_FORCE, budget, account, add, until, made, by, taken_back: None };
        self.put(&mut entries, document)
    }

    /// Takes an override back. Blocks.
    ///
    /// # Errors
    /// The budget has no such override in force, or the change cannot be stored.
    pub fn take_back(&self, budget: &str, id: &str) -> Result<(Override, SharedDocument), OverrideError> {
        let mut entries = self.entries.lock();
        let now = Timestamp::now();
        let found = entries.get(id).map(|entry| &entry.document);
        let found = found.filter(|one| one.budget == budget && one.is_in_force(now)).cloned();
        let before = found.ok_or_else(|| OverrideError::Unknown(budget.to_owned(), id.to_owned()))?;
        self.put(&mut entries, Override { revision: TAKEN_BACK, taken_back: Some(now), ..before })
    }

    /// Returns the overrides of a budget that are in force, the oldest first.
    pub fn of(&self, budget: &str) -> Vec<Override> {
        let now = Timestamp::now();
        let entries = self.entries.lock();
        let all = entries.values().map(|entry| &entry.document);
        let mut found: Vec<Override> =
            all.filter(|one| one.budget == budget && one.is_in_force(now)).cloned().collect();
        found.sort_by(|a, b| (a.made, &a.id).cmp(&(b.made, &b.id)));
        found
    }

    fn put(
        &self,
        entries: &mut BTreeMap<String, Entry>,
        document: Override,
    ) -> Result<(Override, SharedDocument), OverrideError> {
        let entry = Entry::of(document.clone());
        let shared = entry.shared();
        self.storage.put(&shared).map_err(OverrideError::Storage)?;
        entries.insert(document.id.clone(), entry);
        self.publish(entries);
        Ok((document, shared))
    }

    /// Whether a document is one of an override.
    pub fn is_one(document: &str) -> bool {
        read(document).is_some()
    }

    /// Whether a document is one of an override that is no longer needed.
    pub fn is_over(document: &str) -> bool {
        read(document).is_some_and(|one| one.is_over(Timestamp::now()))
    }

    /// Returns all documents that others may need.
    pub fn documents(&self) -> Vec<SharedDocument> {
        let now = Timestamp::now();
        let entries = self.entries.lock();
        entries.values().filter(|entry| !entry.document.is_over(now)).map(Entry::shared).collect()
    }

    /// Takes documents of other processes. Returns those that were new here, for [`Overrides::store`].
    pub fn learn(&self, documents: &[String]) -> Vec<SharedDocument> {
        let now = Timestamp::now();
        let mut learned = Vec::new();
        let mut entries = self.entries.lock();
        for text in documents {
            let Some(document) = read(text) else {
                tracing::warn!("an override of a budget cannot be read and adds nothing here");
                continue;
            };
            let known = entries.get(&document.id);
            let is_newer = |known: &Entry| (document.revision, text) > (known.document.revision, &known.text);
            if known.map_or(!document.is_over(now), is_newer) {
                let entry = Entry { text: text.clone(), document };
                learned.push(entry.shared());
                entries.insert(entry.document.id.clone(), entry);
            }
        }
        if !learned.is_empty() {
            self.publish(&mut entries);
        }
        learned
    }

    /// Stores documents that were learned. Blocks.
    ///
    /// # Errors
    /// One cannot be stored.
    pub fn store(&self, documents: &[SharedDocument]) -> Result<(), String> {
        documents.iter().try_for_each(|document| self.storage.put(document))
    }

    fn publish(&self, entries: &mut BTreeMap<String, Entry>) {
        let now = Timestamp::now();
        entries.retain(|_, entry| !entry.document.is_over(now));
        let mut additions = Additions::default();
        for Entry { document, .. } in entries.values().filter(|entry| entry.document.is_in_force(now)) {
            additions.0.entry(document.budget.clone()).or_default().push(document.clone());
        }
        self.additions.store(Arc::new(additions));
    }
}

fn read(document: &str) -> Option<Override> {
    serde_json::from_str(document).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps documents in memory; fails while told so.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<(BTreeMap<String, String>, bool)>>);

    impl OverrideStorage for Memory {
        fn put(&self, document: &SharedDocument) -> Result<(), String> {
            let mut held = self.0.lock();
            if held.1 {
                return Err("disk full".into());
            }
            held.0.insert(document.id.clone(), document.text.clone());
            Ok(())
        }
    }

    fn tokens(amount: u64) -> AmountText {
        AmountText { amount, unit: CostUnit::Tokens }
    }

    fn in_hours(hours: i64) -> Timestamp {
        Timestamp::now() + jiff::SignedDuration::from_hours(hours)
    }

    fn added(overrides: &Overrides, account: &str, now: Timestamp) -> u64 {
        overrides.additions.load().to("team", CostUnit::Tokens, account, now)
    }

    #[test]
    fn overrides_add_up_for_their_account_and_until_their_end() {
        let memory = Memory::default();
        let overrides = Overrides::new(Vec::new(), Box::new(memory.clone()));
        let make = |account: Option<&str>, amount, hours| {
            let made = overrides.add(
                "team".into(),
                account.map(Into::into),
                tokens(amount),
                in_hours(hours),
                "ada".into(),
            );
            made.unwrap().0
        };
        make(None, 5, 1);
        let own = make(Some("a"), 7, 2);
        let now = Timestamp::now();
        assert_eq!((added(&overrides, "a", now), added(&overrides, "b", now)), (12, 5));
        assert_eq!(overrides.additions.load().to("team", CostUnit::Usd, "a", now), 0, "another unit");
        assert_eq!(overrides.additions.load().to("other", CostUnit::Tokens, "a", now), 0);
        let later = now + jiff::SignedDuration::from_mins(90);
        assert_eq!((added(&overrides, "a", later), added(&overrides, "b", later)), (7, 0));

        // A disk that is full changes nothing.
        memory.0.lock().1 = true;
        assert!(matches!(overrides.take_back("team", &own.id), Err(OverrideError::Storage(_))));
        assert_eq!(added(&overrides, "a", now), 12);
        memory.0.lock().1 = false;
        assert!(overrides.take_back("other", &own.id).is_err(), "another budget");
        overrides.take_back("team", &own.id).unwrap();
        assert!(overrides.take_back("team", &own.id).is_err(), "once");
        assert_eq!((added(&overrides, "a", now), overrides.of("team").len()), (5, 1));

        // A restart, from the file.
        let stored: Vec<String> = memory.0.lock().0.values().cloned().collect();
        let again = Overrides::new(stored, Box::new(memory));
        assert_eq!(added(&again, "a", now), 5);
    }

    #[test]
    fn what_is_taken_back_is_not_revived_by_an_older_copy() {
        let one = Overrides::new(Vec::new(), Box::new(Memory::default()));
        let two = Overrides::new(Vec::new(), Box::new(Memory::default()));
        let (made, document) = one.add("team".into(), None, tokens(5), in_hours(1), "ada".into()).unwrap();
        assert_eq!(two.learn(std::slice::from_ref(&document.text)).len(), 1);
        assert!(two.learn(std::slice::from_ref(&document.text)).is_empty(), "nothing new");
        let (_, gone) = two.take_back("team", &made.id).unwrap();
        one.learn(&[gone.text.clone(), document.text.clone()]);
        assert_eq!(added(&one, "a", Timestamp::now()), 0);
        assert_eq!(one.documents(), two.documents());
        assert!(Overrides::is_one(&gone.text) && !Overrides::is_over(&gone.text));
        let long_ago = Timestamp::now() - jiff::SignedDuration::from_hours(24 * 31);
        let old = Override { until: long_ago, made: long_ago, ..made };
        let old = serde_json::to_string(&old).unwrap();
        assert!(Overrides::is_over(&old) && one.learn(&[old]).is_empty());
        assert!(!Overrides::is_one("{}"));
    }
}
