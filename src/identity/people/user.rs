//! The account of a person, as it is stored and shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::key_holder::KeyHolder;
use crate::identity::principal_fields::{OWN_NAME, WrittenLists, membership, name};
use crate::identity::roles::Role;
use crate::ids::{PrincipalId, SharedDocument};
use crate::settings::fault::Faults;

/// The bit of a revision that says that the account is disabled.
pub(super) const DISABLED: u64 = 1 << 31;
/// Where a revision counts what has another epoch: 15 bits below [`DISABLED`].
const EPOCHS: u32 = 16;
/// How the ids of shared accounts begin. No id of a key contains a colon.
pub(super) const PREFIX: &str = "user:";

/// What admins say of a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserConfig {
    /// The name, in lower case; the principal is `user:NAME@elida`.
    pub name: String,
    /// The role on the control API, for the objects of the tenant if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Patterns of the models that the person may use; all if the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Patterns of the backends that the person may use; all if the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Patterns of the tools that the person may use; all if the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
}

impl UserConfig {
    /// Returns the principal.
    pub fn principal(&self) -> PrincipalId {
        PrincipalId::new(format!("{PREFIX}{}@{OWN_NAME}", self.name))
    }

    /// Returns what a token of this person permits until it expires. `known` are the names of the configured backends, if they
    /// are to be checked.
    ///
    /// # Errors
    /// Every member that is not valid.
    pub(super) fn holder(
        &self,
        expires: Option<Timestamp>,
        known: Option<&[String]>,
    ) -> Result<KeyHolder, String> {
        let mut faults = Faults::default();
        let is_named = name(&self.name, ".name", &mut faults).is_some();
        let membership = membership(self.tenant.as_deref(), &self.groups, &BTreeMap::new(), "", &mut faults);
        let lists = WrittenLists { models: &self.models, backends: &self.backends, tools: &self.tools };
        let permitted = lists.compile("", known.unwrap_or(&self.backends), &mut faults);
        match (membership, permitted) {
            (Some(membership), Some(permitted)) if is_named && faults.is_empty() => {
                let holder = KeyHolder::unlimited(self.principal(), membership, expires);
                Ok(KeyHolder { permitted: Arc::new(permitted), ..holder })
            }
            _ => {
                let faults: Vec<String> = faults.iter().map(|fault| fault.to_string()).collect();
                Err(faults.iter().map(|fault| fault.trim_start_matches('.')).collect::<Vec<_>>().join("; "))
            }
        }
    }
}

/// An account as it is stored. Not `Debug`: it holds the hash of a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UserDocument {
    pub(super) user: UserConfig,
    /// The hash of the password; `None` until an invited person has chosen one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) password: Option<String>,
    /// The digest of an invitation, and until when it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) invitation: Option<(String, Timestamp)>,
    /// A higher revision replaces a lower one. Its upper half counts how often the account was enabled; then comes
    /// [`DISABLED`], so that this wins over changes that another instance has made meanwhile; then 15 bits count passwords that
    /// were set, which win over the other changes; the rest counts those.
    pub(super) revision: u64,
    pub(super) created: Timestamp,
    /// Counts what ends all that the person has begun: a new password, or the end of the account.
    pub(super) epoch: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disabled: Option<Timestamp>,
}

impl UserDocument {
    /// Returns the document with its text.
    pub(super) fn shared(&self) -> Result<SharedDocument, String> {
        let text = serde_json::to_string(self).map_err(|fault| fault.to_string())?;
        Ok(SharedDocument { id: format!("{PREFIX}{}", self.user.name), revision: self.revision, text })
    }
}

/// Returns the revision after a change that ends what the person has begun: no other change that another instance makes meanwhile
/// may bring that back.
pub(super) fn with_new_epoch(revision: u64) -> u64 {
    let next = ((revision >> EPOCHS) + 1) << EPOCHS;
    // Of more passwords than are counted each is a change like any other.
    let is_counted = (next ^ revision) & !(DISABLED - 1) == 0;
    if is_counted { next } else { revision + 1 }
}

/// An account that operators may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedUser {
    /// What admins say of the person.
    pub user: UserConfig,
    /// When the account was made.
    pub created: Timestamp,
    /// When it was disabled.
    pub disabled: Option<Timestamp>,
    /// Until when the person may choose a password by an invitation.
    pub invited_until: Option<Timestamp>,
    /// Log-ins that are open.
    pub logins: usize,
}
