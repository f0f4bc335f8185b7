//! A backend at work: where it is now, how it is, and under which key its connections are pooled.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::balance;
use super::callers::Callers;
use super::health::{Attempt, Health, HealthState};
use super::settings::Settings;
use crate::clock::Moment;
use crate::telemetry::metrics::BackendMetrics;

/// How long a resolved name is used without asking again.
const NAME_TTL: Duration = Duration::from_secs(30);

/// One configured backend with everything a request to it needs.
pub struct Backend {
    settings: Settings,
    metrics: BackendMetrics,
    pool_key: u64,
    names: Names,
    ca: Option<super::peer::CustomCa>,
    mark: u64,
    health: Health,
    callers: Callers,
    /// Requests open at it.
    load: AtomicUsize,
}

/// A request's place at a backend, which counts as load until it is dropped. How the request fared is reported
/// here, because what it says of the backend depends on whose it is and when it was sent.
pub struct InFlight {
    backend: Arc<Backend>,
    attempt: Attempt,
    /// Something was learnt of the backend.
    judged: AtomicBool,
}

/// Whether a request may go to a backend that the choice fell upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// It may.
    Granted,
    /// It may, as the one request that tries whether the backend has recovered.
    HalfOpen(u64),
    /// Another request was faster to try it.
    Denied,
}

/// For whom an answer with `Retry-After` speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpeaksFor {
    /// The caller who got it: a limit of its own credential or address.
    Caller,
    /// All, once a second caller has got one, too.
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
    /// It answered the request.
    pub fn answered(&self) {
        self.judged.store(true, Relaxed);
        self.callers.answered(self.attempt);
        if self.health.answered(self.attempt.sent) {
            self.is_back("an answer");
        }
    }

    /// The request failed at it; `unreached` when it could not even be connected to.
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

    /// It asked to be left alone for so long.
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

/// The addresses behind the host name, asked for without blocking and by one request at a time.
#[derive(Default)]
struct Names {
    known: Arc<ArcSwapOption<Known>>,
    asking: Arc<Mutex<()>>,
    /// The address that answered last; `localhost` is two addresses, and often only one listens.
    preferred: AtomicUsize,
}

struct Known {
    addresses: Vec<SocketAddr>,
    at: Instant,
}

impl Backend {
    /// A backend as configured; connections are shared only with backends configured alike.
    ///
    /// # Errors
    /// A sentence that says what is wrong with its `tls.ca_file`.
    pub fn new(settings: Settings, metrics: BackendMetrics) -> Result<Arc<Self>, String> {
        let mut hasher = DefaultHasher::new();
        settings.hash(&mut hasher);
        let ca = super::peer::custom_ca(&settings)?;
        metrics.healthy(true);
        Ok(Arc::new(Self {
            pool_key: hasher.finish(),
            mark: balance::mark(settings.name().as_str()),
            settings,
            metrics,
            names: Names::default(),
            ca,
            health: Health::default(),
            callers: Callers::default(),
            load: AtomicUsize::new(0),
        }))
    }

    /// A place for one more request: of the caller of this mark, sent now, with this permit.
    pub fn in_flight(self: &Arc<Self>, caller: u64, permit: Permit, now: Moment) -> InFlight {
        self.load.fetch_add(1, Relaxed);
        let half_open = if let Permit::HalfOpen(half_open) = permit { Some(half_open) } else { None };
        let attempt = Attempt { caller, sent: now, half_open };
        InFlight { backend: Arc::clone(self), attempt, judged: AtomicBool::new(false) }
    }

    /// What the choice between several looks at, for the caller of this mark.
    pub fn candidate(&self, tier: usize, caller: u64, now: Moment) -> balance::Candidate {
        let is_kept_away = self.callers.is_kept_away(caller, now);
        let state = if is_kept_away { HealthState::Ejected } else { self.health.state(now) };
        balance::Candidate { tier, mark: self.mark, load: self.load(), state }
    }

