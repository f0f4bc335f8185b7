//! Keys for callers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::params::Limit;
use crate::identity::made_keys::ListedKey;
use crate::settings::secret::Secret;
use crate::settings::units::DurationText;

/// Body of a new key; only `id` is required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewKey {
    /// The name; records and metrics show it as `key:ID`.
    pub id: String,
    /// The tenant; records show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The groups; records show them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Labels, which expressions read as `principal.labels.NAME`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Patterns of the models that it may use; all if the list is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Patterns of the backends that it may use; all if the list is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Patterns of the tools that it may use; all if the list is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// How long it is valid (`90d`), or until when: a day (its first moment, UTC) or a time (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// A key of another gateway to use instead of a new one, at least 32 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub key: Option<Secret>,
}

/// Body of a rotation; its member is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RotateBody {
    /// For how long the old key stays valid beside the new one; not at all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<DurationText>,
}

/// Who decides on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ManagedBy {
    /// The configuration; the API only shows it.
    File,
    /// This API.
    Api,
}

/// A key as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyView {
    /// The name.
    pub id: String,
    /// Who decides on it.
    pub managed_by: ManagedBy,
    /// The first 8 characters of the key; null for a key of the file, of which only the digest is known.
    pub shown: Option<String>,
    /// The tenant; null without one.
    pub tenant: Option<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// The labels; absent without any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Patterns of the models that it may use; all if the list is empty.
    pub models: Vec<String>,
    /// Patterns of the backends that it may use; all if the list is empty.
    pub backends: Vec<String>,
    /// Patterns of the tools that it may use; all if the list is empty.
    pub tools: Vec<String>,
    /// When it expires; null if it does not.
    pub expires: Option<String>,
    /// When it was made or rotated; null for a key of the file.
    pub created: Option<Timestamp>,
    /// The minute of its last use on this instance since its start; null before one.
    pub last_used: Option<Timestamp>,
}

/// Answer with a new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MadeKey {
    /// The key. It is shown this once.
    pub key: String,
    /// What is known of it from now on.
    #[serde(flatten)]
    pub view: KeyView,
}

/// Query of `GET /control/keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeysQuery {
    /// Most keys on the page.
    pub limit: Limit<1000, 10_000>,
    /// Those after this page: its `next_cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Answer of `GET /control/keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "KeyList")]
pub struct KeyList<V = KeyView> {
    /// The keys of the file, then those of the API that are in force, by id.
    pub keys: Vec<V>,
    /// The cursor of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Answer to a revocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RevokedKey {
    /// The name.
    pub id: String,
    /// Open requests that were cut.
    pub legs_cut: usize,
}

impl From<ListedKey> for KeyView {
    fn from(listed: ListedKey) -> Self {
        let ListedKey { principal, shown, created, last_used } = listed;
        Self {
            id: principal.id,
            managed_by: if created.is_some() { ManagedBy::Api } else { ManagedBy::File },
            shown,
            tenant: principal.tenant,
            groups: principal.groups,
            labels: principal.labels,
            models: principal.models,
            backends: principal.backends,
            tools: principal.tools,
            expires: principal.expires,
            created,
            last_used,
        }
    }
}
