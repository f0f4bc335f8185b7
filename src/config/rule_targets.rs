//! The targets of `routing.rules`: each becomes a backend of type `http` that nothing but rules leads to.

use std::collections::BTreeSet;

use url::Url;

use super::config_file::Backends;
use crate::protocol::BackendKind;
use crate::routing::RoutingConfig;
use crate::settings::fault::Faults;
use crate::upstream::settings::BackendConfig;

/// Longest name that is made of a target: it is a metric label.
const MAX_NAME: usize = 64;

/// Adds a backend for each target and lets the rules name it. Returns the names of these backends.
pub(super) fn add(
    routing: &mut RoutingConfig,
    backends: &mut Backends,
    faults: &mut Faults,
) -> BTreeSet<String> {
    let own = backends.0.len();
    let mut names = BTreeSet::new();
    for (at, rule) in routing.rules.iter_mut().enumerate() {
        let forward = &mut rule.forward;
        if forward.target.is_empty() {
            continue;
        }
        let path = format!("routing.rules[{at}].forward");
        if !forward.backend.is_empty() {
            faults.add(path, "it names both a backend and a target", "write one of the two");
            continue;
        }
        let Some(name) = name_of(&forward.target) else {
            // The text may contain a password, so it is not repeated.
            let hint = "write it like http://files.internal:8080, without user, query and fragment";
            faults.add(format!("{path}.target"), "this is not an http:// or https:// URL", hint);
            // One fault is enough.
            forward.backend = backends.0.first().map(|(name, _)| name.clone()).unwrap_or_default();
            continue;
        };
        let known = backends.0.iter().position(|(known, _)| *known == name);
        match known {
            None => {
                let backend = BackendConfig::new(forward.target.clone(), BackendKind::HTTP);
                backends.0.push((name.clone(), backend));
            }
            Some(at) if at >= own && backends.0[at].1.url == forward.target => {}
            Some(_) => {
                let message = format!("its name '{name}' is that of another backend or target");
                let hint = "write a backend under another name, and name it in forward.backend";
                faults.add(format!("{path}.target"), message, hint);
            }
        }
        forward.backend.clone_from(&name);
        names.insert(name);
    }
    names
}

/// Returns the name of the backend for a URL, such as `files.internal-8080`; `None` if it is not the URL of one.
fn name_of(target: &str) -> Option<String> {
    let url = Url::parse(target).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let has_more = !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some();
    let (host, port) = (url.host_str()?, url.port_or_known_default()?);
    let whole = format!("{host}-{port}{}", url.path().trim_end_matches('/'));
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = whole.chars().map(plain).collect();
    // An address of IPv6 is in brackets.
    let name = name.trim_start_matches(['-', '.', '_']);
    (!has_more && !name.is_empty()).then(|| name[..name.len().min(MAX_NAME)].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_hosts_and_ports() {
        for (target, name) in [
            ("http://backend-api:8080", Some("backend-api-8080")),
            ("https://Files.example/base/", Some("files.example-443-base")),
            ("http://[::1]:81", Some("1--81")),
            ("http://a:b@c", None),
            ("http://a/?q", None),
            ("ftp://a", None),
            ("a:80", None),
        ] {
            assert_eq!(name_of(target).as_deref(), name, "{target}");
        }
    }
}
