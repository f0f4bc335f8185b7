//! Fetches the keys of an issuer in the background and keeps them while the issuer is away.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use tracing::{info, warn};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::key_set::KeySet;

/// How long keys are used after they were fetched, if the issuer does not answer.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// How soon a fetch that failed is repeated.
const RETRY: Duration = Duration::from_secs(10);
/// At most one fetch in this time is caused by tokens with an unknown key.
const UNKNOWN: Duration = Duration::from_secs(30);
/// How long a fetch may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest JWK set, in bytes.
const MAX_SET: u64 = 256 << 10;

/// Where an issuer publishes its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A URL, and the certificates of the authorities to trust; `None` for those of the system.
    Url(String, Option<Vec<Vec<u8>>>),
    /// A file.
    File(String),
}

/// The keys of an issuer, and when to fetch them again.
#[derive(Debug)]
pub struct IssuerKeys {
    issuer: Arc<str>,
    source: Source,
    refresh: Duration,
    accepted: Vec<Algorithm>,
    current: ArcSwapOption<Fetched>,
    plan: Mutex<Plan>,
}

/// A key set and when it was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) set: KeySet,
    at: Instant,
}

#[derive(Debug)]
struct Plan {
    /// When the next fetch begins.
    due: Instant,
    is_running: bool,
    /// When a token with an unknown key last caused one.
    asked: Option<Instant>,
    has_failed: bool,
}

impl IssuerKeys {
    pub(super) fn new(issuer: Arc<str>, source: Source, refresh: Duration, accepted: Vec<Algorithm>) -> Self {
        let plan = Plan { due: Instant::now(), is_running: false, asked: None, has_failed: false };
        Self { issuer, source, refresh, accepted, current: ArcSwapOption::empty(), plan: Mutex::new(plan) }
    }

    /// Returns the issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns whether keys were fetched.
    pub fn are_known(&self) -> bool {
        self.current.load().is_some()
    }

    /// Returns the keys; `None` before they were fetched, and when they are too old.
    pub(super) fn current(&self) -> Option<Arc<Fetched>> {
        self.current.load_full().filter(|fetched| fetched.at.elapsed() < MAX_AGE)
    }

    /// Returns whether these keys are the current ones.
    pub(super) fn is_current(&self, fetched: &Arc<Fetched>) -> bool {
        self.current.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, fetched))
    }

    /// Asks for a fetch because of a token with an unknown key. Returns whether one is on its way.
    pub(super) fn ask(&self) -> bool {
        let mut plan = self.plan.lock();
        let now = Instant::now();
        if plan.is_running || plan.due <= now {
            return true;
        }
        if plan.asked.is_some_and(|asked| now < asked + UNKNOWN) {
            return false;
        }
        (plan.asked, plan.due) = (Some(now), now);
        true
    }

    /// Takes the keys that `before` has fetched, if both are fetched in the same way.
    pub fn take_over(&self, before: &Self) {
        if self.issuer == before.issuer && self.source == before.source && self.accepted == before.accepted {
            let Some(fetched) = before.current.load_full() else { return };
            self.plan.lock().due = fetched.at + self.refresh;
            self.current.store(Some(fetched));
        }
    }

    /// Begins a fetch if one is due. The caller then calls [`IssuerKeys::fetch`], which blocks, elsewhere.
    pub fn begin_if_due(&self) -> bool {
        let mut plan = self.plan.lock();
        let begins = !plan.is_running && plan.due <= Instant::now();
        plan.is_running |= begins;
        begins
    }

    /// Fetches the keys. A failure keeps the old ones, and is logged when it is the first in a row. Returns whether it
    /// succeeded.
    pub fn fetch(&self) -> bool {
        let outcome = self.source.read().and_then(|text| KeySet::parse(&text, &self.accepted));
        let now = Instant::now();
        let is_good = outcome.is_ok();
        let had_failed = {
            let mut plan = self.plan.lock();
            plan.is_running = false;
            plan.due = now + if is_good { self.refresh } else { RETRY.min(self.refresh) };
            std::mem::replace(&mut plan.has_failed, !is_good)
        };
        let issuer = &*self.issuer;
        match outcome {
            Ok(set) => {
                self.current.store(Some(Arc::new(Fetched { set, at: now })));
                if had_failed {
                    info!(issuer, "the keys of the issuer are fetched again");
                }
            }
            Err(why) if !had_failed => {
                let keeps = self.current().is_some();
                warn!(
                    issuer,
                    source = self.source.place(),
                    why,
                    keeps,
                    "the keys of the issuer cannot be fetched"
                );
            }
            Err(_) => {}
        }
        is_good
    }
}

