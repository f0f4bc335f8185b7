//! `forward_proxy:` and `security:`: the written sections, and what is compiled of them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::intercept_settings::{Intercept, InterceptConfig};
use super::names::Patterns;
use super::target::{Host, Target};
use crate::settings::acl::AclConfig;
use crate::settings::fault::Faults;
use crate::settings::units::DurationText;

/// `forward_proxy:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ForwardProxy")]
pub struct ForwardConfig {
    /// Whether the proxy listener takes requests in absolute form and CONNECT.
    pub enabled: bool,
    /// Whether callers must show a key: as the password of `Proxy-Authorization: Basic`, or as `Bearer`.
    pub require_auth: bool,
    /// Where the session is named.
    pub session_from: SessionFrom,
    /// Ports that CONNECT may name.
    pub connect_ports: Vec<u16>,
    /// Ports of `http://` URLs.
    pub plain_ports: Vec<u16>,
    /// Whether addresses that are not of the public Internet are refused. Those of the gateway's own listeners always are.
    pub deny_private_ranges: bool,
    /// Networks or addresses that are reached all the same.
    pub allow_private: Vec<String>,
    /// Where a name leads, in place of what the resolver says: an address, or an address and a port.
    pub hosts: BTreeMap<String, String>,
    /// Whether the server that a TLS handshake in a tunnel asks for is held against `security.filtering.domains`, too.
    pub check_server_name: bool,
    /// For the connection to a host.
    pub connect_timeout: DurationText,
    /// How long a tunnel may be silent in both directions.
    pub idle_timeout: DurationText,
    /// Open tunnels; more get 503.
    pub max_tunnels: usize,
    /// Tunnels that are opened, so that what passes is read as if it came to the gateway itself.
    pub intercept: InterceptConfig,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            require_auth: true,
            session_from: SessionFrom::default(),
            connect_ports: vec![443],
            plain_ports: vec![80],
            deny_private_ranges: true,
            allow_private: Vec::new(),
            hosts: BTreeMap::new(),
            check_server_name: true,
            connect_timeout: DurationText::secs(10),
            idle_timeout: DurationText::secs(300),
            max_tunnels: 2000,
            intercept: InterceptConfig::default(),
        }
    }
}

/// `forward_proxy.session_from`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionFrom {
    /// The user name of `Proxy-Authorization: Basic`, unless it is empty or `x`; else the head, as in other requests.
    #[default]
    Username,
    /// The head, as in other requests.
    Header,
}

/// `security:`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Security")]
pub struct SecurityConfig {
    /// What clients of the forward proxy may reach.
    pub filtering: FilteringConfig,
    /// Whose requests are accepted, by the client's address behind `server.trusted_proxies`.
    pub acl: AclConfig,
}

/// `security.filtering`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Filtering")]
pub struct FilteringConfig {
    /// Whether hosts that no pattern names are permitted.
    pub mode: FilterMode,
    /// Hosts of the forward proxy.
    pub domains: DomainsConfig,
}

/// `security.filtering.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FilterMode {
    /// All hosts are permitted but those of `domains.blocked`.
    #[default]
    Blocklist,
    /// Only hosts of `domains.allowed` are permitted, unless they are in `domains.blocked`.
    Allowlist,
}

/// `security.filtering.domains`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "FilteredDomains")]
pub struct DomainsConfig {
    /// Patterns of hosts: `a.com`, `*.a.com` for all below it, `.a.com` for both.
    pub blocked: Vec<String>,
    /// The same, for `mode: allowlist`.
    pub allowed: Vec<String>,
}

/// The compiled sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    is_on: bool,
    requires_auth: bool,
    session_from: SessionFrom,
    connect_ports: Box<[u16]>,
    plain_ports: Box<[u16]>,
    denies_private: bool,
    allow_private: Box<[IpNet]>,
    hosts: HashMap<Host, (IpAddr, Option<u16>)>,
    checks_server_name: bool,
    connect_timeout: Duration,
    idle_timeout: Duration,
    max_tunnels: usize,
    mode: FilterMode,
    blocked: Patterns,
    allowed: Patterns,
    intercept: Intercept,
}

impl Settings {
    /// Whether requests to the forward proxy are taken.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether callers must show a key.
    pub fn requires_auth(&self) -> bool {
        self.requires_auth
    }

