//! The numbers: counters, gauges and histograms in Prometheus' format.
//!
//! Handles are resolved once ([`Metrics::backend`], [`Metrics::open_legs`]); on the path of a request there
//! is no lookup per chunk and one per finished request. Values of labels that a peer chooses (method, model,
//! status code) are bounded here, whatever the caller gives.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{
    CounterVec, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::capacity::CapacityMetrics;
use super::fleet::FleetNumbers;
pub use super::gauge::{Gauge, GaugeGuard};
use super::history::HistoryMetrics;
pub use super::labels::{Route, TokenKind};
use super::log::Log;
use super::models::{ByModel, Models};
use super::otlp::export::Dropped;
use super::sink::Sink;
use super::table::{self, Spec};

/// The value of a label whose own value is out of bounds.
pub(super) const OTHER: &str = "other";
/// The backend label of a request for which no backend was chosen.
const NO_BACKEND: &str = "none";

/// Seconds from half a millisecond to a second: a kill.
const KILL_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
/// Seconds from 50 microseconds to a tenth: our own share of a request.
const OVERHEAD_BUCKETS: &[f64] = &[0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1];
/// Seconds from 5 milliseconds to ten minutes: an answer of a model.
const ANSWER_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// All metrics of one process, in a registry of their own.
pub struct Metrics {
    registry: Registry,
    pub(super) sessions_active: IntGaugeVec,
    sessions_total: IntCounterVec,
    kills: IntCounterVec,
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
    pub(super) store_up: IntGaugeVec,
    pub(super) store_outages: IntCounterVec,
    pub(super) store_fallbacks: IntCounterVec,
    pub(super) store_lost: IntCounterVec,
    pub(super) key_mismatch: IntGauge,
    pub(super) store_events_dropped: IntCounterVec,
    unread: IntCounterVec,
    config_reloads: IntCounterVec,
    connections: IntGauge,
    connections_refused: IntCounterVec,
    panics: IntCounter,
    log_lines_dropped: IntCounter,
    history: HistoryMetrics,
    otlp_dropped: Dropped,
    log: OnceLock<Mutex<Sink>>,
    pub(super) fleet: OnceLock<Mutex<Box<dyn Fn() -> FleetNumbers + Send>>>,
    pub(super) capacity: CapacityMetrics,
    models: Arc<Models>,
}

impl Metrics {
    /// Registers every metric of the table, and the collector of the process (`process_*`, Linux only).
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
            store_up: gauges(in_registry, &table::STORE_UP)?,
            store_outages: counters(in_registry, &table::STORE_OUTAGES)?,
            store_fallbacks: counters(in_registry, &table::STORE_FALLBACKS)?,
            store_lost: counters(in_registry, &table::STORE_LOST)?,
            key_mismatch: add(in_registry, IntGauge::with_opts(options(&table::KEY_MISMATCH))?)?,
            store_events_dropped: counters(in_registry, &table::STORE_EVENTS_DROPPED)?,
            unread: counters(in_registry, &table::ANSWERS_UNREAD)?,
            config_reloads: counters(in_registry, &table::CONFIG_RELOADS)?,
            connections: add(in_registry, IntGauge::with_opts(options(&table::CONNECTIONS))?)?,
            connections_refused: counters(in_registry, &table::CONNECTIONS_REFUSED)?,
            panics: add(in_registry, IntCounter::with_opts(options(&table::PANICS))?)?,
            log_lines_dropped: add(in_registry, IntCounter::with_opts(options(&table::LOG_LINES_DROPPED))?)?,
            history: HistoryMetrics::new(in_registry)?,
            otlp_dropped: Dropped::new(in_registry)?,
            log: OnceLock::new(),
            fleet: OnceLock::new(),
            capacity: CapacityMetrics::new(in_registry)?,
            models: Arc::default(),
            registry,
        };
        for result in ["applied", "rejected"] {
            metrics.config_reloads.with_label_values(&[result]);
        }
        Ok(Arc::new(metrics))
    }

    /// The handles of one backend, resolved; make them once per backend and configuration.
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
                Arc::clone(&self.models),
            )),
        }
    }

    /// The backend of this name is configured no more: nothing is told of its health.
    pub fn forget_backend(&self, name: &str) {
        // It is not there when nobody asked for its health, which is as good.
        let _ = self.backend_healthy.remove_label_values(&[name]);
    }

    /// The handles for requests that no backend sees (backend `none`).
    pub fn unrouted(&self) -> BackendMetrics {
        self.backend(NO_BACKEND)
    }

    /// The gauge of open legs of one kind (`request`, `stream`, `socket`), resolved.
    pub fn open_legs(&self, kind: &str) -> Gauge {
        Gauge(self.open_legs.with_label_values(&[kind]))
    }

    /// The handles of the history.
    pub fn history(&self) -> HistoryMetrics {
        self.history.clone()
    }

    /// The counters of what no collector took.
    pub fn otlp_dropped(&self) -> Dropped {
        self.otlp_dropped.clone()
    }

    /// The gauge of open client connections.
    pub fn connections(&self) -> Gauge {
        Gauge(self.connections.clone())
    }

    /// A listener (`proxy`, `control`) had no room for a connection or an HTTP/2 request; `reason` is a word of a
    /// closed set.
    pub fn connection_refused(&self, listener: &'static str, reason: &'static str) {
        self.connections_refused.with_label_values(&[listener, reason]).inc();
    }

    /// A session of this kind became active.
    pub fn session_started(&self, kind: &str) {
        self.sessions_active.with_label_values(&[kind]).inc();
    }

    /// A session of this kind ended in this state (`completed`, `killed`, `timed_out`).
    pub fn session_ended(&self, state: &str, kind: &str) {
        self.sessions_active.with_label_values(&[kind]).dec();
        self.sessions_total.with_label_values(&[state, kind]).inc();
    }

    /// A kill order was carried out; `source` is who gave it: `control`, `policy`, `budget`.
    pub fn session_killed(&self, source: &str) {
        self.kills.with_label_values(&[source]).inc();
    }

    /// A leg ended this long after the kill order that cut it.
    pub fn kill_latency(&self, since_order: Duration) {
        self.kill_latency.observe(since_order.as_secs_f64());
    }

    /// A request was sent on, and this much of its time was our own.
    pub fn overhead(&self, own_time: Duration) {
        self.overhead.observe(own_time.as_secs_f64());
    }

    /// A reload of the configuration was applied, or rejected as faulty.
    pub fn config_reloaded(&self, applied: bool) {
        let result = if applied { "applied" } else { "rejected" };
        self.config_reloads.with_label_values(&[result]).inc();
    }

    /// Something panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Counts the lines that this log has to drop; the first log given is the one.
    pub fn watch_log(&self, log: &Log) {
        let _ = self.log.set(Mutex::new(log.sink()));
    }

    /// Everything in Prometheus' text format.
    pub fn encode(&self) -> String {
        self.read_fleet();
        self.capacity.read();
        if let Some(dropped) = self.log.get() {
            // Locked, so that two readers at once do not count the same lines twice.
            let dropped = dropped.lock();
            let total = dropped.dropped();
            self.log_lines_dropped.inc_by(total.saturating_sub(self.log_lines_dropped.get()));
        }
        let mut text = Vec::with_capacity(16 << 10);
        // Writing to memory fails only for a metric without a name, and the table has none.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The media type of [`Metrics::encode`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;
}

