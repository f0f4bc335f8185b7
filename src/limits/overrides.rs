//! Overrides: what operators add to the limit of a budget until some time. What was spent is never touched. Each is a
//! document with a revision, stored before it is in force; one that is taken back stays as a tombstone, so that no older copy
//! revives it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::amount::{AmountText, CostUnit};
use crate::ids::SharedDocument;
use crate::ids::documents::{ChangeError, Document, Documents, IN_FORCE, MAX_DOCUMENTS, TAKEN_BACK};

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

impl Document for Override {
    const SHARED: &'static str = "override:";

    fn id(&self) -> &str {
        &self.id
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn made(&self) -> Timestamp {
        self.made
    }

    fn until(&self) -> Timestamp {
        self.until
    }

    fn taken_back(&self) -> Option<Timestamp> {
        self.taken_back
    }

    fn take_back(self, now: Timestamp) -> Self {
        Self { revision: TAKEN_BACK, taken_back: Some(now), ..self }
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
    #[error("there are {MAX_DOCUMENTS} overrides, which is the most; take back those that are not needed")]
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
    all: Documents<Override>,
}

impl Overrides {
    /// Reads the stored documents. One that cannot be read is logged and adds nothing.
    pub fn new(stored: Vec<String>, storage: Box<dyn OverrideStorage>) -> Self {
        let additions: Arc<ArcSwap<Additions>> = Arc::default();
        let published = Arc::clone(&additions);
        let publish = move |in_force: &mut dyn Iterator<Item = &Override>| {
            let mut additions = Additions::default();
            for one in in_force {
                additions.0.entry(one.budget.clone()).or_default().push(one.clone());
            }
            published.store(Arc::new(additions));
        };
        let overrides =
            Self { additions, all: Documents::new(Box::new(move |one| storage.put(one)), publish) };
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
        let id = format!("over_{}", Uuid::now_v7().simple());
        let made = Timestamp::now();
        let document =
            Override { id, revision: IN_FORCE, budget, account, add, until, made, by, taken_back: None };
        self.all.add(document).map_err(|fault| OverrideError::of(fault, "", ""))
    }

    /// Takes an override back. Blocks.
    ///
    /// # Errors
    /// The budget has no such override in force, or the change cannot be stored.
    pub fn take_back(&self, budget: &str, id: &str) -> Result<(Override, SharedDocument), OverrideError> {
        let taken = self.all.take_back(id, |one| one.budget == budget);
        taken.map_err(|fault| OverrideError::of(fault, budget, id))
    }

    /// Returns the overrides of a budget that are in force, the oldest first.
    pub fn of(&self, budget: &str) -> Vec<Override> {
        self.all.in_force(|one| one.budget == budget)
    }

    /// Whether a document is one of an override.
    pub fn is_one(document: &str) -> bool {
        Override::read(document).is_some()
    }

    /// Whether a document is one of an override that is no longer needed.
    pub fn is_over(document: &str) -> bool {
        Override::read(document).is_some_and(|one| one.is_over(Timestamp::now()))
    }

    /// Returns all documents that others may need.
    pub fn documents(&self) -> Vec<SharedDocument> {
        self.all.shared()
    }

    /// Takes documents of other processes. Returns those that were new here, for [`Overrides::store`].
    pub fn learn(&self, documents: &[String]) -> Vec<SharedDocument> {
        let unread = || tracing::warn!("an override of a budget cannot be read and adds nothing here");
        self.all.learn(documents, unread)
    }

    /// Stores documents that were learned. Blocks.
    ///
    /// # Errors
    /// One cannot be stored.
    pub fn store(&self, documents: &[SharedDocument]) -> Result<(), String> {
        self.all.store(documents)
    }
}

impl OverrideError {
    fn of(fault: ChangeError, budget: &str, id: &str) -> Self {
        match fault {
            ChangeError::Full => Self::Full,
            ChangeError::Unknown => Self::Unknown(budget.to_owned(), id.to_owned()),
            ChangeError::Storage(why) => Self::Storage(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;

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
