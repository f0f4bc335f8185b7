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
    /// Held while a document is stored, so that [`Documents::entries`] is not: what other processes say waits for no disk.
    changing: Mutex<()>,
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

    /// Of equal revisions the greater text counts, so that all instances agree.
    fn ranks_above(&self, known: &Self) -> bool {
        (self.document.revision(), &self.text) > (known.document.revision(), &known.text)
    }
}

impl<D: Document> Documents<D> {
    /// None yet. `publish` is called with those in force whenever they change.
    pub fn new(store: Store, publish: impl Fn(&mut dyn Iterator<Item = &D>) + Send + Sync + 'static) -> Self {
        Self { changing: Mutex::default(), entries: Mutex::default(), store, publish: Box::new(publish) }
    }

    /// Adds a document. Blocks. Returns it, and what other processes are told.
    ///
    /// # Errors
    /// There are too many, or it cannot be stored.
    pub fn add(&self, document: D) -> Result<(D, SharedDocument), ChangeError> {
        let _one_at_a_time = self.changing.lock();
        if self.entries.lock().len() >= MAX_DOCUMENTS {
            return Err(ChangeError::Full);
        }
        self.put(document)
    }

    /// Takes a document back, if it is one that `may` be. Blocks.
    ///
    /// # Errors
    /// There is no such document in force, or the change cannot be stored.
    pub fn take_back(&self, id: &str, may: impl Fn(&D) -> bool) -> Result<(D, SharedDocument), ChangeError> {
        let _one_at_a_time = self.changing.lock();
        let now = Timestamp::now();
        let found = self.entries.lock().get(id).map(|entry| entry.document.clone());
        let before = found.filter(|one| one.is_in_force(now) && may(one));
        self.put(before.ok_or(ChangeError::Unknown)?.take_back(now))
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
            let is_new = known.is_some() || !document.is_over(now);
            let entry = Entry { text: text.clone(), document };
            if is_new && known.is_none_or(|known| entry.ranks_above(known)) {
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

    fn put(&self, document: D) -> Result<(D, SharedDocument), ChangeError> {
        let text = serde_json::to_string(&document).unwrap_or_default();
        let entry = Entry { document: document.clone(), text };
        let shared = entry.shared();
        (self.store)(&shared).map_err(ChangeError::Storage)?;
        let mut entries = self.entries.lock();
        // Another process may have told a newer one meanwhile.
        if entries.get(document.id()).is_none_or(|known| entry.ranks_above(known)) {
            entries.insert(document.id().to_owned(), entry);
        }
        self.publish(&mut entries);
        Ok((document, shared))
    }

    fn publish(&self, entries: &mut BTreeMap<String, Entry<D>>) {
        let now = Timestamp::now();
        entries.retain(|_, entry| !entry.document.is_over(now));
        let in_force = entries.values().map(|entry| &entry.document);
        (self.publish)(&mut in_force.filter(|one| one.is_in_force(now)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Note {
        id: String,
        revision: u64,
        gone: Option<Timestamp>,
    }

    impl Document for Note {
        const SHARED: &'static str = "note:";

        fn id(&self) -> &str {
            &self.id
        }

        fn revision(&self) -> u64 {
            self.revision
        }

        fn made(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn until(&self) -> Timestamp {
            Timestamp::now() + Duration::from_secs(3600)
        }

        fn taken_back(&self) -> Option<Timestamp> {
            self.gone
        }

        fn take_back(self, now: Timestamp) -> Self {
            Self { gone: Some(now), revision: TAKEN_BACK, ..self }
        }
    }

    fn note(id: &str) -> Note {
        Note { id: id.into(), revision: IN_FORCE, gone: None }
    }

    #[test]
    fn what_other_processes_say_does_not_wait_for_the_disk() {
        let (begin, begun) = channel();
        let (end, ended) = channel::<()>();
        let ended = Mutex::new(ended);
        let store = move |document: &SharedDocument| {
            if document.id == "note:slow" {
                begin.send(()).unwrap();
                let _ = ended.lock().recv();
            }
            Ok(())
        };
        let notes = Documents::<Note>::new(Box::new(store), |_| {});
        thread::scope(|scope| {
            let adding = scope.spawn(|| notes.add(note("slow")));
            begun.recv().unwrap();
            // In a thread, so that a failure does not hang.
            let (told, tells) = channel();
            let notes = &notes;
            scope.spawn(move || {
                let gone = note("slow").take_back(Timestamp::now());
                let texts = [note("other"), gone].map(|note| serde_json::to_string(&note).unwrap());
                told.send((notes.learn(&texts, || {}).len(), notes.shared().len())).unwrap();
            });
            let answer = tells.recv_timeout(Duration::from_secs(5));
            drop(end);
            assert_eq!(answer, Ok((2, 2)));
            assert!(adding.join().unwrap().is_ok());
            // What was told meanwhile was newer.
            assert_eq!(notes.in_force(|_| true), [note("other")]);
        });
    }
}
