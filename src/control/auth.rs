//! Access checks, made before any route is looked at.
//!
//! In this order: `Host` must be an allowed one (against DNS rebinding), `Origin` must be an allowed one (other web pages
//! must neither kill nor read), then the token. Preflight requests of allowed origins are answered before the token is
//! checked, since browsers send none with them; probes need no token.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::{Instant, timeout_at};

use super::api::error::ErrorCode;
use super::connection::{Connection, TrackedBody};
use super::listen::Peer;
use super::problem::{Problem, finish};
use super::service::ControlState;
use super::settings::Settings;
use crate::ids::RequestId;

/// `Access-Control-Allow-Methods` of an allowed origin.
const CORS_METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
/// `Access-Control-Allow-Headers` of an allowed origin.
const CORS_HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type");
/// `Access-Control-Max-Age`: seconds for which a browser may cache the answer to a preflight request.
const CORS_MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The largest request body, in bytes.
const BODY_MAX: usize = 64 << 10;
/// How long a body may take after its head.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Whether the request has the token, or none is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Authenticated(pub(super) bool);

/// The outermost layer: checks the request, and completes the response.
pub(super) async fn guard(
    State(state): State<Arc<ControlState>>,
    mut request: Request,
    next: Next,
) -> Response {
    let request_id = RequestId::fresh();
    let settings = state.parts.settings.load_full();
    let mut origin = None;
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| peer.clone());
    let connection = peer.as_ref().map(|peer| Arc::clone(&peer.connection));
    if let Some(connection) = &connection {
        connection.request_received();
    }
    let mut response = match check(&settings, &request, &mut origin) {
        Ok(Access::Preflight) => preflight(),
        Ok(Access::Granted(authenticated)) => {
            let trust = || {
                connection
                    .iter()
                    .filter(|_| authenticated.0)
                    .for_each(|connection| connection.mark_authenticated())
            };
            // Without a token every request is authenticated: one whose body is incomplete must stay evictable.
            if settings.token().is_some() {
                trust();
            }
            request.extensions_mut().insert(authenticated);
            match whole_body(request).await {
                Ok(request) => {
                    trust();
                    next.run(request).await
                }
                Err(problem) => problem.into_response(),
            }
        }
        Err(problem) => {
            let peer = peer.map(|peer| peer.address.ip());
            let (method, path) = (request.method(), request.uri().path());
            tracing::warn!(?peer, %method, path, %problem, "control_refused");
            problem.into_response()
        }
    };
    set_headers(&mut response, origin);
    let response = finish(response, &request_id);
    match connection {
        Some(connection) => watch(response, connection),
        None => response,
    }
}

/// Sets the headers that every response has.
fn set_headers(response: &mut Response, origin: Option<HeaderValue>) {
    let is_unauthorized = response.status() == StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    if is_unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"elida\""));
    }
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id"));
    }
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Reads the body of a request, which must be complete within [`BODY_TIME`].
async fn whole_body(request: Request) -> Result<Request, Problem> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (head, body) = request.into_parts();
    let (until, mut pieces, mut whole) = (Instant::now() + BODY_TIME, body.into_data_stream(), Vec::new());
    loop {
        match timeout_at(until, pieces.next()).await {
            Ok(Some(Ok(piece))) if whole.len() + piece.len() <= BODY_MAX => whole.extend_from_slice(&piece),
            Ok(Some(Ok(_))) => {
                let detail = "the body is larger than 64 KiB";
                return Err(Problem::new(ErrorCode::BodyTooLarge, detail));
            }
            Ok(Some(Err(_))) => return Err(Problem::bad_request("the body cannot be read")),
            Ok(None) => return Ok(Request::from_parts(head, Body::from(whole))),
            Err(_) => {
                let detail = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
                return Err(Problem::new(ErrorCode::RequestTimeout, detail));
            }
        }
    }
}

/// Reports the response to its connection.
fn watch(response: Response, connection: Arc<Connection>) -> Response {
    if response.body().size_hint().exact().is_some() {
        connection.response_ready();
        return response;
    }
    connection.response_streaming();
    response.map(|body| Body::from_stream(TrackedBody { pieces: body.into_data_stream(), connection }))
}

/// Outcome of the checks.
enum Access {
    Preflight,
    Granted(Authenticated),
}