    /// Callers who leave it alone now, each for itself.
    pub fn callers_kept_away(&self, now: Moment) -> usize {
        self.callers.kept_away(now)
    }

    /// The mark of its name ([`balance::mark`]).
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// Requests open at it.
    pub fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    /// How it is.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Whether a request that may go here goes: of a backend whose rest is over, one finds out how it is.
    pub fn takes(&self, now: Moment) -> Permit {
        if self.health.state(now) != HealthState::HalfOpen {
            return Permit::Granted;
        }
        self.health.claim_half_open(self.settings.health(), now).map_or(Permit::Denied, Permit::HalfOpen)
    }

    /// A probe ended.
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

    /// What the file says of it.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its metric handles.
    pub fn metrics(&self) -> &BackendMetrics {
        &self.metrics
    }

    pub(super) fn pool_key(&self) -> u64 {
        self.pool_key
    }

    pub(super) fn custom_ca(&self) -> Option<&super::peer::CustomCa> {
        self.ca.as_ref()
    }

    /// The address to try in attempt `attempt` (0 is the first); `None` when all were tried.
    ///
    /// # Errors
    /// The resolver's error when the name cannot be resolved and never could.
    pub async fn address(&self, attempt: usize) -> std::io::Result<Option<SocketAddr>> {
        if let Ok(ip) = self.settings.host().parse::<IpAddr>() {
            return Ok((attempt == 0).then(|| SocketAddr::new(ip, self.settings.port())));
        }
        let known = self.resolve().await?;
        let count = known.addresses.len();
        if attempt >= count {
            return Ok(None);
        }
        let index = (self.names.preferred.load(Relaxed) + attempt) % count;
        Ok(Some(known.addresses[index]))
    }

    /// Whether there is an address for attempt `attempt`, as far as is known.
    pub fn has_address(&self, attempt: usize) -> bool {
        self.names.known.load().as_ref().is_some_and(|known| attempt < known.addresses.len())
    }

    /// Notes that `address` could not be connected to, so that later requests begin with another.
    pub fn avoid(&self, address: SocketAddr) {
        if let Some(known) = &*self.names.known.load()
            && let Some(index) = known.addresses.iter().position(|known| *known == address)
        {
            self.names.preferred.store(index + 1, Relaxed);
        }
    }

    async fn resolve(&self) -> std::io::Result<Arc<Known>> {
        let stale = self.names.known.load_full();
        if let Some(known) = &stale
            && known.at.elapsed() < NAME_TTL
        {
            return Ok(Arc::clone(known));
        }
        // One asks; the others go on with what was known, or wait when nothing was.
        let asking = match (Arc::clone(&self.names.asking).try_lock_owned(), &stale) {
            (Ok(asking), _) => asking,
            (Err(_), Some(known)) => return Ok(Arc::clone(known)),
            (Err(_), None) => Arc::clone(&self.names.asking).lock_owned().await,
        };
        if let Some(known) = self.names.known.load_full()
            && known.at.elapsed() < NAME_TTL
        {
            return Ok(known);
        }
        let (host, port) = (self.settings.host().to_owned(), self.settings.port());
        let names = Arc::clone(&self.names.known);
        // A task of its own: each question holds a blocking thread until the resolver answers, also when the request
        // that asked has gone, and the next request must not take another one.
        let lookup = tokio::spawn(async move {
            let _asking = asking;
            let addresses = tokio::net::lookup_host((host.as_str(), port)).await?.collect();
            let known = Arc::new(Known { addresses, at: Instant::now() });
            names.store(Some(Arc::clone(&known)));
            Ok(known)
        });
        match lookup.await.map_err(std::io::Error::other).flatten() {
            Ok(known) => Ok(known),
            // A resolver that is away must not take reachable backends with it.
            Err(error) => stale.ok_or(error),
        }
    }
}
