//! What routing answers: a backend, or why there is none.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A way to find the backend of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The header `routing.header` names it.
    Header,
    /// The model in the body matches one of its patterns.
    Model,
    /// The first segment of the path is its name.
    Path,
    /// Nothing else matched.
    Default,
}

impl Method {
    /// The word used in the file and in log lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Model => "model",
            Self::Path => "path",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Position of the backend in the rules the table was compiled from.
    pub backend: usize,
    /// The method that decided.
    pub via: Method,
    /// Bytes at the start of the path that name a backend and are ours: 7 for `/openai/v1/models`.
    pub strip: usize,
}

impl Decision {
    /// The path (with its query, when it was given one) as the backend gets to see it; never without
    /// its leading `/`. The argument is the text that was given to [`super::Table::decide`].
    pub fn forwarded<'a>(&self, path_and_query: &'a str) -> Cow<'a, str> {
        let rest = path_and_query.get(self.strip..).unwrap_or(path_and_query);
        if rest.starts_with('/') { Cow::Borrowed(rest) } else { Cow::Owned(format!("/{rest}")) }
    }
}

/// Why no backend takes a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The header names a backend that is not configured.
    #[error("no backend is called '{0}'")]
    UnknownBackend(String),
    /// Nothing matched and there is no default backend for it.
    #[error("no backend matches this request, and there is no default backend for it")]
    NoRoute,
    /// `routing.blocked_models` names the model.
    #[error("the model '{0}' is blocked")]
    BlockedModel(String),
}
