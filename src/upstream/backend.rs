//! A backend at work: where it is now, and under which key its connections are pooled.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

use super::settings::Settings;
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
}

/// The addresses behind the host name, asked for without blocking and by one request at a time.
#[derive(Default)]
struct Names {
    known: ArcSwapOption<Known>,
    asking: Mutex<()>,
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
        Ok(Arc::new(Self { pool_key: hasher.finish(), settings, metrics, names: Names::default(), ca }))
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
        let _asking = match (self.names.asking.try_lock(), &stale) {
            (Ok(asking), _) => asking,
            (Err(_), Some(known)) => return Ok(Arc::clone(known)),
            (Err(_), None) => self.names.asking.lock().await,
        };
        if let Some(known) = self.names.known.load_full()
            && known.at.elapsed() < NAME_TTL
        {
            return Ok(known);
        }
        match tokio::net::lookup_host((self.settings.host(), self.settings.port())).await {
            Ok(found) => {
                let known = Arc::new(Known { addresses: found.collect(), at: Instant::now() });
                self.names.known.store(Some(Arc::clone(&known)));
                Ok(known)
            }
            // A resolver that is away must not take reachable backends with it.
            Err(error) => stale.ok_or(error),
        }
    }
}
