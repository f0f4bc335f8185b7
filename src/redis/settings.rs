//! `session.redis`: the address of the shared store, and credentials for it.

use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use crate::settings::fault::Faults;
use crate::settings::secret::Secret;
use crate::settings::units::DurationText;

/// The schemes of `url`: one server, sentinels, a cluster; each with an `s` for TLS.
const SCHEMES: [&str; 6] =
    ["redis", "rediss", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster"];
/// Suffix of `key_prefix` if other keys get a prefix of their own.
const SESSION: &str = "session:";
/// More connections bring nothing, because commands are pipelined.
const MAX_POOL: usize = 64;

/// What an instance does while Redis is unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnavailable {
    /// It continues with its own sessions and opens new ones locally.
    #[default]
    Memory,
    /// It continues with its own sessions and refuses new ones.
    Reject,
}

/// The keys of `session.redis`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Redis")]
pub struct RedisConfig {
    /// `redis://`, `redis-sentinel://`, `redis-cluster://`, or the same with `rediss` for TLS; replaces `addr`,
    /// `db` and `tls.enabled`.
    #[serde(serialize_with = "without_password")]
    #[schemars(with = "String")]
    pub url: Secret,
    /// Host and port of one server.
    pub addr: String,
    /// ACL user; empty for the default user.
    pub username: String,
    /// Password; empty for none.
    #[serde(serialize_with = "masked")]
    #[schemars(with = "String")]
    pub password: Secret,
    /// File with the password, in place of `password`.
    pub password_file: String,
    /// Number of the database.
    pub db: u8,
    /// TLS for connections to Redis.
    pub tls: RedisTlsConfig,
    /// Prefix of session keys; other keys use the part before `session:`.
    pub key_prefix: String,
    /// Connections for commands; one more is used for messages.
    pub pool: usize,
    /// How often counters of an active session are written; changes of state are written at once.
    pub flush_interval: DurationText,
    /// What happens to new sessions while Redis is unavailable.
    pub on_unavailable: OnUnavailable,
}

/// `session.redis.tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "RedisTls")]
pub struct RedisTlsConfig {
    /// Encrypts connections and checks the certificate.
    pub enabled: bool,
    /// PEM file of the CA certificates to trust instead of those of the system; empty for those of the system.
    pub ca_file: String,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: Secret::new(""),
            addr: "localhost:6379".into(),
            username: String::new(),
            password: Secret::new(""),
            password_file: String::new(),
            db: 0,
            tls: RedisTlsConfig::default(),
            key_prefix: "elida:session:".into(),
            pool: 4,
            flush_interval: DurationText::secs(1),
            on_unavailable: OnUnavailable::Memory,
        }
    }
}

/// The compiled settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub(super) url: Secret,
    shown: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) ca_pem: Option<Vec<u8>>,
    pub(super) root: String,
    pub(super) prefix: String,
    pub(super) pool: usize,
    flush_interval: Duration,
    on_unavailable: OnUnavailable,
}

impl Settings {
    /// True for a cluster.
    pub fn is_cluster(&self) -> bool {
        is_of_kind(self.url.reveal(), "-cluster")
    }

    /// The address without passwords.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// True if the settings differ only in what a running process can change.
    pub fn follows(&self, other: &Self) -> bool {
        let Self { flush_interval, on_unavailable, .. } = *other;
        Self { flush_interval, on_unavailable, ..self.clone() } == *other
    }

    /// How often counters are written.
    pub fn flush_interval(&self) -> Duration {
        self.flush_interval
    }

    /// What happens to new sessions while Redis is unavailable.
    pub fn on_unavailable(&self) -> OnUnavailable {
        self.on_unavailable
    }
}

