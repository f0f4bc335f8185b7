//! Serves the control API on a bound listener, as a Pingora service with a runtime of its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use axum::Router;
use axum::middleware::from_fn_with_state;
use jiff::Timestamp;
use parking_lot::Mutex;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::api::health::BackendStatus;
use super::blocking::BlockingLimits;
use super::connection::DEADLINES;
use super::connection_limit::ConnectionLimit;
use super::dashboard::cookies::Cookies;
use super::listen::{ControlListener, Peer};
use super::settings::Settings;
use super::{auth, routes};
use crate::cache::Cache;
use crate::history::Archive;
use crate::history::audit::AuditLog;
use crate::identity::people::attempts::Attempts;
use crate::identity::people::tickets::Tickets;
use crate::identity::{Auth, ClientKeys, People};
use crate::limits::amount::CostUnit;
use crate::limits::budgets::BudgetAccount;
use crate::limits::overrides::Overrides;
use crate::notify::notifier::Notifier;
use crate::policy::approvals::Approvals;
use crate::policy::ruleset::RuleSet;
use crate::policy::suppressions::Suppressions;
use crate::policy::trial::{Trial, TrialReport};
use crate::session::Manager;
use crate::settings::fault::Faults;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;
use crate::telemetry::series::{STEP, SeriesOfHour};

/// How long open responses may take after the signal to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Passwords that are hashed at the same time: each takes tens of milliseconds of a core, and 19 MiB.
const HASHES: usize = 2;

/// Outcome of a reload of the configuration.
#[derive(Clone, Debug, Default)]
pub struct ReloadReport {
    /// Changed keys whose new values take effect only after a restart.
    pub restart_required: Vec<String>,
}

/// The running program, as the control API reads and reloads it.
pub trait Runtime: Send + Sync {
    /// Returns the configuration in force under the keys of the file; secrets are masked.
    fn config(&self) -> Value;

    /// Returns where each key of it that is set comes from: `FILE:LINE`, a variable or a flag. May block.
    fn config_sources(&self) -> BTreeMap<String, String>;

    /// Reads the configuration again; may block.
    ///
    /// # Errors
    /// Every fault of the new configuration; the old one stays in force.
    fn reload(&self) -> Result<ReloadReport, Faults>;

    /// Returns the keys and roles in force.
    fn auth(&self) -> Arc<Auth>;

    /// Returns what was spent of the budgets.
    fn budgets(&self) -> Vec<BudgetAccount>;

    /// Returns what a budget counts; `None` if no budget has this name.
    fn budget_unit(&self, budget: &str) -> Option<CostUnit>;

    /// Returns the HTTP cache; `None` if it is off.
    fn cache(&self) -> Option<Arc<Cache>>;

    /// Returns the rules in force.
    fn rules(&self) -> Arc<RuleSet>;

    /// Tries rules on what is given.
    ///
    /// # Errors
    /// It cannot be tried; in words for people.
    fn try_rules(&self, rules: &RuleSet, trial: &Trial) -> Result<TrialReport, String>;

    /// Returns the backends by name.
    fn backends(&self) -> BTreeMap<String, BackendStatus>;

    /// Keeps new requests away from a backend, or sends them there again; false if no backend has this name. May block.
    fn drain_backend(&self, name: &str, drained: bool) -> bool;
}

/// What the control API works with.
pub struct Parts {
    /// The sessions.
    pub manager: Arc<Manager>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The readiness that probes report.
    pub readiness: Arc<Readiness>,
    /// Token, allowed hosts and origins; replaced by a reload.
    pub settings: Arc<ArcSwap<Settings>>,
    /// Configuration and backends of the running program.
    pub runtime: Arc<dyn Runtime>,
    /// The keys of callers.
    pub keys: Arc<ClientKeys>,
    /// What operators add to the limits of budgets.
    pub overrides: Arc<Overrides>,
    /// What operators answer to calls that are held.
    pub approvals: Arc<Approvals>,
    /// Findings that count for nothing.
    pub suppressions: Arc<Suppressions>,
    /// The people who log in.
    pub people: Arc<People>,
    /// The history; `None` when it is disabled or cannot be used.
    pub history: Option<Arc<Archive>>,
    /// The audit log.
    pub audit: Arc<AuditLog>,
    /// Who is told of changes.
    pub notifier: Arc<Notifier>,
    /// Name of the session store: `memory` or `redis`.
    pub store: &'static str,
    /// Maximum of open connections: `control.limits.max_connections`, or less when the limit of open files is low.
    pub max_connections: usize,
}

/// State shared by all routes.
pub(super) struct ControlState {
    pub(super) parts: Parts,
    /// Limits on blocking work.
    pub(super) blocking: BlockingLimits,
    /// Becomes true when this service stops; event feeds end then.
    pub(super) stopping: ShutdownWatch,
    pub(super) opened: Instant,
    /// Number of open event feeds.
    pub(super) feeds: Arc<AtomicUsize>,
    /// Failed attempts to log in.
    pub(super) attempts: Attempts,
    /// Tickets for the URLs of feeds.
    pub(super) tickets: Tickets,
    /// Permits to hash a password.
    pub(super) hashing: Arc<Semaphore>,
    /// Browsers that are logged in.
    pub(super) cookies: Cookies,
    /// The last hour in steps.
    pub(super) series: SeriesOfHour,
}

/// The control API as a Pingora background service.
pub struct ControlService {
    /// Taken once, by `start`.
    begin: Mutex<Option<(TcpListener, Parts)>>,
}

impl ControlService {
    /// Creates a service on a bound listener, so that its address is known and a port in use is an error at start.
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
    let connection_limit = ConnectionLimit::new(parts.max_connections, DEADLINES, Arc::clone(&parts.metrics));
    let state = ControlState {
        parts,
        blocking: BlockingLimits::default(),
        stopping: shutdown.clone(),
        opened: Instant::now(),
        feeds: Arc::default(),
        attempts: Attempts::default(),
        tickets: Tickets::default(),
        hashing: Arc::new(Semaphore::new(HASHES)),
        cookies: Cookies::default(),
        series: SeriesOfHour::default(),
    };
    let state = Arc::new(state);
    let app = router(Arc::clone(&state)).into_make_service_with_connect_info::<Peer>();
    let server = axum::serve(ControlListener::new(listener, connection_limit), app)
        .with_graceful_shutdown(stopped(shutdown.clone()));
    tokio::select! {
        done = server => done,
        never = count_steps(&state) => match never {},
        // A client that does not read its response must not delay the shutdown.
        () = async { stopped(shutdown).await; tokio::time::sleep(SHUTDOWN_GRACE).await } => Ok(()),
    }
}

/// Ends a step of the series every minute.
async fn count_steps(state: &ControlState) -> Infallible {
    let mut steps = tokio::time::interval(STEP);
    loop {
        // The first tick is at once.
        steps.tick().await;
        state.series.step(&state.parts.metrics, Timestamp::now().as_millisecond());
    }
}

/// Waits for the signal to stop.
pub(super) async fn stopped(mut shutdown: ShutdownWatch) {
    // An error means that the sender is gone, and nothing can stop this service otherwise.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

fn router(state: Arc<ControlState>) -> Router {
    routes::router(&state).layer(from_fn_with_state(Arc::clone(&state), auth::guard)).with_state(state)
}
