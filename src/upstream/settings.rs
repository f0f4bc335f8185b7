//! `backends.NAME`: address, type, models, credentials and certificate checks of a backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::credentials::{self, Auth};
use super::egress::{Egress, ProxyUrl, ProxyVariables};
use super::health;
use super::pool::{BackendPoolConfig, Http2, Resend};
use super::retries::{self, Retries};
use crate::ids::BackendName;
use crate::protocol::BackendKind;
use crate::settings::fault::Faults;

mod values;

pub(super) use values::dial_host;
use values::{authority, check_name, read_ca, read_url};

/// The name in records, metrics and keys of hosts that clients of the forward proxy reach and that no backend serves.
pub const FORWARD: &str = "forward";

/// One entry under `backends:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Backend")]
pub struct BackendConfig {
    /// `http` or `https`, a host, optionally a port and a base path that is prepended to every path.
    pub url: String,
    /// The API of the backend.
    #[serde(rename = "type")]
    pub kind: BackendKind,
    /// Patterns of the models that the backend serves, for `routing.methods: [model]`.
    #[serde(default)]
    pub models: Vec<String>,
    /// Names or patterns of models that the backend serves under another name, and that name.
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
    /// Whether that name is written into the body. Otherwise the body is not changed.
    #[serde(default)]
    pub rewrite_model: bool,
    /// Whether the backend gets the requests that match nothing else.
    #[serde(default)]
    pub default: bool,
    /// How the certificate is checked; for `https` URLs only.
    #[serde(default)]
    pub tls: BackendTlsConfig,
    /// The proxy that leads to the backend: `http://[USER:PASSWORD@]HOST:PORT`, or `none` to connect directly; empty for
    /// that of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
    #[serde(default)]
    #[schemars(with = "String")]
    pub proxy: ProxyUrl,
    /// How connections are used.
    #[serde(default)]
    pub pool: BackendPoolConfig,
    /// Which credential the backend gets.
    #[serde(default)]
    pub auth: credentials::BackendAuthConfig,
    /// How failures are detected.
    #[serde(default)]
    pub health: health::BackendHealthConfig,
    /// When a request is retried at another backend.
    #[serde(default)]
    pub retries: retries::BackendRetriesConfig,
    /// The backend, of any type, that is tried when this one and those with the same model fail; empty for none.
    #[serde(default)]
    pub fallback: String,
}

impl BackendConfig {
    /// Returns a backend of this address and type with default settings.
    pub fn new(url: impl Into<String>, kind: BackendKind) -> Self {
        Self {
            url: url.into(),
            kind,
            models: Vec::new(),
            aliases: BTreeMap::new(),
            rewrite_model: false,
            default: false,
            tls: BackendTlsConfig::default(),
            proxy: ProxyUrl::default(),
            pool: BackendPoolConfig::default(),
            auth: Default::default(),
            health: Default::default(),
            retries: Default::default(),
            fallback: String::new(),
        }
    }
}

/// `backends.NAME.tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "BackendTls")]
pub struct BackendTlsConfig {
    /// PEM file of the certificate authorities to trust instead of the built-in ones; empty for the built-in ones.
    pub ca_file: String,
    /// The name to send (SNI) and to verify, if it is not the host of the URL; empty for the host.
    pub server_name: String,
    /// Whether to accept any certificate. For tests only.
    pub insecure_skip_verify: bool,
}

/// A compiled backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    name: BackendName,
    kind: BackendKind,
    host: String,
    port: u16,
    authority: String,
    base_path: String,
    tls: Option<Tls>,
    egress: Egress,
    http2: Http2,
    pool_idle: Duration,
    resend: Resend,
    auth: Auth,
    realm: Arc<str>,
    health: health::Settings,
    retries: Retries,
}

/// How the certificate of a backend is checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The name that is sent (SNI) and verified.
    pub server_name: String,
    /// PEM text of the authorities to trust; `None` for the built-in ones.
    pub ca_pem: Option<Arc<[u8]>>,
    /// Whether the certificate is verified.
    pub verify: bool,
}

impl Settings {
    /// Returns the settings of a host that no backend serves: `url` has its scheme, host and port. The caller's own
    /// credentials are sent there, directly.
    pub fn of_host(url: String) -> Option<Self> {
        let written =
            BackendConfig { proxy: ProxyUrl::new("none"), ..BackendConfig::new(url, BackendKind::HTTP) };
        written.compile(FORWARD, &ProxyVariables::default(), &mut Faults::default())
    }

    /// The key under `backends:`.
    pub fn name(&self) -> &BackendName {
        &self.name
    }

    /// The API of the backend.
    pub fn kind(&self) -> BackendKind {
        self.kind
    }

