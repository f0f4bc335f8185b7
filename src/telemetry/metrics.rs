//! Prometheus metrics.
//!
//! Handles are resolved once ([`Metrics::backend`], [`Metrics::open_legs`]), so that a request needs no lookup per chunk
//! and one when it finishes. Label values that a peer chooses (method, model, status code) are bounded here.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{
    CounterVec, Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

use self::budgets::BudgetMetrics;
pub use self::cache::CacheNumbers;
use self::capacity::CapacityMetrics;
pub use self::capacity::CapacityNumbers;
pub use self::fleet::FleetNumbers;
pub use self::gauge::{Gauge, GaugeGuard};
pub use self::history::{HistoryMetrics, Item};
pub use self::http::Compressed;
use self::http::HttpMetrics;
use self::labels::{NO_BACKEND, OTHER};
pub use self::labels::{RouteMethod, Served, TokenKind};
use self::models::{ByModel, Models};
pub use self::otlp::OtlpDropped;
use self::policy::PolicyMetrics;
use self::registry::{add, counters, gauges, histogram, histograms, options};
pub use self::sample::Sample;
use self::tenants::Tenants;
pub use self::tunnels::TunnelBytes;
use self::webhooks::WebhookMetrics;
use super::log::Log;
use super::log::sink::Sink;

mod budgets;
mod cache;
mod capacity;
mod fleet;
mod gauge;
mod history;
mod http;
mod issuers;
mod labels;
mod models;
mod otlp;
mod policy;
mod registry;
mod sample;
mod table;
mod tenants;
mod tunnels;
mod webhooks;

/// Buckets for kill latency: 0.5 ms to 1 s.
const KILL_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
/// Buckets for proxy overhead: 50 µs to 100 ms.
const OVERHEAD_BUCKETS: &[f64] = &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1];
/// Buckets for model responses: 5 ms to 10 min.
const ANSWER_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// All metrics of the process, in a registry of their own.
pub struct Metrics {
    registry: Registry,
    pub(super) sessions_active: IntGaugeVec,
    sessions_total: IntCounterVec,
    kills: IntCounterVec,
    rate_limited: IntCounterVec,
    pub(super) budgets: BudgetMetrics,
    policy: PolicyMetrics,
    http: HttpMetrics,
    webhooks: WebhookMetrics,
    kill_latency: Histogram,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    overhead: Histogram,
    first_byte: HistogramVec,
    bytes: IntCounterVec,
    open_legs: IntGaugeVec,
    backend_errors: IntCounterVec,
    backend_healthy: IntGaugeVec,
    failovers: IntCounterVec,
    tokens: IntCounterVec,
    cost: CounterVec,
    unpriced: IntCounterVec,
    pub(super) store_up: IntGaugeVec,
    pub(super) store_outages: IntCounterVec,
    pub(super) store_fallbacks: IntCounterVec,
    pub(super) store_lost: IntCounterVec,
    pub(super) key_mismatch: IntGauge,
    pub(super) store_events_dropped: IntCounterVec,
    unread: IntCounterVec,
    jwks_fetches: IntCounterVec,
    config_reloads: IntCounterVec,
    connections: IntGauge,
    connections_refused: IntCounterVec,
    panics: IntCounter,
    log_lines_dropped: IntCounter,
    history: HistoryMetrics,
    otlp_dropped: OtlpDropped,
    log: OnceLock<Mutex<Sink>>,
    pub(super) fleet: OnceLock<Mutex<Box<dyn Fn() -> FleetNumbers + Send>>>,
    pub(super) capacity: CapacityMetrics,
    tunnels: tunnels::TunnelMetrics,
    models: Arc<Models>,
    tenants: Arc<Tenants>,
}

