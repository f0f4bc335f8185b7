//! Step 2 for the forward proxy: `Proxy-Authorization` (RFC 9110, 11.7.2) names the caller, and its user the session. Everything
//! else that looks like a credential in such a request is for the host that it goes to.

use std::sync::{Arc, LazyLock};

use data_encoding::BASE64;
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderValue};

use super::receive::Received;
use crate::forward::settings::SessionFrom;
use crate::identity::FoundSession;

/// Where a session's name comes from, in its view.
static SOURCE: LazyLock<Arc<str>> = LazyLock::new(|| "proxy-authorization:user".into());

/// The user name that means none: programs need one in front of a password.
const NOBODY: &[u8] = b"x";

/// Returns the fields that tell who calls: the credential, where other requests have it, and the program.
pub(super) fn fields(headers: &HeaderMap) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(2);
    if let Some(agent) = headers.get(USER_AGENT) {
        fields.insert(USER_AGENT, agent.clone());
    }
    // Two of them are found as two credentials, and refused.
    for value in headers.get_all(PROXY_AUTHORIZATION) {
        let value = match basic(value) {
            Some((_, password)) if password.is_empty() => continue,
            Some((_, password)) => HeaderValue::from_bytes(&[b"Bearer ", &*password].concat()).ok(),
            None => Some(value.clone()),
        };
        if let Some(value) = value {
            fields.append(AUTHORIZATION, value);
        }
    }
    fields
}

/// Returns the user name, if there is one.
pub(super) fn user(headers: &HeaderMap) -> Option<Box<[u8]>> {
    let (user, _) = basic(headers.get(PROXY_AUTHORIZATION)?)?;
    (!user.is_empty() && *user != *NOBODY).then_some(user)
}

/// A user name and a password.
type UserPass = (Box<[u8]>, Box<[u8]>);

/// Returns user name and password of the scheme Basic (RFC 7617).
fn basic(value: &HeaderValue) -> Option<UserPass> {
    let (scheme, text) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64.decode(text.trim().as_bytes()).ok()?;
    let colon = memchr::memchr(b':', &decoded)?;
    Some((decoded[..colon].into(), decoded[colon + 1..].into()))
}

/// Returns the session that the user name is the name of.
pub(super) fn session(received: &Received) -> Option<FoundSession> {
    let settings = &received.handle.settings;
    let user = received.forward.as_ref()?.user.as_deref()?;
    let is_named = settings.forward.session_from() == SessionFrom::Username;
    is_named.then(|| settings.identity.named(user, &SOURCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (PROXY_AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn the_password_is_the_key_and_the_user_the_session() {
        let text = |user: &str| format!("basic {}", BASE64.encode(user.as_bytes()));
        for (value, key, named) in [
            (text("nightly-7:key:1"), Some("Bearer key:1"), Some("nightly-7")),
            (text("x:key"), Some("Bearer key"), None),
            (text(":key"), Some("Bearer key"), None),
            (text("name:"), None, Some("name")),
            ("Bearer key".to_owned(), Some("Bearer key"), None),
            ("Basic !".to_owned(), Some("Basic !"), None),
        ] {
            let headers = headers(&[&value]);
            let fields = fields(&headers);
            assert_eq!(fields.get(AUTHORIZATION).map(|field| field.to_str().unwrap()), key, "{value}");
            assert_eq!(user(&headers).as_deref(), named.map(str::as_bytes), "{value}");
        }
        assert_eq!(fields(&headers(&["Bearer a", "Bearer b"])).get_all(AUTHORIZATION).iter().count(), 2);
    }
}
