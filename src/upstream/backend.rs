//! A backend at runtime: its addresses, its health, its load, and the key of its connection pool.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tracing::{info, warn};

use super::addresses::{Addresses, HostName};
use super::balance;
use super::callers::Callers;
use super::health::{Attempt, Health, HealthState};
use super::reporters::Caller;
use super::settings::Settings;
use crate::clock::Moment;
use crate::telemetry::metrics::BackendMetrics;

/// One configured backend with its runtime state.
pub struct Backend {
    settings: Settings,
    metrics: BackendMetrics,
    pool_key: u64,
    host_name: HostName,
    ca: Option<super::peer::CustomCa>,
    mark: u64,
    health: Health,
    callers: Callers,
    /// Requests in flight.
    load: AtomicUsize,
}

/// A request in flight at a backend; counts as load until dropped. Its result is reported here, because what the result
/// says about the backend depends on the caller and on when the request was sent.
pub struct InFlight {
    backend: Arc<Backend>,
    attempt: Attempt,
    /// A result has been reported.
    judged: AtomicBool,
}

/// Whether a request may be sent to the chosen backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Yes.
    Granted,
    /// Yes, as the one request that finds out whether the backend has recovered. Holds the claim.
    HalfOpen(u64),
    /// No: another request has claimed the half-open slot.
    Denied,
}

/// Whom a `Retry-After` applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpeaksFor {
    /// The caller that received it: a limit of its own credential or address.
    Caller,
    /// All callers, once an independent one has received it too.
    All,
}

impl Deref for InFlight {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.backend.load.fetch_sub(1, Relaxed);
        if let Some(half_open) = self.attempt.half_open
            && !self.judged.load(Relaxed)
        {
            self.backend.health.release_half_open(half_open);
        }
    }
}

impl InFlight {
    /// Records a response.
    pub fn answered(&self) {
        self.judged.store(true, Relaxed);
        self.callers.answered(self.attempt);
        if self.health.answered(self.attempt.sent) {
            self.is_back("an answer");
        }
    }

    /// Records a failure; `unreached` when no connection could be made.
    pub fn failed(&self, unreached: bool, now: Moment) {
        self.judged.store(true, Relaxed);
        let settings = self.settings.health();
        if let Some(rest) = self.health.failed(self.attempt, unreached, settings, now) {
            self.rests("failed requests", rest);
        }
        if !unreached && let Some(rest) = self.callers.failed(self.attempt, settings, now) {
            self.keeps_away("failed requests", rest);
        }
    }

    /// Records a `Retry-After` of `wait`.
    pub fn retry_after(&self, wait: Duration, whom: SpeaksFor, now: Moment) {
        let settings = self.settings.health();
        if whom == SpeaksFor::All {
            self.judged.store(true, Relaxed);
            if let Some(rest) = self.health.retry_after(self.attempt, wait, settings, now) {
                return self.rests("Retry-After", rest);
            }
        }
        if let Some(rest) = self.callers.told(self.attempt, wait, settings, now) {
            self.keeps_away("Retry-After", rest);
        }
    }

    fn keeps_away(&self, why: &str, rest: Duration) {
        info!(backend = %self.settings.name(), why, ?rest, "one caller leaves the backend alone for a while");
    }
}

impl Backend {
    /// Creates a backend. Connections are shared only between backends with equal settings.
    ///
    /// # Errors
    /// Says what is wrong with `tls.ca_file`.
    pub fn new(settings: Settings, metrics: BackendMetrics) -> Result<Arc<Self>, String> {
        let mut hasher = DefaultHasher::new();
        settings.hash(&mut hasher);
        let ca = super::peer::custom_ca(&settings)?;
        metrics.healthy(true);
        Ok(Arc::new(Self {
            pool_key: hasher.finish(),
            mark: balance::mark(settings.name().as_str()),
            host_name: {
                let (host, port) = settings.dial();
                HostName::new(host, port)
            },
            settings,
            metrics,
            ca,
            health: Health::default(),
            callers: Callers::default(),
            load: AtomicUsize::new(0),
        }))
    }

    /// A place for one more request: of this caller, sent now, with this permit.
    pub fn in_flight(self: &Arc<Self>, caller: Caller, permit: Permit, now: Moment) -> InFlight {
        self.load.fetch_add(1, Relaxed);
        let half_open = if let Permit::HalfOpen(half_open) = permit { Some(half_open) } else { None };
        let attempt = Attempt { caller, sent: now, half_open };
        InFlight { backend: Arc::clone(self), attempt, judged: AtomicBool::new(false) }
    }

    /// Returns what load balancing needs to know, for this caller.
    pub fn candidate(&self, tier: usize, caller: Caller, now: Moment) -> balance::Candidate {
        let state = match self.health.state(caller.network, now) {
            HealthState::Drained => HealthState::Drained,
            _ if self.callers.is_kept_away(caller, now) => HealthState::Ejected,
            state => state,
        };
        balance::Candidate { tier, mark: self.mark, load: self.load(), state }
    }

    /// Returns the number of callers that are kept away from this backend now.
    pub fn callers_kept_away(&self, now: Moment) -> usize {
        self.callers.kept_away(now)
    }

    /// Returns the hash of its name ([`balance::mark`]).
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// Returns the number of requests in flight.
    pub fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    /// Returns its health.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Returns whether a request of this caller may be sent. After an ejection, one request gets the half-open slot.
    pub fn takes(&self, caller: Caller, now: Moment) -> Permit {
        if self.health.state(caller.network, now) != HealthState::HalfOpen {
            return Permit::Granted;
        }
        self.health.claim_half_open(self.settings.health(), now).map_or(Permit::Denied, Permit::HalfOpen)
    }

    /// Records the result of a probe.
    pub fn probed(&self, outcome: Result<(), String>) {
        match (self.health.probed(outcome.is_ok(), self.settings.health()), outcome) {
            (Some(true), _) => self.is_back("probes"),
            (Some(false), Err(why)) => {
                self.metrics.healthy(false);
                warn!(backend = %self.settings.name(), why, "probes find the backend down");
            }
            _ => {}
        }
    }

    fn rests(&self, why: &str, rest: Duration) {
        self.metrics.healthy(false);
        warn!(backend = %self.settings.name(), why, ?rest, "the backend is left alone for a while");
    }

    fn is_back(&self, why: &str) {
        if self.health.is_good() {
            self.metrics.healthy(true);
            info!(backend = %self.settings.name(), why, "the backend is used again");
        }
    }

    /// Returns its configuration.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns its metric handles.
    pub fn metrics(&self) -> &BackendMetrics {
        &self.metrics
    }

    /// Returns a digest of its settings, which connections and stored answers go by.
    pub fn pool_key(&self) -> u64 {
        self.pool_key
    }

    pub(super) fn custom_ca(&self) -> Option<&super::peer::CustomCa> {
        self.ca.as_ref()
    }

    /// Returns the addresses that one request tries.
    ///
    /// # Errors
    /// The resolver's error, when the name has never been resolved before.
    pub async fn addresses(&self) -> io::Result<Addresses> {
        self.host_name.addresses().await
    }
}
