//! The accounts of people and what they have begun: which of them is in force, and whose an access token is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;

use super::login::{Login, LoginDocument};
use super::settings::PeopleSettings;
use super::storage::{PeopleError, PeopleStorage};
use super::user::UserDocument;
use crate::identity::jwt::own::{TokenSigner, is_own};
use crate::identity::key_fault::KeyFault;
use crate::identity::key_holder::KeyHolder;
use crate::identity::roles::{Grants, Role};
use crate::ids::{PrincipalId, SharedDocument};

/// The people who log in here.
pub struct People {
    pub(super) written: ArcSwap<Written>,
    /// `None` while people do not log in, or nothing can be signed.
    pub(super) signer: ArcSwapOption<TokenSigner>,
    tables: Mutex<Tables>,
    /// Held by what changes an account or a log-in. `tables` is not locked while a document is written: a slow disk must not hold
    /// up requests.
    turn: Mutex<()>,
    storage: Option<Box<dyn PeopleStorage>>,
    generation: AtomicU64,
}

/// What the configuration says.
#[derive(Default)]
pub(super) struct Written {
    pub(super) settings: PeopleSettings,
    /// How keys and refresh tokens begin.
    pub(super) prefix: String,
    pub(super) backends: Vec<String>,
}

/// What is known of people.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) users: BTreeMap<String, (UserDocument, String)>,
    pub(super) logins: HashMap<String, Login>,
    /// The names of an account's log-ins, open or not: requests wait for this table, so nothing looks through all of them.
    by_user: HashMap<String, HashSet<String>>,
}

/// The document of an account or of a log-in.
#[derive(Deserialize)]
#[serde(untagged)]
enum PersonDocument {
    User(Box<UserDocument>),
    Login(LoginDocument),
}

/// Whose an access token is.
pub struct Person {
    /// What the token permits.
    pub(in crate::identity) holder: Arc<KeyHolder>,
    /// The role of the account, and its tenant.
    pub(in crate::identity) role: Option<Role>,
    /// The name of the account.
    pub name: String,
    /// The log-in that the token belongs to.
    pub login: String,
}

impl Person {
    /// Returns these grants and that of the account.
    pub(in crate::identity) fn grants(&self, others: Grants) -> Grants {
        let membership = self.holder.membership();
        others.and(self.role, membership.and_then(|member| member.tenant.as_deref()))
    }

    /// Returns the principal.
    pub fn principal(&self) -> &PrincipalId {
        self.holder.id()
    }
}

impl Default for People {
    fn default() -> Self {
        Self {
            written: ArcSwap::default(),
            signer: ArcSwapOption::empty(),
            tables: Mutex::default(),
            turn: Mutex::default(),
            storage: None,
            generation: AtomicU64::new(1),
        }
    }
}

impl std::fmt::Debug for People {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("People").finish_non_exhaustive()
    }
}

impl People {
    /// Reads the stored documents. What cannot be read is logged and is not in force.
    pub fn new(storage: Box<dyn PeopleStorage>) -> Self {
        let stored = storage.all().unwrap_or_else(|fault| {
            tracing::error!(fault, "state.db cannot be read: nobody can log in");
            Vec::new()
        });
        let people = Self { storage: Some(storage), ..Self::default() };
        people.learn(&stored);
        people
    }

    /// Applies the configuration. If nothing can be signed, that is logged, and nobody can log in.
    pub fn configure(&self, settings: PeopleSettings, prefix: &str, backends: Vec<String>) {
        let signer = settings.login.then(|| match &settings.secret {
            Some(secret) => TokenSigner::new(secret.reveal().as_bytes()),
            None => self.storage()?.secret().and_then(|secret| TokenSigner::new(secret.reveal().as_bytes())),
        });
        let signer = signer.transpose().unwrap_or_else(|fault| {
            tracing::error!(fault, "there is no secret for access tokens: nobody can log in (data_dir)");
            None
        });
        let written = Written { settings, prefix: prefix.to_owned(), backends };
        let before = self.written.swap(Arc::new(written));
        self.signer.store(signer.map(Arc::new));
        // What a token has opened ends with the secret that signed it.
        if !self.is_on() || self.written.load().settings.secret != before.settings.secret {
            self.tables.lock().logins.values_mut().for_each(Login::revoke);
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Returns whether people log in.
    pub fn is_on(&self) -> bool {
        self.signer.load().is_some()
    }

    /// Returns a number that changes when an account does.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns whose an access token is; `None` for any other credential.
    ///
    /// # Errors
    /// It was not signed here, has expired, or what it belongs to has ended.
    pub fn find(&self, text: &[u8]) -> Option<Result<Person, KeyFault>> {
        if !is_own(text) {
            return None;
        }
        let signer = self.signer.load();
        let Some(signer) = signer.as_ref() else { return Some(Err(KeyFault::Revoked)) };
        let claims = match signer.verify(text) {
            Ok(claims) => claims,
            Err(fault) => return Some(Err(fault.into())),
        };
        let mut tables = self.tables.lock();
        Some(tables.person(&claims.sub, &claims.sid, claims.expires()).ok_or(KeyFault::Revoked))
    }

    /// Waits until no other change is under way.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock()
    }

    pub(super) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock()
    }

