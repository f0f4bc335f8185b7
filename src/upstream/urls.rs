//! URLs of backends and proxies, read strictly: what would not be used is a fault.

use url::{Host, Url};

use crate::settings::fault::Faults;

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
pub(super) fn dial_host(url: &Url) -> Option<String> {
    Some(match url.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    })
}

/// Returns the value of `Host` for a URL.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
