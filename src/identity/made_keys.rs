//! Keys that operators make through the control API. Each is a document with a revision, stored before it is in force; a
//! revoked one stays as a tombstone, which distinguishes its key from one that never existed.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::auth::{Auth, KeyHolder, MadeKeys};
use super::auth_settings::PrincipalConfig;
use super::key_documents::{
    Entry, Holders, REVOKED, declared_key, generation, is_over, listed_entry, replace, replaced,
};
pub use super::key_documents::{KeyDocument, ListedKey};
use super::key_text::{self, KeyDigest};
use crate::ids::{PrincipalId, SharedDocument};
use crate::settings::secret::Secret;

/// Most keys that are in force.
const MAX_KEYS: usize = 100_000;
/// Most keys with those that were revoked in the last 30 days: making and revoking keys must not fill the memory.
const MAX_ENTRIES: usize = 2 * MAX_KEYS;
/// Where key documents are stored.
pub trait KeyStorage: Send + Sync {
    /// Stores a document; returns after it is on disk.
    ///
    /// # Errors
    /// Why it cannot be stored.
    fn put(&self, id: &str, revision: u64, document: &str) -> Result<(), String>;
}

/// Why a key was not made, rotated or revoked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The request is not valid.
    #[error("{0}")]
    Invalid(String),
    /// Another key has this id.
    #[error("there is a key with the id '{0}'; revoke it first, rotate it, or choose another id")]
    Exists(String),
    /// A key of another tenant had this id.
    #[error(
        "the id '{0}' was that of a key of another tenant, whose sessions and records it would join; choose another id"
    )]
    OfAnotherTenant(String),
    /// Another process has changed it meanwhile.
    #[error("another instance has changed the key '{0}' at the same time; look at it, and try again")]
    Changed(String),
    /// The file declares it.
    #[error("the configuration declares '{0}' (auth.principals): change it there, and reload")]
    ManagedByFile(String),
    /// No key has this id.
    #[error("no key has the id '{0}'")]
    Unknown(String),
    /// The document cannot be stored, so nothing was changed.
    #[error("the key cannot be stored, so nothing was changed: {0}")]
    Storage(String),
}

/// The keys made through the API.
pub struct ClientKeys {
    table: Arc<ArcSwap<MadeKeys>>,
    /// Held while a key is stored, so that [`ClientKeys::entries`] is not: what other processes say waits for no disk.
    changing: Mutex<()>,
    entries: Mutex<BTreeMap<String, Entry>>,
    declared: ArcSwap<Declared>,
    storage: Box<dyn KeyStorage>,
}

/// What the configuration says.
#[derive(Debug, Default)]
struct Declared {
    prefix: String,
    principals: Vec<(PrincipalConfig, Option<Arc<KeyHolder>>)>,
    backends: Vec<String>,
}

impl ClientKeys {
    /// Reads the stored documents. One that cannot be read is logged and is not in force.
    pub fn new(stored: Vec<String>, storage: Box<dyn KeyStorage>) -> Self {
        let mut entries = BTreeMap::new();
        for text in stored {
            let read = serde_json::from_str::<KeyDocument>(&text).map_err(|fault| fault.to_string());
            match read.and_then(|document| Entry::of(document, "", None, &[])) {
                Ok(entry) if !is_over(&entry.document) => {
                    entries.insert(entry.document.principal.id.clone(), Entry { text, ..entry });
                }
                Ok(_) => {}
                Err(fault) => tracing::error!(fault, "a stored key cannot be read and is not in force"),
            }
        }
        let keys = Self {
            table: Arc::default(),
            changing: Mutex::default(),
            entries: Mutex::new(entries),
            declared: ArcSwap::default(),
            storage,
        };
        keys.publish(&keys.entries.lock());
        keys
    }

    /// The keys in force, for [`Auth::with_made`].
    pub fn table(&self) -> &Arc<ArcSwap<MadeKeys>> {
        &self.table
    }

    /// Tells what the configuration declares, which this never changes.
    pub fn declare(&self, auth: &Auth, backends: Vec<String>) {
        let principals = auth.principals().iter().map(|principal| {
            let holder = KeyDigest::parse(&principal.key_sha256).and_then(|digest| auth.declared(&digest));
            (principal.clone(), holder)
        });
        let principals = principals.collect();
        self.declared.store(Arc::new(Declared { prefix: auth.prefix().to_owned(), principals, backends }));
    }