impl Metrics {
    /// Registers all metrics of the table and, on Linux, the process collector (`process_*`).
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let in_registry = &registry;
        let build = gauges(in_registry, &table::BUILD_INFO)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let metrics = Self {
            sessions_active: gauges(in_registry, &table::SESSIONS_ACTIVE)?,
            sessions_total: counters(in_registry, &table::SESSIONS_TOTAL)?,
            kills: counters(in_registry, &table::SESSION_KILLS)?,
            budgets: BudgetMetrics::new(in_registry)?,
            policy: PolicyMetrics::new(in_registry)?,
            http: HttpMetrics::new(in_registry)?,
            webhooks: WebhookMetrics::new(in_registry)?,
            rate_limited: counters(in_registry, &table::RATE_LIMITED)?,
            kill_latency: histogram(in_registry, &table::KILL_LATENCY, KILL_BUCKETS)?,
            requests: counters(in_registry, &table::REQUESTS)?,
            request_duration: histograms(in_registry, &table::REQUEST_DURATION, ANSWER_BUCKETS)?,
            overhead: histogram(in_registry, &table::PROXY_OVERHEAD, OVERHEAD_BUCKETS)?,
            first_byte: histograms(in_registry, &table::FIRST_BYTE, ANSWER_BUCKETS)?,
            bytes: counters(in_registry, &table::BYTES)?,
            open_legs: gauges(in_registry, &table::OPEN_LEGS)?,
            backend_errors: counters(in_registry, &table::BACKEND_ERRORS)?,
            backend_healthy: gauges(in_registry, &table::BACKEND_HEALTHY)?,
            failovers: counters(in_registry, &table::FAILOVERS)?,
            tokens: counters(in_registry, &table::TOKENS)?,
            cost: add(in_registry, CounterVec::new(options(&table::COST), table::COST.labels)?)?,
            unpriced: counters(in_registry, &table::ANSWERS_UNPRICED)?,
            store_up: gauges(in_registry, &table::STORE_UP)?,
            store_outages: counters(in_registry, &table::STORE_OUTAGES)?,
            store_fallbacks: counters(in_registry, &table::STORE_FALLBACKS)?,
            store_lost: counters(in_registry, &table::STORE_LOST)?,
            key_mismatch: add(in_registry, IntGauge::with_opts(options(&table::KEY_MISMATCH))?)?,
            store_events_dropped: counters(in_registry, &table::STORE_EVENTS_DROPPED)?,
            unread: counters(in_registry, &table::ANSWERS_UNREAD)?,
            jwks_fetches: counters(in_registry, &table::JWKS_FETCHES)?,
            config_reloads: counters(in_registry, &table::CONFIG_RELOADS)?,
            connections: add(in_registry, IntGauge::with_opts(options(&table::CONNECTIONS))?)?,
            connections_refused: counters(in_registry, &table::CONNECTIONS_REFUSED)?,
            panics: add(in_registry, IntCounter::with_opts(options(&table::PANICS))?)?,
            log_lines_dropped: add(in_registry, IntCounter::with_opts(options(&table::LOG_LINES_DROPPED))?)?,
            history: HistoryMetrics::new(in_registry)?,
            otlp_dropped: OtlpDropped::new(in_registry)?,
            log: OnceLock::new(),
            fleet: OnceLock::new(),
            capacity: CapacityMetrics::new(in_registry)?,
            tunnels: tunnels::TunnelMetrics::new(in_registry)?,
            models: Arc::default(),
            tenants: Arc::new(Tenants::new(in_registry)?),
            registry,
        };
        for result in ["applied", "rejected"] {
            metrics.config_reloads.with_label_values(&[result]);
        }
        Ok(Arc::new(metrics))
    }

    /// Resolves the handles of a backend. Call this once per backend and configuration.
    pub fn backend(&self, name: &str) -> BackendMetrics {
        BackendMetrics {
            name: Arc::from(name),
            bytes_in: self.bytes.with_label_values(&["in", name]),
            bytes_out: self.bytes.with_label_values(&["out", name]),
            first_byte: self.first_byte.with_label_values(&[name]),
            requests: self.requests.clone(),
            request_duration: self.request_duration.clone(),
            errors: self.backend_errors.clone(),
            unread: self.unread.clone(),
            healthy: self.backend_healthy.clone(),
            failovers: self.failovers.clone(),
            resolved: Arc::default(),
            tokens: Arc::new(ByModel::new(
                name,
                self.tokens.clone(),
                self.cost.clone(),
                self.unpriced.clone(),
                Arc::clone(&self.models),
            )),
            tenants: Arc::clone(&self.tenants),
        }
    }

    /// Removes the health gauge of a backend that is no longer configured.
    pub fn forget_backend(&self, name: &str) {
        // Fails if the gauge was never set, which is fine.
        let _ = self.backend_healthy.remove_label_values(&[name]);
    }

    /// The handles for requests that reach no backend (`backend="none"`).
    pub fn unrouted(&self) -> BackendMetrics {
        self.backend(NO_BACKEND)
    }

    /// The gauge of open legs of a kind (`request`, `stream`, `socket`).
    pub fn open_legs(&self, kind: &str) -> Gauge {
        Gauge(self.open_legs.with_label_values(&[kind]))
    }

    /// The handles of the history.
    pub fn history(&self) -> HistoryMetrics {
        self.history.clone()
    }

    /// The gauge of open client connections.
    pub fn connections(&self) -> Gauge {
        Gauge(self.connections.clone())
    }

    /// Counts a session that became active.
    pub fn session_started(&self, kind: &str) {
        self.sessions_active.with_label_values(&[kind]).inc();
    }

    /// Counts a session that ended. `state` is `completed`, `killed` or `timed_out`.
    pub fn session_ended(&self, state: &str, kind: &str) {
        self.sessions_active.with_label_values(&[kind]).dec();
        self.sessions_total.with_label_values(&[state, kind]).inc();
    }

    /// Counts a kill. `source` is `control`, `policy` or `budget`.
    pub fn session_killed(&self, source: &str) {
        self.kills.with_label_values(&[source]).inc();
    }

    /// Counts a request that a limit refused. `scope` is the limit's name and `unit` what it counts.
    pub fn rate_limited(&self, scope: &str, unit: &'static str) {
        self.rate_limited.with_label_values(&[scope, unit]).inc();
    }

    /// Observes the time from a kill order to the end of a leg that it cut.
    pub fn kill_latency(&self, since_order: Duration) {
        self.kill_latency.observe(since_order.as_secs_f64());
    }

    /// Observes the time that a request spent in ELIDA before it was forwarded.
    pub fn overhead(&self, own_time: Duration) {
        self.overhead.observe(own_time.as_secs_f64());
    }

    /// Counts a configuration reload that was applied or rejected.
    pub fn config_reloaded(&self, applied: bool) {
        let result = if applied { "applied" } else { "rejected" };
        self.config_reloads.with_label_values(&[result]).inc();
    }

    /// Counts a panic.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Sets the log whose dropped lines are counted. Only the first call has an effect.
    pub fn watch_log(&self, log: &Log) {
        let _ = self.log.set(Mutex::new(log.sink()));
    }

    /// Encodes all metrics in Prometheus' text format.
    pub fn encode(&self) -> String {
        self.read_fleet();
        self.capacity.read();
        self.budgets.read();
        if let Some(dropped) = self.log.get() {
            // Hold the lock: concurrent scrapes must not count the same lines twice.
            let dropped = dropped.lock();
            let total = dropped.dropped();
            self.log_lines_dropped.inc_by(total.saturating_sub(self.log_lines_dropped.get()));
        }
        let mut text = Vec::with_capacity(16 << 10);
        // Encoding to memory fails only for a metric without a name, and there is none.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The media type of [`Metrics::encode`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;
}

