//! `auth.jwt.permissions`: what callers with a token may use, by their groups.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::identity::group_binding::GroupBinding;
use crate::identity::principal_fields::{Permitted, WrittenLists};
use crate::ids::{Membership, PrincipalId};
use crate::settings::fault::Faults;

/// What callers with a token may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PermissionConfig {
    /// The groups of the callers; all callers if the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Names of the issuers of the tokens; any if the list is empty, but with several issuers none that claims a group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<String>,
    /// Patterns of the models that they may use; all if the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Patterns of the backends that they may use; all if the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Patterns of the tools that they may use; all if the list is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
}

/// The compiled entries.
#[derive(Debug, Default)]
pub(super) struct Permissions {
    entries: Vec<(GroupBinding, Arc<Permitted>)>,
    /// What a caller may use that no entry fits.
    others: Arc<Permitted>,
}

impl Permissions {
    /// Compiles the entries. `issuers` and `backends` are the names of those that are configured.
    pub(super) fn compile(
        written: &[PermissionConfig],
        issuers: &[String],
        backends: &[String],
        faults: &mut Faults,
    ) -> Option<Self> {
        let mut compiled = Vec::new();
        for (at, entry) in written.iter().enumerate() {
            let path = format!("auth.jwt.permissions[{at}]");
            let binding = GroupBinding::compile(&entry.groups, &entry.issuers, &path, issuers, faults);
            let lists =
                WrittenLists { models: &entry.models, backends: &entry.backends, tools: &entry.tools };
            let permitted = lists.compile(&path, backends, faults);
            compiled.push(binding.zip(permitted));
        }
        let entries = compiled
            .into_iter()
            .map(|entry| entry.map(|(binding, permitted)| (binding, Arc::new(permitted))));
        let entries: Vec<_> = entries.collect::<Option<_>>()?;
        let others = if entries.is_empty() { Permitted::default() } else { Permitted::nothing(faults)? };
        Some(Self { entries, others: Arc::new(others) })
    }

    /// Returns what a caller may use.
    pub(super) fn of(&self, principal: &PrincipalId, membership: Option<&Membership>) -> Arc<Permitted> {
        let fits = |(binding, _): &&(GroupBinding, _)| match binding.is_empty() {
            true => binding.is_from(principal),
            false => binding.covers(principal, membership),
        };
        let found = self.entries.iter().find(fits);
        Arc::clone(found.map_or(&self.others, |(_, permitted)| permitted))
    }
}