    /// Host name or address to dial; an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port to dial.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of the `Host` header, with the port unless it is the default of the scheme (RFC 9110, 7.2).
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The prefix of every forwarded path: empty, or `/…` without a trailing slash.
    pub fn base_path(&self) -> &str {
        &self.base_path
    }

    /// How the certificate is checked; `None` without TLS.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// How the backend is reached, and what decided that.
    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    /// When HTTP/2 is used.
    pub fn http2(&self) -> Http2 {
        self.http2
    }

    /// How long an idle connection is kept.
    pub fn pool_idle(&self) -> Duration {
        self.pool_idle
    }

    /// Which requests are sent again when a kept connection turns out to be closed.
    pub fn resend(&self) -> Resend {
        self.resend
    }

    /// Which credential the backend gets.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// The protection space (RFC 9110, 11.5): the origin of the URL, unless `auth.realm` names one.
    pub fn realm(&self) -> &Arc<str> {
        &self.realm
    }

    /// Returns whether this backend may get a request whose credentials were meant for the backend `meant_for`.
    pub fn may_take(&self, meant_for: &Self) -> bool {
        match self.auth {
            Auth::Passthrough => meant_for.auth == Auth::Passthrough && self.realm == meant_for.realm,
            Auth::Inject { .. } | Auth::None => true,
        }
    }

    /// When the backend is ejected.
    pub fn health(&self) -> &health::Settings {
        &self.health
    }

