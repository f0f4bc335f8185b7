//! The compiled configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::config_file::{Backends, ConfigFile};
use super::forward_proxy;
use super::guard::check_backends;
use super::key_sources::Notes;
use super::places::{check_folders, check_ports};
use super::printable::printable;
use super::rule_targets;
use super::tree::Tree;
use super::warnings;
use crate::model_patterns::is_wild;
use crate::protocol::BackendKind;
use crate::routing::{BackendRule, RoutingConfig, Table};
use crate::settings::address::listen_address;
use crate::settings::fault::{Fault, Faults};
use crate::settings::secret::Secret;
use crate::upstream::egress::ProxyVariables;
use crate::{
    cache, capture, control, forward, history, identity, limits, notify, policy, pricing, proxy, session,
    telemetry, upstream,
};

/// Name of the backend that `backend:` defines.
const ONLY_BACKEND: &str = "default";

/// The checked configuration of all sources.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the proxy listener. Needs a restart.
    pub listen: SocketAddr,
    /// Directory for keys and other state. Needs a restart.
    pub data_dir: PathBuf,
    /// Threads, timeouts and limits of the proxy listener.
    pub server: proxy::settings::Settings,
    /// The control API.
    pub control: control::settings::Settings,
    /// The life of sessions.
    pub session: session::Settings,
    /// The keys of callers.
    pub auth: Arc<identity::Auth>,
    /// How the session of a request is found.
    pub identity: identity::Settings,
    /// At least one backend; [`crate::routing::Decision::backend`] is a position here.
    pub backends: Vec<upstream::settings::Settings>,
    /// Where clients of the forward proxy may be connected to.
    pub forward: forward::Settings,
    /// Source of `GET /v1/models`.
    pub models: proxy::settings::ModelsConfig,
    /// Which backend a request goes to.
    pub routing: Table,
    /// How fast callers may be.
    pub limits: limits::Limits,
    /// How requests are admitted when there is no room for all.
    pub admission: limits::AdmissionRules,
    /// How much callers may spend.
    pub budgets: limits::budgets::Budgets,
    /// Rules for requests, answers and tool calls.
    pub rules: Arc<policy::ruleset::RuleSet>,
    /// The services that decide besides them.
    pub services: Vec<Arc<notify::services::ServiceSettings>>,
    /// How calls that rules hold are approved.
    pub approvals: policy::approvals::ApprovalRules,
    /// The receivers of events.
    pub receivers: notify::settings::Receivers,
    /// The history of ended sessions.
    pub history: history::Settings,
    /// The HTTP cache; `None` if it is off.
    pub cache: Option<cache::Settings>,
    /// Which bodies are captured into the history.
    pub capture: capture::Settings,
    /// Prices of models.
    pub prices: pricing::Prices,
    /// How many tenants have metrics of their own.
    pub max_tenants: u16,
    /// The log.
    pub logging: telemetry::settings::Settings,
    /// Export to an OpenTelemetry collector. Needs a restart.
    pub telemetry: telemetry::otlp::settings::Settings,
    printable: Value,
    notes: Arc<Notes>,
    unpriced: Vec<UnpricedModel>,
}

/// A model that `backends.NAME.models` names and that has no price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnpricedModel {
    /// The backend.
    pub backend: String,
    /// The name of the model.
    pub model: String,
}

impl Config {
    /// Returns the warnings (valid but probably unintended), in the order of the file.
    pub fn warnings(&self) -> &[Fault] {
        &self.notes.warnings
    }

    /// Returns the models that backends name and that have no price. Models that are only matched by a pattern are
    /// not known here.
    pub fn unpriced_models(&self) -> &[UnpricedModel] {
        &self.unpriced
    }

    /// Returns the configuration with these notes.
    pub(super) fn with_notes(self, notes: Notes) -> Self {
        Self { notes: Arc::new(notes), ..self }
    }

    /// Returns where each key that is set comes from: `FILE:LINE`, a variable or a flag. Takes some milliseconds at the first call.
    pub fn sources(&self) -> &BTreeMap<String, String> {
        self.notes.sources.all()
    }

    /// Returns the effective values under the keys of the file, for display. Contains no secrets: tokens are masked,
    /// and expanded values are replaced by their reference.
    pub fn printable(&self) -> Value {
        self.printable.clone()
    }
}

