//! `backends.NAME.proxy` and the variables `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`: which proxy leads to a backend.
//!
//! The key wins. Without it, the variable of the URL's scheme applies, except for what `NO_PROXY` names and for loopback.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use data_encoding::BASE64;
use http::HeaderValue;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::pool::Http2;
use super::settings::{Settings, dial_host};
use crate::settings::fault::Faults;
use crate::settings::secret::Secret;

/// The variables of each kind; the first that is set applies. Lower case first, as curl reads them.
const HTTPS: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];
const HTTP: [&str; 2] = ["http_proxy", "HTTP_PROXY"];
const NONE: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// All variables that are read here.
pub const VARIABLES: [&str; 6] =
    ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"];

/// What a proxy's URL looks like, for faults.
const EXAMPLE: &str = "write http://HOST:PORT, or none to connect directly";

/// The written value of `backends.NAME.proxy`: a URL, `none`, `direct`, or empty. Printed without the password.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ProxyUrl(#[schemars(with = "String")] Secret);

impl ProxyUrl {
    /// Wraps a URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self(Secret::new(url))
    }

    /// The text without secrets.
    fn printed(&self) -> String {
        let text = self.0.reveal();
        match (Url::parse(text), text.rsplit_once('@')) {
            (Ok(mut url), _) if url.has_host() && url.password().is_some() => {
                url.set_password(Some("***")).map_or_else(|()| "***".to_owned(), |()| url.to_string())
            }
            // A name alone may be a token, and what is no URL may still hold a password.
            (_, Some((_, host))) => format!("***@{host}"),
            (_, None) => text.to_owned(),
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.printed())
    }
}

impl Serialize for ProxyUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.printed())
    }
}

/// How a backend is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Egress {
    /// The proxy; `None` to connect directly.
    pub proxy: Option<ProxyServer>,
    /// What decided: a key, a variable, or why there is no proxy.
    pub because: String,
}

impl Egress {
    fn direct(because: impl Into<String>) -> Self {
        Self { proxy: None, because: because.into() }
    }

    /// Returns the sentence of `elida doctor`: which way is taken, and what decided.
    pub fn described(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("through the proxy {proxy} ({})", self.because),
            None => format!("directly ({})", self.because),
        }
    }
}

/// A forward proxy that speaks HTTP/1.1 (RFC 9110, 3.7). Displayed without its credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyServer {
    host: String,
    port: u16,
    shown: String,
    authorization: Option<HeaderValue>,
}

impl fmt::Display for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl FromStr for ProxyServer {
    type Err = String;

    /// Reads `http://[USER[:PASSWORD]@]HOST[:PORT]` or `HOST:PORT`; the port is 80 unless it is given.
    fn from_str(text: &str) -> Result<Self, String> {
        let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) };
        let url = url.ok().filter(Url::has_host).ok_or("this is not the URL of a proxy")?;
        if url.scheme() != "http" {
            return Err(format!("a proxy with {}:// is not supported, only with http://", url.scheme()));
        }
        let no_port = url.port() == Some(0);
        if no_port || !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err("only host, port and credentials of a proxy are used".to_owned());
        }
        let host = dial_host(&url).ok_or("this is not the URL of a proxy")?;
        let port = url.port().unwrap_or(80);
        let shown = format!("http://{}:{port}", url.host_str().unwrap_or_default());
        Ok(Self { host, port, shown, authorization: basic(&url)? })
    }
}

impl ProxyServer {
    /// Returns host and port to dial.
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Returns the value of `Proxy-Authorization`, marked as sensitive; `None` if the URL has no credentials.
    pub fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }
}

/// Returns the Basic credentials of a URL (RFC 7617, 2).
fn basic(url: &Url) -> Result<Option<HeaderValue>, String> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    let value = HeaderValue::from_str(&format!("Basic {}", BASE64.encode(&pair)));
    let mut value = value.map_err(|_| "its credentials cannot be sent")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The proxies that the environment names.
#[derive(Clone, Debug, Default)]
pub struct ProxyVariables {
    https: Option<Variable>,
    http: Option<Variable>,
    none: Option<NoProxy>,
}

