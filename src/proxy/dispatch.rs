//! Step 5: chooses the backend, by `X-Backend`, model, path or default.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::{HeaderMap, HeaderName, Method};
use pingora_core::Result;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;

use super::batch;
use super::downstream::LEG_CUT;
use super::endpoints::Endpoints;
use super::error_response::Reject;
use super::facts::RequestFacts;
use super::framing;
use super::identify::Caller;
use super::permissions::Asked;
use super::receive::Received;
use crate::error::{ErrorKind, Refusal};
use crate::ids::BackendName;
use crate::policy::facts::Facts;
use crate::protocol::Dialect;
use crate::protocol::request::{ModelPlace, ModelRequest};
use crate::routing::{Choice, Decision, RouteError, RouteMethod, RuleDecision, Table};
use crate::upstream::addresses::Addresses;
use crate::upstream::backend::{Backend, InFlight, Permit};
use crate::upstream::peer;
use crate::upstream::reporters;
use crate::upstream::retries::Retries;
use crate::upstream::settings::{FORWARD, Settings};

/// Where a request goes, and where it may go instead.
pub(crate) struct Route {
    pub(crate) backend: InFlight,
    /// Whether this backend is of another realm than the first choice, so that it must not get the caller's credentials.
    pub(crate) is_foreign: bool,
    /// Position of the backend that routing chose first.
    pub(super) meant_for: usize,
    /// The caller, for health accounting.
    pub(super) caller: reporters::Caller,
    /// The name of the model at this backend, if it has to be written into the body.
    pub(crate) served_as: Option<Arc<str>>,
    /// The part of the path that named the backend and is not forwarded.
    pub(crate) strip: Range<usize>,
    /// The backend has announced the target, so its base path is in it.
    pub(crate) is_announced: bool,
    /// The request goes to the host that it names, which no backend serves.
    pub(crate) is_direct: bool,
    /// The dialect of the backend.
    pub(crate) dialect: Dialect,
    /// What decided on the backend.
    pub(crate) via: RouteMethod,
    /// The addresses of this backend; `None` before its first attempt.
    pub(super) addresses: Option<Addresses>,
    /// How often the backend has returned the request unprocessed.
    pub(crate) given_back: usize,
    /// This backend has sent the head of a response, perhaps an informational one.
    pub(super) has_responded: bool,
    /// The request was sent again, on a new connection, because this backend had closed a kept one.
    pub(super) resent: bool,
    /// How many backends have been tried, including this one.
    pub(crate) asked: u32,
    /// The first backend, if it failed and another one was tried.
    pub(crate) failed_over_from: Option<BackendName>,
    /// The current backend, as a choice among `others`.
    pub(super) chosen: Choice,
    /// Backends that have not been tried.
    pub(super) others: Vec<Choice>,
    /// A backend that responded with an error; it is tried again when the others cannot be reached.
    pub(super) answered: Option<Choice>,
    /// The retry settings of the first backend.
    pub(super) retries: Retries,
}

/// Who serves a request.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// It asks for a path: routing decides.
    Path,
    /// The backend of a rule, or the one that serves the host that it names.
    Backend(RuleDecision),
    /// The host that it names.
    Host,
}

/// How often a backend may return a request unprocessed before the request fails.
const GIVEN_BACK: usize = 2;

impl Route {
    /// Counts that the backend returned the request unprocessed. Returns false when that was once too often.
    pub(crate) fn try_again(&mut self) -> bool {
        self.given_back += 1;
        self.given_back <= GIVEN_BACK
    }

    /// Sends the request again, on a new connection. Returns false when that has been done before.
    pub(crate) fn resend(&mut self) -> bool {
        !std::mem::replace(&mut self.resent, true)
    }

    /// Moves on to the next address of the backend after the current one refused the connection. Returns false when there
    /// is none.
    pub(crate) fn next_address(&mut self) -> bool {
        self.addresses.as_mut().is_some_and(Addresses::try_next)
    }
}

