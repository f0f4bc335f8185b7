//! The components that several services share, built from a compiled configuration.

use std::sync::{Arc, OnceLock};

use anyhow::Context;
use arc_swap::ArcSwap;
use pingora_core::connectors::http::Connector;
use tracing::error;

use super::event_sink::EventSink;
use super::kill_recovery::KillRecovery;
use super::made_keys::{SharedKeys, made};
use super::sharing::{Sharing, cache};
use super::sources::{watch, watch_fleet};
use super::spending::SpendingFile;
use crate::clock::Clock;
use crate::config::Config;
use crate::forward::{self, Interceptor};
use crate::history::Archive;
use crate::history::state::State;
use crate::identity::{ClientKeys, Key, Made, People};
use crate::limits::fleet::FleetBudgets;
use crate::limits::fleet_rates::FleetRates;
use crate::limits::ledger::Ledger;
use crate::limits::overrides::{Additions, Overrides};
use crate::notify::notifier::Notifier;
use crate::notify::services::Services;
use crate::policy::approvals::Approvals;
use crate::policy::ruleset::RuleSet;
use crate::policy::suppressions::Suppressions;
use crate::protocol::dialects::output_limit;
use crate::protocol::request::RequestPaths;
use crate::proxy::awaited::AwaitedAnswers;
use crate::proxy::endpoints::Endpoints;
use crate::proxy::load::Load;
use crate::proxy::runtime_settings::{RuntimeSettings, SharedSettings};
use crate::proxy::state::{ForwardState, ProxyState};
use crate::redis::answers::AnswerStore;
use crate::session::Manager;
use crate::session::replication::Replicator;
use crate::session::store::MemoryStore;
use crate::settings::fault::Faults;
use crate::telemetry::log::{Log, LogGuard};
use crate::telemetry::metrics::{Gauge, Metrics};
use crate::telemetry::otlp::export::Exporter;
use crate::telemetry::readiness::Readiness;
use crate::upstream::backend::Backend;

/// Components that proxy, control API, reload and drain share.
#[derive(Clone)]
pub(super) struct Components {
    pub(super) log: Arc<Log>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) live: SharedSettings,
    pub(super) sessions: Arc<Manager>,
    /// Shares sessions with other instances; `None` with `session.store: memory`.
    pub(super) replicator: Option<Arc<Replicator>>,
    pub(super) readiness: Arc<Readiness>,
    /// `None` when `history` is off or its file cannot be used.
    pub(super) history: Option<Arc<Archive>>,
    /// `None` without a history, and in a fleet.
    pub(super) kills: Option<Arc<KillRecovery>>,
    /// Sends spans and session records to a collector; `None` when none is configured.
    pub(super) exporter: Option<Arc<Exporter>>,
    /// Sends webhooks.
    pub(super) notifier: Arc<Notifier>,
    pub(super) clock: Clock,
    /// Derives principals from credentials.
    pub(super) principals: Key,
    /// What operators make and change, kept over a restart.
    pub(super) state: Arc<State>,
    /// Keys that operators make through the API.
    pub(super) keys: Arc<ClientKeys>,
    /// What operators add to the limits of budgets.
    pub(super) overrides: Arc<Overrides>,
    /// What operators answer to calls that are held.
    pub(super) approvals: Arc<Approvals>,
    /// Findings that count for nothing.
    pub(super) suppressions: Arc<Suppressions>,
    /// People who log in.
    pub(super) people: Arc<People>,
    /// What was spent of budgets.
    pub(super) ledger: Arc<Ledger>,
    /// Keeps the ledger in a file; `None` in a fleet.
    pub(super) spending: Option<Arc<SpendingFile>>,
    /// Shares the ledger with other instances; `None` without a fleet.
    pub(super) fleet_budgets: Option<Arc<FleetBudgets>>,
    /// Shares the rates of limits with other instances; `None` without a fleet.
    pub(super) fleet_rates: Option<Arc<FleetRates>>,
    /// What the forward proxy shares.
    pub(super) forward: forward::Shared,
    /// The HTTP cache that instances share; `None` without a fleet.
    pub(super) answers: Option<Arc<AnswerStore>>,
}