impl RedisConfig {
    /// Compiles the configuration and adds every fault to `faults`. `None` if there was one.
    pub fn compile(self, faults: &mut Faults) -> Option<Settings> {
        let (before, mut found) = ("session.redis", Faults::default());
        let url = self.address(&mut found);
        let password = self.password(&mut found);
        let ca_pem = self.ca_pem(&mut found);
        let plain = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
        if self.key_prefix.is_empty() || !self.key_prefix.chars().all(plain) {
            found.add(
                "key_prefix",
                "is empty or has characters other than A-Z a-z 0-9 . _ : -",
                "write elida:session:",
            );
        }
        if !(1..=MAX_POOL).contains(&self.pool) {
            found.add(
                "pool",
                format!("{} connections", self.pool),
                format!("write a number from 1 to {MAX_POOL}"),
            );
        }
        if self.flush_interval.limit().is_none() {
            found.add("flush_interval", "is 0", "write a length of time, like 1s");
        }
        let whole = found.is_empty();
        faults.absorb(found, |path| format!("{before}.{path}"));
        let url = url.filter(|_| whole)?;
        let settings = Settings {
            shown: shown(&url),
            url: Secret::new(url),
            username: (!self.username.is_empty()).then_some(self.username),
            password: password.filter(|password| !password.reveal().is_empty()),
            ca_pem,
            root: self.key_prefix.strip_suffix(SESSION).unwrap_or(&self.key_prefix).to_owned(),
            prefix: self.key_prefix,
            pool: self.pool,
            flush_interval: self.flush_interval.0,
            on_unavailable: self.on_unavailable,
        };
        if let Some((key, why)) = super::plan::unusable(&settings) {
            let hint = "see the comments at session.redis in conf/elida.yaml";
            faults.add(format!("{before}.{key}"), format!("it cannot be used: {why}"), hint);
            return None;
        }
        Some(settings)
    }

    fn address(&self, faults: &mut Faults) -> Option<String> {
        let url = self.url.reveal();
        if url.is_empty() {
            let scheme = if self.tls.enabled { "rediss" } else { "redis" };
            let url = format!("{scheme}://{}/{}", self.addr, self.db);
            let has_host = Url::parse(&url).is_ok_and(|url| url.has_host() && url.path().len() > 1);
            if !has_host || self.addr.contains(['/', '@']) {
                let message = format!("'{}' is not HOST:PORT", self.addr);
                faults.add("addr", message, "write it like localhost:6379; a URL belongs in url");
                return None;
            }
            return Some(url);
        }
        let known = Url::parse(url).is_ok_and(|url| SCHEMES.contains(&url.scheme()) && url.has_host());
        let sentinel = is_of_kind(url, "-sentinel") && !url.contains("sentinelServiceName=");
        if !known || sentinel {
            // The value is not shown because it may contain a password.
            faults.add(
                "url",
                if sentinel { "names no sentinelServiceName" } else { "is not an address of Redis" },
                "write redis://HOST:6379/0, redis-sentinel://HOST:26379/0?sentinelServiceName=NAME&node=HOST:26379 \
                 or redis-cluster://HOST:6379?node=HOST:6379; rediss for TLS",
            );
            return None;
        }
        if self.tls.enabled && !url.starts_with("rediss") {
            faults.add("tls.enabled", "true, but url says redis", "write rediss in url");
        }
        Some(url.to_owned())
    }

    fn password(&self, faults: &mut Faults) -> Option<Secret> {
        if self.password_file.is_empty() {
            return Some(self.password.clone());
        }
        if !self.password.reveal().is_empty() {
            faults.add("password_file", "password is set as well", "set one of the two");
        }
        match std::fs::read_to_string(&self.password_file) {
            Ok(text) => Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
            Err(error) => {
                faults.unreadable("password_file", &self.password_file, &error);
                None
            }
        }
    }

    fn ca_pem(&self, faults: &mut Faults) -> Option<Vec<u8>> {
        if self.tls.ca_file.is_empty() {
            return None;
        }
        if !self.tls.enabled && !self.url.reveal().starts_with("rediss") {
            faults.add("tls.ca_file", "is not used without TLS", "write tls.enabled: true");
        }
        std::fs::read(Path::new(&self.tls.ca_file))
            .map_err(|error| faults.unreadable("tls.ca_file", &self.tls.ca_file, &error))
            .ok()
    }
}

/// True if the scheme of a URL has this suffix. Host names with it do not count.
fn is_of_kind(url: &str, suffix: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.scheme().ends_with(suffix))
}

