//! The parts, built in order and run as Pingora services: the proxy, the control door, housekeeping.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownWatch};
use pingora_core::services::background::{BackgroundService, background_service};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::drain::Drain;
use super::ledger;
use super::reload::Reload;
use super::signals::Signals;
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::control::service::{ControlService, Parts};
use crate::identity::Key;
use crate::ids::BackendName;
use crate::protocol::call::CallPaths;
use crate::proxy::door::{self, Door};
use crate::proxy::gateway::{Gateway, House};
use crate::proxy::snapshot::{Live, Snapshot};
use crate::session::Manager;
use crate::session::store::MemoryStore;
use crate::settings::fault::Faults;
use crate::telemetry::log::Log;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::upstream::backend::Backend;

/// Connections kept open to all backends together; below the number in use, each request would pay
/// for a handshake.
const POOL: usize = 4096;

/// How often sessions are looked at for their timeouts.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Runs the gateway until it is told to end.
///
/// # Errors
/// The configuration is faulty ([`Faults`]), or a port cannot be had.
pub fn run(sources: Sources) -> anyhow::Result<()> {
    let signals = Signals::install().context("cannot handle signals")?;
    let config = sources.load()?;
    serve(sources, config, signals, Vec::new())
}

/// A service that `demo` adds to those of the gateway.
pub(super) type Extra = Box<dyn FnOnce(&mut Server)>;

pub(super) fn serve(
    sources: Sources,
    config: Config,
    signals: Signals,
    extras: Vec<Extra>,
) -> anyhow::Result<()> {
    let (log, log_guard) = Log::stdout(&config.logging);
    log.install().context("cannot install the log")?;
    let metrics = Metrics::new().context("cannot register the metrics")?;
    metrics.watch_log(&log);
    let live: Live = Arc::new(ArcSwap::from_pointee(snapshot(&config, &metrics)?));
    let clock = Clock::system();
    let listener = ledger::listener(Arc::clone(&log), Arc::clone(&metrics));
    let sessions =
        Manager::new(config.session.clone(), clock.clone(), Arc::new(MemoryStore::default()), listener);
    sessions.show_backends(addresses(&config));
    let (draining, drained) = watch::channel(false);
    let readiness = Arc::new(Readiness::default());
    let house = Arc::new(House {
        sessions: Arc::clone(&sessions),
        principals: principals(&config),
        unrouted: metrics.unrouted(),
        open_legs: metrics.open_legs("request"),
        metrics: Arc::clone(&metrics),
        log: Arc::clone(&log),
        clock,
        readiness: Arc::clone(&readiness),
    });
    let proxy = bind("proxy", "listen", config.listen)?;
    let control = bind("control", "control.listen", config.control.listen())?;

    let mut server = server(config.server.threads());
    let gateway = pingora_proxy::http_proxy(&server.configuration, Gateway::new(Arc::clone(&house)));
    let door = Door::new(gateway, Arc::clone(&live), metrics.connections());
    let mut proxy = background_service(
        "proxy",
        Proxy {
            listener: Mutex::new(Some(proxy)),
            door,
            draining: drained,
            readiness: Arc::clone(&readiness),
        },
    );
    proxy.threads = Some(config.server.threads());
    server.add_service(proxy);
    server.add_service(background_service("housekeeping", Housekeeping { sessions: Arc::clone(&sessions) }));
    let reload = Arc::new(Reload {
        sources,
        control: Arc::new(ArcSwap::from_pointee(config.control.clone())),
        current: ArcSwap::from_pointee(config),
        live: Arc::clone(&live),
        sessions: Arc::clone(&sessions),
        metrics: Arc::clone(&metrics),
        log,
        turn: Mutex::default(),
    });
    server.add_service(background_service("control", control_service(control, &reload, &readiness)));
    for extra in extras {
        extra(&mut server);
    }
    let drain = Drain {
        signals,
        reload,
        draining,
        readiness,
        sessions,
        open_legs: metrics.open_legs("request"),
        live,
    };
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
    // The last lines are written when the guard goes.
    drop(log_guard);
    Ok(())
}

/// The settings a request lives by, out of a compiled configuration.
///
/// # Errors
/// A backend's CA file holds no usable certificate.
pub(super) fn snapshot(config: &Config, metrics: &Metrics) -> Result<Snapshot, Faults> {
    let mut faults = Faults::default();
    let mut backends = Vec::with_capacity(config.backends.len());
    for settings in &config.backends {
        let name = settings.name().clone();
        match Backend::new(settings.clone(), metrics.backend(name.as_str())) {
            Ok(backend) => backends.push(backend),
            Err(why) => faults.add(
                format!("backends.{name}.tls.ca_file"),
                why,
                "give a PEM file with the authorities to trust",
            ),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Snapshot {
        routes: config.routing.clone(),
        backends,
        call_paths: Arc::new(CallPaths::new(&config.identity.body_paths())),
        identity: config.identity.clone(),
        timeouts: *config.server.timeouts(),
        limits: *config.server.limits(),
    })
}

/// How records name the backends: by address.
pub(super) fn addresses(config: &Config) -> HashMap<BackendName, Arc<str>> {
    config.backends.iter().map(|backend| (backend.name().clone(), backend.url().into())).collect()
}

/// The key that makes principals of credentials: kept in the data directory, so that a principal has
/// the same name after a restart.
fn principals(config: &Config) -> Key {
    Key::load_or_make(&config.data_dir).unwrap_or_else(|error| {
        warn!(
            %error,
            data_dir = %config.data_dir.display(),
            "no principal key can be kept there: principals get new names at the next start (data_dir)"
        );
        Key::ephemeral()
    })
}

/// Takes the port now, so that a fault is told before anything runs.
fn bind(service: &str, key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("{key}: cannot listen on {address}; is another program there?"))?;
    listener.set_nonblocking(true)?;
    info!(service, address = %listener.local_addr()?, "listening");
    Ok(listener)
}

/// Pingora's server: it only gives runtimes and runs our services.
fn server(threads: usize) -> Server {
    let conf = ServerConf {
        threads,
        upstream_keepalive_pool_size: POOL,
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
    reload: &Arc<Reload>,
    readiness: &Arc<Readiness>,
) -> ControlService {
    let (config, again, backends) = (Arc::clone(reload), Arc::clone(reload), Arc::clone(reload));
    let parts = Parts {
        manager: Arc::clone(&reload.sessions),
        metrics: Arc::clone(&reload.metrics),
        readiness: Arc::clone(readiness),
        settings: Arc::clone(&reload.control),
        config: Arc::new(move || config.current.load().printable()),
        reload: Arc::new(move || again.now()),
        backends: Arc::new(move || backends.describe_backends()),
        store: "memory",
    };
    ControlService::new(listener, parts)
}

struct Proxy {
    listener: Mutex<Option<TcpListener>>,
    door: Arc<Door<Gateway>>,
    draining: watch::Receiver<bool>,
    readiness: Arc<Readiness>,
}

#[async_trait]
impl BackgroundService for Proxy {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        match listener.map(tokio::net::TcpListener::from_std) {
            Some(Ok(listener)) => {
                self.readiness.ready();
                door::serve(listener, Arc::clone(&self.door), self.draining.clone()).await;
            }
            Some(Err(error)) => tracing::error!(%error, "the proxy's listener cannot be used"),
            None => {}
        }
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
            self.sessions.reap().await;
        }
    }
}