/// Checks a request; sets `origin` to its `Origin` if that is allowed.
fn check(
    settings: &Settings,
    request: &Request,
    origin: &mut Option<HeaderValue>,
) -> Result<Access, Problem> {
    let (headers, path) = (request.headers(), request.uri().path());
    let is_probe = path == "/health" || path.starts_with("/health/");
    check_host(settings.allowed_hosts(), headers, request.uri(), is_probe)?;
    *origin = check_origin(settings.allow_origins(), headers)?;
    if request.method() == Method::OPTIONS
        && origin.is_some()
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    {
        return Ok(Access::Preflight);
    }
    let authenticated = Authenticated(check_token(settings, headers));
    if authenticated.0 || is_probe || path == "/control/health" {
        return Ok(Access::Granted(authenticated));
    }
    Err(Problem::new(ErrorCode::Unauthorized, "send the control token: Authorization: Bearer …"))
}

/// Checks every host that the request names. A probe may name any IP address: an orchestrator knows no name, and a
/// rebound DNS name is never an address.
fn check_host(allowed: &[String], headers: &HeaderMap, uri: &Uri, is_probe: bool) -> Result<(), Problem> {
    let refuse = |detail: String| Err(Problem::new(ErrorCode::HostNotAllowed, detail));
    let mut named = 0;
    let written = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or_default());
    for host in written.chain(uri.authority().map(|authority| authority.as_str())) {
        let name = without_port(host);
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_ours = allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
        let is_ours = is_ours || (is_probe && address.is_ok());
        if !is_ours {
            return refuse(format!("'{name}' is not in control.allowed_hosts"));
        }
        named += 1;
    }
    match named {
        0 => refuse("the request has no Host header".to_owned()),
        _ => Ok(()),
    }
}

/// Returns the host without its port: `localhost` of `localhost:9090`, `[::1]` of `[::1]:9090`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Checks the origin, which browsers send with every request of a page that could read or change something.
fn check_origin(allowed: &[String], headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
    let mut found = None;
    for origin in headers.get_all(header::ORIGIN) {
        if !allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            let detail = "the origin of the page is not in control.cors.allow_origins";
            return Err(Problem::new(ErrorCode::OriginNotAllowed, detail));
        }
        found = Some(origin.clone());
    }
    Ok(found)
}

/// True when the request has the token, or none is configured.
fn check_token(settings: &Settings, headers: &HeaderMap) -> bool {
    let Some(token) = settings.token() else { return true };
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (shown.next(), shown.next()) else { return false };
    let value = value.as_bytes();
    let Some((scheme, credential)) = value.split_at_checked(b"Bearer ".len()) else { return false };
    // Digests have one length, so the comparison does not reveal the token's.
    let (shown, ours) = (Sha256::digest(credential.trim_ascii()), Sha256::digest(token.reveal()));
    let same = shown.as_slice().ct_eq(ours.as_slice());
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(same)
}

fn preflight() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, CORS_METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, CORS_HEADERS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, CORS_MAX_AGE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_not_part_of_a_host() {
        for (host, name) in [
            ("localhost:9090", "localhost"),
            ("localhost", "localhost"),
            ("[::1]:9090", "[::1]"),
            ("[::1]", "[::1]"),
            ("evil:80:80", "evil:80"),
            ("localhost:evil", "localhost:evil"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }

    #[test]
    fn only_our_own_names_are_answered() {
        let allowed = ["localhost", "[::1]"].map(String::from);
        let check = |host: &str, uri: &str, is_probe: bool| {
            let mut headers = HeaderMap::new();
            if !host.is_empty() {
                headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            }
            check_host(&allowed, &headers, &uri.parse().unwrap(), is_probe).is_ok()
        };
        assert!(check("LocalHost:9090", "/", false) && check("[::1]", "/", false));
        assert!(!check("", "/", false) && !check("", "/", true));
        assert!(!check("evil.example", "/", false) && !check("evil.example", "/", true));
        assert!(!check("10.0.0.7:9090", "/", false) && check("10.0.0.7:9090", "/", true));
        assert!(!check("localhost", "http://evil.example/", false));
        assert!(!check("localhost.evil.example", "/", false) && !check("localhost@evil", "/", false));
    }
}
