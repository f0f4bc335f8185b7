//! The `control:` section: address, access and limits of the control API.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::address::listen_address;
use crate::settings::fault::Faults;
use crate::settings::origin::origins;
use crate::settings::secret::Secret;
use crate::settings::units::DurationText;

/// The `control:` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Control")]
pub struct ControlConfig {
    /// Address to listen on; `:9090` means every address. Needs a restart.
    pub listen: String,
    /// Authentication.
    pub auth: AuthConfig,
    /// Allowed values of the `Host` header, without the port.
    pub allowed_hosts: Vec<String>,
    /// Web pages that may call the API.
    pub cors: CorsConfig,
    /// Limits of the listener.
    pub limits: LimitsConfig,
    /// Whether the dashboard is served, at `/`.
    pub dashboard: bool,
    /// How long a browser stays logged in to the dashboard.
    pub session_ttl: DurationText,
}

/// `control.limits`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ControlLimits")]
pub struct LimitsConfig {
    /// Maximum of open connections, at least 16; at the limit a new one replaces an idle one. Needs a restart.
    pub max_connections: usize,
    /// Maximum of readers of the event feed, at most half of `max_connections`; more get 429.
    pub max_event_feeds: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { max_connections: 256, max_event_feeds: 64 }
    }
}

/// `control.auth`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ControlAuth")]
pub struct AuthConfig {
    /// A file that holds the token; empty for none.
    pub token_file: String,
    /// The token itself; from `ELIDA_CONTROL_TOKEN`, never from the file. It wins over the file.
    #[serde(skip)]
    pub token: Option<Secret>,
}

/// `control.cors`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ControlCors")]
pub struct CorsConfig {
    /// Origins whose pages may call, such as `https://ops.example.com`.
    pub allow_origins: Vec<String>,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9090".into(),
            auth: AuthConfig::default(),
            allowed_hosts: ["localhost", "127.0.0.1", "[::1]"].map(String::from).to_vec(),
            cors: CorsConfig::default(),
            limits: LimitsConfig::default(),
            dashboard: true,
            session_ttl: DurationText::secs(12 * 3600),
        }
    }
}

/// The compiled section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    listen: SocketAddr,
    token: Option<Secret>,
    is_open: bool,
    allowed_hosts: Vec<String>,
    allow_origins: Vec<String>,
    max_connections: usize,
    max_event_feeds: usize,
    dashboard: bool,
    session_ttl: Duration,
}

/// How long a browser may stay logged in.
const SESSION_TTL: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(30 * 24 * 3600);

/// With fewer connections, a dashboard and a scraper could keep operators out.
const MIN_CONNECTIONS: usize = 16;

/// A shorter token, in bytes, can be guessed.
const MIN_TOKEN: usize = 16;

/// A hex token of this many bytes holds 128 random bits.
const GOOD_TOKEN: usize = 32;

impl Settings {
    /// Address to listen on.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The token; `None` where `auth.roles` says who may call, and on loopback.
    pub fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// Whether nobody needs a credential: there is no token, and nobody has a role.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Allowed hosts: lower case, without a port, IPv6 addresses in brackets.
    pub fn allowed_hosts(&self) -> &[String] {
        &self.allowed_hosts
    }

    /// Maximum of open connections, at least 16.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Whether the dashboard is served.
    pub fn has_dashboard(&self) -> bool {
        self.dashboard
    }

    /// How long a browser stays logged in.
    pub fn session_ttl(&self) -> Duration {
        self.session_ttl
    }

    /// Maximum of readers of the event feed, at most half of the connections.
    pub fn max_event_feeds(&self) -> usize {
        self.max_event_feeds
    }

    /// Origins whose pages may call the API: scheme, host and port exactly as browsers send them.
    pub fn allow_origins(&self) -> &[String] {
        &self.allow_origins
    }
}

