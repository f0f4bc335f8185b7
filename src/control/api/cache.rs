//! Purges of the HTTP cache.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Query of `DELETE /control/cache`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PurgeQuery {
    /// A glob for hosts, `host/path` or whole URLs, as clients name them; `*` stands for any characters.
    pub pattern: Option<String>,
    /// `true` forgets everything, in place of a pattern.
    pub all: Option<Everything>,
}

/// `true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Everything {
    /// Everything is meant.
    True,
}

/// Answer of `DELETE /control/cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PurgeReport {
    /// Answers that were forgotten, in this instance or in Redis, whichever had more.
    pub removed: u64,
    /// Their bytes.
    pub bytes: u64,
}
