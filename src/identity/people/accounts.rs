//! Makes and changes accounts.

use std::time::Duration;

use jiff::Timestamp;

use super::directory::{People, Tables};
use super::sessions::Challenge;
use super::settings::Registration;
use super::storage::PeopleError;
use super::user::{DISABLED, ListedUser, UserConfig, UserDocument, with_new_epoch};
use crate::identity::key_text::{self, KeyDigest};
use crate::identity::roles::{Reach, Role, Roles};
use crate::ids::SharedDocument;
use crate::settings::secret::Secret;

/// Most accounts.
const MAX_USERS: usize = 10_000;
/// Most of them while everyone may register: admins can still make some.
const MAX_REGISTERED: usize = 9_000;

/// How a new person comes in.
pub enum Entrance {
    /// With a password, of which this is the hash.
    Password(String),
    /// By an invitation that is valid for this long.
    Invitation(Duration),
}

impl People {
    /// Makes an account, also in place of an invitation within reach that nobody has used. Returns it, and the text of the invitation
    /// if there is one. Blocks.
    ///
    /// # Errors
    /// The name is taken, a member is not valid, or the account cannot be stored.
    pub fn create(
        &self,
        user: UserConfig,
        entrance: Entrance,
        reach: &Reach,
    ) -> Result<(ListedUser, Option<Secret>, SharedDocument), PeopleError> {
        let user = UserConfig { name: user.name.trim().to_lowercase(), ..user };
        let written = self.written.load();
        user.holder(None, Some(&written.backends)).map_err(PeopleError::Invalid)?;
        let now = Timestamp::now();
        let (password, invitation, shown) = match entrance {
            Entrance::Password(hash) => (Some(hash), None, None),
            Entrance::Invitation(valid) => {
                let text = key_text::generate(&written.prefix);
                let text = text.map_err(|fault| PeopleError::Storage(fault.to_string()))?;
                let until = now.checked_add(valid);
                let until = until.map_err(|_| PeopleError::Invalid("expires is too long".to_owned()))?;
                let digest = KeyDigest::of(text.reveal().as_bytes()).to_string();
                (None, Some((digest, until)), Some(text))
            }
        };
        let _turn = self.turn();
        let (before, count) = {
            let tables = self.tables();
            (tables.users.get(&user.name).map(|(known, _)| known.clone()), tables.users.len())
        };
        let is_free = |known: &UserDocument| {
            let is_unused = known.password.is_none() && known.disabled.is_none();
            is_unused && reach.covers(known.user.tenant.as_deref())
        };
        if !before.as_ref().is_none_or(is_free) {
            return Err(PeopleError::Exists(user.name));
        }
        if before.is_none() && count >= MAX_USERS {
            return Err(PeopleError::Invalid(format!("there are {MAX_USERS} accounts, which is the most")));
        }
        let document = UserDocument {
            revision: before.as_ref().map_or(1, |known| with_new_epoch(known.revision)),
            epoch: before.as_ref().map_or(0, |known| known.epoch + 1),
            created: now,
            disabled: None,
            user,
            password,
            invitation,
        };
        let shared = self.put_user(document.clone())?;
        Ok((self.tables().listed(&document), shown, shared))
    }

    /// Makes an account by an invitation, or without one if everyone may; then nobody takes a name to which `roles` give something.
    /// Blocks.
    ///
    /// # Errors
    /// Nobody may, the invitation is not valid, or the name is taken.
    pub fn register(
        &self,
        invitation: Option<&Secret>,
        name: &str,
        hash: String,
        roles: &Roles,
    ) -> Result<SharedDocument, PeopleError> {
        let registration = self.written.load().settings.registration;
        match (registration, invitation) {
            (Registration::Closed, _) => Err(PeopleError::Closed("admins make the accounts of this gateway")),
            (Registration::Invite | Registration::Open, Some(invitation)) => self.accept(invitation, hash),
            (Registration::Invite, None) => Err(PeopleError::Closed(
                "an account takes an invitation; ask an admin of this gateway for one",
            )),
            (Registration::Open, None) => {
                let user = UserConfig { name: name.trim().to_lowercase(), ..UserConfig::default() };
                if self.is_known(&user.name) || !roles.of(&user.principal(), None).is_empty() {
                    return Err(PeopleError::Exists(user.name));
                }
                if self.tables().users.len() >= MAX_REGISTERED {
                    return Err(PeopleError::Closed(
                        "there are too many accounts; ask an admin of this gateway",
                    ));
                }
                // What an admin has begun is for an admin to end.
                let nobody = Reach::Tenants(Vec::new());
                self.create(user, Entrance::Password(hash), &nobody).map(|(_, _, shared)| shared)
            }
        }
    }

    /// Sets the password of an invited person.
    fn accept(&self, invitation: &Secret, hash: String) -> Result<SharedDocument, PeopleError> {
        let refused = PeopleError::Closed(
            "the invitation is not valid: it was used, or has expired; ask for another one",
        );
        let (digest, now) = (KeyDigest::of(invitation.reveal().as_bytes()).to_string(), Timestamp::now());
        let _turn = self.turn();
        let is_invited = |document: &&UserDocument| {
            let valid = document.invitation.as_ref().filter(|(_, until)| now < *until);
            document.disabled.is_none() && valid.is_some_and(|(known, _)| *known == digest)
        };
        let tables = self.tables();
        let invited = tables.users.values().map(|(document, _)| document).find(is_invited).cloned();
        drop(tables);
        let document = changed(invited.ok_or(refused)?);
        self.put_user(UserDocument { password: Some(hash), invitation: None, ..document })
    }