    /// Returns the storage.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn storage(&self) -> Result<&dyn PeopleStorage, String> {
        self.storage.as_deref().ok_or_else(|| "there is no state.db".to_owned())
    }

    /// Stores an account, then puts it in force; what its holder has opened ends, since it may do something else now. Blocks.
    pub(super) fn put_user(&self, document: UserDocument) -> Result<SharedDocument, PeopleError> {
        let shared = document.shared().map_err(PeopleError::Storage)?;
        self.storage().and_then(|storage| storage.put(&shared)).map_err(PeopleError::Storage)?;
        let mut tables = self.tables.lock();
        // Another process may have told of a newer one meanwhile.
        if tables.is_newer_user(&document, &shared.text) {
            tables.set_user(document, shared.text.clone());
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(shared)
    }

    /// Stores a log-in, then puts it in force. Blocks.
    pub(super) fn put_login(&self, document: LoginDocument) -> Result<SharedDocument, PeopleError> {
        let shared = document.shared().map_err(PeopleError::Storage)?;
        self.storage().and_then(|storage| storage.put(&shared)).map_err(PeopleError::Storage)?;
        let mut tables = self.tables.lock();
        if tables.is_newer_login(&document, &shared.text) {
            tables.set_login(document, shared.text.clone());
        }
        Ok(shared)
    }

    /// Returns all documents but those that are no longer needed.
    pub fn documents(&self) -> Vec<SharedDocument> {
        let (tables, now) = (self.tables.lock(), Timestamp::now());
        let users = tables.users.values().filter_map(|(document, text)| {
            Some(SharedDocument { text: text.clone(), ..document.shared().ok()? })
        });
        let logins = tables.logins.values().filter(|login| !login.document.is_over(now));
        let logins = logins.filter_map(|Login { document, text, .. }| {
            Some(SharedDocument { text: text.clone(), ..document.shared().ok()? })
        });
        users.chain(logins).collect()
    }

    /// Returns whether a text is a document of a person.
    pub fn is_document(text: &str) -> bool {
        serde_json::from_str::<PersonDocument>(text).is_ok()
    }

    /// Returns whether a document is that of a log-in that is over.
    pub fn is_over(text: &str) -> bool {
        let read = serde_json::from_str::<PersonDocument>(text);
        matches!(read, Ok(PersonDocument::Login(login)) if login.is_over(Timestamp::now()))
    }

    /// Takes documents of other processes, or of the file. Returns those that were new here, for [`People::store`].
    pub fn learn(&self, documents: &[String]) -> Vec<SharedDocument> {
        let (mut learned, now) = (Vec::new(), Timestamp::now());
        let mut tables = self.tables.lock();
        for text in documents {
            let shared = match serde_json::from_str::<PersonDocument>(text) {
                Ok(PersonDocument::User(document)) if tables.is_newer_user(&document, text) => {
                    let shared = document.shared();
                    tables.set_user(*document, text.clone());
                    shared
                }
                Ok(PersonDocument::Login(document))
                    if !document.is_over(now) && tables.is_newer_login(&document, text) =>
                {
                    let shared = document.shared();
                    tables.set_login(document, text.clone());
                    shared
                }
                Ok(_) => continue,
                Err(fault) => Err(fault.to_string()),
            };
            match shared {
                // As it was written: all instances compare the same text.
                Ok(shared) => learned.push(SharedDocument { text: text.clone(), ..shared }),
                Err(fault) => tracing::warn!(fault, "an account cannot be read and is not in force here"),
            }
        }
        if !learned.is_empty() {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        learned
    }

    /// Stores documents that were learned. Blocks.
    ///
    /// # Errors
    /// One cannot be stored.
    pub fn store(&self, documents: &[SharedDocument]) -> Result<(), String> {
        let storage = self.storage()?;
        documents.iter().try_for_each(|document| storage.put(document))
    }

    /// Takes what another program has written to the file. Blocks.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn learn_stored(&self) -> Result<Vec<SharedDocument>, String> {
        Ok(self.learn(&self.storage()?.all()?))
    }

    /// Forgets log-ins that are over. Blocks.
    ///
    /// # Errors
    /// They cannot be removed from the file.
    pub fn sweep(&self) -> Result<(), String> {
        let (mut over, now) = (Vec::new(), Timestamp::now());
        let mut tables = self.tables.lock();
        let Tables { logins, by_user, .. } = &mut *tables;
        logins.retain(|name, login| {
            let is_over = login.document.is_over(now);
            if is_over {
                login.revoke();
                over.extend(login.document.shared().map(|shared| shared.id));
                if let Some(own) = by_user.get_mut(&login.document.user) {
                    own.remove(name);
                }
            }
            !is_over
        });
        by_user.retain(|_, own| !own.is_empty());
        drop(tables);
        if over.is_empty() { Ok(()) } else { self.storage()?.remove(&over) }
    }
}

