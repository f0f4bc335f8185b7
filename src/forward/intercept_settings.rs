//! `forward_proxy.intercept`: whose tunnels are opened, and with which authority.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::Patterns;
use super::target::Host;
use crate::settings::fault::Faults;
use crate::settings::units::DurationText;

/// `forward_proxy.intercept`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Intercept")]
pub struct InterceptConfig {
    /// Hosts whose tunnels are opened: names, or `*.a.com` for all below one.
    pub hosts: Vec<String>,
    /// PEM file of the authority that clients trust; empty for one that is made in `data_dir`, limited to these hosts.
    pub ca_cert: String,
    /// PEM file of its private key.
    pub ca_key: String,
    /// How long the certificates that it issues are valid.
    pub leaf_lifetime: DurationText,
}

impl Default for InterceptConfig {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            ca_cert: String::new(),
            ca_key: String::new(),
            leaf_lifetime: DurationText::secs(24 * 3600),
        }
    }
}

/// The compiled section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intercept {
    /// As written, in lower case and as A-labels.
    hosts: Vec<String>,
    patterns: Patterns,
    files: Option<(PathBuf, PathBuf)>,
    leaf_lifetime: Duration,
}

impl Intercept {
    /// The hosts, with `*.` in front of those below which all are meant.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Returns whether tunnels to this host are opened.
    pub fn contains(&self, host: &Host) -> bool {
        self.patterns.contains(host)
    }

    /// Certificate and key of the authority; `None` for the gateway's own.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        self.files.as_ref().map(|(certificate, key)| (&**certificate, &**key))
    }

    /// How long certificates are valid.
    pub fn leaf_lifetime(&self) -> Duration {
        self.leaf_lifetime
    }
}

impl InterceptConfig {
    /// Compiles the section.
    pub fn compile(&self, faults: &mut Faults) -> Option<Intercept> {
        let mut is_good = true;
        let mut hosts = Vec::new();
        for (at, text) in self.hosts.iter().enumerate() {
            let (star, name) = text.strip_prefix("*.").map_or(("", text.as_str()), |name| ("*.", name));
            match Host::parse(name) {
                Some(Host::Name(name)) if !name.contains('*') => hosts.push(format!("{star}{name}")),
                _ => {
                    is_good = false;
                    let hint = "write a name, or *.a.com for the names below one";
                    let path = format!("forward_proxy.intercept.hosts[{at}]");
                    faults.add(path, format!("'{text}' is no name of a host"), hint);
                }
            }
        }
        if self.ca_cert.is_empty() != self.ca_key.is_empty() {
            is_good = false;
            let hint = "write both, or none to let ELIDA make an authority in data_dir";
            faults.add("forward_proxy.intercept", "ca_cert and ca_key belong together", hint);
        }
        if self.leaf_lifetime.0 < Duration::from_secs(60) {
            is_good = false;
            let message = "no client would accept such certificates";
            faults.add("forward_proxy.intercept.leaf_lifetime", message, "write a minute or more");
        }
        let patterns = Patterns::compile("forward_proxy.intercept.hosts", &hosts, faults)?;
        let files =
            (!self.ca_cert.is_empty()).then(|| (self.ca_cert.clone().into(), self.ca_key.clone().into()));
        is_good.then_some(Intercept { hosts, patterns, files, leaf_lifetime: self.leaf_lifetime.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pattern_of_all_hosts_is_taken() {
        for host in ["*", "*.", "", ".a.com", "*.*.com", "127.0.0.1", "[::1]", "https://a.com", "a.com:443"] {
            let written = InterceptConfig { hosts: vec![host.to_owned()], ..InterceptConfig::default() };
            let mut faults = Faults::default();
            assert_eq!(written.compile(&mut faults), None, "{host}");
            assert!(faults.to_string().contains("forward_proxy.intercept.hosts[0]: "), "{faults}");
        }
        let half = InterceptConfig { ca_cert: "a".into(), ..InterceptConfig::default() };
        assert_eq!(half.compile(&mut Faults::default()), None);
    }
}