    /// Makes a key and returns it, the only time it is shown. `imported` is a key of another gateway to be used instead.
    ///
    /// # Errors
    /// The id is taken, a member is not valid, or the key cannot be stored.
    pub fn create(
        &self,
        principal: PrincipalConfig,
        imported: Option<Secret>,
    ) -> Result<(ListedKey, Secret), KeyError> {
        let declared = self.declared.load();
        self.check_declared(&principal.id)?;
        let _one_at_a_time = self.changing.lock();
        let mut entries = self.entries.lock();
        let before = entries.get(&principal.id);
        if before.is_some_and(|entry| entry.document.revoked.is_none()) {
            return Err(KeyError::Exists(principal.id));
        }
        // Sessions, records and counters are named by the id.
        if before.is_some_and(|entry| entry.document.principal.tenant != principal.tenant) {
            return Err(KeyError::OfAnotherTenant(principal.id));
        }
        if before.is_none() {
            check_room(&mut entries)?;
        }
        let before = entries.get(&principal.id);
        let key = match imported {
            Some(key) => checked(key)?,
            None => generated(&declared.prefix)?,
        };
        let digest = KeyDigest::of(key.reveal().as_bytes());
        if self.table.load().is_known(&digest)
            || declared
                .principals
                .iter()
                .any(|(principal, _)| KeyDigest::parse(&principal.key_sha256) == Some(digest))
        {
            return Err(KeyError::Invalid("another principal has this key".to_owned()));
        }
        let document = KeyDocument {
            revision: generation(before.map(|entry| &entry.document)),
            shown: key_text::shown(key.reveal()).to_owned(),
            created: Timestamp::now(),
            previous: None,
            replaced: replaced(before.map(|entry| &entry.document), &declared.prefix),
            revoked: None,
            principal: PrincipalConfig { key_sha256: digest.to_string(), ..principal },
        };
        let entry = Entry::of(document, &declared.prefix, Some(declared.backends.as_slice()), &[])
            .map_err(KeyError::Invalid)?;
        drop(entries);
        let listed = self.put(entry)?;
        Ok((listed, key))
    }

    /// Replaces a key by a new one and returns it; the old one stays valid for `grace`.
    ///
    /// # Errors
    /// No key has this id, the file declares it, or it cannot be stored.
    pub fn rotate(&self, id: &str, grace: Duration) -> Result<(ListedKey, Secret), KeyError> {
        self.check_declared(id)?;
        let prefix = self.declared.load().prefix.clone();
        let _one_at_a_time = self.changing.lock();
        let (before, old) = self.in_force(id)?;
        let key = generated(&prefix)?;
        let now = Timestamp::now();
        let until = now.checked_add(grace).map_err(|_| KeyError::Invalid("grace is too long".to_owned()))?;
        let document = KeyDocument {
            revision: before.revision + 1,
            shown: key_text::shown(key.reveal()).to_owned(),
            created: now,
            previous: (!grace.is_zero()).then(|| (before.principal.key_sha256.clone(), until)),
            principal: PrincipalConfig {
                key_sha256: KeyDigest::of(key.reveal().as_bytes()).to_string(),
                ..before.principal.clone()
            },
            replaced: replaced(Some(&before), &prefix),
            revoked: None,
        };
        let entry = Entry::of(document, &prefix, None, &old).map_err(KeyError::Invalid)?;
        let listed = self.put(entry)?;
        Ok((listed, key))
    }

    /// Revokes a key. Returns its principal, whose open requests the caller cuts.
    ///
    /// # Errors
    /// No key has this id, the file declares it, or it cannot be stored.
    pub fn revoke(&self, id: &str) -> Result<PrincipalId, KeyError> {
        self.check_declared(id)?;
        let _one_at_a_time = self.changing.lock();
        let (before, _) = self.in_force(id)?;
        let revision = before.revision | REVOKED;
        let document = KeyDocument { revision, revoked: Some(Timestamp::now()), ..before };
        let entry = Entry::of(document, "", None, &[]).map_err(KeyError::Invalid)?;
        self.put(entry)?;
        Ok(PrincipalId::new(format!("key:{id}")))
    }

