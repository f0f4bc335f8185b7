//! Access checks, made before any route is looked at.
//!
//! In this order: `Host` must be an allowed one (against DNS rebinding), `Origin` must be an allowed one (other web pages
//! must neither kill nor read), then the credential, which says who calls ([`super::operator`]). Preflight requests of allowed
//! origins are answered before that, since browsers send none with them; probes need none.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::{Instant, timeout_at};

use super::api::error::ErrorCode;
use super::connection::{Connection, TrackedBody};
use super::dashboard::cookies::{self, PAGE_HEADER};
use super::listen::Peer;
use super::operator::{Operator, TICKET_PATHS};
use super::problem::{Problem, finish};
use super::routes;
use super::service::ControlState;
use super::settings::Settings;
use crate::ids::RequestId;

/// `Access-Control-Allow-Methods` of an allowed origin.
const CORS_METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
/// `Access-Control-Allow-Headers` of an allowed origin.
const CORS_HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type");
/// `Access-Control-Max-Age`: seconds for which a browser may cache the answer to a preflight request.
const CORS_MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The version of this program: a page that was loaded from another one says so.
const VERSION: HeaderName = HeaderName::from_static("x-elida-version");

/// The largest request body, in bytes.
const BODY_MAX: usize = 64 << 10;
/// How long a body may take after its head.
const BODY_TIME: Duration = Duration::from_secs(10);

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
    routes::renew(&state, request.headers()).await;
    let mut response = match check(&state, &settings, &request, &mut origin) {
        Ok(Access::Preflight) => preflight(),
        Ok(Access::Granted(operator)) => {
            let is_known = operator.is_known();
            let trust = || {
                connection.iter().filter(|_| is_known).for_each(|connection| connection.mark_authenticated())
            };
            // Where none is needed every request has a credential: one whose body is incomplete must stay evictable.
            if !settings.is_open() {
                trust();
            }
            request.extensions_mut().insert(operator);
            request.extensions_mut().insert(request_id.clone());
            match whole_body(request).await {
                Ok(request) => {
                    trust();
                    next.run(request).await
                }
                Err(problem) => problem.into_response(),
            }
        }
        Err(problem) => {
            let peer = peer.map(|peer| peer.address.ip().to_string());
            let auth = state.parts.runtime.auth();
            let (method, path) = (request.method(), auth.without_keys(request.uri().path()));
            tracing::warn!(peer, %method, %path, %problem, "control_refused");
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
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
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
    Granted(Operator),
}

/// Checks a request; sets `origin` to its `Origin` if that is allowed.
fn check(
    state: &ControlState,
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
    let shown = match bearer(headers).map(Arc::from).or_else(|| ticketed(state, request)) {
        Some(shown) => Some(shown),
        None => cookie(request, settings.is_open() || routes::is_open(path))?,
    };
    match operator(state, shown.as_deref()) {
        Ok(operator) => Ok(Access::Granted(operator)),
        Err(_) if is_probe || routes::is_open(path) => Ok(Access::Granted(Operator::nobody())),
        Err(problem) => Err(problem),
    }
}

/// Returns the cookie of the dashboard. A change by cookie needs a header that no page of another origin can send.
///
/// # Errors
/// The header is missing.
fn cookie(request: &Request, is_open: bool) -> Result<Option<Arc<[u8]>>, Problem> {
    let (headers, is_safe) = (request.headers(), matches!(*request.method(), Method::GET | Method::HEAD));
    let Some(value) = cookies::value(headers) else { return Ok(None) };
    if !is_safe && !is_open && !headers.contains_key(PAGE_HEADER) {
        let detail = format!("a change by cookie needs the header {PAGE_HEADER}, as the dashboard sends it");
        return Err(Problem::new(ErrorCode::OriginNotAllowed, detail));
    }
    Ok(Some(value.into()))
}

/// Redeems the ticket in the URL of a stream and returns the credential of its owner.
fn ticketed(state: &ControlState, request: &Request) -> Option<Arc<[u8]>> {
    let (uri, headers) = (request.uri(), request.headers());
    let takes = request.method() == Method::GET && TICKET_PATHS.contains(&uri.path());
    if !takes || headers.contains_key(header::AUTHORIZATION) {
        return None;
    }
    let mut parameters = url::form_urlencoded::parse(uri.query()?.as_bytes());
    let (_, ticket) = parameters.find(|(name, _)| name == "ticket")?;
    state.tickets.take(&ticket, uri.path())
}

/// Returns who shows this credential.
///
/// # Errors
/// 401 when it is not valid, or none is shown and one is required.
pub(super) fn operator(state: &ControlState, shown: Option<&[u8]>) -> Result<Operator, Problem> {
    let settings = state.parts.settings.load();
    let unauthorized = |detail: &str| Err(Problem::new(ErrorCode::Unauthorized, detail));
    if settings.is_open() {
        return Ok(Operator::local());
    }
    let Some(shown) = shown else {
        return unauthorized(
            "send the control token, or a key whose principal has a role: Authorization: Bearer …",
        );
    };
    let behind = state.cookies.credential(shown);
    let credential = behind.as_deref().unwrap_or(shown);
    if settings.token().is_some_and(|token| is_token(token.reveal(), credential)) {
        return Ok(Operator::with_token().showing(shown));
    }
    let auth = state.parts.runtime.auth();
    match auth.operator(credential) {
        Ok(Some(known)) => Ok(Operator::principal(known).showing(shown)),
        Ok(None) => unauthorized("the control API does not know this token"),
        Err(fault) => unauthorized(&fault.to_string()),
    }
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

/// Checks the origin, which browsers send with every request of a page that could read or change something. Our own page has the
/// origin that the request names as its host.
fn check_origin(allowed: &[String], headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
    let mut found = None;
    for origin in headers.get_all(header::ORIGIN) {
        if is_own(origin, headers) {
            continue;
        }
        if !allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            let detail = "the origin of the page is not in control.cors.allow_origins";
            return Err(Problem::new(ErrorCode::OriginNotAllowed, detail));
        }
        found = Some(origin.clone());
    }
    Ok(found)
}

/// Returns whether an origin is that of our own page: the host of the request, which was checked, and its port.
fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let origin = origin.as_bytes();
    let host = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    let mut named = headers.get_all(header::HOST).iter();
    match (host, named.next(), named.next()) {
        (Some(host), Some(named), None) => named.as_bytes().eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// Returns the credential of the header `Authorization`; `None` without one, with two, or with another scheme.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (shown.next(), shown.next()) else { return None };
    let (scheme, credential) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| credential.trim_ascii())
}

/// Whether this is the token. Digests have one length, so the comparison does not reveal the token's.
fn is_token(token: &str, shown: &[u8]) -> bool {
    let (shown, ours) = (Sha256::digest(shown), Sha256::digest(token));
    shown.as_slice().ct_eq(ours.as_slice()).into()
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
