//! The result of routing: a backend, or why there is none.

use std::borrow::Cow;
use std::ops::Range;
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
    /// The part of the path that names a backend and is not forwarded: `0..7` for `/openai/v1/models`. In the paths of
    /// OAuth discovery it is in the middle (RFC 9728, 3.1).
    pub strip: Range<usize>,
    /// The backend itself has announced this target, so that its base path is in it.
    pub is_announced: bool,
    /// Other backends that may serve the request, preferred ones first.
    pub others: Vec<Choice>,
}

/// Where a rule sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleDecision {
    /// Position of the backend.
    pub backend: usize,
    /// The part of the path that is not forwarded.
    pub strip: Range<usize>,
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

/// Returns the target for a backend: the base path of its URL, then the client's target without the part `strip`; always with
/// a leading `/`. What is in front of that part stays in front of the base path (RFC 8615).
pub fn forwarded<'a>(base: &str, target: &'a [u8], strip: Range<usize>) -> Cow<'a, [u8]> {
    let front = target.get(..strip.start).unwrap_or_default();
    let rest = target.get(strip.end..).unwrap_or_default();
    let has_slash = rest.starts_with(b"/");
    if base.is_empty() && has_slash && front.is_empty() {
        return Cow::Borrowed(rest);
    }
    let mut path = Vec::with_capacity(front.len() + base.len() + 1 + rest.len());
    path.extend_from_slice(front);
    path.extend_from_slice(base.trim_end_matches('/').as_bytes());
    if !has_slash && front.is_empty() {
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
    /// The request is meant for one of several MCP servers and does not name it.
    #[error(
        "this path is for an MCP server, and several are configured: name one of them behind \
         /.well-known/oauth-protected-resource/, in front of /messages, or in a header"
    )]
    UnnamedServer,
    /// A rule asks for something in the request that cannot be read.
    #[error("the rule routing.rules[{0}] asks for something that cannot be read in this request")]
    Undecided(usize),
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
            assert_eq!(forwarded(base, target.as_bytes(), 0..strip), seen.as_bytes(), "{base} {target}");
        }
    }

    #[test]
    fn the_base_path_comes_behind_the_well_known_prefix() {
        let prefix = "/.well-known/oauth-protected-resource";
        for (base, rest, seen) in [
            ("", "/mcp?a", "/mcp?a"),
            ("", "", ""),
            ("/base", "/mcp", "/base/mcp"),
            ("/base", "?a", "/base?a"),
        ] {
            let target = format!("{prefix}/tools{rest}");
            let strip = prefix.len()..prefix.len() + 6;
            assert_eq!(forwarded(base, target.as_bytes(), strip), format!("{prefix}{seen}").as_bytes());
        }
    }
}
