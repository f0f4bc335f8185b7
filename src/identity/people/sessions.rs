//! Logs people in and out, and renews their tokens.

use std::time::Duration;

use jiff::Timestamp;

use super::directory::{People, Tables};
use super::login::{LoginDocument, family};
use super::storage::PeopleError;
use super::user::UserDocument;
use crate::ids::SharedDocument;
use crate::settings::secret::Secret;

/// Log-ins of one account that are open at the same time; one more ends the one that expires first.
const MOST: usize = 32;
/// Log-ins of one account that are open or have ended and are still known, for a day: each is a document on every instance.
const MOST_KNOWN: usize = 256;

/// What a person gets who has logged in.
pub struct Tokens {
    /// The access token.
    pub access: Secret,
    /// How long it is valid.
    pub valid: Duration,
    /// The refresh token.
    pub refresh: Secret,
    /// How long it is valid.
    pub refresh_valid: Duration,
    /// The name of the person.
    pub name: String,
    /// What was changed, for the other processes.
    pub changed: Vec<SharedDocument>,
}

/// What a log-in is held against.
pub struct Challenge {
    /// The name as accounts have it.
    pub name: String,
    /// The hash of the password; `None` if nobody can log in with this name.
    pub hash: Option<String>,
}

impl People {
    /// Returns what the password of a name is held against.
    pub fn challenge(&self, name: &str) -> Challenge {
        let name = name.trim().to_lowercase();
        let tables = self.tables();
        let account = tables.users.get(&name).filter(|(account, _)| account.disabled.is_none());
        let hash = account.and_then(|(account, _)| account.password.clone());
        Challenge { name, hash }
    }

    /// Returns whether there is an account with this name.
    pub fn is_known(&self, name: &str) -> bool {
        self.tables().users.contains_key(name)
    }

    /// Logs a person in whose password was found right. Blocks.
    ///
    /// # Errors
    /// The account was changed meanwhile, or has logged in too often, or the log-in cannot be stored.
    pub fn log_in(&self, challenge: &Challenge) -> Result<Tokens, PeopleError> {
        let (_turn, now) = (self.turn(), Timestamp::now());
        let (epoch, first) = {
            let tables = self.tables();
            let account = tables.proven(challenge).ok_or(PeopleError::Wrong)?;
            tables.check_room(&challenge.name, now)?;
            (account.epoch, tables.one_too_many(&challenge.name, now))
        };
        let (login, refresh) = LoginDocument::begin(&challenge.name, epoch, &self.written.load().prefix, now)
            .map_err(|fault| PeopleError::Storage(fault.to_string()))?;
        let mut tokens = self.tokens(&login, refresh, now)?;
        let documents = first.map(|first| first.ended()).into_iter().chain([login]);
        tokens.changed = documents.map(|document| self.put_login(document)).collect::<Result<_, _>>()?;
        Ok(tokens)
    }

    /// Returns new tokens for a refresh token, which is used up. One that was used before ends its log-in. Blocks.
    ///
    /// # Errors
    /// It is not valid; what was changed by that.
    pub fn refresh(&self, token: &Secret) -> Result<Tokens, (PeopleError, Vec<SharedDocument>)> {
        let fault = |fault| (fault, Vec::new());
        let (_turn, written, now) = (self.turn(), self.written.load(), Timestamp::now());
        let Some(name) = family(token.reveal(), &written.prefix) else {
            return Err(fault(PeopleError::Refresh));
        };
        let known = self.tables().open_login(&name, now).cloned();
        let Some(login) = known else { return Err(fault(PeopleError::Refresh)) };
        if !login.is_newest(token.reveal()) {
            let changed = self.put_login(login.ended()).map_err(fault)?;
            return Err((PeopleError::Refresh, vec![changed]));
        }
        let next = login.next(token.reveal(), &written.prefix, now);
        let (next, refresh) = next.map_err(|why| fault(PeopleError::Storage(why.to_string())))?;
        let mut tokens = self.tokens(&next, refresh, now).map_err(fault)?;
        tokens.changed.push(self.put_login(next).map_err(fault)?);
        Ok(tokens)
    }