/// Compiles all sections, even after a fault, to report all faults at once.
pub(super) fn compile(
    mut written: ConfigFile,
    token: Option<Secret>,
    proxies: &ProxyVariables,
    tree: &Tree,
    faults: &mut Faults,
) -> Option<Config> {
    let printable = printable(&written, token.is_some(), tree);
    let (shorthand, rules) = fill_in_backends(&mut written, faults);
    let (receivers, listen) =
        (compile_receivers(&written, faults), listen_address("listen", &written.listen, faults));
    let control = compile_control(written.control, token, &written.auth, faults);
    let server = written.server.compile(written.security.acl.clone(), written.compression, faults);
    let (session, identity) = written.session.compile(faults);
    let auth = compile_auth(written.auth, &rules, server.as_ref(), session.as_ref(), faults);
    let callers = (written.startup_guard, listen, auth.as_deref(), &*rules);
    let forward = forward_proxy::compile(written.forward_proxy, &written.security, callers, faults);
    let backends = compile_backends(written.backends, proxies, shorthand, faults);
    let routing = compile_routing(written.routing, &rules, shorthand, faults);
    let (caller_limits, admission, budgets) =
        limits::settings::compile_all(written.limits, written.admission, written.budgets, faults);
    let (services, policy, approvals) = compile_policy(written.policy, &written.approvals, faults);
    let (history, telemetry) = (written.history.compile(faults), written.telemetry.compile(faults));
    let bodies = (written.cache, written.capture);
    let (cache, capture) = compile_bodies(bodies, session.as_ref(), history.as_ref(), faults);
    let (prices, logging) = (written.usage.compile(faults), written.logging.compile(faults));
    let known = (server.as_ref(), auth.as_deref(), routing.as_ref());
    check_backends(backends.as_deref(), known, (written.startup_guard, listen, shorthand), &rules, faults);
    check_places(listen, (control.as_ref(), auth.as_deref()), &written.data_dir, history.as_ref(), faults);
    Some(Config {
        listen: listen?,
        data_dir: PathBuf::from(written.data_dir),
        server: server?,
        control: control?,
        session: session?,
        auth: auth?,
        identity: identity?,
        backends: backends?,
        forward: forward?,
        models: written.models,
        routing: routing?,
        limits: caller_limits?,
        admission: admission?,
        budgets: budgets?,
        rules: policy?,
        services: services?,
        approvals: approvals?,
        receivers: receivers?,
        history: history?,
        cache: cache?,
        capture: capture?,
        unpriced: unpriced(&rules, prices.as_ref()?),
        prices: prices?,
        max_tenants: written.usage.max_tenants,
        logging: logging?,
        telemetry: telemetry?,
        printable,
        notes: Arc::default(),
    })
}

fn compile_receivers(written: &ConfigFile, faults: &mut Faults) -> Option<notify::settings::Receivers> {
    let kinds = control::api::events::names();
    notify::settings::compile(&written.webhooks, &written.ocsf, &kinds, faults)
}

/// What the section `policy` becomes: where services are asked, the rules, and how held calls are approved.
type Policy = (
    Option<Vec<Arc<notify::services::ServiceSettings>>>,
    Option<Arc<policy::ruleset::RuleSet>>,
    Option<policy::approvals::ApprovalRules>,
);

fn compile_policy(
    written: policy::settings::PolicyConfig,
    approvals: &policy::approvals::ApprovalsConfig,
    faults: &mut Faults,
) -> Policy {
    let services = notify::settings::compile_services(&written.external, faults);
    (services, written.compile(faults), approvals.compile(faults))
}

/// Checks that the control API can be used, and that nothing takes the port or the folder of another part.
fn check_places(
    listen: Option<SocketAddr>,
    (control, auth): (Option<&control::settings::Settings>, Option<&identity::Auth>),
    data_dir: &str,
    history: Option<&history::Settings>,
    faults: &mut Faults,
) {
    warnings::of_roles(auth, control, faults);
    check_ports(listen, control.map(|control| control.listen()), faults);
    check_folders(data_dir, history, faults);
}

/// Callers are known by their certificates only if these are verified.
fn compile_auth(
    written: identity::AuthConfig,
    rules: &[BackendRule],
    server: Option<&proxy::settings::Settings>,
    session: Option<&session::settings::Settings>,
    faults: &mut Faults,
) -> Option<Arc<identity::Auth>> {
    let auth = written.compile(&names(rules), faults);
    check_people(auth.as_deref(), session, faults);
    let verifies = server.is_none_or(|server| server.tls().is_some_and(proxy::tls::Tls::knows_clients));
    if !verifies && auth.as_ref().is_some_and(|auth| auth.reads_certificates()) {
        let message = "no client shows a certificate, because the listener verifies none";
        faults.warn("auth.mtls", message, "set server.tls.enabled and server.tls.client_ca, or remove it");
    }
    auth
}

/// In a fleet a token of one instance is verified by the others; no secret that signs tokens lies in Redis.
fn check_people(
    auth: Option<&identity::Auth>,
    session: Option<&session::settings::Settings>,
    faults: &mut Faults,
) {
    let (Some(auth), Some(session)) = (auth, session) else { return };
    let people = auth.people();
    if people.login && people.secret.is_none() && session.redis().is_some() {
        let message = "the instances of a fleet need the same secret for access tokens";
        let hint = "write auth.jwt.local.secret_file, with the same content on each (openssl rand -hex 32)";
        faults.add("auth.people.login", message, hint);
    }
}