/// Chooses the backend.
///
/// # Errors
/// No backend matches, the model is blocked, the caller's key does not permit it or the backend, or its name at the backend cannot be written into the request.
pub(super) fn route(
    received: &Received,
    caller: &Caller,
    head: &RequestHeader,
    call: &ModelRequest,
    (endpoints, destination): (&Endpoints, Destination),
    facts: &RequestFacts<'_>,
) -> Result<Route, Refusal> {
    let (settings, now) = (&received.handle.settings, facts.now);
    let decision = match destination {
        Destination::Backend(decided) => decide_for(&settings.routes, decided, call)?,
        Destination::Path | Destination::Host => decide(received, caller, head, call, endpoints, facts)?,
    };
    if let Some(batch) = &call.batch {
        let restricts = settings.routes.restricts_models() || caller.limits_models();
        batch::check(batch, &settings.routes, decision.backend, restricts)?;
    }
    check_request(&decision, head, call, received.dialect.is_llm())?;
    check_socket(received, settings.backends[decision.backend].settings())?;
    let asked = Asked { received, caller, headers: &head.headers, call };
    asked.check(&settings.backends[decision.backend], decision.served_as.as_deref())?;
    let backend = settings.backends[decision.backend].in_flight(caller.for_health, Permit::Granted, now);
    let mut others = decision.others;
    let is_fixed = call.model_place == ModelPlace::Fixed || call.batch.is_some();
    others.retain(|other| !is_fixed || other.served_as.is_none());
    if caller.key.is_some() {
        let is_permitted =
            |other: &Choice| asked.check(&settings.backends[other.backend], other.served_as.as_deref());
        others.retain(|other| is_permitted(other).is_ok());
    }
    if !others.is_empty() && asked.has_credential() {
        // The caller's credential is meant for the backend that routing names, and for its realm.
        let meant_for = backend.settings();
        others.retain(|other| settings.backends[other.backend].settings().may_take(meant_for));
    }
    Ok(Route {
        dialect: received.dialect.on(backend.settings().kind()),
        retries: backend.settings().retries(),
        backend,
        is_foreign: false,
        meant_for: decision.backend,
        caller: caller.for_health,
        served_as: decision.served_as.clone(),
        strip: decision.strip,
        is_announced: decision.is_announced,
        is_direct: false,
        via: decision.via,
        addresses: None,
        given_back: 0,
        has_responded: false,
        resent: false,
        asked: 1,
        failed_over_from: None,
        chosen: Choice { backend: decision.backend, served_as: decision.served_as, tier: 0 },
        others,
        answered: None,
    })
}

/// Decides by the endpoint that a server has announced to the caller, or by the rules of routing.
fn decide(
    received: &Received,
    caller: &Caller,
    head: &RequestHeader,
    call: &ModelRequest,
    endpoints: &Endpoints,
    facts: &RequestFacts<'_>,
) -> Result<Decision, Refusal> {
    let routes = &received.handle.settings.routes;
    let wanted = wanted(&head.headers, routes.header())?;
    let target = received.uri.path_and_query().map_or("/", |target| target.as_str());
    let may_be_announced = received.method == Method::POST && !received.dialect.is_llm();
    let backend = may_be_announced.then(|| endpoints.backend_of(&caller.principal, target)).flatten();
    match backend.and_then(|name| routes.decide_announced(name.as_str(), wanted, target)) {
        Some(decision) => Ok(decision),
        None => decide_by_model(routes, wanted, target, call, Some(facts))
            .map_err(|error| undecided(&error, routes.header())),
    }
}

/// Decides on the backend that has been found.
///
/// # Errors
/// A model is blocked.
fn decide_for(routes: &Table, decided: RuleDecision, call: &ModelRequest) -> Result<Decision, Refusal> {
    if let Some(blocked) = call.models().find(|model| routes.blocks(model)) {
        let error = RouteError::BlockedModel(blocked.to_owned());
        return Err(undecided(&error, routes.header()));
    }
    Ok(routes.decide_for(decided, call.models().next()))
}

/// Refuses a request that its backend could read in another way than the gateway, or that would have to be rewritten where
/// that is not possible.
///
/// # Errors
/// It names two models, its model has another name at the backend that cannot be written into it, or its path leads out
/// of the backend or, in a model's API, has dot segments.
fn check_request(
    decision: &Decision,
    head: &RequestHeader,
    call: &ModelRequest,
    is_llm: bool,
) -> Result<(), Refusal> {
    let refuse = |message: &str| Err(Refusal::new(ErrorKind::BadRequest, message));
    if call.model_doubled {
        return refuse("the request names two different models, or a form repeats its model; send one");
    }
    if let Some(name) = decision.served_as.as_deref().filter(|_| call.model_place == ModelPlace::Fixed) {
        return refuse(&format!(
            "the model has another name at its backend (rewrite_model), which can be written into a plain JSON body or \
             form only, not into a path, a query or a compressed form; name {name} yourself"
        ));
    }
    let rest = head.raw_path().get(decision.strip.end..).unwrap_or_default();
    let path = rest.split(|byte| *byte == b'?').next().unwrap_or_default();
    if framing::climbs_out(path) {
        return refuse("the path leads out of its backend by `..` segments; send the path it leads to");
    }
    // A backend that resolves them may read another model in the path.
    if is_llm && framing::has_dot_segments(path) {
        return refuse("the path of a model's API has `.` or `..` segments; send the path it leads to");
    }
    Ok(())
}

