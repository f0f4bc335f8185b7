//! Where a request to the forward proxy wants to go: host and port, in the one spelling that everything else uses.
//!
//! A host is read as browsers read it (WHATWG URL): `0x7f.1`, `2130706433` and `127.1` are 127.0.0.1, names become lower case and
//! A-labels. What is judged, resolved, connected to and sent as `Host` is this spelling, so no other reading can slip through.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name in lower case, without a dot at its end.
    Name(Box<str>),
    /// An address; one of IPv4 that is mapped into IPv6 is that of IPv4.
    Address(IpAddr),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

impl Host {
    /// Reads a host; an IPv6 address in brackets. Returns `None` for what is none.
    pub fn parse(text: &str) -> Option<Self> {
        // Percent-encoding would be decoded, a zone names an interface of this machine, and a star is one of patterns.
        if text.contains(['%', '*']) {
            return None;
        }
        match url::Host::parse(text).ok()? {
            url::Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(&name);
                let is_name = !name.is_empty() && name.len() <= 253 && !name.split('.').any(str::is_empty);
                is_name.then(|| Self::Name(name.into()))
            }
            url::Host::Ipv4(address) => Some(Self::Address(address.into())),
            url::Host::Ipv6(address) => Some(Self::Address(canonical(address))),
        }
    }
}

/// Returns the address of IPv4 that is mapped into this one, else this one.
fn canonical(address: Ipv6Addr) -> IpAddr {
    IpAddr::V6(address).to_canonical()
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl Target {
    /// Reads `host:port`, the target of CONNECT (RFC 9110, 9.3.6). Returns `None` for anything else.
    pub fn of_connect(authority: &str) -> Option<Self> {
        Self::read(authority, None)
    }

    /// Reads the authority of an absolute URI whose scheme has this port.
    pub fn of_authority(authority: &str, port: u16) -> Option<Self> {
        Self::read(authority, Some(port))
    }

    fn read(authority: &str, default: Option<u16>) -> Option<Self> {
        let (host, port) = match authority.rfind(':') {
            // The last colon of an IPv6 address is in brackets.
            Some(at) if !authority[at..].contains(']') => (&authority[..at], Some(&authority[at + 1..])),
            _ => (authority, None),
        };
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return None;
        }
        let port = match port {
            // A colon without a port means that of the scheme (RFC 3986, 3.2.3).
            None | Some("") => default?,
            Some(digits) if digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0)?
            }
            Some(_) => return None,
        };
        Some(Self { host: Host::parse(host)?, port })
    }

    /// Returns the value of `Host` for a scheme with this port.
    pub fn authority(&self, default: u16) -> String {
        if self.port == default { self.host.to_string() } else { self.to_string() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_has_one_spelling() {
        for (written, read) in [
            ("Example.COM:443", "example.com:443"),
            ("example.com.:443", "example.com:443"),
            ("B\u{fc}cher.example:443", "xn--bcher-kva.example:443"),
            ("xn--bcher-kva.example:443", "xn--bcher-kva.example:443"),
            ("127.1:80", "127.0.0.1:80"),
            ("0x7f.0.0.1:80", "127.0.0.1:80"),
            ("2130706433:80", "127.0.0.1:80"),
            ("0177.0.0.01:80", "127.0.0.1:80"),
            ("\u{ff11}27.0.0.1:80", "127.0.0.1:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("[0:0::1]:80", "[::1]:80"),
            ("under_score.example:00443", "under_score.example:443"),
        ] {
            assert_eq!(Target::of_connect(written).map(|target| target.to_string()).as_deref(), Some(read));
        }
        assert_eq!(Target::of_authority("a.example", 80).unwrap().authority(80), "a.example");
        assert_eq!(Target::of_authority("a.example:", 80).unwrap().port, 80);
        assert_eq!(Target::of_authority("[::1]", 80).unwrap().to_string(), "[::1]:80");
        assert_eq!(Target::of_authority("a.example:81", 80).unwrap().authority(80), "a.example:81");
    }

    #[test]
    fn what_is_no_host_with_a_port_is_refused() {
        for text in [
            "",
            ":",
            ":443",
            "a.example",
            "a.example:",
            "a.example:0",
            "a.example:65536",
            "a.example:+443",
            "a.example:4 43",
            "a.example:443x",
            "a:b:443",
            "::1:443",
            "[::1:443",
            "::1]:443",
            "[::1]443",
            "[fe80::1%25eth0]:443",
            "%31.example:443",
            "a..b:443",
            ".:443",
            "a b:443",
            "a/b:443",
            "a@b:443",
            "256.0.0.1:443",
            "1.2.3.4.5:443",
            "0x.1.2.999:443",
            "a\u{0}b:443",
        ] {
            assert_eq!(Target::of_connect(text), None, "{text:?}");
        }
    }
}