impl ControlConfig {
    /// Compiles the section; reads the token file. `has_roles`: `auth.roles` says who may call, so no token is needed.
    pub fn compile(self, has_roles: bool, faults: &mut Faults) -> Option<Settings> {
        let listen = listen_address("control.listen", &self.listen, faults);
        let token = match self.auth.token {
            Some(token) => check_token("control.auth", "ELIDA_CONTROL_TOKEN", token, faults).map(Some),
            None => read_token(&self.auth.token_file, faults),
        };
        let hosts = compile_hosts(&self.allowed_hosts, faults);
        let origins = origins("control.cors.allow_origins", self.cors.allow_origins, faults);
        let limits = self.limits.check(faults);
        if !SESSION_TTL.contains(&self.session_ttl.0) {
            let hint = "write a time from 1m to 30d, such as 12h";
            faults.add(
                "control.session_ttl",
                format!("'{}' is no time to stay logged in", self.session_ttl),
                hint,
            );
            return None;
        }
        let (listen, token) = (listen?, token?);
        if !listen.ip().is_loopback() && token.is_none() && !has_roles {
            faults.add(
                "control.listen",
                format!("{listen} can be reached from other machines, but there is no token"),
                "set ELIDA_CONTROL_TOKEN or control.auth.token_file, give keys a role (auth.roles), or listen on 127.0.0.1",
            );
            return None;
        }
        let LimitsConfig { max_connections, max_event_feeds } = limits?;
        Some(Settings {
            listen,
            is_open: token.is_none() && !has_roles,
            token,
            allowed_hosts: hosts?,
            allow_origins: origins?,
            max_connections,
            max_event_feeds,
            dashboard: self.dashboard,
            session_ttl: self.session_ttl.0,
        })
    }
}

impl LimitsConfig {
    fn check(self, faults: &mut Faults) -> Option<Self> {
        let Self { max_connections, max_event_feeds } = self;
        if max_connections < MIN_CONNECTIONS {
            let message = format!("{max_connections} connections are fewer than {MIN_CONNECTIONS}");
            let hint = "leave it out for 256; a dashboard and a scraper must not keep operators out";
            faults.add("control.limits.max_connections", message, hint);
            return None;
        }
        if max_event_feeds > max_connections / 2 {
            let message =
                format!("{max_event_feeds} feeds are more than half of {max_connections} connections");
            let hint = "allow fewer feeds, or raise control.limits.max_connections";
            faults.add("control.limits.max_event_feeds", message, hint);
            return None;
        }
        Some(self)
    }
}

/// Reads the token file: `Some(None)` when none is configured, `None` after a fault.
fn read_token(file: &str, faults: &mut Faults) -> Option<Option<Secret>> {
    if file.is_empty() {
        return Some(None);
    }
    let path = "control.auth.token_file";
    match std::fs::read_to_string(file) {
        Ok(text) => check_token(path, file, Secret::new(text.trim()), faults).map(Some),
        Err(error) => {
            faults.unreadable(path, file, &error);
            None
        }
    }
}

fn check_token(path: &str, source: &str, token: Secret, faults: &mut Faults) -> Option<Secret> {
    let text = token.reveal();
    let hint = "make one with: openssl rand -hex 32";
    if text.len() < MIN_TOKEN {
        let length = text.len();
        faults.add(
            path,
            format!("the token in {source} has {length} characters of at least {MIN_TOKEN}"),
            hint,
        );
        return None;
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("the token in {source} holds spaces or characters a header cannot carry");
        faults.add(path, message, hint);
        return None;
    }
    if text.len() < GOOD_TOKEN {
        let message = format!("the token in {source} is shorter than {GOOD_TOKEN} characters");
        faults.warn(path, message, hint);
    }
    Some(token)
}

