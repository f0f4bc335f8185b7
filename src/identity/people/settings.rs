//! `auth.people`: whether people log in.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::PrincipalId;
use crate::settings::fault::Faults;
use crate::settings::secret::Secret;

/// Who makes accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// Admins only.
    #[default]
    Closed,
    /// Who has an invitation of an admin chooses a password.
    Invite,
    /// Everyone who reaches the control API; such an account has no role.
    Open,
}

/// Whether people log in with a name and a password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PeopleConfig {
    /// Whether people log in. `elida admin create` makes the first account.
    pub login: bool,
    /// Who makes accounts beside admins.
    pub registration: Registration,
}

/// The compiled section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeopleSettings {
    /// Whether people log in.
    pub login: bool,
    /// Who makes accounts beside admins.
    pub registration: Registration,
    /// The secret that signs access tokens (`auth.jwt.local`); `None` for one that this gateway makes.
    pub secret: Option<Secret>,
    /// How long an access token is valid.
    pub ttl: Duration,
}

impl PeopleConfig {
    /// Returns whether nothing is written.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Compiles the section.
    pub(in crate::identity) fn compile(
        self,
        secret: Option<Secret>,
        ttl: Duration,
        faults: &mut Faults,
    ) -> PeopleSettings {
        if !self.login && self.registration != Registration::Closed {
            let message = "nobody can register, because auth.people.login is off";
            faults.warn("auth.people.registration", message, "write auth.people.login: true");
        }
        PeopleSettings { login: self.login, registration: self.registration, secret, ttl }
    }
}

impl PeopleSettings {
    /// Warns if everyone may register, of roles that are given to a name.
    pub(in crate::identity) fn warn<'p>(
        &self,
        named: impl Iterator<Item = &'p PrincipalId>,
        faults: &mut Faults,
    ) {
        if !self.login || self.registration != Registration::Open {
            return;
        }
        for id in named {
            let message = format!(
                "everyone may register, and {id} has a role by its name: nobody can register this name from now on, but who did \
                 before has the role"
            );
            let hint = "make the account first (elida admin create, POST /control/users), or write registration: invite";
            faults.warn("auth.people.registration", message, hint);
        }
    }
}