fn compile_control(
    mut written: control::settings::ControlConfig,
    token: Option<Secret>,
    auth: &identity::AuthConfig,
    faults: &mut Faults,
) -> Option<control::settings::Settings> {
    written.auth.token = token;
    written.compile(auth.knows_operators(), faults)
}

fn names(rules: &[BackendRule]) -> Vec<String> {
    rules.iter().map(|rule| rule.name.clone()).collect()
}

fn unpriced(rules: &[BackendRule], prices: &pricing::Prices) -> Vec<UnpricedModel> {
    let named = rules.iter().flat_map(|rule| rule.models.iter().map(move |model| (&rule.name, model)));
    let unpriced = named.filter(|(backend, model)| !is_wild(model) && !prices.has(backend, model));
    unpriced
        .map(|(backend, model)| UnpricedModel { backend: backend.clone(), model: model.clone() })
        .collect()
}

/// Compiles what keeps bodies: the cache and the capture.
fn compile_bodies(
    (cache, capture): (cache::CacheConfig, capture::CaptureConfig),
    session: Option<&session::Settings>,
    history: Option<&history::Settings>,
    faults: &mut Faults,
) -> (Option<Option<cache::Settings>>, Option<capture::Settings>) {
    (compile_cache(cache, session, faults), compile_capture(capture, history, faults))
}

/// A cache that instances share needs their Redis.
fn compile_cache(
    written: cache::CacheConfig,
    session: Option<&session::Settings>,
    faults: &mut Faults,
) -> Option<Option<cache::Settings>> {
    written.compile(session.is_none_or(|session| session.redis().is_some()), faults)
}

/// Captured bodies need the history.
fn compile_capture(
    written: capture::CaptureConfig,
    history: Option<&history::Settings>,
    faults: &mut Faults,
) -> Option<capture::Settings> {
    let capture = written.compile(faults);
    let is_on = capture.as_ref().is_some_and(capture::Settings::is_on);
    if is_on && history.is_some_and(|history| history.file(Path::new("")).is_none()) {
        let hint = "write history.enabled: true, or capture.mode: off";
        faults.add("capture.mode", "bodies are stored in the history, which is disabled", hint);
    }
    capture
}

/// Puts the backend of the `backend` shorthand under `backends`, if there are no others, and the targets of rules. Returns whether
/// the shorthand counts, and what routing has to know of all.
fn fill_in_backends(written: &mut ConfigFile, faults: &mut Faults) -> (bool, Vec<BackendRule>) {
    let shorthand = written.backends.0.is_empty();
    if shorthand {
        written.backends = only_backend(std::mem::take(&mut written.backend));
    }
    let targets = rule_targets::add(&mut written.routing, &mut written.backends, faults);
    (shorthand, written.backends.0.iter().map(|backend| rule(backend, &targets)).collect())
}

fn only_backend(url: String) -> Backends {
    let backend = upstream::settings::BackendConfig {
        default: true,
        ..upstream::settings::BackendConfig::new(url, BackendKind::OF_URL)
    };
    Backends(vec![(ONLY_BACKEND.to_owned(), backend)])
}

/// Maps the path of a fault to the file's keys: the `backend` shorthand has a single one.
pub(super) fn as_written(path: String, shorthand: bool) -> String {
    if shorthand && path.starts_with("backends.") { "backend".into() } else { path }
}

/// Compiles every backend, even after a fault.
fn compile_backends(
    backends: Backends,
    proxies: &ProxyVariables,
    shorthand: bool,
    faults: &mut Faults,
) -> Option<Vec<upstream::settings::Settings>> {
    let mut found = Faults::default();
    let compiled: Vec<Option<_>> =
        backends.0.into_iter().map(|(name, backend)| backend.compile(&name, proxies, &mut found)).collect();
    faults.absorb(found, |path| as_written(path, shorthand));
    compiled.into_iter().collect()
}

fn compile_routing(
    written: RoutingConfig,
    rules: &[BackendRule],
    shorthand: bool,
    faults: &mut Faults,
) -> Option<Table> {
    let mut found = Faults::default();
    let routing = Table::compile(written, rules, &mut found);
    faults.absorb(found, |path| as_written(path, shorthand));
    routing
}

fn rule(
    (name, backend): &(String, upstream::settings::BackendConfig),
    targets: &BTreeSet<String>,
) -> BackendRule {
    BackendRule {
        name: name.clone(),
        kind: backend.kind,
        models: backend.models.clone(),
        aliases: backend.aliases.clone(),
        rewrite_model: backend.rewrite_model,
        fallback: backend.fallback.clone(),
        default: backend.default,
        is_target: targets.contains(name),
    }
}
