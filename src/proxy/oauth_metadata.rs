//! Tells the clients of MCP servers where they get a token for this gateway: protected resource metadata (RFC 9728), which a
//! 401 points to.
//!
//! Only where a token or a key is required and an issuer is configured; a request with a credential goes to its backend, which
//! may have metadata of its own.

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::json;

use super::receive::Received;
use crate::protocol::dialects::credentials;

const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Returns the metadata, if the request asks for it.
pub(super) fn metadata(received: &Received, headers: &HeaderMap) -> Option<Bytes> {
    let resource = received.uri.path().strip_prefix(WELL_KNOWN)?;
    let is_read = matches!(received.method, Method::GET | Method::HEAD);
    let is_path = resource.is_empty() || resource.starts_with('/');
    if !is_read || !is_path || credentials::is_present(headers, received.uri.query()) {
        return None;
    }
    let issuers: Vec<&str> = issuers(received).collect();
    if issuers.is_empty() {
        return None;
    }
    let document = json!({
        "resource": public_url(received, headers, resource)?,
        "authorization_servers": issuers,
        "bearer_methods_supported": ["header"],
    });
    Some(document.to_string().into())
}

/// Returns the URL of the metadata for a refused request; `None` where nobody would get a token.
pub(super) fn location(received: &Received, headers: &HeaderMap) -> Option<String> {
    if !received.dialect.is_json_rpc() {
        return None;
    }
    issuers(received).next()?;
    public_url(received, headers, &format!("{WELL_KNOWN}{}", received.uri.path()))
}

fn issuers(received: &Received) -> impl Iterator<Item = &str> {
    let auth = &received.handle.settings.auth;
    let jwt = auth.jwt().filter(|_| auth.is_required());
    jwt.into_iter().flat_map(|jwt| jwt.published()).map(|keys| keys.issuer())
}

/// Returns the URL of a path as the client writes it; `None` if the request names no host, or one that is none.
fn public_url(received: &Received, headers: &HeaderMap, path: &str) -> Option<String> {
    let peer = &received.handle.peer;
    let (scheme, host) =
        received.handle.settings.forwarding.requested(headers, peer.address.ip(), peer.is_secure)?;
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    let is_good = !host.is_empty() && host.bytes().all(is_host) && path.bytes().all(is_plain);
    is_good.then(|| format!("{scheme}://{host}{path}"))
}
