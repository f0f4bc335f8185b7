//! The one compiled configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::places::{check_folders, check_ports};
use super::tree::Tree;
use super::written::{Backends, Guard, IDENTITY_PART, VERSION, Written};
use crate::protocol::BackendKind;
use crate::routing::{BackendRule, Table};
use crate::settings::address::listen_address;
use crate::settings::fault::{Fault, Faults};
use crate::settings::secret::Secret;
use crate::{capture, control, history, identity, limits, proxy, session, telemetry, upstream};

/// The name of the backend that `backend:` stands for.
const ONLY_BACKEND: &str = "default";

/// Everything the file, the environment and the flags say, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the proxy listens. Needs a restart.
    pub listen: SocketAddr,
    /// Where keys and other state are kept. Needs a restart.
    pub data_dir: PathBuf,
    /// Threads, timeouts and limits of the proxy listener.
    pub server: proxy::settings::Settings,
    /// The control API.
    pub control: control::settings::Settings,
    /// The life of sessions.
    pub session: session::Settings,
    /// How the session of a request is found.
    pub identity: identity::Settings,
    /// At least one backend; [`crate::routing::Decision::backend`] is a position here.
    pub backends: Vec<upstream::settings::Settings>,
    /// Who answers `GET /v1/models`.
    pub models: proxy::models::Written,
    /// Which backend a request goes to.
    pub routing: Table,
    /// What is kept of ended sessions.
    pub history: history::Settings,
    /// Which bodies are kept there.
    pub capture: capture::Settings,
    /// What models cost.
    pub prices: limits::Prices,
    /// What is logged.
    pub logging: telemetry::settings::Settings,
    /// What a collector is told. Needs a restart.
    pub telemetry: telemetry::otlp::settings::Settings,
    printable: Value,
    warnings: Vec<Fault>,
}

impl Config {
    /// What is allowed and rarely meant, as one reads the file.
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }

    /// The same with these warnings.
    pub(super) fn with_warnings(self, warnings: &[Fault]) -> Self {
        Self { warnings: warnings.to_vec(), ..self }
    }

    /// The effective values under the keys of the file, for people to look at. Holds no secret:
    /// tokens are masked, and a value that refers to the environment or a file is shown as the
    /// reference.
    pub fn printable(&self) -> Value {
        self.printable.clone()
    }
}

/// Compiles all shares; after a fault the others are still compiled, to find all faults.
pub(super) fn compile(
    mut written: Written,
    token: Option<Secret>,
    tree: &Tree,
    faults: &mut Faults,
) -> Option<Config> {
    check_version(written.version, faults);
    check_backend(&written, tree, faults);
    let printable = printable(&written, token.is_some(), tree);
    written.control.auth.token = token;
    let shorthand = written.backends.0.is_empty();
    if shorthand {
        written.backends = only_backend(written.backend);
    }
    let listen = listen_address("listen", &written.listen, faults);
    let server = written.server.compile(faults);
    let control = written.control.compile(faults);
    let session = written.session.compile(faults);
    let identity = written.identity.compile(faults);
    let rules: Vec<BackendRule> = written.backends.0.iter().map(rule).collect();
    let backends = compile_backends(written.backends, shorthand, faults);
    let mut of_routing = Faults::default();
    let routing = Table::compile(written.routing, &rules, &mut of_routing);
    faults.absorb(of_routing, |path| as_written(path, shorthand));
    let history = written.history.compile(faults);
    let capture = written.capture.compile(faults);
    check_capture(capture, history.as_ref(), faults);
    let prices = written.usage.compile(faults);
    let logging = written.logging.compile(faults);
    let telemetry = written.telemetry.compile(faults);
    let knows_clients =
        server.as_ref().and_then(|server| server.tls()).is_some_and(|tls| tls.knows_clients());
    if let Some(backends) = &backends {
        if let (Some(listen), false) = (listen, knows_clients) {
            guard(written.startup_guard, listen, backends, faults);
        }
        warn_of_realms(&rules, backends, faults);
    }
    check_ports(listen, control.as_ref().map(|control| control.listen()), faults);
    check_folders(&written.data_dir, history.as_ref(), faults);
    Some(Config {
        listen: listen?,
        data_dir: PathBuf::from(written.data_dir),
        server: server?,
        control: control?,
        session: session?,
        identity: identity?,
        backends: backends?,
        models: written.models,
        routing: routing?,
        history: history?,
        capture: capture?,
        prices: prices?,
        logging: logging?,
        telemetry: telemetry?,
        printable,
        warnings: Vec::new(),
    })
}

fn check_version(version: u32, faults: &mut Faults) {
    if version != VERSION {
        faults.add("version", format!("version {version} is not known"), format!("write version: {VERSION}"));
    }
}

/// `backend` from a variable or flag is meant; it must not be passed over for `backends:`.
fn check_backend(written: &Written, tree: &Tree, faults: &mut Faults) {
    if !written.backends.0.is_empty() && tree.origins.contains_key("backend") {
        faults.add(
            "backend",
            "it is only used when there are no backends, but there are some",
            "leave it out, or remove backends",
        );
    }
}

