//! Paths that only MCP servers have: OAuth discovery, and the message endpoint of the HTTP+SSE transport.

/// Where clients ask for the metadata of a resource or authorization server; the path of that server follows (RFC 9728, 3.1;
/// RFC 8414, 3.1; OpenID Connect Discovery as RFC 8414, 5, has it).
const DISCOVERY: [&str; 3] = [
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
];

/// Returns the length of the prefix of OAuth discovery; 0 for any other path.
pub(super) fn discovery_prefix(path: &str) -> usize {
    let is_prefix = |prefix: &&&str| {
        path.strip_prefix(**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    };
    DISCOVERY.iter().find(is_prefix).map_or(0, |prefix| prefix.len())
}

/// Returns whether clients of MCP's HTTP+SSE transport send their messages to such a path: it names the session. No model
/// provider has it.
pub(super) fn is_message_endpoint(path: &str) -> bool {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let is_endpoint = ["/message", "/messages"].iter().any(|end| path.trim_end_matches('/').ends_with(end));
    let names_session =
        || query.split('&').any(|pair| pair.starts_with("sessionId=") || pair.starts_with("session_id="));
    is_endpoint && !path.contains("/v1/") && names_session()
}
