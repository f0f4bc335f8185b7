//! Patterns of domains: `a.com` is that host, `*.a.com` every name below it, `.a.com` both; an address is that address.

use std::collections::HashSet;
use std::net::IpAddr;

use super::target::Host;
use crate::settings::fault::Faults;

/// What a pattern looks like, for faults.
const EXAMPLE: &str =
    "write a.com for that host, *.a.com for the names below it, .a.com for both, or an address";

/// A set of patterns. A host is looked up once for each of its labels, however many patterns there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    exact: HashSet<Box<str>>,
    /// What names must end with, without the dot in front.
    below: HashSet<Box<str>>,
    addresses: HashSet<IpAddr>,
}

impl Patterns {
    /// Compiles the patterns at the key `path`.
    pub(super) fn compile(path: &str, written: &[String], faults: &mut Faults) -> Option<Self> {
        let mut patterns = Self::default();
        let mut is_good = true;
        for (at, text) in written.iter().enumerate() {
            if !patterns.add(text.trim()) {
                is_good = false;
                faults.add(format!("{path}[{at}]"), format!("'{text}' is no pattern of hosts"), EXAMPLE);
            }
        }
        is_good.then_some(patterns)
    }

    /// Adds a pattern. Returns false if it is none.
    fn add(&mut self, text: &str) -> bool {
        let (name, is_exact, is_below) = match (text.strip_prefix("*."), text.strip_prefix('.')) {
            (Some(name), _) => (name, false, true),
            (None, Some(name)) => (name, true, true),
            (None, None) => (text, true, false),
        };
        let bracketed =
            if name.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{name}]") } else { name.to_owned() };
        match Host::parse(&bracketed) {
            Some(Host::Address(address)) if !is_below => {
                self.addresses.insert(address);
                true
            }
            Some(Host::Name(name)) if !name.contains('*') => {
                if is_exact {
                    self.exact.insert(name.clone());
                }
                if is_below {
                    self.below.insert(name);
                }
                true
            }
            _ => false,
        }
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.addresses.is_empty()
    }

    /// Returns whether a pattern is of this host.
    pub fn contains(&self, host: &Host) -> bool {
        let name = match host {
            Host::Address(address) => return self.addresses.contains(address),
            Host::Name(name) => name,
        };
        let mut parents = std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.'));
        self.exact.contains(name) || parents.any(|(_, parent)| self.below.contains(parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(written: &[&str]) -> Patterns {
        let written: Vec<String> = written.iter().map(|text| (*text).to_owned()).collect();
        let mut faults = Faults::default();
        let compiled = Patterns::compile("x", &written, &mut faults);
        compiled.unwrap_or_else(|| panic!("{faults}"))
    }

    #[test]
    fn a_pattern_is_of_a_host_of_those_below_it_or_both() {
        let host = |text: &str| Host::parse(text).unwrap();
        for (pattern, hosts, others) in [
            ("a.com", &["a.com", "A.com.", "a.COM"][..], &["b.a.com", "xa.com", "a.com.evil"][..]),
            ("*.a.com", &["b.a.com", "c.b.A.com."], &["a.com", "xa.com", "b.a.com.evil"]),
            (".A.com", &["a.com", "b.a.com"], &["xa.com", "com"]),
            ("127.1", &["127.0.0.1", "0x7f000001", "[::ffff:127.0.0.1]"], &["127.0.0.2", "localhost"]),
            ("::1", &["[::1]"], &["[::2]"]),
            (
                "*.b\u{fc}cher.example",
                &["x.xn--bcher-kva.example", "x.B\u{dc}CHER.example"],
                &["x.bucher.example"],
            ),
        ] {
            let patterns = patterns(&[pattern]);
            assert!(!patterns.is_empty());
            for name in hosts {
                assert!(patterns.contains(&host(name)), "{pattern} {name}");
            }
            for name in others {
                assert!(!patterns.contains(&host(name)), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for text in
            ["", "*", "*.", "a.*", "*a.com", "*.*.com", "http://a.com", "a.com:443", "*.127.0.0.1", "a b"]
        {
            let mut faults = Faults::default();
            assert_eq!(Patterns::compile("x", &[text.to_owned()], &mut faults), None, "{text}");
            assert!(faults.to_string().starts_with(&format!("x[0]: '{text}' is no pattern")), "{faults}");
        }
    }
}
