//! Callers that show no credential in a request: by the client certificate of their connection (`auth.mtls`), or by its
//! address (`auth.networks`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::KeyHolder;
use super::principal::shown;
use super::principal_fields::{membership, name};
use crate::ids::{Membership, PrincipalId};
use crate::settings::acl::network;
use crate::settings::fault::Faults;

/// Callers with a client certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// A name of the certificate (subject alternative name: URI, DNS name or e-mail address); `*` matches one or more
    /// characters except `/`. Its caller is `cert:NAME`.
    pub san: String,
    /// Their tenant; records show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Their groups; records show them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Labels, which expressions read as `principal.labels.NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Callers of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// The network, or an address.
    pub cidr: String,
    /// The name; records show it as `network:ID`.
    pub id: String,
    /// Their tenant; records show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Their groups; records show them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Labels, which expressions read as `principal.labels.NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The names of the client's certificate, which was verified; empty without one.
    pub names: &'a [Box<str>],
    /// The client's address, also behind trusted proxies.
    pub address: IpAddr,
}

/// The compiled lists.
#[derive(Debug, Default)]
pub(super) struct Connections {
    certificates: Vec<(Box<str>, Option<Arc<Membership>>)>,
    /// The smallest networks first.
    networks: Vec<(IpNet, Arc<KeyHolder>)>,
}

impl Connections {
    /// Compiles both lists. Reports every fault; `None` after any.
    pub(super) fn compile(
        certificates: Vec<CertificateConfig>,
        networks: Vec<NetworkConfig>,
        faults: &mut Faults,
    ) -> Option<Self> {
        let certificates = certificates.into_iter().enumerate();
        let certificates: Vec<Option<_>> =
            certificates.map(|(at, written)| written.compile(at, faults)).collect();
        let networks = networks.into_iter().enumerate();
        let networks: Vec<Option<_>> = networks.map(|(at, written)| written.compile(at, faults)).collect();
        let certificates: Option<Vec<_>> = certificates.into_iter().collect();
        let networks: Option<Vec<_>> = networks.into_iter().collect();
        let (certificates, mut networks) = (certificates?, networks?);
        networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        Some(Self { certificates, networks })
    }

    /// Returns the caller by its certificate, else by its address.
    pub(super) fn holder(&self, origin: &Origin<'_>) -> Option<Arc<KeyHolder>> {
        let known = self.certificates.iter().find_map(|(pattern, membership)| {
            let name = origin.names.iter().find(|name| fits(pattern.as_bytes(), name.as_bytes()))?;
            Some((name, membership))
        });
        if let Some((name, membership)) = known {
            let id = PrincipalId::new(format!("cert:{}", shown(name)));
            return Some(Arc::new(KeyHolder::unlimited(id, membership.clone(), None)));
        }
        let address = origin.address.to_canonical();
        let network = self.networks.iter().find(|(network, _)| network.contains(&address));
        network.map(|(_, holder)| Arc::clone(holder))
    }

    /// Returns whether callers are known by their certificate.
    pub(super) fn reads_certificates(&self) -> bool {
        !self.certificates.is_empty()
    }
}

impl CertificateConfig {
    fn compile(self, at: usize, faults: &mut Faults) -> Option<(Box<str>, Option<Arc<Membership>>)> {
        let path = format!("auth.mtls[{at}]");
        let membership = membership(self.tenant.as_deref(), &self.groups, &self.labels, &path, faults);
        let is_good =
            self.san.bytes().any(|byte| byte != b'*') && self.san.bytes().all(|b| b.is_ascii_graphic());
        if !is_good {
            let message = format!("'{}' is not a pattern of a name", self.san);
            let hint = "write it like spiffe://acme/agents/* or *.agents.acme.example";
            faults.add(format!("{path}.san"), message, hint);
        }
        let membership = membership?;
        is_good.then(|| (self.san.into(), membership))
    }
}

impl NetworkConfig {
    fn compile(self, at: usize, faults: &mut Faults) -> Option<(IpNet, Arc<KeyHolder>)> {
        let path = format!("auth.networks[{at}]");
        let id = name(&self.id, &format!("{path}.id"), faults);
        let membership = membership(self.tenant.as_deref(), &self.groups, &self.labels, &path, faults);
        let network = network(&self.cidr, &format!("{path}.cidr"), faults);
        let (id, network) = (PrincipalId::new(format!("network:{}", id?)), network?);
        if network.prefix_len() == 0 {
            let hint = "write the networks whose callers need no credential";
            faults.warn(format!("{path}.cidr"), "every caller is of this network", hint);
        }
        Some((network, Arc::new(KeyHolder::unlimited(id, membership?, None))))
    }
}

