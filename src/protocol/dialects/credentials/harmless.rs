//! What may cross from one realm to another: fields, query parameters and subprotocols that are known to hold
//! no credential. All others are removed; docs/configuration.md ("Credentials") repeats the list.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use url::form_urlencoded;

use super::{Entry, classified, joined, keep_parameters};

/// Fields of HTTP, of tracing, of WebSockets, and those in which the known clients name API versions, themselves,
/// their sessions and their agents.
const FIELDS: [&str; 73] = [
    "a2a-extensions",
    "a2a-version",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "anthropic-version",
    "cache-control",
    "connection",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "conversation_id",
    "date",
    "digest",
    "dnt",
    "expect",
    "forwarded",
    "host",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "openai-beta",
    "originator",
    "pragma",
    "prefer",
    "priority",
    "range",
    "repr-digest",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "session-id",
    "session_id",
    "te",
    "thread-id",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "version",
    "via",
    "x-a2a-extensions",
    "x-app",
    "x-claude-code-agent-id",
    "x-claude-code-parent-agent-id",
    "x-claude-code-session-id",
    "x-client-request-id",
    "x-codex-parent-thread-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-goog-api-client",
    "x-opencode-session",
    "x-request-id",
    "x-session-affinity",
    "x-session-id",
];

/// Beginnings of such fields: what SDKs made by Stainless and browsers say about themselves.
const FIELD_STARTS: [&str; 3] = ["x-stainless-", "sec-ch-ua", "sec-fetch-"];

/// Query parameters: versions, formats, pages of lists.
const PARAMETERS: [&str; 18] = [
    "after",
    "after_id",
    "alt",
    "api-version",
    "before",
    "before_id",
    "beta",
    "filter",
    "include",
    "include[]",
    "limit",
    "model",
    "order",
    "page",
    "pagesize",
    "pagetoken",
    "stream",
    "verbose",
];

/// Subprotocols of the APIs that are known here.
const SUBPROTOCOLS: [&str; 5] =
    ["realtime", "openai-beta.realtime-v1", "mcp", "json", "graphql-transport-ws"];

/// Whether this field holds no credential, whatever its value.
pub fn is_harmless(field: &HeaderName) -> bool {
    let name = field.as_str();
    FIELDS.binary_search(&name).is_ok() || FIELD_STARTS.iter().any(|start| name.starts_with(start))
}

/// The value of `Sec-WebSocket-Protocol`, all its lines in one, with the known entries only.
pub fn harmless_subprotocols(headers: &HeaderMap) -> HeaderValue {
    let known = |(text, entry): &(&str, Entry)| *entry == Entry::Plain && SUBPROTOCOLS.contains(text);
    joined(classified(headers).into_iter().filter(known).map(|(text, _)| text))
}

/// A request target with the known query parameters only; all else byte for byte.
pub fn harmless_parameters(target: &[u8]) -> Cow<'_, [u8]> {
    keep_parameters(target, |pair| {
        form_urlencoded::parse(pair)
            .next()
            .is_none_or(|(name, _)| PARAMETERS.iter().any(|known| name.eq_ignore_ascii_case(known)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order_and_holds_no_place_of_a_credential() {
        assert!(FIELDS.is_sorted());
        for field in crate::protocol::dialects::credentials::fields() {
            assert!(!is_harmless(field), "{field}");
        }
        for parameter in crate::protocol::dialects::credentials::secret_parameters() {
            assert!(!PARAMETERS.contains(&parameter), "{parameter}");
        }
        for secret in ["x-auth-token", "x-amz-security-token", "cf-access-client-secret", "x-vendor-key"] {
            assert!(!is_harmless(&HeaderName::from_static(secret)), "{secret}");
        }
        // The id of an MCP session is a credential: knowing it is enough.
        assert!(!is_harmless(&HeaderName::from_static("mcp-session-id")));
        assert!(is_harmless(&HeaderName::from_static("x-stainless-lang")));
    }

    #[test]
    fn of_targets_and_subprotocols_only_the_known_parts_stay() {
        let left = |target: &'static str| harmless_parameters(target.as_bytes());
        assert_eq!(&*left("/m?alt=sse&sig=s3cret&pageSize=2"), b"/m?alt=sse&pageSize=2");
        assert_eq!(&*left("/m?jwt=1"), b"/m");
        assert!(matches!(left("/m?api-version=2&beta=true"), Cow::Borrowed(_)));
        let mut headers = HeaderMap::new();
        let sent = "realtime, openai-insecure-api-key.sk-1, my-secret.1";
        headers.insert("sec-websocket-protocol", sent.parse().unwrap());
        assert_eq!(harmless_subprotocols(&headers), "realtime");
    }
}
