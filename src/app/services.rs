//! Runs the components as Pingora services: proxy, control API, housekeeping, health checks.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use pingora_core::connectors::http::Connector;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::components::Components;
use super::descriptors::Plan;
use super::drain::Drain;
use super::fd_passing::ReadySignal;
use super::health_checks::HealthChecks;
use super::issuers::{Issuers, wait_for_keys};
use super::kill_recovery::KillRecovery;
use super::listeners::Listeners;
use super::made_keys::{self, KeyExpiry};
use super::people::PeopleFile;
use super::reload::{Reload, log_warnings};
use super::sd_notify;
use super::signals::Signals;
use super::upgrade::Upgrade;
use crate::config::{Config, Sources};
use crate::control::service::{ControlService, Parts, Runtime};
use crate::history::audit::AuditLog;
use crate::limits::fleet::FleetBudgets;
use crate::limits::fleet_rates::FleetRates;
use crate::proxy::downstream::{self, ConnectionPermits, Downstream, UnparsedRequests};
use crate::proxy::gateway::Gateway;
use crate::proxy::http_proxy::http_proxy;
use crate::proxy::runtime_settings::SharedSettings;
use crate::session::Manager;
use crate::session::replication::{self, Replicator};
use crate::telemetry::readiness::Readiness;

/// How often session timeouts are checked.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How long the proxy waits for Redis before it starts without it.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// Runs the gateway until it is asked to shut down.
///
/// # Errors
/// The configuration is invalid ([`crate::settings::fault::Faults`]), or a port cannot be bound.
pub fn run(sources: Sources) -> anyhow::Result<()> {
    let signals = Signals::install().context("cannot handle signals")?;
    let config = sources.load()?;
    serve(sources, config, signals, Vec::new())
}

/// Adds a service of `demo` to those of the gateway.
pub(super) type Extra = Box<dyn FnOnce(&mut Server)>;

/// Builds and runs all services until the process is asked to shut down.
pub(super) fn serve(
    sources: Sources,
    config: Config,
    signals: Signals,
    extras: Vec<Extra>,
) -> anyhow::Result<()> {
    let plan = Plan::raise(&config, extras.len());
    let (shared, log_guard) = Components::build(&config)?;
    log_warnings(&config);
    plan.log();
    let Listeners { proxy, control, ready, predecessor, copies } = Listeners::take(&config, &shared)?;
    let upgrade = Upgrade::new(copies, signals.sender(), Arc::clone(&shared.sessions));
    let (met, is_met) = watch::channel(predecessor.is_none());
    let (draining, drained) = watch::channel(false);
    let (closing, closed) = watch::channel(false);
    let mut server = server(config.server.threads(), plan.idle());
    let gateway = http_proxy(&server.configuration, Gateway::new(shared.proxy_state()))?;
    let downstream = Downstream::new(
        gateway,
        Arc::clone(&shared.live),
        ConnectionPermits::new(&shared.metrics, plan.proxy_budget()),
        UnparsedRequests::new(Arc::clone(&shared.log), &shared.metrics),
    );
    let proxy = Proxy {
        begin: Mutex::new(Some((proxy, drained))),
        is_met,
        downstream,
        live: Arc::clone(&shared.live),
        readiness: Arc::clone(&shared.readiness),
        ready,
        sessions: Arc::clone(&shared.sessions),
        replicator: shared.replicator.clone(),
        kills: shared.kills.clone(),
    };
    add_proxy(&mut server, proxy, config.server.threads());

    add_background_services(&mut server, &shared);

    let reload = Arc::new(Reload::new(sources, config, shared.clone()));
    let control = control_service(control, plan.operators(), &reload, &shared);
    let predecessor = Mutex::new(predecessor);
    let control = Control {
        service: control,
        closing: Mutex::new(Some(closed)),
        predecessor,
        sessions: Arc::clone(&shared.sessions),
        met,
        keys: made_keys::written(&reload.current.load()),
    };
    add_control(&mut server, control);

    for extra in extras {
        extra(&mut server);
    }
    let drain = Drain { signals, reload, upgrade, draining, closing, shared };
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
    // Dropping the guard flushes the log.
    drop(log_guard);
    Ok(())
}

/// Adds the proxy with this many threads.
fn add_proxy(server: &mut Server, proxy: Proxy, threads: usize) {
    let mut proxy = background_service("proxy", proxy);
    proxy.threads = Some(threads);
    server.add_service(proxy);
}

/// Adds the control API.
fn add_control(server: &mut Server, control: Control) {
    let mut control = background_service("control", control);
    // Two, so that a long list of sessions does not delay a kill.
    control.threads = Some(2);
    server.add_service(control);
}