    /// Returns the sentence of `elida doctor`: who may use it, and what it reaches.
    pub fn described(&self) -> String {
        let callers = if self.requires_auth { "callers show a key" } else { "any caller" };
        let hosts = match self.mode {
            FilterMode::Allowlist => "hosts of the allow list",
            FilterMode::Blocklist if self.blocked.is_empty() => "all hosts",
            FilterMode::Blocklist => "hosts that are not blocked",
        };
        let addresses = if self.denies_private { "public addresses" } else { "all addresses" };
        let exceptions = self.allow_private.len() + self.hosts.len();
        let exceptions = if exceptions > 0 { format!(" and {exceptions} exceptions") } else { String::new() };
        let ports = |ports: &[u16]| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let (connect, plain) = (ports(&self.connect_ports), ports(&self.plain_ports));
        format!("{callers}; {hosts} at {addresses}{exceptions}; ports {connect} (CONNECT) and {plain} (http)")
    }

    /// Where the session is named.
    pub fn session_from(&self) -> SessionFrom {
        self.session_from
    }

    pub(super) fn connect_ports(&self) -> &[u16] {
        &self.connect_ports
    }

    pub(super) fn plain_ports(&self) -> &[u16] {
        &self.plain_ports
    }

    /// Whether an address that is not of the public Internet may be reached.
    pub(super) fn reaches_private(&self, address: IpAddr) -> bool {
        !self.denies_private || self.allow_private.iter().any(|network| network.contains(&address))
    }

    /// Returns the address that the configuration writes for a host.
    pub(super) fn written_address(&self, target: &Target) -> Option<SocketAddr> {
        let (address, port) = self.hosts.get(&target.host)?;
        Some(SocketAddr::new(*address, port.unwrap_or(target.port)))
    }

    /// Whether the domain rules permit this host.
    pub fn permits(&self, host: &Host) -> bool {
        let is_listed = self.mode == FilterMode::Blocklist || self.allowed.contains(host);
        is_listed && !self.blocked.contains(host)
    }

    /// Whether the server that a client asks for in a tunnel is checked.
    pub fn checks_server_name(&self) -> bool {
        let has_rules = self.mode == FilterMode::Allowlist || !self.blocked.is_empty();
        self.checks_server_name && has_rules
    }

    /// For the connection to a host.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// How long a tunnel may be silent in both directions.
    pub fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }

    /// Whose tunnels are opened.
    pub fn intercept(&self) -> &Intercept {
        &self.intercept
    }

    /// The most open tunnels.
    pub fn max_tunnels(&self) -> usize {
        self.max_tunnels
    }
}

impl ForwardConfig {
    /// Compiles the section with `security`.
    pub fn compile(self, security: &SecurityConfig, faults: &mut Faults) -> Option<Settings> {
        let domains = &security.filtering.domains;
        let blocked = Patterns::compile("security.filtering.domains.blocked", &domains.blocked, faults);
        let allowed = Patterns::compile("security.filtering.domains.allowed", &domains.allowed, faults);
        let mode = security.filtering.mode;
        if mode == FilterMode::Blocklist && !domains.allowed.is_empty() {
            let message = "it is used only with security.filtering.mode: allowlist";
            faults.warn("security.filtering.domains.allowed", message, "set the mode, or remove the list");
        }
        if !self.enabled && security.filtering != FilteringConfig::default() {
            let message = "nothing is filtered, because the forward proxy is off";
            faults.warn(
                "security.filtering",
                message,
                "set forward_proxy.enabled: true, or remove the section",
            );
        }
        if self.enabled && !self.deny_private_ranges {
            let message = "clients reach this machine, its network and the cloud's metadata";
            faults.warn("forward_proxy.deny_private_ranges", message, "name what they need in allow_private");
        }
        let allow_private = networks(&self.allow_private, faults);
        let hosts = hosts(&self.hosts, faults);
        let is_good = self.check_limits(faults);
        let intercept = self.intercept.compile(faults);
        let (blocked, allowed, allow_private, hosts) = (blocked?, allowed?, allow_private?, hosts?);
        let intercept = intercept?;
        is_good.then(|| Settings {
            is_on: self.enabled,
            requires_auth: self.require_auth,
            session_from: self.session_from,
            connect_ports: self.connect_ports.into(),
            plain_ports: self.plain_ports.into(),
            denies_private: self.deny_private_ranges,
            allow_private,
            hosts,
            checks_server_name: self.check_server_name,
            connect_timeout: self.connect_timeout.0,
            idle_timeout: self.idle_timeout.0,
            max_tunnels: self.max_tunnels,
            mode,
            blocked,
            allowed,
            intercept,
        })
    }

