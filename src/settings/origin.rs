//! Web origins, as browsers send them.

use super::fault::Faults;

/// Checks the origins at `key`: each must be scheme, host and port exactly as a browser sends it (RFC 6454, 6.2). `None`
/// when a fault was added.
pub fn origins(key: &str, written: Vec<String>, faults: &mut Faults) -> Option<Vec<String>> {
    let mut good = true;
    for origin in &written {
        // No path, lower case, no default port.
        let same = url::Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
        if !same {
            good = false;
            let hint = "write scheme, host and port as a browser sends them: https://ops.example.com";
            faults.add(key, format!("'{origin}' is not an origin"), hint);
        }
    }
    good.then_some(written)
}
