//! Step 5 for the forward proxy: a rule or a backend takes the host, or the request goes to the host itself, at addresses that
//! were found once and judged.

use std::time::Duration;

use http::Method;
use pingora_core::Error;
use tracing::info;

use super::dispatch::{Destination, Route, undecided};
use super::downstream::LEG_CUT;
use super::error_response::Reject;
use super::facts::RequestFacts;
use super::forward_target::Forward;
use super::receive::Received;
use super::request_ctx::Identified;
use super::runtime_settings::RuntimeSettings;
use super::state::ProxyState;
use crate::error::{ErrorKind, Refusal};
use crate::forward::{NotReached, Target};
use crate::identity::ShownKey;
use crate::protocol::Dialect;
use crate::routing::{Choice, RouteMethod, RuleDecision};
use crate::telemetry::metrics::Metrics;
use crate::upstream::addresses::Addresses;
use crate::upstream::backend::{Backend, Permit};
use crate::upstream::settings::{FORWARD, Settings};

/// Checks the port and the host of a request to the forward proxy.
///
/// # Errors
/// One of them is not permitted.
pub(super) fn check(app: &ProxyState, received: &Received) -> Result<(), Refusal> {
    let Some(forward) = &received.forward else { return Ok(()) };
    let is_tunnel = forward.is_tunnel || forward.is_intercepted;
    let checked = received.handle.settings.forward.check(&forward.target, is_tunnel);
    checked.map_err(|why| refusal(&app.metrics, &why))
}

/// Decides who serves a request.
///
/// # Errors
/// A rule asks for something that cannot be read.
pub(super) fn backend(received: &Received, facts: &RequestFacts<'_>) -> Result<Destination, Refusal> {
    let Some(forward) = &received.forward else { return Ok(Destination::Path) };
    if forward.is_tunnel {
        return Ok(Destination::Host);
    }
    let settings = &received.handle.settings;
    let by_rule = settings.routes.decide_by_rules(facts, received.uri.path());
    let by_rule = by_rule.map_err(|error| undecided(&error, settings.routes.header()))?;
    let serving = || serving(settings, &forward.target, forward.is_intercepted);
    let found = by_rule.or_else(|| serving().map(|backend| RuleDecision { backend, strip: 0..0 }));
    Ok(found.map_or(Destination::Host, Destination::Backend))
}

/// Returns the position of the backend whose URL names this host and nothing else.
pub(super) fn serving(settings: &RuntimeSettings, target: &Target, is_secure: bool) -> Option<usize> {
    let host = target.host.to_string();
    settings.backends.iter().position(|backend| {
        let backend = backend.settings();
        let is_whole = backend.tls().is_some() == is_secure && backend.base_path().is_empty();
        is_whole && backend.port() == target.port && backend.host() == host.trim_matches(['[', ']'])
    })
}

/// Returns the route to the host itself. A kill cuts the look-up of its name.
///
/// # Errors
/// The key does not permit it, the host has no address or one that is not permitted, or the leg was cut.
pub(super) async fn route(app: &ProxyState, who: &Identified) -> Result<Route, Reject> {
    let (received, caller) = (&who.received, &who.caller);
    let Some(forward) = &received.forward else { return Err(internal()) };
    if let Some(key) = caller.key.as_ref().filter(|key| !key.holder().may_use_backend(FORWARD)) {
        let message = format!(
            "the key of {} does not permit hosts that no backend serves (the backend {FORWARD})",
            key.holder().id()
        );
        return Err(Refusal::new(ErrorKind::BackendDenied, message).into());
    }
    check_unserved(who, forward)?;
    let addresses = addresses(app, received, forward).await?;
    let (scheme, dialect) = match forward.is_intercepted {
        true => ("https", received.dialect),
        false => ("http", Dialect::PLAIN),
    };
    let settings = Settings::of_host(format!("{scheme}://{}", forward.target)).ok_or_else(internal)?;
    let backend = Backend::new(settings, app.forward.metrics.clone()).map_err(|_| internal())?;
    Ok(Route {
        retries: backend.settings().retries(),
        backend: backend.in_flight(caller.for_health, Permit::Granted, app.clock.now()),
        is_foreign: false,
        meant_for: 0,
        caller: caller.for_health,
        served_as: None,
        strip: 0..0,
        is_announced: false,
        is_direct: true,
        dialect,
        via: RouteMethod::Default,
        addresses: Some(Addresses::fixed(addresses)),
        given_back: 0,
        has_responded: false,
        resent: false,
        asked: 1,
        failed_over_from: None,
        chosen: Choice { backend: 0, served_as: None, tier: 0 },
        others: Vec::new(),
        answered: None,
    })
}

/// Refuses a request in an opened tunnel that would have to be held against what only a backend says of its host: which API it
/// speaks, and which models it serves.
///
/// # Errors
/// Models or tools are limited, or rules read bodies and the API of the request is not known.
fn check_unserved(who: &Identified, forward: &Forward) -> Result<(), Refusal> {
    if !forward.is_intercepted {
        return Ok(());
    }
    let Identified { received, caller, .. } = who;
    let settings = &received.handle.settings;
    let limits = |key: &ShownKey| key.holder().limits_models() || key.holder().limits_tools();
    let is_limited = caller.key.as_ref().is_some_and(limits) || settings.routes.restricts_models();
    let is_unread = settings.rules.read_bodies() && !received.dialect.is_read();
    let only_reads =
        [Method::GET, Method::HEAD, Method::OPTIONS].contains(&received.method) && !received.socket;
    if !is_limited && (!is_unread || only_reads) {
        return Ok(());
    }
    let message = format!(
        "no backend serves {}, so that the request cannot be held against the models and tools of the key, routing and policy: \
         write a backend for this host, or a rule of routing.rules that leads to one",
        forward.target.host
    );
    Err(Refusal::new(ErrorKind::PolicyBlocked, message))
}

fn internal() -> Reject {
    Refusal::new(ErrorKind::Internal, super::error_response::INTERNAL_MESSAGE).into()
}

async fn addresses(
    app: &ProxyState,
    received: &Received,
    forward: &Forward,
) -> Result<Vec<std::net::SocketAddr>, Reject> {
    let settings = &received.handle.settings.forward;
    let limit: Duration = settings.connect_timeout();
    let asked = settings.addresses_of(&forward.target, &app.forward.resolver, &app.forward.own);
    let found = tokio::select! {
        biased;
        _ = received.handle.cut.soft() => return Err(Error::new(LEG_CUT).into()),
        found = tokio::time::timeout(limit, asked) => found,
    };
    match found {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(why)) => Err(refusal(&app.metrics, &why).into()),
        Err(_) => {
            let message = format!("the name {} was not resolved in time", forward.target.host);
            Err(Refusal::new(ErrorKind::DnsError, message).into())
        }
    }
}

/// Words the refusal of a target, and counts it. What its name was resolved to, only the log tells.
fn refusal(metrics: &Metrics, why: &NotReached) -> Refusal {
    let kind = match why {
        NotReached::Port(..) => ErrorKind::PortNotAllowed,
        NotReached::Blocked(_) => ErrorKind::DomainBlocked,
        NotReached::Private { host, address, range } => {
            info!(%host, %address, range, "a host is not reached because of its address");
            ErrorKind::AddressBlocked
        }
        NotReached::Loop(_) => ErrorKind::LoopDetected,
        NotReached::Unresolved(name, error) => {
            info!(%name, %error, "a name cannot be resolved");
            ErrorKind::DnsError
        }
    };
    if kind != ErrorKind::DnsError {
        metrics.filtered(kind.code());
    }
    Refusal::new(kind, why.to_string())
}