    /// Returns at most `limit` keys that `fit`: the declared ones, then those of the API that are in force, by id; and whether there
    /// are more. `after` is the id of the last one on the page before.
    pub fn page(
        &self,
        after: Option<&str>,
        limit: usize,
        fit: impl Fn(&ListedKey) -> bool,
    ) -> (Vec<ListedKey>, bool) {
        let declared = self.declared.load();
        let place = |id: &str| declared.principals.iter().position(|(principal, _)| principal.id == id);
        let (skipped, begin) = match after.map(|id| (id, place(id))) {
            None => (0, Bound::Unbounded),
            Some((_, Some(place))) => (place + 1, Bound::Unbounded),
            Some((id, None)) => (declared.principals.len(), Bound::Excluded(id)),
        };
        let first = declared.principals.iter().skip(skipped).map(declared_key);
        let entries = self.entries.lock();
        let made = entries.range::<str, _>((begin, Bound::Unbounded)).map(|(_, entry)| entry);
        let made = made.filter(|entry| entry.document.revoked.is_none()).map(listed_entry);
        let mut page: Vec<ListedKey> = first.chain(made).filter(|key| fit(key)).take(limit + 1).collect();
        let is_cut = page.len() > limit;
        page.truncate(limit);
        (page, is_cut)
    }

    /// Returns the key with this id, declared or of the API; `None` if none is in force.
    pub fn find(&self, id: &str) -> Option<ListedKey> {
        let declared = self.declared.load();
        let declared = declared.principals.iter().find(|(principal, _)| principal.id == id);
        declared.map(declared_key).or_else(|| {
            let entries = self.entries.lock();
            entries.get(id).filter(|entry| entry.document.revoked.is_none()).map(listed_entry)
        })
    }

    fn check_declared(&self, id: &str) -> Result<(), KeyError> {
        let is_declared = self.declared.load().principals.iter().any(|(principal, _)| principal.id == id);
        if is_declared { Err(KeyError::ManagedByFile(id.to_owned())) } else { Ok(()) }
    }

    /// Returns the document of a key in force, and what its keys are in force with.
    fn in_force(&self, id: &str) -> Result<(KeyDocument, Holders), KeyError> {
        let entries = self.entries.lock();
        let entry = entries.get(id).filter(|entry| entry.document.revoked.is_none());
        let entry = entry.ok_or_else(|| KeyError::Unknown(id.to_owned()))?;
        Ok((entry.document.clone(), entry.holders.clone()))
    }

    /// Stores an entry, then puts it in force in place of the one with its id, whose keys are revoked unless it has them.
    fn put(&self, entry: Entry) -> Result<ListedKey, KeyError> {
        let SharedDocument { id, revision, text } = entry.shared();
        self.storage.put(&id, revision, &text).map_err(KeyError::Storage)?;
        let listed = listed_entry(&entry);
        let mut entries = self.entries.lock();
        // Another process may have told a newer one meanwhile.
        if let Some(known) = entries.get(&id).filter(|known| known.ranks_above(revision, &text)) {
            let are_revoked = known.document.revoked.is_some() && entry.document.revoked.is_some();
            return if are_revoked { Ok(listed) } else { Err(KeyError::Changed(id)) };
        }
        let gone = replace(&mut entries, entry);
        self.publish(&entries);
        gone.iter().for_each(|holder| holder.revoke());
        Ok(listed)
    }

    /// Returns the document of a key; `None` if no key has or had this id.
    pub fn document(&self, id: &str) -> Option<SharedDocument> {
        self.entries.lock().get(id).map(Entry::shared)
    }

    /// Returns all documents, also those of revoked keys, but those that are no longer needed.
    pub fn documents(&self) -> Vec<SharedDocument> {
        let entries = self.entries.lock();
        entries.values().filter(|entry| !is_over(&entry.document)).map(Entry::shared).collect()
    }

    /// Returns whether a document is a tombstone that is no longer needed.
    pub fn is_over(document: &str) -> bool {
        serde_json::from_str(document).is_ok_and(|document| is_over(&document))
    }

