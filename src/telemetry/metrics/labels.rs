//! Values of labels.

/// Replaces a value that is out of bounds: a label never takes arbitrary values from a client.
pub(super) const OTHER: &str = "other";

/// How a request found its backend; the `route` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The `X-Backend` header.
    Header,
    /// The model in the body.
    Model,
    /// A path prefix.
    Path,
    /// The default backend.
    Default,
    /// ELIDA answered the request itself (health, `HEAD /`).
    Local,
    /// The request was refused before a backend was chosen.
    Refused,
}

impl Route {
    /// The number of variants.
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