/// The metric handles of a backend. Cheap to clone.
#[derive(Clone)]
pub struct BackendMetrics {
    name: Arc<str>,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    first_byte: Histogram,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    errors: IntCounterVec,
    unread: IntCounterVec,
    healthy: IntGaugeVec,
    failovers: IntCounterVec,
    resolved: Arc<Resolved>,
    tokens: Arc<ByModel>,
    tenants: Arc<Tenants>,
}

/// Handles of the common case, resolved on first use, since a lookup hashes all labels.
#[derive(Default)]
struct Resolved {
    /// Request durations by route.
    durations: [OnceLock<Histogram>; Served::COUNT],
    /// Responses with status 200 by route and method.
    ok: [[OnceLock<IntCounter>; METHODS.len()]; Served::COUNT],
}

impl BackendMetrics {
    /// Counts body bytes from the client.
    pub fn bytes_in(&self, count: u64) {
        self.bytes_in.inc_by(count);
    }

    /// Counts body bytes to the client.
    pub fn bytes_out(&self, count: u64) {
        self.bytes_out.inc_by(count);
    }

    /// Observes the time from forwarding a request to the first byte of its response.
    pub fn first_byte(&self, after: Duration) {
        self.first_byte.observe(after.as_secs_f64());
    }

    /// Counts a finished request. `code` is the status that was sent to the client, or 0 if none was.
    pub fn finished(&self, served: Served, method: &str, code: u16, duration: Duration) {
        let method = method_index(method);
        let count = |code: u16| {
            let mut digits = [0; 3];
            let labels = [served.label(), &self.name, METHODS[method], code_label(code, &mut digits)];
            self.requests.with_label_values(&labels)
        };
        match code {
            200 => self.resolved.ok[served.index()][method].get_or_init(|| count(code)).inc(),
            _ => count(code).inc(),
        }
        self.resolved.durations[served.index()]
            .get_or_init(|| self.request_duration.with_label_values(&[served.label(), &self.name]))
            .observe(duration.as_secs_f64());
    }

    /// Counts a request that failed at this backend. `reason` is the code of an [`crate::error::ErrorKind`] or another
    /// value from a closed set.
    pub fn error(&self, reason: &'static str) {
        self.errors.with_label_values(&[&self.name, reason]).inc();
    }

    /// Counts a response whose tokens could not be read. `reason` is from a closed set.
    pub fn unread(&self, reason: &'static str) {
        self.unread.with_label_values(&[&self.name, reason]).inc();
    }

    /// Sets whether the backend is in use (true) or ejected (false).
    pub fn healthy(&self, healthy: bool) {
        self.healthy.with_label_values(&[&self.name]).set(healthy.into());
    }

    /// Counts a request that was sent to another backend instead. `reason` is from a closed set.
    pub fn failed_over(&self, reason: &'static str) {
        self.failovers.with_label_values(&[&self.name, reason]).inc();
    }

    /// Counts the tokens that the provider reported for a response.
    pub fn tokens(&self, model: &str, counts: &[(TokenKind, u64)]) {
        self.tokens.count(model, counts);
    }
}

/// The values of the `method` label; the last one covers all other methods.
const METHODS: [&str; 10] =
    ["POST", "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE", "OTHER"];

fn method_index(method: &str) -> usize {
    METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1)
}

fn code_label(code: u16, digits: &mut [u8; 3]) -> &str {
    match code {
        0 => "none",
        100..=599 => {
            for (digit, unit) in digits.iter_mut().zip([100, 10, 1]) {
                *digit = b'0' + u8::try_from(code / unit % 10).unwrap_or_default();
            }
            std::str::from_utf8(digits).unwrap_or(OTHER)
        }
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests;
