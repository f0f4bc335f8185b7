//! Reads the values of a backend's keys: its name, its URL and its certificate authorities.

use std::path::PathBuf;
use std::sync::Arc;

use url::{Host, Url};

use crate::settings::fault::Faults;
use crate::upstream::peer::authorities;

/// First path segments of the providers' own APIs and of the gateway. A backend with such a name would capture those paths
/// by path routing (`/api/tags` is Ollama's).
const RESERVED_SEGMENTS: [&str; 5] = ["api", "health", "v1", "v1beta", "v2"];

/// Names that stand for no backend in log lines, metrics and keys: an answer from the cache.
const RESERVED_NAMES: [&str; 1] = ["cache"];

/// Longest name of a backend, in bytes: it is a metric label and a path segment.
const MAX_NAME: usize = 64;

/// Returns whether a backend may have this name.
pub(super) fn check_name(name: &str, faults: &mut Faults) -> bool {
    let path = format!("backends.{name}");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts_well || !name.chars().all(plain) || name.len() > MAX_NAME {
        let hint = "use up to 64 letters, digits, '-', '_' and '.', a letter or digit first";
        faults.add(path, format!("'{name}' is not a name for a backend"), hint);
        return false;
    }
    if RESERVED_NAMES.contains(&name) {
        let hint = "choose another name: in the log and the metrics it stands for answers from the cache";
        faults.add(path, format!("'{name}' is reserved"), hint);
        return false;
    }
    if RESERVED_SEGMENTS.contains(&name) {
        let hint = format!("choose another name: /{name}/ is a path of the providers' own APIs");
        faults.add(path, format!("'{name}' is reserved"), hint);
        return false;
    }
    true
}

/// Reads the URL of a backend. A user, query or fragment is a fault, since it would not be used.
pub(super) fn read_url(path: &str, text: &str, faults: &mut Faults) -> Option<Url> {
    let example = "write it like http://localhost:11434 or https://api.openai.com";
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        // The text may contain a password, so do not repeat it.
        _ if text.contains('@') => {
            faults.add(path, "this is not an http:// or https:// URL", example);
            return None;
        }
        _ => {
            faults.add(path, format!("'{text}' is not an http:// or https:// URL"), example);
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "remove it: clients send their own credentials";
        faults.add(path, "the URL holds a user name or password", hint);
        return None;
    }
    if url.query().is_some() || url.fragment().is_some() {
        let hint = "remove it: only scheme, host, port and base path are used";
        faults.add(path, format!("'{text}' holds a query or fragment"), hint);
        return None;
    }
    if url.port() == Some(0) {
        faults.add(path, format!("'{text}' names port 0"), "write the port the backend listens on");
        return None;
    }
    Some(url)
}

/// Returns the host of a URL to dial; an IPv6 address without brackets.
pub(in crate::upstream) fn dial_host(url: &Url) -> Option<String> {
    Some(match url.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    })
}

/// Returns host and port of a URL as `Host` has them; the port only when it is not the scheme's own.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Reads the certificate authorities. Returns `Some(None)` for the built-in ones, `None` after a fault.
pub(super) fn read_ca(path: &str, file: &str, faults: &mut Faults) -> Option<Option<Arc<[u8]>>> {
    if file.is_empty() {
        return Some(None);
    }
    match std::fs::read(PathBuf::from(file)) {
        Ok(pem) => match authorities(&pem) {
            Ok(_) => Some(Some(pem.into())),
            Err(why) => {
                let hint = "give a PEM file with the authorities to trust";
                faults.add(path, format!("'{file}' cannot be used: {why}"), hint);
                None
            }
        },
        Err(error) => {
            faults.unreadable(path, file, &error);
            None
        }
    }
}
