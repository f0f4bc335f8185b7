//! The parts, built in order and run as Pingora services: the proxy, the control door, housekeeping.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server, ShutdownWatch};
use pingora_core::services::background::{BackgroundService, background_service};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

use super::drain::Drain;
use super::reload::{Reload, tell_warnings};
use super::shared::Shared;
use super::signals::Signals;
use crate::config::{Config, Sources};
use crate::control::service::{ControlService, Parts};
use crate::proxy::door::{self, Door};
use crate::proxy::gateway::Gateway;
use crate::session::Manager;
use crate::telemetry::readiness::Readiness;

/// Connections kept open to all backends together; below the number in use, each request would pay
/// for a handshake.
const POOL: usize = 4096;

/// How often sessions are looked at for their timeouts.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Runs the gateway until it is told to end.
///
/// # Errors
/// The configuration is faulty ([`crate::settings::fault::Faults`]), or a port cannot be had.
pub fn run(sources: Sources) -> anyhow::Result<()> {
    let signals = Signals::install().context("cannot handle signals")?;
    let config = sources.load()?;
    serve(sources, config, signals, Vec::new())
}

/// A service that `demo` adds to those of the gateway.
pub(super) type Extra = Box<dyn FnOnce(&mut Server)>;

/// Builds everything and runs it until it is told to end.
pub(super) fn serve(
    sources: Sources,
    config: Config,
    signals: Signals,
    extras: Vec<Extra>,
) -> anyhow::Result<()> {
    let (shared, log_guard) = Shared::build(&config)?;
    tell_warnings(&config);
    let proxy = bind("proxy", "listen", config.listen)?;
    let control = bind("control", "control.listen", config.control.listen())?;
    let (draining, drained) = watch::channel(false);
    let threads = config.server.threads();
    let mut server = server(threads);

    let gateway = pingora_proxy::http_proxy(&server.configuration, Gateway::new(shared.house(&config)));
    let door = Door::new(gateway, Arc::clone(&shared.live), shared.metrics.connections());
    let readiness = Arc::clone(&shared.readiness);
    let proxy = Proxy { listener: Mutex::new(Some(proxy)), door, draining: drained, readiness };
    let mut proxy = background_service("proxy", proxy);
    proxy.threads = Some(threads);
    server.add_service(proxy);

    let sessions = Arc::clone(&shared.sessions);
    server.add_service(background_service("housekeeping", Housekeeping { sessions }));

    let reload = Arc::new(Reload::new(sources, config, shared.clone()));
    let mut control = background_service("control", control_service(control, &reload, &shared));
    // Two, so that a long list of sessions does not hold up a kill.
    control.threads = Some(2);
    server.add_service(control);

    for extra in extras {
        extra(&mut server);
    }
    server.run(RunArgs { shutdown_signal: Box::new(Drain { signals, reload, draining, shared }) });
    // The last lines are written when the guard goes.
    drop(log_guard);
    Ok(())
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

fn control_service(listener: TcpListener, reload: &Arc<Reload>, shared: &Shared) -> ControlService {
    let (config, again, backends) = (Arc::clone(reload), Arc::clone(reload), Arc::clone(reload));
    let parts = Parts {
        manager: Arc::clone(&shared.sessions),
        metrics: Arc::clone(&shared.metrics),
        readiness: Arc::clone(&shared.readiness),
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