/// The URL without its password and the password of the sentinels in its query.
fn shown(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return String::new() };
    if url.password().is_some() {
        // Fails only for URLs without a host, which have no password.
        let _ = url.set_password(Some("***"));
    }
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    if pairs.iter().any(|(key, _)| key == "sentinelPassword") {
        let hidden = |(key, value): (String, String)| {
            let value = if key == "sentinelPassword" { "***".to_owned() } else { value };
            (key, value)
        };
        url.query_pairs_mut().clear().extend_pairs(pairs.into_iter().map(hidden));
    }
    url.into()
}

fn without_password<S: Serializer>(url: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(url.reveal()))
}

fn masked<S: Serializer>(password: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    match password.reveal() {
        "" => serializer.serialize_str(""),
        _ => password.serialize(serializer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(yaml: &str) -> Result<Settings, Vec<String>> {
        let written: RedisConfig = serde_yaml::from_str(yaml).unwrap();
        let mut faults = Faults::default();
        written.compile(&mut faults).ok_or_else(|| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_address_or_a_url_is_where_to_go() {
        let settings = compile("{}").unwrap();
        assert_eq!((settings.shown(), settings.root.as_str()), ("redis://localhost:6379/0", "elida:"));
        assert_eq!(settings.password, None);
        let settings = compile("{addr: 'r:1', db: 3, tls: {enabled: true}, key_prefix: 'x'}").unwrap();
        assert_eq!((settings.shown(), settings.root.as_str()), ("rediss://r:1/3", "x"));
        for url in ["redis://a", "redis-cluster://a:1?node=b:2", "redis-sentinel://a?sentinelServiceName=m"] {
            assert!(compile(&format!("{{url: '{url}'}}")).is_ok(), "{url}");
        }
    }

    #[test]
    fn every_fault_is_told() {
        let faults = compile(
            "{addr: nowhere/x, key_prefix: 'a b', pool: 0, flush_interval: 0, password: x, password_file: /none, \
             tls: {ca_file: /none}}",
        )
        .unwrap_err();
        for part in [
            "addr",
            "key_prefix",
            "pool",
            "flush_interval",
            "password is set",
            "cannot be read",
            "without TLS",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(part)), "{part} in {faults:?}");
        }
        for (url, is_cluster) in [
            ("redis://my-cluster:6379", false),
            ("redis://my-sentinel:26379", false),
            ("redis-cluster://a:1", true),
            ("rediss-cluster://a:1?node=b:2", true),
        ] {
            let settings = compile(&format!("{{url: '{url}'}}")).unwrap();
            assert_eq!(settings.is_cluster(), is_cluster, "{url}");
        }
        for url in ["http://a", "redis:", "redis-sentinel://a", "nonsense"] {
            assert!(compile(&format!("{{url: '{url}'}}")).is_err(), "{url}");
        }
        assert!(compile("{url: 'redis://a', tls: {enabled: true}}").is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no certificate").unwrap();
        let ca_file = format!("{{url: 'rediss://a', tls: {{ca_file: {:?}}}}}", file.path());
        let faults = compile(&ca_file).unwrap_err();
        assert!(faults[0].contains("session.redis.tls.ca_file: it cannot be used"), "{faults:?}");
        // Errors that only the client crate detects are reported before startup, too.
        let faults = compile("{url: 'redis://a/seven'}").unwrap_err();
        assert!(faults[0].starts_with("session.redis.url: it cannot be used"), "{faults:?}");
    }

    #[test]
    fn no_password_is_shown() {
        let url = "redis-sentinel://u:hidden1@a/1?sentinelServiceName=m&sentinelPassword=hidden2";
        let written: RedisConfig =
            serde_yaml::from_str(&format!("{{url: '{url}', password: hidden3}}")).unwrap();
        let printed = serde_json::to_string(&written).unwrap();
        let settings = written.compile(&mut Faults::default()).unwrap();
        let told = format!("{printed} {settings:?} {}", settings.shown());
        assert!(!told.contains("hidden"), "{told}");
    }
}