/// Adds the background services: replication in a fleet, session timeouts, health checks.
fn add_background_services(server: &mut Server, shared: &Components) {
    let sessions = || Arc::clone(&shared.sessions);
    if let Some(replicator) = shared.replicator.clone() {
        let (budgets, rates) = (shared.fleet_budgets.clone(), shared.fleet_rates.clone());
        let live = Arc::clone(&shared.live);
        let fleet = Replicating { sessions: sessions(), replicator, budgets, rates, live };
        server.add_service(background_service("fleet", fleet));
    }
    let expiry = KeyExpiry { live: Arc::clone(&shared.live), sessions: sessions() };
    server.add_service(background_service("keys", expiry));
    let people = PeopleFile {
        state: Arc::clone(&shared.state),
        people: Arc::clone(&shared.people),
        sessions: sessions(),
    };
    server.add_service(background_service("people", people));
    server.add_service(background_service("housekeeping", Housekeeping { sessions: sessions() }));
    let probes = HealthChecks { live: Arc::clone(&shared.live), connector: Arc::new(Connector::new(None)) };
    server.add_service(background_service("probes", probes));
    let issuers = Issuers { live: Arc::clone(&shared.live), metrics: Arc::clone(&shared.metrics) };
    server.add_service(background_service("issuers", issuers));
}

/// Creates Pingora's server, which provides a runtime for each service. It keeps `idle` connections to backends open.
fn server(threads: usize, idle: usize) -> Server {
    let conf = ServerConf {
        threads,
        // Pingora multiplies it by the number of threads.
        upstream_keepalive_pool_size: (idle / threads).max(1),
        // `failover` bounds the attempts: each address of a backend once, and a name may have more than Pingora's 16.
        max_retries: usize::MAX,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    server
}

fn control_service(
    listener: TcpListener,
    max_connections: usize,
    reload: &Arc<Reload>,
    shared: &Components,
) -> ControlService {
    let runtime: Arc<dyn Runtime> = Arc::clone(reload) as _;
    let parts = Parts {
        manager: Arc::clone(&shared.sessions),
        metrics: Arc::clone(&shared.metrics),
        readiness: Arc::clone(&shared.readiness),
        settings: Arc::clone(&reload.control),
        runtime,
        keys: Arc::clone(&shared.keys),
        overrides: Arc::clone(&shared.overrides),
        approvals: Arc::clone(&shared.approvals),
        suppressions: Arc::clone(&shared.suppressions),
        people: Arc::clone(&shared.people),
        history: shared.history.clone(),
        notifier: Arc::clone(&shared.notifier),
        audit: Arc::new(AuditLog::new(
            Arc::clone(&shared.state),
            &reload.current.load().data_dir,
            shared.metrics.history(),
        )),
        store: reload.current.load().session.store().name(),
        max_connections,
    };
    ControlService::new(listener, parts)
}

struct Proxy {
    /// Taken once, by `start`: the drain waits until all receivers are dropped.
    begin: Mutex<Option<(TcpListener, watch::Receiver<bool>)>>,
    /// Becomes true when the kill orders of the predecessor are known.
    is_met: watch::Receiver<bool>,
    downstream: Arc<Downstream<Gateway>>,
    live: SharedSettings,
    readiness: Arc<Readiness>,
    ready: ReadySignal,
    sessions: Arc<Manager>,
    replicator: Option<Arc<Replicator>>,
    kills: Option<Arc<KillRecovery>>,
}

#[async_trait]
impl BackgroundService for Proxy {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let begin = self.begin.lock().take();
        let Some((listener, draining)) = begin else { return };
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                if let Some(replicator) = &self.replicator {
                    wait_for_kill_orders(replicator).await;
                }
                wait_for_keys(&self.live).await;
                // An error means that the control API has ended and this process is about to.
                let _ = self.is_met.clone().wait_for(|met| *met).await;
                self.readiness.ready();
                let old = parent_id();
                // The predecessor reports the new main process to the service manager.
                if !self.ready.send() {
                    sd_notify::ready();
                } else if let Some(kills) = self.kills.clone().filter(|_| !self.sessions.has_upgrade_peers())
                {
                    // The predecessor is a version without the session channel.
                    tokio::spawn(kills.follow(move || parent_id() == old));
                }
                downstream::serve(listener, Arc::clone(&self.downstream), draining).await;
            }
            Err(error) => error!(%error, "the proxy's listener cannot be used"),
        }
    }
}