    fn check_limits(&self, faults: &mut Faults) -> bool {
        let zero = [
            ("connect_timeout", self.connect_timeout.0.is_zero()),
            ("idle_timeout", self.idle_timeout.0.is_zero()),
            ("max_tunnels", self.max_tunnels == 0),
            ("connect_ports", self.connect_ports.contains(&0)),
            ("plain_ports", self.plain_ports.contains(&0)),
        ];
        for (key, _) in zero.iter().filter(|(_, is_zero)| *is_zero) {
            faults.add(
                format!("forward_proxy.{key}"),
                "zero would refuse every request",
                "write more than zero",
            );
        }
        zero.iter().all(|(_, is_zero)| !is_zero)
    }
}

fn networks(written: &[String], faults: &mut Faults) -> Option<Box<[IpNet]>> {
    let mut compile = |(at, text): (usize, &String)| {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| {
            let hint = "write a network such as 10.0.0.0/8 or fd00::/8, or an address";
            let path = format!("forward_proxy.allow_private[{at}]");
            faults.add(path, format!("'{text}' is neither network nor address"), hint);
        })
    };
    let compiled: Vec<_> = written.iter().enumerate().map(&mut compile).collect();
    compiled.into_iter().collect::<Result<_, ()>>().ok()
}

/// Reads `hosts`: names, and where they lead.
fn hosts(
    written: &BTreeMap<String, String>,
    faults: &mut Faults,
) -> Option<HashMap<Host, (IpAddr, Option<u16>)>> {
    let mut compile = |(name, place): (&String, &String)| {
        let address = match place.parse::<SocketAddr>() {
            Ok(address) => Some((address.ip(), Some(address.port()))),
            Err(_) => place.parse::<IpAddr>().ok().map(|address| (address, None)),
        };
        let host = Host::parse(name).filter(|host| matches!(host, Host::Name(_)));
        let found = host.zip(address.filter(|(_, port)| *port != Some(0)));
        if found.is_none() {
            let message = format!("'{name}: {place}' is not a name and an address");
            let hint = "write a name without wildcards, and 192.0.2.1, 192.0.2.1:8443 or [2001:db8::1]:8443";
            faults.add(format!("forward_proxy.hosts.{name}"), message, hint);
        }
        found
    };
    let compiled: Vec<_> = written.iter().map(&mut compile).collect();
    compiled.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(forward: &str, security: &str) -> String {
        let forward: ForwardConfig = serde_yaml::from_str(forward).unwrap();
        let security: SecurityConfig = serde_yaml::from_str(security).unwrap();
        let mut faults = Faults::default();
        let compiled = forward.compile(&security, &mut faults);
        assert_eq!(compiled.is_none(), !faults.is_empty());
        let warnings: String = faults.warnings().iter().map(|fault| format!("warning {fault}\n")).collect();
        format!("{faults}\n{warnings}")
    }

    #[test]
    fn faults_name_their_key() {
        let told = faults(
            "{connect_timeout: 0, max_tunnels: 0, plain_ports: [0], allow_private: [10.0.0.0/8, x], hosts: {'*.a': 127.0.0.1, b: c}}",
            "{filtering: {domains: {blocked: ['*'], allowed: [a.com]}}}",
        );
        for part in [
            "forward_proxy.connect_timeout: zero",
            "forward_proxy.max_tunnels: zero",
            "forward_proxy.plain_ports: zero",
            "forward_proxy.allow_private[1]: 'x' is neither",
            "forward_proxy.hosts.*.a: ",
            "forward_proxy.hosts.b: 'b: c'",
            "security.filtering.domains.blocked[0]: '*' is no pattern",
            "warning security.filtering.domains.allowed: ",
            "warning security.filtering: nothing is filtered",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert_eq!(faults("{enabled: true}", "{}"), "\n");
        assert_eq!(
            faults("{}", "{acl: {deny: [10.0.0.0/8]}}"),
            "\n",
            "the access list needs no forward proxy"
        );
    }

    #[test]
    fn server_names_are_checked_where_there_are_rules() {
        let checks = |security: &str| {
            let security: SecurityConfig = serde_yaml::from_str(security).unwrap();
            let settings = ForwardConfig::default().compile(&security, &mut Faults::default());
            settings.unwrap().checks_server_name()
        };
        assert!(!checks("{}") && checks("{filtering: {mode: allowlist}}"));
        assert!(checks("{filtering: {domains: {blocked: [a.com]}}}"));
    }
}
