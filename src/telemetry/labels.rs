//! Values of labels that are closed sets.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the backend of a request is found: a method of `routing.methods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Method")]
pub enum RouteMethod {
    /// The header `routing.header` names it.
    Header,
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
    /// The proxy itself (health, `HEAD /`, the merged model list).
    Builtin,
    /// Nothing: the request was refused before a backend was chosen.
    Refused,
}

impl Served {
    /// How many values there are.
    pub(super) const COUNT: usize = 6;

    pub(super) fn index(self) -> usize {
        match self {
            Self::Backend(method) => method as usize,
            Self::Builtin => 4,
            Self::Refused => 5,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Backend(method) => method.name(),
            Self::Builtin => "local",
            Self::Refused => "refused",
        }
    }
}

/// What a counted token was; the `type` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Read by the model, not from a cache.
    Input,
    /// Written by the model.
    Output,
    /// Read from the provider's prompt cache.
    CacheRead,
    /// Written to the provider's prompt cache.
    CacheWrite,
    /// Spent on reasoning.
    Reasoning,
}

impl TokenKind {
    /// How many there are.
    pub(super) const COUNT: usize = 5;

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::CacheRead => "cache_read",
            Self::CacheWrite => "cache_write",
            Self::Reasoning => "reasoning",
        }
    }
}
