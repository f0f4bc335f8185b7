//! Serves the control API on a bound listener, as a Pingora service with a runtime of its own.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use axum::Router;
use axum::middleware::from_fn_with_state;
use parking_lot::Mutex;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use serde_json::Value;

use super::admission::Admission;
use super::blocking::Blocking;
use super::listen::{Doorway, Peer};
use super::settings::Settings;
use super::visitor::DEADLINES;
use super::{auth, routes};
use crate::history::Archive;
use crate::session::Manager;
use crate::settings::fault::Faults;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

/// After the signal to stop, answers under way get this long.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What a reload of the configuration did.
#[derive(Clone, Debug, Default)]
pub struct ReloadReport {
    /// Changed keys that only count after a restart.
    pub restart_required: Vec<String>,
}

/// What the control API works with.
pub struct Parts {
    /// Sessions.
    pub manager: Arc<Manager>,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// What the probes answer from.
    pub readiness: Arc<Readiness>,
    /// Who may come in; a reload may change it.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The configuration in force, secrets masked.
    pub config: Arc<dyn Fn() -> Value + Send + Sync>,
    /// Reads the configuration again; may block.
    pub reload: Arc<dyn Fn() -> Result<ReloadReport, Faults> + Send + Sync>,
    /// The backends by name: what and how they are.
    pub backends: Arc<dyn Fn() -> Value + Send + Sync>,
    /// What is kept of ended sessions.
    pub history: Option<Arc<Archive>>,
    /// Name of the session store: `memory`.
    pub store: &'static str,
    /// Connections at a time: `control.limits.max_connections`, or what fits into the open files.
    pub max_connections: usize,
}

/// What every route sees.
pub(super) struct Door {
    pub(super) parts: Parts,
    /// Bounds on what takes a thread.
    pub(super) blocking: Blocking,
    /// Becomes true when this service stops; endless answers end themselves then.
    pub(super) stopping: ShutdownWatch,
    pub(super) opened: Instant,
    /// Readers of the event feed.
    pub(super) feeds: Arc<AtomicUsize>,
}

/// The control API as a Pingora background service.
pub struct ControlService {
    /// Taken once, by `start`.
    begin: Mutex<Option<(TcpListener, Parts)>>,
}

impl ControlService {
    /// A service on this listener, which is bound already so that its address is known and a port in use
    /// is a fault at start.
    pub fn new(listener: TcpListener, parts: Parts) -> Self {
        Self { begin: Mutex::new(Some((listener, parts))) }
    }

    /// Serves until `shutdown` becomes true; a second call returns at once.
    pub async fn run(&self, shutdown: ShutdownWatch) {
        let begin = self.begin.lock().take();
        let Some((listener, parts)) = begin else { return };
        if let Err(fault) = serve(listener, parts, shutdown).await {
            tracing::error!(%fault, "the control API stopped");
        }
    }
}

#[async_trait]
impl BackgroundService for ControlService {
    async fn start(&self, shutdown: ShutdownWatch) {
        self.run(shutdown).await;
    }
}

/// Serves until `shutdown` becomes true, or its sender is gone.
async fn serve(listener: TcpListener, parts: Parts, shutdown: ShutdownWatch) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let admission = Admission::new(parts.max_connections, DEADLINES, Arc::clone(&parts.metrics));
    let door = Door {
        parts,
        blocking: Blocking::default(),
        stopping: shutdown.clone(),
        opened: Instant::now(),
        feeds: Arc::default(),
    };
    let app = router(Arc::new(door)).into_make_service_with_connect_info::<Peer>();
    let server =
        axum::serve(Doorway::new(listener, admission), app).with_graceful_shutdown(stopped(shutdown.clone()));
    tokio::select! {
        done = server => done,
        // A client that does not read its answer must not hold the program.
        () = async { stopped(shutdown).await; tokio::time::sleep(LAST_ANSWERS).await } => Ok(()),
    }
}

/// Waits for the signal to stop.
pub(super) async fn stopped(mut shutdown: ShutdownWatch) {
    // An error means that the sender is gone, and with it whoever could want this service.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

fn router(door: Arc<Door>) -> Router {
    routes::all().layer(from_fn_with_state(Arc::clone(&door), auth::guard)).with_state(door)
}
