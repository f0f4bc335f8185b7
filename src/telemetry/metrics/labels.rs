//! Values of labels.

/// Replaces a value that is out of bounds: a label never takes arbitrary values from a client.
pub(super) const OTHER: &str = "other";

/// How a request found its backend; the `route` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// By the `X-Backend` header.
    Header,
    /// By the model in its body.
    Model,
    /// By a path prefix.
    Path,
    /// By the default backend.
    Default,
    /// It was answered here (health, `HEAD /`).
    Local,
    /// It was refused before a backend was chosen.
    Refused,
}

impl Route {
    /// How many there are.
    pub(in crate::telemetry) const COUNT: usize = 6;

    pub(in crate::telemetry) fn label(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Model => "model",
            Self::Path => "path",
            Self::Default => "default",
            Self::Local => "local",
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