    /// Takes documents of other processes, and revokes keys that are not in them any more. Returns those that were new here, for
    /// [`ClientKeys::store`]; one that cannot be read is logged.
    pub fn learn(&self, documents: &[String]) -> Vec<SharedDocument> {
        let prefix = self.declared.load().prefix.clone();
        let (mut learned, mut gone) = (Vec::new(), Vec::new());
        let mut entries = self.entries.lock();
        for text in documents {
            let read = serde_json::from_str::<KeyDocument>(text).map_err(|fault| fault.to_string());
            let built = read.and_then(|document| {
                let known = entries.get(&document.principal.id);
                let is_old = |known: &Entry| {
                    document.revision == known.document.revision && *text == known.text
                        || known.ranks_above(document.revision, text)
                };
                if known.map_or(is_over(&document), is_old) {
                    return Ok(None);
                }
                let old = known.map(|entry| entry.holders.clone()).unwrap_or_default();
                // Backends of other instances may have other names.
                Entry::of(document, &prefix, None, &old).map(Some)
            });
            match built {
                Ok(Some(entry)) => {
                    // As it was written: all instances compare the same text.
                    let entry = Entry { text: text.clone(), ..entry };
                    learned.push(entry.shared());
                    gone.extend(replace(&mut entries, entry));
                }
                Ok(None) => {}
                Err(fault) => {
                    tracing::warn!(fault, "a key of another instance cannot be read and is not in force here")
                }
            }
        }
        if !learned.is_empty() {
            self.publish(&entries);
        }
        gone.iter().for_each(|holder| holder.revoke());
        learned
    }

    /// Stores documents that were learned. Blocks.
    ///
    /// # Errors
    /// One cannot be stored.
    pub fn store(&self, documents: &[SharedDocument]) -> Result<(), String> {
        documents
            .iter()
            .try_for_each(|SharedDocument { id, revision, text }| self.storage.put(id, *revision, text))
    }

    fn publish(&self, entries: &BTreeMap<String, Entry>) {
        let holders: HashMap<_, _> =
            entries.values().flat_map(|entry| entry.holders.iter().cloned()).collect();
        let tombstones = entries.values().filter(|entry| entry.document.revoked.is_some());
        let digests = tombstones.flat_map(|Entry { document, .. }| {
            let before = document.previous.as_ref().map(|(digest, _)| digest);
            std::iter::once(&document.principal.key_sha256).chain(before)
        });
        let digests = digests.chain(entries.values().flat_map(|entry| &entry.document.replaced));
        let revoked = digests.filter_map(|digest| KeyDigest::parse(digest));
        self.table.store(Arc::new(MadeKeys::new(holders, revoked.collect())));
    }
}

/// Checks that there is room for one more key; forgets revoked ones that no instance needs any more.
fn check_room(entries: &mut BTreeMap<String, Entry>) -> Result<(), KeyError> {
    // Counting takes long with many keys, and is not needed with few.
    if entries.len() < MAX_KEYS {
        return Ok(());
    }
    entries.retain(|_, entry| !is_over(&entry.document));
    let in_force = entries.values().filter(|entry| entry.document.revoked.is_none()).count();
    if in_force >= MAX_KEYS {
        return Err(KeyError::Invalid(format!("there are {MAX_KEYS} keys, which is the most")));
    }
    if entries.len() >= MAX_ENTRIES {
        let detail =
            "too many keys were revoked in the last 30 days; rotate keys, rather than to make new ones";
        return Err(KeyError::Invalid(detail.to_owned()));
    }
    Ok(())
}

fn generated(prefix: &str) -> Result<Secret, KeyError> {
    key_text::generate(prefix).map_err(|fault| KeyError::Storage(fault.to_string()))
}

