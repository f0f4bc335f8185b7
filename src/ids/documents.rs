//! Documents that operators make, each in force until some time or until it is taken back: stored before they are in force,
//! shared by all processes, and kept as tombstones for a while, so that no older copy revives one.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SharedDocument;

/// Most documents of a kind, tombstones included.
pub const MAX_DOCUMENTS: usize = 10_000;
/// How long one is kept after its end.
const TOMBSTONE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The revision of one that is in force, and of one that was taken back.
pub const IN_FORCE: u64 = 1;
/// See [`IN_FORCE`].
pub const TAKEN_BACK: u64 = 2;

/// A kind of document.
pub trait Document: Clone + Serialize + DeserializeOwned {
    /// How the name of a shared document begins; no key of a caller has such an id.
    const SHARED: &'static str;

    /// Its id.
    fn id(&self) -> &str;
    /// Grows with each change.
    fn revision(&self) -> u64;
    /// When it was made.
    fn made(&self) -> Timestamp;
    /// Until when it is in force.
    fn until(&self) -> Timestamp;
    /// When it was taken back; `None` while it is in force.
    fn taken_back(&self) -> Option<Timestamp>;
    /// The same, taken back.
    fn take_back(self, now: Timestamp) -> Self;

    /// Reads one; `None` for another text.
    fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Whether it is in force at this time.
    fn is_in_force(&self, now: Timestamp) -> bool {
        self.taken_back().is_none() && now < self.until()
    }

    /// Whether it ended so long ago that no instance still needs it.
    fn is_over(&self, now: Timestamp) -> bool {
        let end = self.taken_back().unwrap_or(self.until()).max(self.until());
        end.checked_add(TOMBSTONE).is_ok_and(|until| until < now)
    }
}

/// Stores a document; returns after it is on disk, or why it cannot be stored.
pub type Store = Box<dyn Fn(&SharedDocument) -> Result<(), String> + Send + Sync>;

/// Puts what is in force now where it is read.
type Publish<D> = Box<dyn Fn(&mut dyn Iterator<Item = &D>) + Send + Sync>;

/// Why a document was not made or taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// There are [`MAX_DOCUMENTS`].
    Full,
    /// There is no such document in force.
    Unknown,
    /// The document cannot be stored.
    Storage(String),
}

/// All documents of a kind.
pub struct Documents<D> {
    entries: Mutex<BTreeMap<String, Entry<D>>>,
    store: Store,
    publish: Publish<D>,
}

struct Entry<D> {
    document: D,
    /// The document as it was written: all instances compare the same text.
    text: String,
}

impl<D: Document> Entry<D> {
    fn shared(&self) -> SharedDocument {
        let id = format!("{}{}", D::SHARED, self.document.id());
        SharedDocument { id, revision: self.document.revision(), text: self.text.clone() }
    }
}

impl<D: Document> Documents<D> {
    /// None yet. `publish` is called with those in force whenever they change.
    pub fn new(store: Store, publish: impl Fn(&mut dyn Iterator<Item = &D>) + Send + Sync + 'static) -> Self {
        Self { entries: Mutex::default(), store, publish: Box::new(publish) }
    }

    /// Adds a document. Blocks. Returns it, and what other processes are told.
    ///
    /// # Errors
    /// There are too many, or it cannot be stored.
    pub fn add(&self, document: D) -> Result<(D, SharedDocument), ChangeError> {
        let mut entries = self.entries.lock();
        if entries.len() >= MAX_DOCUMENTS {
            return Err(ChangeError::Full);
        }
        self.put(&mut entries, document)
    }

    /// Takes a document back, if it is one that `may` be. Blocks.
    ///
    /// # Errors
    /// There is no such document in force, or the change cannot be stored.
    pub fn take_back(&self, id: &str, may: impl Fn(&D) -> bool) -> Result<(D, SharedDocument), ChangeError> {
        let mut entries = self.entries.lock();
        let now = Timestamp::now();
        let found = entries.get(id).map(|entry| &entry.document);
        let before = found.filter(|one| one.is_in_force(now) && may(one)).cloned();
        self.put(&mut entries, before.ok_or(ChangeError::Unknown)?.take_back(now))
    }

    /// Returns those in force that `fit`, the oldest first.
    pub fn in_force(&self, fit: impl Fn(&D) -> bool) -> Vec<D> {
        let now = Timestamp::now();
        let entries = self.entries.lock();
        let all = entries.values().map(|entry| &entry.document);
        let mut found: Vec<D> = all.filter(|one| one.is_in_force(now) && fit(one)).cloned().collect();
        found.sort_by(|a, b| (a.made(), a.id()).cmp(&(b.made(), b.id())));
        found
    }

    /// Returns all documents that others may need.
    pub fn shared(&self) -> Vec<SharedDocument> {
        let now = Timestamp::now();
        let entries = self.entries.lock();
        entries.values().filter(|entry| !entry.document.is_over(now)).map(Entry::shared).collect()
    }

    /// Takes documents of other processes, or those that are stored; `unread` is called for each that cannot be read. Returns
    /// those that were new here, for [`Documents::store`].
    pub fn learn(&self, documents: &[String], unread: impl Fn()) -> Vec<SharedDocument> {
        let now = Timestamp::now();
        let mut learned = Vec::new();
        let mut entries = self.entries.lock();
        for text in documents {
            let Some(document) = D::read(text) else {
                unread();
                continue;
            };
            let known = entries.get(document.id());
            let is_newer =
                |known: &Entry<D>| (document.revision(), text) > (known.document.revision(), &known.text);
            if known.map_or(!document.is_over(now), is_newer) {
                let entry = Entry { text: text.clone(), document };
                learned.push(entry.shared());
                entries.insert(entry.document.id().to_owned(), entry);
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
        documents.iter().try_for_each(|document| (self.store)(document))
    }

    fn put(
        &self,
        entries: &mut BTreeMap<String, Entry<D>>,
        document: D,
    ) -> Result<(D, SharedDocument), ChangeError> {
        let text = serde_json::to_string(&document).unwrap_or_default();
        let entry = Entry { document: document.clone(), text };
        let shared = entry.shared();
        (self.store)(&shared).map_err(ChangeError::Storage)?;
        entries.insert(document.id().to_owned(), entry);
        self.publish(entries);
        Ok((document, shared))
    }

    fn publish(&self, entries: &mut BTreeMap<String, Entry<D>>) {
        let now = Timestamp::now();
        entries.retain(|_, entry| !entry.document.is_over(now));
        let in_force = entries.values().map(|entry| &entry.document);
        (self.publish)(&mut in_force.filter(|one| one.is_in_force(now)));
    }
}