impl Components {
    /// Builds the components and installs the log.
    ///
    /// # Errors
    /// A backend's CA file holds no usable certificate.
    pub(super) fn build(config: &Config) -> anyhow::Result<(Self, LogGuard)> {
        let (log, guard) = Log::stdout(&config.logging);
        log.install().context("cannot install the log")?;
        let metrics = Metrics::new().context("cannot register the metrics")?;
        metrics.watch_log(&log);
        super::panics::report(Arc::clone(&log), Arc::clone(&metrics));
        let state = Arc::new(State::new(&config.data_dir));
        let (keys, people) = super::made_keys::open(config, &state);
        let (overrides, approvals) = (super::budget_overrides::open(&state), super::approvals::open(&state));
        let suppressions = super::suppressions::open(&state);
        let made = made(&keys, &people);
        let (clock, names) = (Clock::system(), super::principal_key::load(config));
        let shared = Sharing::of(config, names.shared, Arc::clone(&state), &clock)?;
        let Sharing { replicator, ledger, spending, fleet_budgets, fleet_rates, answers } = shared;
        let shared = (overrides.additions(), &ledger, answers.as_ref());
        let settings = runtime_settings(config, &metrics, None, &made, shared)?;
        let (live, readiness) = (Arc::new(ArcSwap::from_pointee(settings)), Arc::<Readiness>::default());
        let history = history(config, &metrics, &readiness);
        let exporter = Exporter::start(&config.telemetry, metrics.otlp_dropped(), &log);
        let notifier = Notifier::new(&config.receivers, Arc::clone(&metrics));
        let listener = EventSink::new(&log, &metrics, history.as_ref(), exporter.as_ref(), &notifier);
        let sessions = sessions(config, replicator.as_ref(), &clock, listener);
        SharedKeys::follow(&sessions, (&keys, &people), (&overrides, &approvals, &suppressions), &live);
        sessions.set_principals_key(names.key.id());
        name_backends(&sessions, config);
        let kills = KillRecovery::restore(history.as_ref(), &sessions);
        if let Some(replicator) = &replicator {
            watch_fleet(&metrics, &readiness, &sessions, replicator);
        }
        watch(&metrics, &live, &ledger, &sessions);
        Ok((
            Self {
                log,
                metrics,
                live,
                sessions,
                replicator,
                readiness,
                history,
                kills,
                exporter,
                notifier,
                clock,
                principals: names.key,
                state,
                keys,
                overrides,
                approvals,
                suppressions,
                people,
                ledger,
                spending,
                fleet_budgets,
                fleet_rates,
                forward: forward::Shared::default(),
                answers,
            },
            guard,
        ))
    }

    /// Who is known beside those whom the configuration declares.
    pub(super) fn made(&self) -> Made {
        made(&self.keys, &self.people)
    }

    /// What every request needs.
    pub(super) fn proxy_state(&self) -> Arc<ProxyState> {
        let endpoints = Arc::<Endpoints>::default();
        if let Some(replicator) = &self.replicator {
            endpoints.share(replicator, &self.live);
        }
        Arc::new(ProxyState {
            judged: OnceLock::new(),
            sessions: Arc::clone(&self.sessions),
            principals: self.principals.clone(),
            unrouted: self.metrics.unrouted(),
            open_legs: self.open_legs(),
            open_sockets: self.open_sockets(),
            metrics: Arc::clone(&self.metrics),
            log: Arc::clone(&self.log),
            clock: self.clock.clone(),
            readiness: Arc::clone(&self.readiness),
            exporter: self.exporter.clone(),
            history: self.history.clone(),
            endpoints,
            suppressions: Arc::clone(&self.suppressions),
            ledger: Arc::clone(&self.ledger),
            fleet_budgets: self.fleet_budgets.clone(),
            fleet_rates: self.fleet_rates.clone(),
            approvals: Arc::clone(&self.approvals),
            live: Arc::clone(&self.live),
            load: Load::new(self.metrics.admission_waiting()),
            awaited: AwaitedAnswers::default(),
            forward: ForwardState::new(&self.metrics, self.forward.clone()),
            connector: Connector::new(None),
        })
    }

    /// Gauge of open legs except WebSockets.
    pub(super) fn open_legs(&self) -> Gauge {
        self.metrics.open_legs("request")
    }

    /// Gauge of open WebSockets.
    pub(super) fn open_sockets(&self) -> Gauge {
        self.metrics.open_legs("socket")
    }
}

/// Creates the sessions, which other instances share if there is a `replicator`.
fn sessions(
    config: &Config,
    replicator: Option<&Arc<Replicator>>,
    clock: &Clock,
    listener: EventSink,
) -> Arc<Manager> {
    let (settings, listener) = (config.session.clone(), Arc::new(listener));
    match replicator {
        None => Manager::new(settings, clock.clone(), Arc::new(MemoryStore::default()), listener),
        Some(replicator) => replicator.manager(settings, clock.clone(), listener),
    }
}