impl Source {
    fn place(&self) -> &str {
        match self {
            Self::Url(place, _) | Self::File(place) => place,
        }
    }

    /// Reads the set; blocks.
    pub(super) fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => fs::read(path).map_err(|fault| fault.to_string()),
            Self::Url(url, authorities) => get(url, authorities.as_deref()),
        }
    }
}

/// Fetches a URL, through the proxy that the environment names. Redirects are not followed: they would let another host
/// choose the keys.
fn get(url: &str, authorities: Option<&[Vec<u8>]>) -> Result<Vec<u8>, String> {
    let system;
    let ders = match authorities {
        Some(authorities) => authorities,
        None => {
            system = rustls_native_certs::load_native_certs()
                .certs
                .iter()
                .map(|der| der.to_vec())
                .collect::<Vec<_>>();
            &system
        }
    };
    let roots: Vec<_> = ders.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(ureq::Proxy::try_from_env())
        .timeout_global(Some(TIMEOUT))
        .user_agent(concat!("elida/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .build()
        .into();
    let mut answer =
        agent.get(url).header("accept", "application/json").call().map_err(|fault| fault.to_string())?;
    if answer.status() != 200 {
        return Err(format!("it answers {}", answer.status().as_u16()));
    }
    answer.body_mut().with_config().limit(MAX_SET).read_to_vec().map_err(|fault| fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"AAAA"}]}"#;

    fn keys(path: &str) -> IssuerKeys {
        IssuerKeys::new("i".into(), Source::File(path.into()), Duration::from_secs(600), Vec::new())
    }

    #[test]
    fn old_keys_are_kept_while_the_issuer_is_away() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        fs::write(&path, SET).unwrap();
        let keys = keys(&path);
        assert!(keys.ask() && !keys.are_known(), "a fetch is due from the start");
        assert!(keys.begin_if_due() && !keys.begin_if_due() && keys.ask());
        assert!(keys.fetch() && !keys.begin_if_due());
        let first = keys.current().unwrap();
        assert!(keys.is_current(&first));
        fs::write(&path, "away").unwrap();
        assert!(!keys.fetch() && keys.is_current(&first));
        fs::write(&path, SET).unwrap();
        assert!(keys.fetch() && !keys.is_current(&first));
        let mut old = Arc::into_inner(first).unwrap();
        old.at = old.at.checked_sub(MAX_AGE).unwrap();
        keys.current.store(Some(Arc::new(old)));
        assert!(keys.current().is_none(), "too old");
    }

    #[test]
    fn an_unknown_key_causes_one_fetch_in_thirty_seconds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), SET).unwrap();
        let keys = keys(&file.path().display().to_string());
        assert!(keys.begin_if_due() && keys.fetch());
        assert!(keys.ask() && keys.ask() && keys.begin_if_due() && keys.fetch());
        assert!(!keys.ask() && !keys.begin_if_due());
        keys.plan.lock().asked = Instant::now().checked_sub(UNKNOWN);
        assert!(keys.ask() && keys.begin_if_due());
    }

    #[test]
    fn a_reload_keeps_the_keys_of_the_same_source() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), SET).unwrap();
        let path = file.path().display().to_string();
        let before = keys(&path);
        assert!(before.fetch());
        let (same, other) = (keys(&path), keys("/nowhere"));
        same.take_over(&before);
        other.take_over(&before);
        assert!(same.are_known() && !same.begin_if_due());
        assert!(!other.are_known() && other.begin_if_due());
    }
}