/// Returns whether a name fits a pattern, in which `*` matches one or more bytes except `/`.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut pattern, mut name) = (pattern, name);
    // Where to go on when what follows the last star does not fit: behind the star, and one byte further in the name.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, name) {
            ([], []) => return true,
            ([b'*', rest @ ..], [first, after @ ..]) if *first != b'/' => {
                retry = Some((rest, after));
                (pattern, name) = (rest, after);
                continue;
            }
            ([b'*', ..], _) => {}
            ([expected, rest @ ..], [found, after @ ..]) if expected == found => {
                (pattern, name) = (rest, after);
                continue;
            }
            _ => {}
        }
        match retry {
            Some((rest, [skipped, after @ ..])) if *skipped != b'/' => {
                retry = Some((rest, after));
                (pattern, name) = (rest, after);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_characters_of_one_segment() {
        for (pattern, name, expected) in [
            ("spiffe://acme/agents/*", "spiffe://acme/agents/build-7", true),
            ("spiffe://acme/agents/*", "spiffe://acme/agents/", false),
            ("spiffe://acme/agents/*", "spiffe://acme/agents/a/b", false),
            ("spiffe://acme/agents/*", "spiffe://acme/agents", false),
            ("spiffe://acme/*/build", "spiffe://acme/x/build", true),
            ("spiffe://acme/*/build", "spiffe://acme/x/y/build", false),
            ("*.acme.example", "a.b.acme.example", true),
            ("*.acme.example", ".acme.example", false),
            ("*.acme.example", "a.acme.example.evil", false),
            ("*a*b", "xaxbxb", true),
            ("*a*b", "xab", false),
            ("*a*b", "aaab", true),
            ("name", "name", true),
            ("name", "name2", false),
            ("name", "NAME", false),
            ("", "x", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    fn connections(yaml: &str) -> Result<Connections, String> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Written {
            mtls: Vec<CertificateConfig>,
            networks: Vec<NetworkConfig>,
        }
        let Written { mtls, networks } = serde_yaml::from_str(yaml).unwrap();
        let mut faults = Faults::default();
        Connections::compile(mtls, networks, &mut faults).ok_or_else(|| faults.to_string())
    }

    #[test]
    fn certificates_come_before_networks_and_small_networks_first() {
        let known = connections(
            "mtls: [{ san: 'spiffe://acme/*', tenant: acme, groups: [agents] }]\n\
             networks: [{ cidr: 10.0.0.0/8, id: wide }, { cidr: 10.2.0.0/16, id: lan, groups: [lan] }, \
             { cidr: '2001:db8::/32', id: six }, { cidr: 10.2.0.9, id: one }]",
        )
        .unwrap();
        let of = |names: &[&str], address: &str| {
            let names: Vec<Box<str>> = names.iter().map(|name| (*name).into()).collect();
            let origin = Origin { names: &names, address: address.parse().unwrap() };
            known.holder(&origin).map(|holder| holder.id().to_string())
        };
        assert_eq!(of(&["other", "spiffe://acme/a"], "10.2.0.1").as_deref(), Some("cert:spiffe://acme/a"));
        assert_eq!(of(&["spiffe://evil/a"], "10.2.0.1").as_deref(), Some("network:lan"));
        assert_eq!(of(&[], "::ffff:10.2.0.1").as_deref(), Some("network:lan"));
        assert_eq!(of(&[], "10.2.0.9").as_deref(), Some("network:one"));
        assert_eq!(of(&[], "10.3.0.1").as_deref(), Some("network:wide"));
        assert_eq!(of(&[], "2001:db8::1").as_deref(), Some("network:six"));
        assert_eq!(of(&[], "11.0.0.1"), None);
    }

    #[test]
    fn every_fault_of_the_lists_is_reported() {
        let faults = connections(
            "mtls: [{ san: '*' }, { san: 'a b' }, { san: ok, groups: ['no/'] }]\n\
             networks: [{ cidr: 10.2.0.0/33, id: 'a b' }, { cidr: x, id: ok, tenant: '' }]",
        )
        .unwrap_err();
        for path in ["mtls[0].san", "mtls[1].san", "mtls[2].groups[0]", "networks[0].id", "networks[0].cidr"]
        {
            assert!(faults.contains(&format!("auth.{path}: ")), "{path}: {faults}");
        }
        assert!(faults.contains("auth.networks[1].cidr: ") && faults.contains("auth.networks[1].tenant: "));
    }
}