fn compile_hosts(hosts: &[String], faults: &mut Faults) -> Option<Vec<String>> {
    let mut compiled = Vec::with_capacity(hosts.len());
    for host in hosts {
        let bare_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
        let host = if bare_v6 { format!("[{host}]") } else { host.to_ascii_lowercase() };
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let good = match inner {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '/', '*', ' ', '@']),
        };
        if good {
            compiled.push(host);
        } else {
            let hint = "write names without scheme and port, such as elida.example.com";
            faults.add("control.allowed_hosts", format!("'{host}' is not a host name"), hint);
        }
    }
    (compiled.len() == hosts.len()).then_some(compiled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(written: ControlConfig) -> Result<Settings, String> {
        let mut faults = Faults::default();
        let settings = written.compile(false, &mut faults);
        settings.ok_or_else(|| faults.to_string())
    }

    fn with_token(listen: &str, token: &str) -> ControlConfig {
        let auth = AuthConfig { token: Some(Secret::new(token)), ..AuthConfig::default() };
        ControlConfig { listen: listen.into(), auth, ..ControlConfig::default() }
    }

    #[test]
    fn loopback_needs_no_token_and_every_other_address_does() {
        assert_eq!(compiled(ControlConfig::default()).unwrap().token(), None);
        let open = ControlConfig { listen: ":9090".into(), ..ControlConfig::default() };
        assert_eq!(
            compiled(open).unwrap_err(),
            "control.listen: 0.0.0.0:9090 can be reached from other machines, but there is no token \
             (set ELIDA_CONTROL_TOKEN or control.auth.token_file, give keys a role (auth.roles), or listen on 127.0.0.1)"
        );
        let open = compiled(with_token(":9090", "0123456789abcdef")).unwrap();
        assert_eq!(open.listen().to_string(), "0.0.0.0:9090");
        assert!(open.token().is_some());
    }

    #[test]
    fn a_token_is_long_and_fits_a_header() {
        assert_eq!(
            compiled(with_token("127.0.0.1:0", "short")).unwrap_err(),
            "control.auth: the token in ELIDA_CONTROL_TOKEN has 5 characters of at least 16 \
             (make one with: openssl rand -hex 32)"
        );
        let fault = compiled(with_token("127.0.0.1:0", "with spaces inside of it")).unwrap_err();
        assert!(fault.contains("holds spaces") && !fault.contains("inside of it"), "{fault}");
    }

    #[test]
    fn a_token_file_is_read_without_its_last_newline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
        let token_file = file.path().display().to_string();
        let auth = AuthConfig { token_file, token: None };
        let settings = compiled(ControlConfig { auth, ..ControlConfig::default() }).unwrap();
        assert_eq!(settings.token().unwrap().reveal(), "0123456789abcdef");
        let auth = AuthConfig { token_file: "/nowhere/token".into(), token: None };
        assert_eq!(
            compiled(ControlConfig { auth, ..ControlConfig::default() }).unwrap_err(),
            "control.auth.token_file: '/nowhere/token' cannot be read: No such file or directory \
             (os error 2) (check the path and its permissions)"
        );
    }

    #[test]
    fn feeds_leave_connections_to_others() {
        let limits = |max_connections, max_event_feeds| {
            let limits = LimitsConfig { max_connections, max_event_feeds };
            compiled(ControlConfig { limits, ..ControlConfig::default() })
        };
        assert_eq!(limits(16, 8).unwrap().max_event_feeds(), 8);
        assert_eq!(
            limits(8, 0).unwrap_err(),
            "control.limits.max_connections: 8 connections are fewer than 16 \
             (leave it out for 256; a dashboard and a scraper must not keep operators out)"
        );
        assert_eq!(
            limits(100, 51).unwrap_err(),
            "control.limits.max_event_feeds: 51 feeds are more than half of 100 connections \
             (allow fewer feeds, or raise control.limits.max_connections)"
        );
    }

    #[test]
    fn hosts_and_origins_are_written_as_they_are_compared() {
        let hosts = ["Elida.Example", "::1", "http://x", "x:80"].map(String::from).to_vec();
        let allow_origins = ["https://ops.example", "https://ops.example/"].map(String::from).to_vec();
        let cors = CorsConfig { allow_origins };
        assert_eq!(
            compiled(ControlConfig { allowed_hosts: hosts[..2].to_vec(), ..ControlConfig::default() })
                .unwrap()
                .allowed_hosts(),
            ["elida.example", "[::1]"]
        );
        assert_eq!(
            compiled(ControlConfig { allowed_hosts: hosts, cors, ..ControlConfig::default() }).unwrap_err(),
            "control.allowed_hosts: 'http://x' is not a host name \
             (write names without scheme and port, such as elida.example.com)\n\
             control.allowed_hosts: 'x:80' is not a host name \
             (write names without scheme and port, such as elida.example.com)\n\
             control.cors.allow_origins: 'https://ops.example/' is not an origin \
             (write scheme, host and port as a browser sends them: https://ops.example.com)"
        );
    }
}