/// A variable and its value.
#[derive(Clone)]
struct Variable(&'static str, Secret);

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl ProxyVariables {
    /// Reads the variables by a function that returns the value of one. Empty ones are unset.
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Self {
        let first = |names: [&'static str; 2]| {
            let filled = |name| get(name).map(str::trim).filter(|value| !value.is_empty());
            names.into_iter().find_map(|name| Some((name, filled(name)?)))
        };
        let proxy = |names| first(names).map(|(name, value)| Variable(name, Secret::new(value)));
        let none = first(NONE).map(|(name, value)| NoProxy { name, entries: value.to_ascii_lowercase() });
        Self { https: proxy(HTTPS), http: proxy(HTTP), none }
    }

    /// Returns how a backend with this URL is reached. `written` is its key, with this path.
    pub fn egress(&self, path: &str, written: &ProxyUrl, url: &Url, faults: &mut Faults) -> Option<Egress> {
        let text = written.0.reveal().trim();
        if matches!(text.to_ascii_lowercase().as_str(), "none" | "direct") {
            return Some(Egress::direct(format!("{path}: {text}")));
        }
        if !text.is_empty() {
            return through(path, path, text, EXAMPLE, faults);
        }
        let of_scheme = if url.scheme() == "https" { &self.https } else { &self.http };
        let Some(Variable(name, value)) = of_scheme else {
            let upper = if url.scheme() == "https" { HTTPS[1] } else { HTTP[1] };
            return Some(Egress::direct(format!("neither {path} nor {upper} is set")));
        };
        let (host, port) = (dial_host(url)?, url.port_or_known_default().unwrap_or(80));
        if is_loopback(&host) {
            return Some(Egress::direct(format!("{name} does not apply to loopback")));
        }
        if let Some((variable, entry)) = self.none.as_ref().and_then(|none| none.naming(&host, port)) {
            return Some(Egress::direct(format!("{variable} names {entry}")));
        }
        if faults.iter().any(|fault| fault.path == *name) {
            return None;
        }
        let hint = format!("{EXAMPLE}; to connect directly to this backend, set {path} to none");
        through(name, name, value.reveal(), &hint, faults)
    }
}

/// Compiles the URL of a proxy; it is not repeated in a fault, since it may hold a password.
fn through(path: &str, because: &str, text: &str, hint: &str, faults: &mut Faults) -> Option<Egress> {
    match text.parse() {
        Ok(proxy) => Some(Egress { proxy: Some(proxy), because: because.to_owned() }),
        Err(why) => {
            faults.add(path, why, hint);
            None
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let is_name = host == "localhost" || host.ends_with(".localhost");
    is_name || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// `NO_PROXY`, in lower case: names, which include their subdomains, with or without a leading dot or `*.`; addresses;
/// networks; any of them but networks with a port; `*` for all hosts. Separated by commas or spaces.
#[derive(Clone, Debug)]
struct NoProxy {
    name: &'static str,
    entries: String,
}

impl NoProxy {
    /// Returns the variable and the entry that names this host and port.
    fn naming(&self, host: &str, port: u16) -> Option<(&'static str, &str)> {
        let entries = self.entries.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        entries.into_iter().find(|entry| names(entry, host, port)).map(|entry| (self.name, entry))
    }
}

fn names(entry: &str, host: &str, port: u16) -> bool {
    let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    if let Ok(network) = entry.parse::<IpNet>() {
        return address.is_some_and(|address| network.contains(&address));
    }
    let (name, wanted) = split_port(entry);
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    if let Ok(named) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return address == Some(named.to_canonical());
    }
    let suffix = name.strip_prefix('*').unwrap_or(name).trim_start_matches('.').trim_end_matches('.');
    let host = host.trim_end_matches('.');
    let is_below = || host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'));
    name == "*" || (address.is_none() && !suffix.is_empty() && (host == suffix || is_below()))
}

/// Splits `host:port` and `[address]:port`; an address of IPv6 without brackets has no port.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

/// The way to a backend.
impl Settings {
    /// Host and port of the first connection: those of the proxy, or of the backend.
    pub fn dial(&self) -> (&str, u16) {
        self.egress().proxy.as_ref().map_or((self.host(), self.port()), ProxyServer::address)
    }

    /// `HOST:PORT` of the backend, as CONNECT names it.
    pub fn target(&self) -> String {
        let (host, port) = (self.host(), self.port());
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The proxy that is sent requests with a whole URL (RFC 9112, 3.2.2): one in front of a backend without TLS.
    /// `None` without a proxy, and where it is asked for a tunnel: for TLS, HTTP/2 and upgrades.
    pub fn forward_proxy(&self, is_upgrade: bool) -> Option<&ProxyServer> {
        let is_tunnelled = self.tls().is_some() || self.http2() == Http2::Always || is_upgrade;
        self.egress().proxy.as_ref().filter(|_| !is_tunnelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(variables: &[(&str, &str)], written: &str, url: &str) -> Result<String, String> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let (url, mut faults) = (Url::parse(url).unwrap(), Faults::default());
        let path = "backends.b.proxy";
        let found = ProxyVariables::read(get).egress(path, &ProxyUrl::new(written), &url, &mut faults);
        found.map(|egress| egress.described()).ok_or_else(|| faults.to_string())
    }

    #[test]
    fn the_key_wins_over_the_variable_of_the_scheme() {
        let set = [("HTTPS_PROXY", "http://s:3128"), ("http_proxy", "p:81"), ("HTTP_PROXY", "http://other")];
        let of = |written: &str, url: &str| egress(&set, written, url).unwrap();
        assert_eq!(of("", "https://api.test"), "through the proxy http://s:3128 (HTTPS_PROXY)");
        assert_eq!(of("", "http://api.test"), "through the proxy http://p:81 (http_proxy)");
        assert_eq!(of("http://k", "https://api.test"), "through the proxy http://k:80 (backends.b.proxy)");
        assert_eq!(of("none", "https://api.test"), "directly (backends.b.proxy: none)");
        assert_eq!(of("Direct", "https://api.test"), "directly (backends.b.proxy: Direct)");
        assert_eq!(
            egress(&[], "", "https://api.test").unwrap(),
            "directly (neither backends.b.proxy nor HTTPS_PROXY is set)"
        );
        for host in ["localhost", "api.localhost", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"] {
            assert_eq!(
                of("", &format!("https://{host}")),
                "directly (HTTPS_PROXY does not apply to loopback)",
                "{host}"
            );
        }
        assert!(of("http://k", "http://localhost").starts_with("through the proxy http://k:80"));
    }

    #[test]
    fn no_proxy_is_read_as_curl_and_go_read_it() {
        let is_direct = |none: &str, url: &str| {
            let set = [("HTTPS_PROXY", "http://p"), ("NO_PROXY", none)];
            egress(&set, "", url).unwrap().starts_with("directly (NO_PROXY names ")
        };
        for (none, url) in [
            ("*", "https://a.test"),
            ("a.test", "https://a.test"),
            ("A.Test", "https://a.test"),
            ("a.test", "https://x.a.test"),
            (".a.test", "https://x.a.test"),
            (".a.test", "https://a.test"),
            ("*.a.test", "https://x.a.test"),
            ("b.test, a.test", "https://a.test"),
            ("b.test a.test", "https://a.test"),
            ("a.test:8443", "https://a.test:8443"),
            ("a.test:443", "https://a.test"),
            ("10.0.0.0/8", "https://10.1.2.3"),
            ("10.1.2.3", "https://10.1.2.3:99"),
            ("10.1.2.3:99", "https://10.1.2.3:99"),
            ("fd00::/8", "https://[fd00::1]"),
            ("fd00::1", "https://[fd00::1]"),
            ("[fd00::1]:443", "https://[fd00::1]"),
        ] {
            assert!(is_direct(none, url), "{none} names {url}");
        }
        for (none, url) in [
            ("a.test", "https://ba.test"),
            ("a.test", "https://a.test.evil"),
            ("a.test:80", "https://a.test"),
            ("10.0.0.0/8", "https://11.1.2.3"),
            ("10.1.2.3:98", "https://10.1.2.3:99"),
            ("1.2.3", "https://10.1.2.3"),
            (".", "https://a.test"),
            (",", "https://a.test"),
        ] {
            assert!(!is_direct(none, url), "{none} does not name {url}");
        }
    }

    #[test]
    fn credentials_are_sent_and_never_shown() {
        let proxy: ProxyServer = "http://us%65r:hunter%402@p.test:3128/".parse().unwrap();
        assert_eq!(proxy.to_string(), "http://p.test:3128");
        assert_eq!(proxy.authorization().unwrap(), "Basic dXNlcjpodW50ZXJAMg==");
        let written = ProxyUrl::new("http://user:hunter2@p.test");
        let shown = format!("{proxy:?} {written:?} {}", serde_json::to_string(&written).unwrap());
        assert!(
            !shown.contains("hunter") && !shown.contains("dXNl") && shown.contains("user:***@"),
            "{shown}"
        );
        for (written, shown) in [
            ("http://user:secret@p.test:3128/", "http://user:***@p.test:3128/"),
            ("user:secret@p.test:3128", "***@p.test:3128"),
            ("http://secret@p.test", "***@p.test"),
            ("none", "none"),
        ] {
            assert_eq!(ProxyUrl::new(written).printed(), shown);
        }
        let get = |name: &str| (!NONE.contains(&name)).then_some("http://user:hunter2@p.test");
        assert!(!format!("{:?}", ProxyVariables::read(get)).contains("hunter"));
        assert_eq!("[::1]:8".parse::<ProxyServer>().unwrap().address(), ("::1", 8));
    }

    #[test]
    fn what_is_no_proxy_is_a_fault_that_names_key_or_variable() {
        let of = |text| egress(&[], text, "https://a.test").unwrap_err();
        assert_eq!(
            of("socks5://u:hunter2@p:1080"),
            "backends.b.proxy: a proxy with socks5:// is not supported, only with http:// \
             (write http://HOST:PORT, or none to connect directly)"
        );
        for bad in ["http://p/path", "http://p:0", "http://", "::", "https://p", "http://u:hunter2@"] {
            let told = of(bad);
            assert!(told.starts_with("backends.b.proxy: ") && !told.contains("hunter"), "{bad}: {told}");
        }
        let told = egress(&[("HTTPS_PROXY", "socks5://p")], "", "https://a.test").unwrap_err();
        assert!(told.starts_with("HTTPS_PROXY: a proxy with socks5:// "), "{told}");
        assert!(told.contains("set backends.b.proxy to none"), "{told}");
        assert!(egress(&[("HTTPS_PROXY", "socks5://p")], "", "http://a.test").is_ok(), "it does not apply");
    }
}