    /// When a request is retried at another backend.
    pub fn retries(&self) -> Retries {
        self.retries
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Returns the URL: scheme, authority and base path.
    pub fn url(&self) -> String {
        format!("{}://{}{}", self.scheme(), self.authority, self.base_path)
    }
}

impl BackendConfig {
    /// Compiles the entry `name`; reads its `ca_file`. `variables` are the proxies that the environment names.
    pub fn compile(self, name: &str, variables: &ProxyVariables, faults: &mut Faults) -> Option<Settings> {
        let at = |key: &str| format!("backends.{name}.{key}");
        let name_is_good = check_name(name, faults);
        let url = read_url(&at("url"), &self.url, faults);
        let ca_pem = read_ca(&at("tls.ca_file"), &self.tls.ca_file, faults);
        let health = self.health.compile(name, faults);
        let retries = self.retries.compile(name, faults);
        let origin = url.as_ref().map(|url| url.origin().ascii_serialization()).unwrap_or_default();
        let realm = self.auth.realm(origin);
        let auth = self.auth.compile(name, self.kind, faults);
        if self.rewrite_model && self.aliases.is_empty() {
            faults.add(
                at("rewrite_model"),
                "there is no other name to write",
                "give aliases, or leave it out",
            );
        }
        let url = url?;
        let secure = url.scheme() == "https";
        if !secure && self.tls != BackendTlsConfig::default() {
            let hint = "write https:// in the URL, or remove the tls keys";
            faults.add(at("tls"), "the URL is http://, so nothing here would be used", hint);
            return None;
        }
        if self.tls.insecure_skip_verify {
            let message = "whoever answers at that address is taken for the backend, and gets the keys";
            faults.warn(at("tls.insecure_skip_verify"), message, "name its authority in tls.ca_file instead");
        }
        let host = dial_host(&url)?;
        let egress = variables.egress(&at("proxy"), &self.proxy, &url, faults);
        let server_name =
            if self.tls.server_name.is_empty() { host.clone() } else { self.tls.server_name.clone() };
        let tls = Tls { server_name, ca_pem: ca_pem?, verify: !self.tls.insecure_skip_verify };
        if !name_is_good {
            return None;
        }
        Some(Settings {
            name: BackendName::new(name),
            kind: self.kind,
            port: url.port_or_known_default().unwrap_or(80),
            authority: authority(&url),
            base_path: url.path().trim_end_matches('/').to_owned(),
            host,
            tls: secure.then_some(tls),
            egress: egress?,
            http2: self.pool.http2,
            pool_idle: self.pool.idle(secure),
            resend: self.pool.resend,
            auth: auth?,
            realm,
            health: health?,
            retries: retries?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(url: &str) -> BackendConfig {
        BackendConfig::new(url, BackendKind::OPENAI)
    }

    fn compiled(url: &str) -> Settings {
        let mut faults = Faults::default();
        let settings = written(url).compile("b", &ProxyVariables::default(), &mut faults);
        assert!(faults.is_empty(), "{faults}");
        settings.unwrap()
    }

    fn faults_of(name: &str, written: BackendConfig) -> String {
        let mut faults = Faults::default();
        assert_eq!(written.compile(name, &ProxyVariables::default(), &mut faults), None);
        faults.to_string()
    }

    #[test]
    fn a_url_gives_what_is_dialled_and_what_is_sent() {
        let plain = compiled("http://localhost:11434");
        assert_eq!((plain.host(), plain.port(), plain.authority()), ("localhost", 11434, "localhost:11434"));
        assert_eq!((plain.base_path(), plain.tls()), ("", None));
        let secure = compiled("https://Gateway.example/openai/v1/");
        assert_eq!((secure.host(), secure.port()), ("gateway.example", 443));
        assert_eq!((secure.authority(), secure.base_path()), ("gateway.example", "/openai/v1"));
        let tls = Tls { server_name: "gateway.example".into(), ca_pem: None, verify: true };
        assert_eq!(secure.tls(), Some(&tls));
        assert_eq!(secure.url(), "https://gateway.example/openai/v1");
        let six = compiled("http://[::1]:8000");
        assert_eq!((six.host(), six.authority()), ("::1", "[::1]:8000"));
        assert_eq!(
            (plain.pool_idle(), secure.pool_idle()),
            (Duration::from_secs(4), Duration::from_secs(50))
        );
        assert_eq!(compiled("https://h:443/").authority(), "h", "the scheme's own port is not sent");
    }

    #[test]
    fn what_would_be_dropped_is_refused() {
        assert_eq!(
            faults_of("b", written("localhost:11434")),
            "backends.b.url: 'localhost:11434' is not an http:// or https:// URL \
             (write it like http://localhost:11434 or https://api.openai.com)"
        );
        assert_eq!(
            faults_of("b", written("https://user:hunter2@h/")),
            "backends.b.url: the URL holds a user name or password \
             (remove it: clients send their own credentials)"
        );
        assert_eq!(
            faults_of("b", written("https://h/?key=1")),
            "backends.b.url: 'https://h/?key=1' holds a query or fragment \
             (remove it: only scheme, host, port and base path are used)"
        );
        assert!(!faults_of("b", written("ftp://u:hunter2@h")).contains("hunter2"));
        let tls = BackendTlsConfig { insecure_skip_verify: true, ..BackendTlsConfig::default() };
        assert_eq!(
            faults_of("b", BackendConfig { tls, ..written("http://h") }),
            "backends.b.tls: the URL is http://, so nothing here would be used \
             (write https:// in the URL, or remove the tls keys)"
        );
    }

    #[test]
    fn names_that_would_take_the_providers_paths_are_refused() {
        assert_eq!(
            faults_of("api", written("http://h")),
            "backends.api: 'api' is reserved \
             (choose another name: /api/ is a path of the providers' own APIs)"
        );
        assert_eq!(
            faults_of("my backend", written("http://h")),
            "backends.my backend: 'my backend' is not a name for a backend \
             (use up to 64 letters, digits, '-', '_' and '.', a letter or digit first)"
        );
    }

    #[test]
    fn a_credential_is_taken_by_its_own_realm_only() {
        let with = |url: &str, auth: &str| {
            let auth = serde_yaml::from_str(auth).unwrap();
            BackendConfig { auth, ..written(url) }
                .compile("b", &ProxyVariables::default(), &mut Faults::default())
                .unwrap()
        };
        let [a, b] = ["https://a", "https://b"].map(compiled);
        assert!(a.may_take(&a) && !a.may_take(&b));
        let named = |url: &str| with(url, "{ realm: r }");
        assert!(named("https://a").may_take(&named("https://b")));
        let none = with("https://a", "{ mode: none, realm: r }");
        assert!(!a.may_take(&none), "a key for the gateway is for no backend");
        assert!(!named("https://b").may_take(&none));
        assert!(none.may_take(&a));
        assert_eq!((&**none.realm(), &**a.realm()), ("r", "https://a"));
    }

    #[test]
    fn a_ca_file_is_read_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let with_ca = || {
            let ca_file = file.display().to_string();
            BackendConfig {
                tls: BackendTlsConfig { ca_file, ..BackendTlsConfig::default() },
                ..written("https://h")
            }
        };
        assert!(faults_of("b", with_ca()).contains("cannot be read: No such file"));
        std::fs::write(&file, "not a certificate").unwrap();
        assert!(faults_of("b", with_ca()).contains("it holds no certificate (give a PEM file"));
        // A frame alone is no certificate, and what is inside must be one.
        for junk in [
            "-----BEGIN CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        ] {
            std::fs::write(&file, junk).unwrap();
            assert!(faults_of("b", with_ca()).contains("cannot be used: it "), "{junk}");
        }
        let own = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
        std::fs::write(&file, own.cert.pem()).unwrap();
        let settings = with_ca().compile("b", &ProxyVariables::default(), &mut Faults::default()).unwrap();
        assert!(settings.tls().unwrap().ca_pem.is_some());
    }
}