/// Builds the settings of requests from a compiled configuration. A backend of `before` whose settings are unchanged is
/// kept with its health, its load and its connections, and so are the levels of limits that count the same.
/// `made` are the keys that the API makes, and the people who log in; `additions` what operators add to budgets.
///
/// # Errors
/// A backend's CA file holds no usable certificate.
pub(crate) fn runtime_settings(
    config: &Config,
    metrics: &Metrics,
    before: Option<&RuntimeSettings>,
    made: &Made,
    (additions, ledger, answers): (&Arc<ArcSwap<Additions>>, &Arc<Ledger>, Option<&Arc<AnswerStore>>),
) -> Result<RuntimeSettings, Faults> {
    let backends = backends(config, metrics, before)?;
    let mut body_paths = config.identity.body_paths();
    let output_hints = body_paths.len();
    if !(config.limits.is_empty() && config.budgets.is_empty() && config.rules.is_empty()) {
        body_paths.extend(output_limit::paths().map(str::to_owned));
    }
    let more = config.rules.asks_for_others() || config.routing.restricts_models() || !config.auth.is_off();
    let call_paths = RequestPaths::looking_for(&body_paths, more, config.counts_messages());
    Ok(RuntimeSettings {
        routes: config.routing.clone(),
        backends,
        call_paths: Arc::new(call_paths),
        output_hints,
        caller_limits: match before {
            Some(before) => config.limits.with_levels_of(&before.caller_limits),
            None => config.limits.clone(),
        },
        auth: config.auth.with_made(made, before.map(|before| &*before.auth)),
        identity: config.identity.clone(),
        admission: config.admission.clone(),
        budgets: config.budgets.with_additions(additions, ledger),
        approvals: config.approvals,
        rules: rules(config, before),
        services: Services::new(&config.services),
        tls: config.server.tls().cloned(),
        h2c: config.server.h2c(),
        cache: cache(config, before, answers),
        capture: config.capture.clone(),
        prices: config.prices.clone(),
        max_tenants: config.max_tenants,
        timeouts: *config.server.timeouts(),
        limits: *config.server.limits(),
        discovery: config.models.discovery,
        forwarding: config.server.forwarding().clone(),
        allow_origins: Arc::clone(config.server.allow_origins()),
        forward: Arc::new(config.forward.clone()),
        intercept: interceptor(config, before)?,
        http: config.server.http().clone(),
    })
}

/// Opens the authority for intercepted tunnels; one with the same settings is kept, with what it has issued.
fn interceptor(
    config: &Config,
    before: Option<&RuntimeSettings>,
) -> Result<Option<Arc<Interceptor>>, Faults> {
    if !config.forward.is_on() {
        return Ok(None);
    }
    let settings = config.forward.intercept();
    let known = before.and_then(|before| before.intercept.as_ref());
    if let Some(same) = known.filter(|known| known.settings() == settings) {
        return Ok(Some(Arc::clone(same)));
    }
    let opened = Interceptor::open(settings, &config.data_dir);
    opened.map(|opened| opened.map(Arc::new)).map_err(|why| {
        let mut faults = Faults::default();
        faults.add("forward_proxy.intercept", why, "check the file, its folder and their permissions");
        faults
    })
}

/// The same rules keep their generation, and what was judged by them.
fn rules(config: &Config, before: Option<&RuntimeSettings>) -> Arc<RuleSet> {
    let same = before.filter(|before| before.rules.written() == config.rules.written());
    Arc::clone(same.map_or(&config.rules, |before| &before.rules))
}

/// Builds the backends; one of `before` whose settings are unchanged is kept.
fn backends(
    config: &Config,
    metrics: &Metrics,
    before: Option<&RuntimeSettings>,
) -> Result<Vec<Arc<Backend>>, Faults> {
    let mut faults = Faults::default();
    let mut backends = Vec::with_capacity(config.backends.len());
    for settings in &config.backends {
        let known = before.into_iter().flat_map(|before| &before.backends);
        if let Some(same) = known.into_iter().find(|backend| backend.settings() == settings) {
            backends.push(Arc::clone(same));
            continue;
        }
        match Backend::new(settings.clone(), metrics.backend(settings.name().as_str())) {
            Ok(backend) => backends.push(backend),
            Err(why) => faults.add(
                format!("backends.{}.tls.ca_file", settings.name()),
                why,
                "give a PEM file with the authorities to trust",
            ),
        }
    }
    if faults.is_empty() { Ok(backends) } else { Err(faults) }
}

/// Tells the sessions the URL of each backend, by which records name it.
pub(super) fn name_backends(sessions: &Manager, config: &Config) {
    let urls = config.backends.iter().map(|backend| (backend.name().clone(), backend.url().into()));
    sessions.set_backend_urls(urls.collect());
}

/// Opens the history. A file that cannot be used is logged as an error but does not refuse traffic, since the log has
/// every record, too.
fn history(config: &Config, metrics: &Metrics, readiness: &Arc<Readiness>) -> Option<Arc<Archive>> {
    let file = config.history.file(&config.data_dir)?;
    let (settings, readiness) = (config.history.clone(), Arc::clone(readiness));
    match Archive::open(&file, &config.data_dir, settings, metrics.history(), readiness) {
        Ok(archive) => Some(archive),
        Err(error) => {
            error!(
                error = format!("{error:#}"),
                "no history is kept, and with session.store: memory earlier kills do not hold: mend it and \
                 restart, or name another file in history.file"
            );
            None
        }
    }
}