/// Checks that the messages of a WebSocket to a model backend are read, where some models are refused or rules ask for them.
///
/// # Errors
/// They are not, so they could name any model.
fn check_socket(received: &Received, backend: &Settings) -> Result<(), Refusal> {
    let settings = &received.handle.settings;
    let is_checked = settings.routes.restricts_models() || settings.rules.read_bodies();
    if !(received.is_unread_socket() && backend.kind().is_llm() && is_checked) {
        return Ok(());
    }
    let message = "the messages of this WebSocket are not of an API that this gateway reads, so they cannot be held against \
                   routing.blocked_models, routing.strict_models and policy.rules";
    Err(Refusal::new(ErrorKind::PolicyBlocked, message))
}

/// Decides by the model that the backend obeys; by the one in the body, which it may ignore, when no pattern matches that.
/// With `routing.strict_models` each of the two must be served: which one a backend obeys is not known for sure. The models in
/// a batch count as the one in a body: none of them may be blocked, and the first one that a pattern matches decides.
pub(super) fn decide_by_model(
    routes: &Table,
    wanted: Option<&str>,
    path: &str,
    call: &ModelRequest,
    facts: Option<&dyn Facts>,
) -> Result<Decision, RouteError> {
    // Those that a backend may use besides: they decide on nothing, and must be permitted.
    let others = || call.others.iter().flat_map(|others| others.names());
    if let Some(blocked) = call.models().chain(others()).find(|model| routes.blocks(model)) {
        return Err(RouteError::BlockedModel(blocked.to_owned()));
    }
    let decides = |model: &&str| routes.serves(model) != routes.is_strict();
    let others = others().filter(|_| routes.is_strict());
    let deciding = call.models().chain(others).find(decides);
    routes.decide_by(wanted, path, deciding.or_else(|| call.models().next()), facts)
}

/// Returns why no backend was found; `header` is the field that names one.
pub(super) fn undecided(error: &RouteError, header: &HeaderName) -> Refusal {
    match error {
        // The other names are left out: callers need not know them.
        RouteError::UnknownBackend(_) => {
            let message = format!("{error}; name a configured one in {header} or leave it out");
            Refusal::new(ErrorKind::UnknownBackend, message)
        }
        RouteError::BlockedModel(_) => Refusal::new(ErrorKind::PolicyBlocked, error.to_string()),
        RouteError::Undecided(_) => {
            Refusal::new(ErrorKind::BodyUnreadable, format!("{error}; send it as plain JSON in UTF-8"))
        }
        RouteError::NoRoute | RouteError::UnnamedServer => {
            Refusal::new(ErrorKind::NoRoute, error.to_string())
        }
    }
}

/// Returns the backend that the request names.
///
/// # Errors
/// It names two.
pub(super) fn wanted<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Refusal> {
    let mut wishes = headers.get_all(name).iter();
    let wanted = wishes.next().map(|value| value.to_str().unwrap_or("?"));
    if wishes.any(|other| Some(other.as_bytes()) != wanted.map(str::as_bytes)) {
        let message = format!("two different backends are named; send {name} once");
        return Err(Refusal::new(ErrorKind::BadRequest, message));
    }
    Ok(wanted)
}