/// The handles of one backend; cheap to use, cloned by reference counts only.
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
}

/// Handles of the usual case, resolved when they are first used: a look-up by labels hashes them all.
#[derive(Default)]
struct Resolved {
    /// The time requests took, by route.
    durations: [OnceLock<Histogram>; Route::COUNT],
    /// Answers with status 200, by route and method.
    ok: [[OnceLock<IntCounter>; METHODS.len()]; Route::COUNT],
}

impl BackendMetrics {
    /// Body bytes came from the client.
    pub fn bytes_in(&self, count: u64) {
        self.bytes_in.inc_by(count);
    }

    /// Body bytes went to the client.
    pub fn bytes_out(&self, count: u64) {
        self.bytes_out.inc_by(count);
    }

    /// The first byte of an answer came this long after its request was sent on.
    pub fn first_byte(&self, after: Duration) {
        self.first_byte.observe(after.as_secs_f64());
    }

    /// A request is over. `code` is the status the client saw; 0 when it saw none.
    pub fn finished(&self, route: Route, method: &str, code: u16, duration: Duration) {
        let method = method_index(method);
        let count = |code: u16| {
            let mut digits = [0; 3];
            let labels = [route.label(), &self.name, METHODS[method], code_label(code, &mut digits)];
            self.requests.with_label_values(&labels)
        };
        match code {
            200 => self.resolved.ok[route as usize][method].get_or_init(|| count(code)).inc(),
            _ => count(code).inc(),
        }
        self.resolved.durations[route as usize]
            .get_or_init(|| self.request_duration.with_label_values(&[route.label(), &self.name]))
            .observe(duration.as_secs_f64());
    }

    /// A request failed at this backend; `reason` is an [`crate::error::ErrorKind`]'s code or another word
    /// of a closed set.
    pub fn error(&self, reason: &'static str) {
        self.errors.with_label_values(&[&self.name, reason]).inc();
    }

    /// A compressed answer passed that could not be read to its end; `reason` is a word of a closed set.
    pub fn unread(&self, reason: &'static str) {
        self.unread.with_label_values(&[&self.name, reason]).inc();
    }

    /// The backend is used, or left alone.
    pub fn healthy(&self, healthy: bool) {
        self.healthy.with_label_values(&[&self.name]).set(healthy.into());
    }

    /// A request was sent on to another backend for this reason, a word of a closed set.
    pub fn failed_over(&self, reason: &'static str) {
        self.failovers.with_label_values(&[&self.name, reason]).inc();
    }

    /// The provider counted these tokens for an answer of this model.
    pub fn tokens(&self, model: &str, counts: &[(TokenKind, u64)]) {
        self.tokens.count(model, counts);
    }

    /// They cost so many US dollars by the configured prices.
    pub fn cost(&self, model: &str, usd: f64) {
        if usd > 0.0 {
            self.tokens.spend(model, usd);
        }
    }
}

/// The values of the method label; the last one stands for all others.
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

pub(super) fn options(spec: &Spec) -> Opts {
    Opts::new(spec.name, spec.help)
}

pub(super) fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(registry: &Registry, spec: &Spec) -> Result<IntCounterVec, prometheus::Error> {
    add(registry, IntCounterVec::new(options(spec), spec.labels)?)
}

fn gauges(registry: &Registry, spec: &Spec) -> Result<IntGaugeVec, prometheus::Error> {
    add(registry, IntGaugeVec::new(options(spec), spec.labels)?)
}

fn histogram(registry: &Registry, spec: &Spec, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    let options = HistogramOpts::from(options(spec)).buckets(buckets.to_vec());
    add(registry, Histogram::with_opts(options)?)
}

fn histograms(registry: &Registry, spec: &Spec, buckets: &[f64]) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::from(options(spec)).buckets(buckets.to_vec());
    add(registry, HistogramVec::new(options, spec.labels)?)
}

#[cfg(test)]
mod tests;
