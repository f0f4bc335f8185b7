//! What a request asks of the demo provider.

use http::request::Parts;
use http::{HeaderMap, Method};
use serde_json::Value;

use super::turn::Dialect;

/// What a path asks for.
pub(super) enum Route {
    Converse(&'static Dialect),
    Compute(fn(&Value) -> Result<Value, String>, fn(u16, &str) -> Value),
    /// A conversation whose model is in the path.
    Gemini(&'static Dialect),
    A2a,
    Mcp,
    /// Lines of JSON.
    Lines(fn(&Value) -> Vec<Value>),
    Done,
    Fixed(Value),
    Hello,
    Echo,
    Unknown,
}

/// A request, as the files of the dialects look at it.
pub(super) struct Asked<'a> {
    /// The method is GET or HEAD.
    pub(super) is_read: bool,
    pub(super) path: &'a str,
    /// The path from `/v1/`, `/v1beta/`, `/v2/` or `/api/` on.
    pub(super) tail: &'a str,
    query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Value,
}

/// Where the APIs begin, behind the base path of a backend.
const ROOTS: [&str; 4] = ["/v1/", "/v1beta/", "/v2/", "/api/"];

impl<'a> Asked<'a> {
    pub(super) fn of(head: &'a Parts, body: &'a Value) -> Self {
        let path = head.uri.path();
        let tail = ROOTS.iter().find_map(|root| path.find(root)).map_or(path, |at| &path[at..]);
        Self {
            is_read: matches!(head.method, Method::GET | Method::HEAD),
            path,
            tail,
            query: head.uri.query().unwrap_or_default(),
            headers: &head.headers,
            body,
        }
    }

    /// True when the query has this parameter.
    pub(super) fn has_parameter(&self, name: &str) -> bool {
        self.query.split('&').any(|pair| pair.split('=').next() == Some(name))
    }

    /// True when the query has this pair, `alt=sse`.
    pub(super) fn has_pair(&self, pair: &str) -> bool {
        self.query.split('&').any(|found| found == pair)
    }
}

/// A backend of `elida demo`: the same provider under the name and type of a vendor.
pub struct Backend {
    /// Its name in the configuration.
    pub name: &'static str,
    /// `backends.NAME.type`.
    pub kind: &'static str,
    /// Requests whose model no backend claims go there.
    pub is_default: bool,
    /// `backends.NAME.models`.
    pub models: &'static [&'static str],
}
