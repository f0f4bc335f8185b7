//! Step 6: the head as the backend gets it. What the client said is kept; what was meant for us, and
//! what belongs to one connection only, is taken out (Pingora has removed the hop-by-hop fields).

use http::header::{ACCEPT_ENCODING, HOST};
use http::{HeaderName, HeaderValue};
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::RequestHeader;

use super::arrive::{Arrival, REQUEST_ID};
use super::dispatch::Route;

/// Rewrites `head` for the route's backend.
///
/// # Errors
/// A header of ours cannot be set; that would be a fault of ours.
pub(crate) fn outbound(head: &mut RequestHeader, arrival: &Arrival, route: &Route) -> Result<()> {
    let snapshot = &arrival.ticket.snapshot;
    head.remove_header(snapshot.routes.header());
    remove_ours(head);
    snapshot.forwarding.write(head, arrival)?;
    head.insert_header(HOST, route.backend.settings().authority())?;
    head.insert_header(REQUEST_ID, arrival.request_id.as_str())?;
    if route.dialect.is_read() {
        // The answer is read on its way; a compressed one could not be.
        head.insert_header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))?;
    }
    let base = route.backend.settings().base_path();
    if route.strip > 0 || !base.is_empty() {
        let path = target(base, head.raw_path(), route.strip);
        head.set_raw_path(&path).or_err(ErrorType::InternalError, "rewriting the path")?;
    }
    if head.raw_path().is_empty() {
        return Error::e_explain(ErrorType::InternalError, "the rewritten path is empty");
    }
    Ok(())
}

/// Takes out every field that is for a gateway of this kind, `-` or `_` in its name: a backend that is one
/// itself must not take a client's words for ours.
fn remove_ours(head: &mut RequestHeader) {
    let is_ours = |name: &HeaderName| {
        let name = name.as_str();
        let name = name.strip_prefix("x-").or_else(|| name.strip_prefix("x_")).unwrap_or(name);
        name.strip_prefix("elida").is_some_and(|rest| rest.starts_with(['-', '_']))
    };
    let ours: Vec<HeaderName> = head.headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in &ours {
        head.remove_header(name);
    }
}

/// The base path of the backend's URL, then what is left of the client's target.
pub(super) fn target(base: &str, raw: &[u8], strip: usize) -> Vec<u8> {
    let rest = raw.get(strip..).unwrap_or_default();
    let mut path = Vec::with_capacity(base.len() + rest.len() + 1);
    path.extend_from_slice(base.trim_end_matches('/').as_bytes());
    if !rest.starts_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(rest);
    path
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn the_prefix_goes_and_the_base_path_comes() {
        assert_eq!(target("", b"/openai/v1/models?limit=1", 7), b"/v1/models?limit=1");
        assert_eq!(target("", b"/openai", 7), b"/");
        assert_eq!(target("", b"/openai?x=1", 7), b"/?x=1");
        assert_eq!(target("/proxy/", b"/v1/models", 0), b"/proxy/v1/models");
        assert_eq!(target("/proxy", b"/openai/v1/models", 7), b"/proxy/v1/models");
    }
}