impl Tables {
    /// Returns whose a verified token is; `None` if its log-in or account has ended.
    fn person(&mut self, name: &str, login: &str, expires: Timestamp) -> Option<Person> {
        let now = Timestamp::now();
        let (account, _) = self.users.get(name).filter(|(account, _)| account.disabled.is_none())?;
        let family = self.logins.get_mut(login)?;
        let is_open = family.document.user == name
            && family.document.epoch == account.epoch
            && family.document.is_open(now);
        if !is_open {
            return None;
        }
        family.holders.retain(|(expires, _)| *expires > now);
        let known =
            family.holders.iter().find(|(at, _)| *at == expires).map(|(_, holder)| Arc::clone(holder));
        let holder = match known {
            Some(holder) => holder,
            None => {
                let holder = Arc::new(account.user.holder(Some(expires), None).ok()?);
                family.holders.push((expires, Arc::clone(&holder)));
                holder
            }
        };
        let (role, login) = (account.user.role, login.to_owned());
        Some(Person { holder, role, name: name.to_owned(), login })
    }

    fn is_newer_user(&self, document: &UserDocument, text: &str) -> bool {
        let known = self.users.get(&document.user.name);
        known.is_none_or(|(known, written)| (document.revision, text) > (known.revision, written))
    }

    fn is_newer_login(&self, document: &LoginDocument, text: &str) -> bool {
        let known = self.logins.get(&document.login);
        known.is_none_or(|known| (document.revision, text) > (known.document.revision, &known.text))
    }

    /// Replaces an account; its tokens are looked up again.
    fn set_user(&mut self, document: UserDocument, text: String) {
        let name = document.user.name.clone();
        for own in self.by_user.get(&name).into_iter().flatten() {
            if let Some(login) = self.logins.get_mut(own) {
                login.revoke();
            }
        }
        self.users.insert(name, (document, text));
    }

    /// Replaces a log-in; its access tokens go on unless it has ended.
    fn set_login(&mut self, document: LoginDocument, text: String) {
        let is_open = document.is_open(Timestamp::now());
        let before = self.logins.remove(&document.login);
        let mut login =
            Login { holders: before.map(|before| before.holders).unwrap_or_default(), document, text };
        if !is_open {
            login.revoke();
        }
        let (user, name) = (login.document.user.clone(), login.document.login.clone());
        self.by_user.entry(user).or_default().insert(name.clone());
        self.logins.insert(name, login);
    }

    /// Returns the log-ins of an account, also those that have ended.
    pub(super) fn own_logins(&self, user: &str) -> impl Iterator<Item = &LoginDocument> {
        let names = self.by_user.get(user).into_iter().flatten();
        names.filter_map(|name| Some(&self.logins.get(name)?.document))
    }
}