/// Waits until every kill order of the fleet is known here; not for ever, if the store is away.
async fn wait_for_kill_orders(replicator: &Replicator) {
    let known = async {
        while !replicator.is_up() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(FIRST_ANSWER, known).await.is_err() {
        let why = replicator.fault().unwrap_or_else(|| "no answer".to_owned());
        if replicator.is_synced() {
            error!(why, "redis cannot be used: this instance knows the kills in it, and begins on its own");
        } else {
            error!(
                why,
                "redis does not answer: this instance begins without knowing the kills of the others"
            );
        }
    }
}

/// Replicates sessions and budgets through Redis.
struct Replicating {
    sessions: Arc<Manager>,
    replicator: Arc<Replicator>,
    budgets: Option<Arc<FleetBudgets>>,
    rates: Option<Arc<FleetRates>>,
    live: SharedSettings,
}

#[async_trait]
impl BackgroundService for Replicating {
    async fn start(&self, shutdown: ShutdownWatch) {
        if let Some(budgets) = self.budgets.clone() {
            let (shutdown, live) = (shutdown.clone(), Arc::clone(&self.live));
            tokio::spawn(async move { budgets.run(shutdown, || !live.load().budgets.is_empty()).await });
        }
        if let Some(rates) = self.rates.clone() {
            let shutdown = shutdown.clone();
            tokio::spawn(async move { rates.run(shutdown).await });
        }
        replication::serve(Arc::clone(&self.sessions), Arc::clone(&self.replicator), shutdown).await;
    }
}

/// The control API. The drain ends it, since Pingora's shutdown signal comes only when the runtime ends.
struct Control {
    service: ControlService,
    /// Dropped when the service has ended.
    closing: Mutex<Option<watch::Receiver<bool>>>,
    /// The session channel to the predecessor; taken once.
    predecessor: Mutex<Option<UnixStream>>,
    sessions: Arc<Manager>,
    met: watch::Sender<bool>,
    /// What the configuration says of keys, for the predecessor.
    keys: String,
}

impl Control {
    /// No operator is let in before the process whose sessions he may mean can be asked. The line is carried by
    /// this runtime, as a kill must not wait for the proxy's.
    async fn connect_predecessor(&self) {
        let predecessor = self.predecessor.lock().take();
        if let Some(stream) = predecessor {
            match self.sessions.connect_predecessor(stream).await {
                Ok(orders) => {
                    info!(orders, "the old process tells of its sessions");
                    self.sessions.share_declared_keys(self.keys.clone());
                }
                Err(error) => warn!(%error, "the sessions of the old process cannot be killed here"),
            }
        }
        self.met.send_replace(true);
    }
}

#[async_trait]
impl BackgroundService for Control {
    async fn start(&self, shutdown: ShutdownWatch) {
        self.connect_predecessor().await;
        let closing = self.closing.lock().take();
        self.service.run(closing.unwrap_or(shutdown)).await;
    }
}

struct Housekeeping {
    sessions: Arc<Manager>,
}

#[async_trait]
impl BackgroundService for Housekeeping {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let mut tick = interval(HOUSEKEEPING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let sessions = Arc::clone(&self.sessions);
            // In a task of its own, so that a panic in one round does not end the loop.
            if let Err(error) = tokio::spawn(async move { sessions.reap().await }).await {
                error!(%error, "a round of housekeeping broke off");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::clock::Clock;
    use crate::config::Flags;
    use crate::ids::{PrincipalId, RequestId, Scope, SessionId, SessionKey};
    use crate::session::Cut;
    use crate::session::Event;
    use crate::session::store::MemoryStore;
    use crate::session::{Identity, LegKind, LegStart, SessionRequest};

    async fn visit(sessions: &Arc<Manager>, id: &str) {
        let arrival = SessionRequest {
            key: SessionKey { scope: Scope::new("ada"), id: SessionId::new(id) },
            identity: Identity::default(),
            principal: PrincipalId::new("ada"),
            membership: None,
            accounts: Box::default(),
            client_addr: [127, 0, 0, 1].into(),
            counted_from: None,
            idle_gap: None,
        };
        let start = LegStart {
            kind: LegKind::Request,
            method: "GET".into(),
            path: "/".to_owned(),
            request_id: RequestId::new("r"),
            cut: Cut::new(),
            validity: Arc::default(),
        };
        drop(sessions.admit(arrival, start).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_one_round_of_housekeeping_is_not_the_last_round() {
        let text = "session: { idle_timeout: 1s }".to_owned();
        let config = Sources::of_text(text, Flags::default()).load().unwrap();
        let ended = Arc::new(AtomicUsize::new(0));
        let heard = Arc::clone(&ended);
        let listener = Arc::new(move |event: &Event| {
            if matches!(event, Event::Ended(_)) && heard.fetch_add(1, Ordering::Relaxed) == 0 {
                panic!("a listener with a fault");
            }
        });
        let clock = Clock::manual();
        let sessions =
            Manager::new(config.session, clock.clone(), Arc::new(MemoryStore::default()), listener);
        visit(&sessions, "one").await;
        visit(&sessions, "two").await;
        clock.advance(Duration::from_secs(5));
        let (_never, shutdown) = watch::channel(false);
        tokio::spawn(async move { Housekeeping { sessions }.start(shutdown).await });
        let both = async {
            while ended.load(Ordering::Relaxed) < 2 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), both).await.unwrap();
    }
}
