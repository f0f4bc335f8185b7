//! The result of routing: a backend, or why there is none.

use std::borrow::Cow;
use std::sync::Arc;

use crate::telemetry::metrics::RouteMethod;

/// The chosen backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Position of the backend in the rules the table was compiled from.
    pub backend: usize,
    /// The name of the model there, when it has to be written into the body.
    pub served_as: Option<Arc<str>>,
    /// The method that decided.
    pub via: RouteMethod,
    /// Length of the path prefix that names a backend and is not forwarded: 7 for `/openai/v1/models`.
    pub strip: usize,
    /// Other backends that may serve the request, preferred ones first.
    pub others: Vec<Choice>,
}

/// Another backend that may serve a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Position of the backend.
    pub backend: usize,
    /// The name of the model there, when it has to be written into the body.
    pub served_as: Option<Arc<str>>,
    /// 0: equal to the chosen backend. Higher tiers are fallbacks of lower ones.
    pub tier: usize,
}

/// Returns the target for a backend: the base path of its URL, then the client's target without its first `strip` bytes;
/// always with a leading `/`.
pub fn forwarded<'a>(base: &str, target: &'a [u8], strip: usize) -> Cow<'a, [u8]> {
    let rest = target.get(strip..).unwrap_or_default();
    let has_slash = rest.starts_with(b"/");
    if base.is_empty() && has_slash {
        return Cow::Borrowed(rest);
    }
    let mut path = Vec::with_capacity(base.len() + 1 + rest.len());
    path.extend_from_slice(base.trim_end_matches('/').as_bytes());
    if !has_slash {
        path.push(b'/');
    }
    path.extend_from_slice(rest);
    Cow::Owned(path)
}

/// Why no backend serves a request.
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

#[cfg(test)]
mod tests {
    use super::forwarded;

    #[test]
    fn the_prefix_goes_and_the_base_path_comes() {
        let cases: [(&str, &str, usize, &str); 10] = [
            ("", "/openai/v1/models?limit=1", 7, "/v1/models?limit=1"),
            ("", "/openai", 7, "/"),
            ("", "/openai/", 7, "/"),
            ("", "/openai?x=1", 7, "/?x=1"),
            ("", "/openai//x", 7, "//x"),
            ("", "/v1/models", 0, "/v1/models"),
            ("/proxy/", "/v1/models", 0, "/proxy/v1/models"),
            ("/proxy", "/openai/v1/models", 7, "/proxy/v1/models"),
            ("/proxy", "/openai?x", 7, "/proxy/?x"),
            ("/proxy", "", 7, "/proxy/"),
        ];
        for (base, target, strip, seen) in cases {
            assert_eq!(forwarded(base, target.as_bytes(), strip), seen.as_bytes(), "{base} {target}");
        }
    }
}