/// Checks a key of another gateway.
fn checked(key: Secret) -> Result<Secret, KeyError> {
    let text = key.reveal();
    if text.len() < key_text::MIN_LENGTH || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let least = key_text::MIN_LENGTH;
        return Err(KeyError::Invalid(format!(
            "an imported key needs at least {least} characters without spaces; with fewer it could be guessed"
        )));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::super::auth::Made;
    use super::*;
    use crate::settings::fault::Faults;

    impl ClientKeys {
        fn list(&self) -> Vec<ListedKey> {
            self.page(None, MAX_ENTRIES, |_| true).0
        }
    }

    #[test]
    fn keys_are_listed_in_pages() {
        let (keys, _) = Memory::default().keys();
        for id in ["a", "b", "c", "d"] {
            keys.create(principal(id), None).unwrap();
        }
        keys.revoke("b").unwrap();
        let page = |after: Option<&str>| {
            let (page, is_cut) = keys.page(after, 2, |_| true);
            (page.into_iter().map(|key| key.principal.id).collect::<Vec<_>>(), is_cut)
        };
        assert_eq!(page(None), (vec!["a".to_owned(), "c".to_owned()], true));
        assert_eq!(page(Some("c")), (vec!["d".to_owned()], false));
        assert_eq!(
            page(Some("b")),
            (vec!["c".to_owned(), "d".to_owned()], false),
            "it was revoked meanwhile"
        );
    }

    /// A disk that does not answer until it is told to.
    struct Slow(std::sync::mpsc::Sender<()>, Mutex<std::sync::mpsc::Receiver<()>>);

    impl KeyStorage for Slow {
        fn put(&self, _: &str, _: u64, _: &str) -> Result<(), String> {
            self.0.send(()).unwrap();
            let _ = self.1.lock().recv();
            Ok(())
        }
    }

    #[test]
    fn what_other_processes_say_of_keys_does_not_wait_for_the_disk() {
        use std::sync::mpsc::channel;
        let (begin, begun) = channel();
        let (end, ended) = channel();
        let keys = ClientKeys::new(Vec::new(), Box::new(Slow(begin, Mutex::new(ended))));
        let elsewhere = Memory::default().keys().0;
        for id in ["ada", "bob"] {
            elsewhere.create(principal(id), None).unwrap();
        }
        elsewhere.revoke("ada").unwrap();
        let told: Vec<String> = elsewhere.documents().into_iter().map(|document| document.text).collect();
        std::thread::scope(|scope| {
            let making = scope.spawn(|| keys.create(principal("ada"), None));
            begun.recv().unwrap();
            // In a thread, so that a failure does not hang.
            let (learned, learns) = channel();
            let (keys, told) = (&keys, &told);
            scope.spawn(move || learned.send(keys.learn(told).len()).unwrap());
            let answer = learns.recv_timeout(Duration::from_secs(5));
            drop(end);
            assert_eq!(answer, Ok(2));
            // The other instance has revoked a key of this id meanwhile, which ranks above one that was just made.
            assert!(matches!(making.join().unwrap(), Err(KeyError::Changed(id)) if id == "ada"));
        });
        assert_eq!(keys.list().iter().map(|key| key.principal.id.as_str()).collect::<Vec<_>>(), ["bob"]);
    }

    /// Keeps documents in memory; fails while told so.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<(BTreeMap<String, String>, bool)>>);

    impl KeyStorage for Memory {
        fn put(&self, id: &str, _: u64, document: &str) -> Result<(), String> {
            let mut held = self.0.lock();
            if held.1 {
                return Err("the disk is full".to_owned());
            }
            held.0.insert(id.to_owned(), document.to_owned());
            Ok(())
        }
    }

    impl Memory {
        fn keys(&self) -> (ClientKeys, Arc<Auth>) {
            let keys = ClientKeys::new(self.0.lock().0.values().cloned().collect(), Box::new(self.clone()));
            let mut faults = Faults::default();
            let written: super::super::AuthConfig = serde_yaml::from_str("proxy: required").unwrap();
            let made = Made { keys: Arc::clone(keys.table()), ..Made::default() };
            let auth = written.compile(&[], &mut faults).unwrap().with_made(&made, None);
            keys.declare(&auth, vec!["main".to_owned()]);
            (keys, auth)
        }
    }

    fn principal(id: &str) -> PrincipalConfig {
        PrincipalConfig { id: id.to_owned(), ..PrincipalConfig::default() }
    }

    fn shows(auth: &Auth, key: &Secret) -> Result<String, super::super::KeyFault> {
        let origin = super::super::Origin { names: &[], address: std::net::Ipv4Addr::LOCALHOST.into() };
        let headers =
            std::iter::once((http::HeaderName::from_static("x-api-key"), key.reveal().parse().unwrap()));
        let shown = auth.shown(&headers.collect(), None, &origin)?.expect("a key");
        shown.check().map(|()| shown.holder().id().to_string())
    }

    #[test]
    fn keys_survive_a_restart_and_revoked_ones_stay_revoked() {
        use super::super::KeyFault;
        let memory = Memory::default();
        let (keys, auth) = memory.keys();
        let (listed, first) = keys.create(principal("ci"), None).unwrap();
        assert_eq!(listed.shown.as_deref(), first.reveal().get(..8));
        assert_eq!(shows(&auth, &first).unwrap(), "key:ci");
        assert!(matches!(keys.create(principal("ci"), None), Err(KeyError::Exists(_))));
        let (_, second) = keys.rotate("ci", Duration::from_secs(60)).unwrap();
        let (_, third) = keys.rotate("ci", Duration::from_secs(60)).unwrap();
        let check = |auth: &Auth| {
            assert_eq!(shows(auth, &first), Err(KeyFault::Unknown), "two rotations ago");
            assert_eq!(
                (shows(auth, &second).unwrap(), shows(auth, &third).unwrap()),
                ("key:ci".into(), "key:ci".into())
            );
        };
        check(&auth);
        check(&memory.keys().1);
        assert!(!format!("{:?}", memory.0.lock().0).contains(third.reveal()), "only digests are stored");
        assert_eq!(keys.revoke("ci").unwrap().as_str(), "key:ci");
        for auth in [&auth, &memory.keys().1] {
            assert_eq!(
                (shows(auth, &third), shows(auth, &second)),
                (Err(KeyFault::Revoked), Err(KeyFault::Revoked))
            );
        }
        assert!(keys.list().is_empty() && matches!(keys.revoke("ci"), Err(KeyError::Unknown(_))));
        let (_, again) = keys.create(principal("ci"), None).unwrap();
        assert_eq!(shows(&memory.keys().1, &again).unwrap(), "key:ci");
    }

    #[test]
    fn instances_agree_whatever_the_order_in_which_they_learn_and_a_revocation_wins() {
        use super::super::KeyFault;
        let ((one, _), (two, auth)) = (Memory::default().keys(), Memory::default().keys());
        let texts = |keys: &ClientKeys| -> Vec<String> {
            keys.documents().into_iter().map(|document| document.text).collect()
        };
        let (_, first) = one.create(principal("ci"), None).unwrap();
        assert_eq!(two.learn(&texts(&one)).len(), 1);
        assert!(two.learn(&texts(&one)).is_empty(), "nothing is new");
        one.revoke("ci").unwrap();
        let (_, rotated) = two.rotate("ci", Duration::from_secs(60)).unwrap();
        two.rotate("ci", Duration::from_secs(60)).unwrap();
        let before = texts(&two);
        assert!(one.learn(&before).is_empty(), "a revocation outlasts rotations");
        assert_eq!(two.learn(&texts(&one)).len(), 1);
        assert_eq!(texts(&one), texts(&two));
        assert_eq!(shows(&auth, &first), Err(KeyFault::Revoked));
        assert!(shows(&auth, &rotated).is_err());
        two.create(principal("ci"), None).unwrap();
        assert_eq!((one.learn(&texts(&two)).len(), one.list().len()), (1, 1), "a new key is newer");
        // Both make one with the same name while they do not hear of each other.
        one.create(principal("both"), None).unwrap();
        two.create(principal("both"), None).unwrap();
        let (of_one, of_two) = (texts(&one), texts(&two));
        one.learn(&of_two);
        two.learn(&of_one);
        assert_eq!(texts(&one), texts(&two));
        assert!(two.learn(&["{}".to_owned(), "junk".to_owned()]).is_empty());
    }

    #[test]
    fn a_key_of_another_gateway_stays_known_once_it_is_rotated_or_its_id_given_again() {
        use super::super::KeyFault;
        let memory = Memory::default();
        let (keys, auth) = memory.keys();
        let import =
            |keys: &ClientKeys, text: &str| keys.create(principal("imp"), Some(Secret::new(text))).map(drop);
        let [first, second, third] = ['1', '2', '3'].map(|digit| digit.to_string().repeat(40));
        import(&keys, &first).unwrap();
        let are_refused = |auth: &Auth, texts: &[&String]| {
            for text in texts {
                assert_eq!(shows(auth, &Secret::new(text.as_str())), Err(KeyFault::Revoked));
            }
        };
        keys.rotate("imp", Duration::ZERO).unwrap();
        are_refused(&auth, &[&first]);
        keys.revoke("imp").unwrap();
        are_refused(&auth, &[&first]);
        import(&keys, &second).unwrap();
        keys.rotate("imp", Duration::from_secs(60)).unwrap();
        assert!(shows(&auth, &Secret::new(second.as_str())).is_ok(), "until the grace is over");
        keys.rotate("imp", Duration::ZERO).unwrap();
        keys.revoke("imp").unwrap();
        import(&keys, &third).unwrap();
        are_refused(&auth, &[&first, &second]);
        are_refused(&memory.keys().1, &[&first, &second]);
        let other = Memory::default().keys();
        let texts: Vec<_> = keys.documents().into_iter().map(|document| document.text).collect();
        other.0.learn(&texts);
        are_refused(&other.1, &[&first, &second]);
        assert!(import(&keys, &first).is_err(), "nobody gets a key that was replaced");
        keys.rotate("imp", Duration::ZERO).unwrap();
        keys.rotate("imp", Duration::ZERO).unwrap();
        assert_eq!(
            keys.entries.lock()["imp"].document.replaced.len(),
            3,
            "keys of the own form are not listed"
        );
    }

    #[test]
    fn what_cannot_be_stored_changes_nothing() {
        let memory = Memory::default();
        let (keys, auth) = memory.keys();
        let (_, key) = keys.create(principal("ci"), None).unwrap();
        memory.0.lock().1 = true;
        assert!(matches!(keys.create(principal("other"), None), Err(KeyError::Storage(_))));
        assert!(matches!(keys.revoke("ci"), Err(KeyError::Storage(_))));
        assert!(matches!(keys.rotate("ci", Duration::ZERO), Err(KeyError::Storage(_))));
        assert_eq!(shows(&auth, &key).unwrap(), "key:ci");
        assert_eq!(keys.list().len(), 1);
    }

    #[test]
    fn faults_name_the_member_and_no_key() {
        let (keys, _) = Memory::default().keys();
        let fault = |principal, key: Option<&str>| {
            keys.create(principal, key.map(Secret::new)).unwrap_err().to_string()
        };
        assert!(fault(principal("a b"), None).contains("id: 'a b' is not a name"));
        let other = PrincipalConfig { backends: vec!["else".to_owned()], ..principal("ci") };
        assert!(fault(other, None).contains("no backend has the name 'else'"));
        assert!(fault(principal("ci"), Some("short-key")).contains("at least 32 characters"));
        let key = "k".repeat(32);
        assert!(keys.create(principal("ci"), Some(Secret::new(&*key))).is_ok());
        assert!(fault(principal("two"), Some(&key)).contains("another principal has this key"));
    }

    #[test]
    fn an_id_stays_that_of_its_tenant_and_revoked_keys_take_no_room() {
        let memory = Memory::default();
        let (keys, _) = memory.keys();
        let of = |id: &str, tenant: Option<&str>| PrincipalConfig {
            tenant: tenant.map(str::to_owned),
            ..principal(id)
        };
        keys.create(of("ci", Some("acme")), None).unwrap();
        keys.revoke("ci").unwrap();
        for tenant in [Some("other"), None] {
            let made = memory.keys().0.create(of("ci", tenant), None);
            assert!(matches!(made, Err(KeyError::OfAnotherTenant(_))), "{tenant:?}");
        }
        assert!(keys.create(of("ci", Some("acme")), None).is_ok());

        let mut entries = BTreeMap::new();
        let entry = |id: usize, revoked: Option<Timestamp>| {
            let principal = PrincipalConfig {
                key_sha256: KeyDigest::of(&id.to_be_bytes()).to_string(),
                ..principal(&id.to_string())
            };
            let document = KeyDocument {
                principal,
                shown: String::new(),
                revision: 1,
                created: Timestamp::now(),
                previous: None,
                replaced: Vec::new(),
                revoked,
            };
            // Without holders, so that the test is fast.
            Entry { document, text: String::new(), holders: Vec::new() }
        };
        let mut fill = |from: usize, to: usize, revoked: Option<Timestamp>| {
            entries.extend((from..to).map(|id| (id.to_string(), entry(id, revoked))));
            check_room(&mut entries).map_err(|fault| fault.to_string())
        };
        assert_eq!(fill(0, MAX_KEYS, Some(Timestamp::now())), Ok(()));
        assert_eq!(fill(MAX_KEYS, MAX_ENTRIES - 1, None), Ok(()));
        assert!(fill(MAX_ENTRIES - 1, MAX_ENTRIES, Some(Timestamp::now())).unwrap_err().contains("revoked"));
        assert_eq!(fill(0, MAX_KEYS, Some(Timestamp::UNIX_EPOCH)), Ok(()), "old ones are forgotten");
        assert!(fill(0, MAX_KEYS, None).unwrap_err().contains("100000 keys"));
    }
}
