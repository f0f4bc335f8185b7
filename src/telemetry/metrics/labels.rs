//! Values of labels that are closed sets.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Replaces a value that is out of bounds: a label never takes arbitrary values from a client.
pub(super) const OTHER: &str = "other";

/// The `backend` label of a request for which no backend was chosen.
pub(super) const NO_BACKEND: &str = "none";

/// How the backend of a request is found: a method of `routing.methods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Method")]
pub enum RouteMethod {
    /// The header `routing.header` names it.
    Header,
    /// A rule of `routing.rules` holds.
    Rule,
    /// The model in the body matches one of its patterns.
    Model,
    /// The first segment of the path is its name.
    Path,
    /// Nothing else matched.
    Default,
}

impl RouteMethod {
    /// The word in the file, in log lines and in the `route` label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Rule => "rule",
            Self::Model => "model",
            Self::Path => "path",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for RouteMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What served a request; the `route` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// A backend, found by this method.
    Backend(RouteMethod),
    /// A host that no backend serves, through the forward proxy.
    Forward,
    /// The proxy itself (health, `HEAD /`, the merged model list).
    Builtin,
    /// The HTTP cache.
    Cache,
    /// Nothing: the request was refused before a backend was chosen.
    Refused,
}

impl Served {
    /// How many values there are.
    pub(in crate::telemetry) const COUNT: usize = 9;

    pub(in crate::telemetry) fn index(self) -> usize {
        match self {
            Self::Backend(method) => method as usize,
            Self::Builtin => 5,
            Self::Refused => 6,
            Self::Forward => 7,
            Self::Cache => 8,
        }
    }

    pub(in crate::telemetry) fn label(self) -> &'static str {
        match self {
            Self::Backend(method) => method.name(),
            Self::Forward => "forward",
            Self::Builtin => "local",
            Self::Cache => "cache",
            Self::Refused => "refused",
        }
    }
}

/// A kind of tokens; the `type` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Input tokens, not from a cache.
    Input,
    /// Output tokens.
    Output,
    /// Read from the provider's prompt cache.
    CacheRead,
    /// Written to the provider's prompt cache.
    CacheWrite,
    /// Reasoning tokens.
    Reasoning,
}

impl TokenKind {
    /// The number of variants.
    pub(in crate::telemetry) const COUNT: usize = 5;

    pub(in crate::telemetry) fn label(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::CacheRead => "cache_read",
            Self::CacheWrite => "cache_write",
            Self::Reasoning => "reasoning",
        }
    }
}