/// Returns the peer for the next attempt. A kill cuts the DNS look-up, too.
///
/// # Errors
/// The leg was cut, the name cannot be resolved, or no address is left to try.
pub(crate) async fn peer(received: &Received, route: &mut Route) -> Result<Box<HttpPeer>, Reject> {
    if received.handle.cut.reason().is_some() {
        return Err(pingora_core::Error::new(LEG_CUT).into());
    }
    let settings = &received.handle.settings;
    let limit =
        if route.is_direct { settings.forward.connect_timeout() } else { settings.timeouts.upstream_connect };
    let addresses = match &mut route.addresses {
        Some(addresses) => addresses,
        none => none.insert(addresses(received, &route.backend, limit).await?),
    };
    let Some(address) = addresses.current() else {
        let fault = "none of its addresses accepts connections";
        return Err(unreachable(&route.backend, ErrorKind::BackendUnavailable, fault).into());
    };
    let mut peer = peer::peer(&route.backend, address, limit);
    peer::use_own_client(&mut peer);
    if received.socket {
        peer::for_upgrade(&mut peer, &route.backend);
    }
    if route.resent {
        peer::use_new_connection(&mut peer);
    }
    // Over HTTP/2 Pingora waits for flow-control credit without noticing that the backend is silent.
    if peer.options.alpn.get_max_http_version() > 1 {
        peer.options.write_timeout = Some(received.handle.settings.timeouts.stream_idle);
    }
    Ok(Box::new(peer))
}

/// Resolves the name of the backend.
async fn addresses(received: &Received, backend: &Backend, limit: Duration) -> Result<Addresses, Reject> {
    let mut asked = pin!(backend.addresses());
    // An address that is known needs no timer.
    let found = match asked.as_mut().now_or_never() {
        Some(found) => Ok(found),
        None => tokio::select! {
            biased;
            _ = received.handle.cut.soft() => return Err(pingora_core::Error::new(LEG_CUT).into()),
            found = tokio::time::timeout(limit, asked) => found,
        },
    };
    let (kind, fault) = match found {
        Ok(Ok(addresses)) => return Ok(addresses),
        Ok(Err(_)) => (ErrorKind::BackendUnavailable, "its name cannot be resolved"),
        Err(_) => (ErrorKind::BackendTimeout, "its name was not resolved in time"),
    };
    Err(unreachable(backend, kind, fault).into())
}

/// Returns the refusal of a request whose backend cannot be reached. What a proxy in front of it says, and where that is, only
/// the log tells.
pub(super) fn unreachable(backend: &Backend, kind: ErrorKind, why: &str) -> Refusal {
    let message = format!("the backend {} cannot be reached", named(backend));
    match backend.settings().egress().proxy {
        Some(_) => Refusal { detail: Some(why.into()), ..Refusal::new(kind, message) },
        None => Refusal::new(kind, format!("{message}: {why}")),
    }
}

/// Returns the name of a backend for callers, and that there is a proxy in front of it.
pub(super) fn named(backend: &Backend) -> String {
    let settings = backend.settings();
    let through = if settings.egress().proxy.is_some() { " (through its proxy)" } else { "" };
    // Of hosts that no backend serves all have the same name.
    let name =
        if settings.name().as_str() == FORWARD { settings.authority() } else { settings.name().as_str() };
    format!("{name}{through}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::protocol::BackendKind;
    use crate::routing::{BackendRule, RoutingConfig};
    use crate::settings::fault::Faults;

    #[test]
    fn with_strict_models_each_named_model_must_be_served() {
        let rule = |name: &str, models: &[&str], default: bool| BackendRule {
            name: name.into(),
            kind: BackendKind::OPENAI,
            models: models.iter().map(|&text| text.into()).collect(),
            aliases: BTreeMap::new(),
            rewrite_model: false,
            fallback: String::new(),
            default,
            is_target: false,
        };
        let backends = [rule("any", &[], true), rule("gpt", &["gpt-*"], false)];
        let decided = |strict_models, model: &str, also: Option<&str>| {
            let written = RoutingConfig { strict_models, ..RoutingConfig::default() };
            let routes = Table::compile(written, &backends, &mut Faults::default()).unwrap();
            let mut call = ModelRequest::default();
            (call.model, call.also) = (Some(model.to_owned()), also.map(Box::from));
            let path = "/openai/deployments/x/chat/completions";
            decide_by_model(&routes, None, path, &call, None).map(|decision| decision.backend)
        };
        assert_eq!(decided(true, "gpt-5", Some("gpt-4o")), Ok(1));
        assert_eq!(decided(true, "gpt-5", None), Ok(1));
        for (model, also) in [("own", Some("gpt-5")), ("gpt-5", Some("own")), ("own", None)] {
            assert_eq!(decided(true, model, also), Err(RouteError::NoRoute), "{model} {also:?}");
        }
        assert_eq!(decided(false, "own", Some("gpt-5")), Ok(1), "the one that a pattern matches decides");
        assert_eq!(decided(false, "own", Some("other")), Ok(0));
    }
}
