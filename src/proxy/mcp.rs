//! Rules of MCP's streamable HTTP transport: header fields that agree with the body, a permitted origin, and the session
//! that the server names in its response.

use http::header::ORIGIN;
use http::{HeaderMap, Method};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::dispatch::Route;
use super::error_response::Reject;
use super::receive::Received;
use super::request_ctx::{RequestCtx, Routed};
use super::{admit, identify};
use crate::error::{ErrorKind, Refusal};
use crate::protocol::Dialect;
use crate::protocol::dialects::mcp::{SESSION_ID, disagreement};
use crate::protocol::request::ModelRequest;

/// Rejects requests that an MCP server must reject.
///
/// # Errors
/// The origin is not permitted (protection against DNS rebinding), or header and body disagree.
pub(crate) fn check(received: &Received, headers: &HeaderMap, call: &ModelRequest) -> Result<(), Refusal> {
    let allowed = &received.handle.settings.allow_origins;
    let mut origins = headers.get_all(ORIGIN).iter();
    if origins.any(|origin| origin.to_str().map_or(true, |origin| is_foreign(origin, allowed))) {
        let message = "web pages of this origin may not call MCP servers (server.cors.allow_origins)";
        return Err(Refusal::new(ErrorKind::OriginRefused, message));
    }
    match disagreement(headers, call).filter(|_| received.method == Method::POST) {
        Some(wrong) => Err(Refusal::new(ErrorKind::HeaderMismatch, format!("Header mismatch: {wrong}"))),
        None => Ok(()),
    }
}

/// Returns whether `origin` is neither the caller's own machine nor in `server.cors.allow_origins`. A page that rebinds
/// its name keeps the origin of that name, so a loopback origin is safe.
fn is_foreign(origin: &str, allowed: &[String]) -> bool {
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let is_own = host.is_some_and(|host| {
        ["localhost", "127.0.0.1", "[::1]"].iter().any(|own| {
            let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
            host.strip_prefix(own)
                .is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
        })
    });
    !is_own && !allowed.iter().any(|known| known == origin)
}

/// Returns whether the response is a stream for messages that the server starts. It may be silent for any time.
pub(crate) fn is_server_stream(received: &Received, route: &Route, call: &ModelRequest) -> bool {
    let listens = || {
        let method = call.rpc.as_ref().and_then(|rpc| rpc.method.as_deref());
        received.method == Method::GET || method == Some("subscriptions/listen")
    };
    route.dialect == Dialect::MCP && listens()
}

/// Returns whether the response may list tools: that to `tools/list`, to a batch, and a stream of the HTTP+SSE transport.
pub(crate) fn may_list_tools(received: &Received, route: &Route, call: &ModelRequest) -> bool {
    let method = || call.rpc.as_ref().filter(|rpc| !rpc.is_mixed).and_then(|rpc| rpc.method.as_deref());
    route.dialect == Dialect::MCP
        && (received.method == Method::GET || method().is_none_or(|method| method == "tools/list"))
}

/// Returns whether the response may begin with the endpoint of the HTTP+SSE transport ([`super::endpoints`]).
pub(crate) fn may_announce(received: &Received, route: &Route) -> bool {
    // Streamable HTTP, which has these header fields, announces none.
    route.dialect == Dialect::MCP && received.method == Method::GET && received.dialect != Dialect::MCP
}

/// Moves the leg to the session that the server has named in its response to `initialize`: the client's next requests
/// belong to it.
///
/// # Errors
/// That session was killed, or there is no room for it.
pub(crate) async fn follow(
    session: &Session,
    head: &ResponseHeader,
    ctx: &mut RequestCtx,
) -> Result<(), Reject> {
    let headers = &session.req_header().headers;
    let (Some(named), false) = (head.headers.get(SESSION_ID), headers.contains_key(SESSION_ID)) else {
        return Ok(());
    };
    let RequestCtx { app, stage, outcome, .. } = ctx;
    let Routed { who, leg, route, .. } = stage.routed_mut()?;
    let mut next = headers.clone();
    next.insert(SESSION_ID, named.clone());
    let found = identify::by_head(&who.received, &next)?;
    let Some(found) = found.filter(|found| found.id != leg.session().key().id) else {
        return Ok(());
    };
    outcome.named = Some(found.id.clone());
    leg.pass_places_on();
    let new = admit::admit(app, who, headers, found).await?;
    new.routed(route.backend.settings().name(), None);
    let bytes_in = who.received.handle.upload.bytes();
    new.session().add_bytes_in(bytes_in);
    std::mem::replace(leg, new).withdraw(bytes_in);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_foreign;

    #[test]
    fn pages_of_the_own_machine_and_of_the_list_may_call() {
        let allowed = ["https://tools.example".to_owned()];
        for origin in
            ["http://localhost:6274", "http://127.0.0.1", "https://[::1]:8443", "https://tools.example"]
        {
            assert!(!is_foreign(origin, &allowed), "{origin}");
        }
        for origin in [
            "null",
            "",
            "https://evil.example",
            "http://tools.example",
            "https://tools.example:444",
            "http://localhost80",
            "http://localhost.evil.example",
            "http://localhost:80.evil.example",
            "http://127.0.0.1.evil.example",
            "file://localhost",
        ] {
            assert!(is_foreign(origin, &allowed), "{origin}");
        }
    }
}