/// An injected key is spent on whoever can reach the listener, since clients are not asked who they are.
fn guard(guard: Guard, listen: SocketAddr, backends: &[upstream::settings::Settings], faults: &mut Faults) {
    let Some(backend) = backends.iter().find(|backend| backend.auth().is_injected()) else { return };
    if listen.ip().is_loopback() {
        return;
    }
    let path = format!("backends.{}.auth.mode", backend.name());
    let message =
        format!("whoever reaches {listen} spends this key, because clients need no credential of their own");
    match guard {
        Guard::Enforce => {
            let hint = "listen on 127.0.0.1, or let clients send their own keys (mode: passthrough), or ask them for a \
                        certificate (server.tls.client_ca), or keep others away by the network and write \
                        startup_guard: warn";
            faults.add(path, message, hint);
        }
        Guard::Warn => faults.warn(path, message, "keep others away by the network"),
    }
}

/// Who stands in for another one, but is not asked with the credentials that were meant for that one.
fn warn_of_realms(rules: &[BackendRule], backends: &[upstream::settings::Settings], faults: &mut Faults) {
    let says =
        |rule: &BackendRule, text: &String| rule.models.iter().any(|own| own.eq_ignore_ascii_case(text));
    for (at, first) in rules.iter().enumerate() {
        for (place, other) in rules.iter().enumerate() {
            let is_fallback = first.fallback == other.name;
            let is_equal =
                at < place && first.kind == other.kind && first.models.iter().any(|text| says(other, text));
            if (is_fallback || is_equal) && !backends[place].may_take(&backends[at]) {
                let path = match is_fallback {
                    true => format!("backends.{}.fallback", first.name),
                    false => format!("backends.{}.models", other.name),
                };
                let message = format!(
                    "'{}' gets no request with a client's credential that was meant for '{}'",
                    other.name, first.name
                );
                faults.warn(path, message, "give both the same auth.realm, or auth.mode: inject or none");
            }
        }
    }
}

/// Bodies are kept in the file of the history.
fn check_capture(
    capture: Option<capture::Settings>,
    history: Option<&history::Settings>,
    faults: &mut Faults,
) {
    let is_on = capture.is_some_and(|capture| capture.is_on());
    if is_on && history.is_some_and(|history| history.file(Path::new("")).is_none()) {
        let hint = "write history.enabled: true, or capture.mode: off";
        faults.add("capture.mode", "bodies are kept in the history, and there is none", hint);
    }
}

fn only_backend(url: String) -> Backends {
    let backend = upstream::settings::Written {
        default: true,
        ..upstream::settings::Written::new(url, BackendKind::OF_URL)
    };
    Backends(vec![(ONLY_BACKEND.to_owned(), backend)])
}

/// The path of a fault as the file has it: the shorthand has only one key.
fn as_written(path: String, shorthand: bool) -> String {
    if shorthand && path.starts_with("backends.") { "backend".into() } else { path }
}

/// Compiles every backend, also after a fault; those of the shorthand are faults of `backend`.
fn compile_backends(
    backends: Backends,
    shorthand: bool,
    faults: &mut Faults,
) -> Option<Vec<upstream::settings::Settings>> {
    let mut found = Faults::default();
    let compiled: Vec<Option<_>> =
        backends.0.into_iter().map(|(name, backend)| backend.compile(&name, &mut found)).collect();
    faults.absorb(found, |path| as_written(path, shorthand));
    compiled.into_iter().collect()
}

fn rule((name, backend): &(String, upstream::settings::Written)) -> BackendRule {
    BackendRule {
        name: name.clone(),
        kind: backend.kind,
        models: backend.models.clone(),
        aliases: backend.aliases.clone(),
        rewrite_model: backend.rewrite_model,
        fallback: backend.fallback.clone(),
        default: backend.default,
    }
}

fn printable(written: &Written, has_token: bool, tree: &Tree) -> Value {
    // Only a map with keys that are not texts can fail here, and there is none.
    let mut printable = serde_json::to_value(written).unwrap_or_default();
    for (path, expanded) in &tree.expanded {
        hide(&mut printable, path, &expanded.reference);
    }
    let Value::Object(root) = &mut printable else {
        return printable;
    };
    let identity = root.remove(IDENTITY_PART);
    if let (Some(Value::Object(session)), Some(Value::Object(identity))) = (root.get_mut("session"), identity)
    {
        session.extend(identity);
    }
    if has_token && let Some(auth) = root.get_mut("control").and_then(|control| control.get_mut("auth")) {
        auth["token"] = Value::from("***");
    }
    printable
}

/// Puts the reference back in the place of what it was expanded to.
fn hide(root: &mut Value, path: &str, reference: &str) {
    for section in ["session", IDENTITY_PART] {
        let below = match path.strip_prefix("session.") {
            Some(rest) => root.get_mut(section).and_then(|value| step_down(value, rest)),
            None => step_down(root, path),
        };
        if let Some(value) = below {
            *value = Value::from(reference);
        }
    }
}

/// The value at a dotted path; keys may hold dots themselves.
fn step_down<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    if path.is_empty() {
        return Some(value);
    }
    match value {
        Value::Object(map) => {
            let whole = |key: &str| {
                let rest = path.strip_prefix(key)?;
                rest.strip_prefix('.').or_else(|| (rest.is_empty() || rest.starts_with('[')).then_some(rest))
            };
            let (key, rest) = map.keys().find_map(|key| Some((key.clone(), whole(key)?)))?;
            step_down(map.get_mut(&key)?, rest)
        }
        Value::Array(items) => {
            let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
            step_down(items.get_mut(index.parse::<usize>().ok()?)?, rest.strip_prefix('.').unwrap_or(rest))
        }
        _ => None,
    }
}