    /// Returns whose refresh token this is; `None` if its log-in has ended.
    pub fn owner(&self, token: &Secret) -> Option<String> {
        let written = self.written.load();
        let name = family(token.reveal(), &written.prefix)?;
        self.tables().open_login(&name, Timestamp::now()).map(|login| login.user.clone())
    }

    /// Ends the log-in of a refresh token, or that with this name. Returns what was changed; nothing if there is no such
    /// log-in. Blocks.
    ///
    /// # Errors
    /// The end cannot be stored; the log-in goes on.
    pub fn log_out(
        &self,
        token: Option<&Secret>,
        login: Option<&str>,
    ) -> Result<Option<SharedDocument>, PeopleError> {
        let (_turn, written) = (self.turn(), self.written.load());
        let family = token.and_then(|token| family(token.reveal(), &written.prefix));
        let open = family
            .as_deref()
            .or(login)
            .and_then(|name| self.tables().open_login(name, Timestamp::now()).cloned());
        open.map(|open| self.put_login(open.ended())).transpose()
    }

    fn tokens(&self, login: &LoginDocument, refresh: Secret, now: Timestamp) -> Result<Tokens, PeopleError> {
        let signer = self.signer.load_full().ok_or(PeopleError::Off)?;
        let valid = self.written.load().settings.ttl;
        let expires = now.checked_add(valid).map_err(|fault| PeopleError::Storage(fault.to_string()))?;
        let access = signer.sign(&login.user, &login.login, now, expires).map_err(PeopleError::Storage)?;
        Ok(Tokens {
            access: Secret::new(access),
            valid,
            refresh,
            refresh_valid: super::login::VALID,
            name: login.user.clone(),
            changed: Vec::new(),
        })
    }
}

impl Tables {
    /// Returns the account whose password was found right, unless it was changed or disabled meanwhile.
    pub(super) fn proven(&self, challenge: &Challenge) -> Option<&UserDocument> {
        let account = self.users.get(&challenge.name).map(|(account, _)| account)?;
        let is_same = challenge.hash.is_some() && account.password == challenge.hash;
        (is_same && account.disabled.is_none()).then_some(account)
    }

    /// Returns a log-in that is open, of an account that is in force.
    fn open_login(&self, name: &str, now: Timestamp) -> Option<&LoginDocument> {
        let login = &self.logins.get(name)?.document;
        let (account, _) = self.users.get(&login.user)?;
        let is_open = login.is_open(now) && account.disabled.is_none() && account.epoch == login.epoch;
        is_open.then_some(login)
    }

    /// Checks that one more log-in of an account may be kept.
    fn check_room(&self, name: &str, now: Timestamp) -> Result<(), PeopleError> {
        let known: Vec<_> = self.own_logins(name).filter(|login| !login.is_over(now)).collect();
        match known.iter().map(|login| login.expires).min() {
            Some(first) if known.len() >= MOST_KNOWN => {
                let wait = first.duration_since(now).as_secs();
                Err(PeopleError::Full(u32::try_from(wait).unwrap_or_default().saturating_add(1)))
            }
            _ => Ok(()),
        }
    }

    /// Returns the log-in of an account that expires first, if there is no room for another one.
    fn one_too_many(&self, name: &str, now: Timestamp) -> Option<LoginDocument> {
        let open: Vec<_> = self.own_logins(name).filter(|login| login.is_open(now)).collect();
        open.iter()
            .min_by_key(|login| login.expires)
            .filter(|_| open.len() >= MOST)
            .map(|first| (*first).clone())
    }

    /// Returns how many log-ins of an account are open.
    pub(super) fn open_logins(&self, user: &str, now: Timestamp) -> usize {
        self.own_logins(user).filter(|login| self.open_login(&login.login, now).is_some()).count()
    }
}