    /// Returns the name of the account that an invitation is for.
    pub fn invited(&self, invitation: &Secret) -> Option<String> {
        let digest = KeyDigest::of(invitation.reveal().as_bytes()).to_string();
        let tables = self.tables();
        let is_for =
            |document: &&UserDocument| document.invitation.as_ref().is_some_and(|(own, _)| *own == digest);
        tables.users.values().map(|(document, _)| document).find(is_for).map(|found| found.user.name.clone())
    }

    /// Sets the role of a person; `None` takes it away. Blocks.
    ///
    /// # Errors
    /// No account has this name, tenant and groups, or it cannot be stored.
    pub fn set_role(
        &self,
        known: &UserConfig,
        role: Option<Role>,
    ) -> Result<(ListedUser, SharedDocument), PeopleError> {
        self.change(known, |document| {
            let user = UserConfig { role, ..document.user.clone() };
            UserDocument { user, ..changed(document) }
        })
    }

    /// Disables an account, and ends all that its holder has begun. Blocks.
    ///
    /// # Errors
    /// No account has this name, tenant and groups, or it cannot be stored.
    pub fn disable(&self, known: &UserConfig) -> Result<(ListedUser, SharedDocument), PeopleError> {
        self.change(known, |document| UserDocument {
            revision: document.revision | DISABLED,
            epoch: document.epoch + 1,
            disabled: document.disabled.or_else(|| Some(Timestamp::now())),
            ..document
        })
    }

    /// Enables an account again; its holder has to log in. Blocks.
    ///
    /// # Errors
    /// No account has this name, tenant and groups, or it cannot be stored.
    pub fn enable(&self, known: &UserConfig) -> Result<(ListedUser, SharedDocument), PeopleError> {
        self.change(known, |document| match document.disabled {
            None => changed(document),
            Some(_) => {
                UserDocument { revision: ((document.revision >> 32) + 1) << 32, disabled: None, ..document }
            }
        })
    }

    /// Sets a password by its hash, and ends all that the account's holder has begun. Blocks.
    ///
    /// # Errors
    /// No account has this name, tenant and groups, or it cannot be stored.
    pub fn set_password(
        &self,
        known: &UserConfig,
        hash: String,
    ) -> Result<(ListedUser, SharedDocument), PeopleError> {
        self.change(known, |document| with_password(document, hash))
    }

    /// Replaces the password that was found right by another one, given by its hash, and ends all that the account's holder has
    /// begun. Blocks.
    ///
    /// # Errors
    /// The password was changed or the account disabled meanwhile, or it cannot be stored.
    pub fn change_password(
        &self,
        challenge: &Challenge,
        hash: String,
    ) -> Result<SharedDocument, PeopleError> {
        let _turn = self.turn();
        let account = self.tables().proven(challenge).cloned().ok_or(PeopleError::Wrong)?;
        self.put_user(with_password(account, hash))
    }

    /// Returns all accounts by name.
    pub fn list(&self) -> Vec<ListedUser> {
        let tables = self.tables();
        tables.users.values().map(|(document, _)| tables.listed(document)).collect()
    }

    /// Returns the account with this name.
    pub fn account(&self, name: &str) -> Option<ListedUser> {
        let tables = self.tables();
        tables.users.get(name).map(|(document, _)| tables.listed(document))
    }

    /// Changes an account of which the caller knows this. If its tenant or groups are others now, the caller has not asked whether it
    /// may change that account.
    fn change(
        &self,
        known: &UserConfig,
        change: impl FnOnce(UserDocument) -> UserDocument,
    ) -> Result<(ListedUser, SharedDocument), PeopleError> {
        let _turn = self.turn();
        let document = self.tables().users.get(&known.name).map(|(document, _)| document.clone());
        let is_same = |now: &UserConfig| (&now.tenant, &now.groups) == (&known.tenant, &known.groups);
        let document = document.filter(|document| is_same(&document.user));
        let document = change(document.ok_or_else(|| PeopleError::Unknown(known.name.clone()))?);
        let shared = self.put_user(document.clone())?;
        Ok((self.tables().listed(&document), shared))
    }
}

/// Returns a document with the next revision.
fn changed(document: UserDocument) -> UserDocument {
    UserDocument { revision: document.revision + 1, ..document }
}

/// Returns a document with another password, which ends all that the account's holder has begun.
fn with_password(document: UserDocument, hash: String) -> UserDocument {
    let epoch = document.epoch + 1;
    let revision = with_new_epoch(document.revision);
    UserDocument { password: Some(hash), invitation: None, epoch, revision, ..document }
}

impl Tables {
    fn listed(&self, document: &UserDocument) -> ListedUser {
        ListedUser {
            user: document.user.clone(),
            created: document.created,
            disabled: document.disabled,
            invited_until: document.invitation.as_ref().map(|(_, until)| *until),
            logins: self.open_logins(&document.user.name, Timestamp::now()),
        }
    }
}
