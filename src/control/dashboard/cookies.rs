//! Browser log-ins: a cookie represents the credential that was presented once.
//!
//! A page cannot send `Authorization` with a feed or a download, and what it keeps can be stolen by a script. So the credential
//! stays here, and the browser has only a random name for it, which scripts cannot read.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;

use crate::identity::key_text::{self, KeyDigest};
use crate::identity::people::sessions::Tokens;
use crate::settings::secret::Secret;

/// How many browsers may be logged in; one more ends the log-in that expires first.
const MAX: usize = 10_000;
/// The header that every change by cookie has. A page of another origin cannot send it.
pub(in crate::control) const PAGE_HEADER: &str = "x-elida-page";

/// The browsers that are logged in.
#[derive(Default)]
pub(in crate::control) struct Cookies(Mutex<HashMap<KeyDigest, Login>>);

struct Login {
    credential: Arc<[u8]>,
    until: Instant,
    person: Option<Arc<Renewal>>,
}

/// The refresh token of a person who has logged in, and when it is needed.
pub(in crate::control) struct Renewal {
    /// Held while tokens are renewed: a refresh token that is shown twice ends its log-in.
    pub(in crate::control) state: tokio::sync::Mutex<Renewable>,
    /// When the access token should be renewed.
    due: Mutex<Instant>,
}

/// What renews the access token.
pub(in crate::control) struct Renewable {
    /// The refresh token.
    pub(in crate::control) refresh: Secret,
}

impl Renewal {
    /// Returns whether the access token should be renewed now.
    pub(in crate::control) fn is_due(&self) -> bool {
        *self.due.lock() <= Instant::now()
    }
}

/// When an access token is renewed: after half of its time.
fn due(tokens: &Tokens) -> Instant {
    Instant::now() + tokens.valid / 2
}

impl Cookies {
    /// Begins the log-in of a browser with a token or key. Returns the value of its cookie.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub(in crate::control) fn begin(&self, credential: &[u8], ttl: Duration) -> io::Result<Secret> {
        self.insert(Login { credential: credential.into(), until: Instant::now() + ttl, person: None })
    }

    /// Begins the log-in of a person.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub(in crate::control) fn begin_person(&self, tokens: &Tokens, ttl: Duration) -> io::Result<Secret> {
        let state = tokio::sync::Mutex::new(Renewable { refresh: tokens.refresh.clone() });
        let renewal = Renewal { state, due: Mutex::new(due(tokens)) };
        let until = Instant::now() + ttl.min(tokens.refresh_valid);
        let credential = tokens.access.reveal().as_bytes().into();
        self.insert(Login { credential, until, person: Some(Arc::new(renewal)) })
    }

    fn insert(&self, login: Login) -> io::Result<Secret> {
        let value = key_text::generate("")?;
        let mut logins = self.0.lock();
        if logins.len() >= MAX {
            let now = Instant::now();
            logins.retain(|_, login| now < login.until);
        }
        if logins.len() >= MAX {
            let first = logins.iter().min_by_key(|(_, login)| login.until).map(|(name, _)| *name);
            first.map(|first| logins.remove(&first));
        }
        logins.insert(digest(value.reveal().as_bytes()), login);
        Ok(value)
    }

    /// Returns the credential behind a cookie.
    pub(in crate::control) fn credential(&self, value: &[u8]) -> Option<Arc<[u8]>> {
        let logins = self.0.lock();
        let login = logins.get(&digest(value))?;
        (Instant::now() < login.until).then(|| Arc::clone(&login.credential))
    }

    /// Returns how the log-in of a person is renewed, if this is the cookie of one.
    pub(in crate::control) fn renewal(&self, value: &[u8]) -> Option<Arc<Renewal>> {
        self.0.lock().get(&digest(value))?.person.clone()
    }

    /// Sets the tokens of a log-in that was renewed.
    pub(in crate::control) fn renewed(&self, value: &[u8], renewal: &Renewal, tokens: &Tokens) {
        *renewal.due.lock() = due(tokens);
        if let Some(login) = self.0.lock().get_mut(&digest(value)) {
            login.credential = tokens.access.reveal().as_bytes().into();
        }
    }

    /// Ends a log-in. Returns whether there was one.
    pub(in crate::control) fn end(&self, value: &[u8]) -> bool {
        self.0.lock().remove(&digest(value)).is_some_and(|login| Instant::now() < login.until)
    }

    /// Returns how many browsers are logged in.
    pub(in crate::control) fn open(&self) -> usize {
        let now = Instant::now();
        self.0.lock().values().filter(|login| now < login.until).count()
    }
}

fn digest(value: &[u8]) -> KeyDigest {
    KeyDigest::of(value)
}

/// Returns whether the page was loaded over TLS, as the origin of its request says. This listener speaks HTTP; a proxy before it
/// may speak TLS.
fn is_tls(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

/// The name of the cookie over TLS: browsers keep it to this host, and send it over TLS only.
const TLS_NAME: &str = "__Host-elida";

/// Returns the name of the cookie without TLS. Browsers do not tell ports apart, so the name does.
fn plain_name(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let port = host.rsplit_once(':').map_or("80", |(_, port)| port);
    format!("elida-{port}")
}

/// Returns the value of our cookie; `None` without one, or with two.
pub(in crate::control) fn value(headers: &HeaderMap) -> Option<&[u8]> {
    let plain = plain_name(headers);
    let pairs =
        headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let mut ours = pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        (name == TLS_NAME.as_bytes() || name == plain.as_bytes()).then_some(value)
    });
    match (ours.next(), ours.next()) {
        (Some(value), None) if !value.is_empty() => Some(value),
        _ => None,
    }
}

/// Returns the header `Set-Cookie` for a log-in, or for its end without a value.
pub(in crate::control) fn set(asked: &HeaderMap, value: Option<(&Secret, Duration)>) -> Option<HeaderValue> {
    let (value, age) = value.map_or(("", 0), |(value, ttl)| (value.reveal(), ttl.as_secs()));
    let rest = format!("Path=/; HttpOnly; SameSite=Strict; Max-Age={age}");
    let line = match is_tls(asked) {
        true => format!("{TLS_NAME}={value}; Secure; {rest}"),
        false => format!("{}={value}; {rest}", plain_name(asked)),
    };
    HeaderValue::from_str(&line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_cookie_stands_for_a_credential_until_its_end() {
        let cookies = Cookies::default();
        let value = cookies.begin(b"token", Duration::from_secs(60)).unwrap();
        let value = value.reveal().as_bytes();
        assert_eq!(cookies.credential(value).as_deref(), Some(b"token".as_slice()));
        assert_eq!((cookies.credential(b"other"), cookies.open()), (None, 1));
        assert!(cookies.end(value) && !cookies.end(value));
        assert_eq!((cookies.credential(value), cookies.open()), (None, 0));
        let over = cookies.begin(b"token", Duration::ZERO).unwrap();
        assert_eq!(cookies.credential(over.reveal().as_bytes()), None);
        assert!(!cookies.end(over.reveal().as_bytes()), "it was over");
    }

    #[test]
    fn the_cookie_has_the_name_of_its_scheme_and_port() {
        let plain = headers(&[(header::HOST, "127.0.0.1:9090"), (header::ORIGIN, "http://127.0.0.1:9090")]);
        let tls = headers(&[(header::HOST, "elida.example"), (header::ORIGIN, "https://elida.example")]);
        let secret = Secret::new("v");
        let set = |asked: &HeaderMap| super::set(asked, Some((&secret, Duration::from_secs(9)))).unwrap();
        assert_eq!(set(&plain), "elida-9090=v; Path=/; HttpOnly; SameSite=Strict; Max-Age=9");
        assert_eq!(set(&tls), "__Host-elida=v; Secure; Path=/; HttpOnly; SameSite=Strict; Max-Age=9");
        let sent = |cookie: &str| headers(&[(header::HOST, "localhost:9090"), (header::COOKIE, cookie)]);
        assert_eq!(value(&sent("a=b; elida-9090=v")), Some(b"v".as_slice()));
        assert_eq!(value(&sent("__Host-elida=w")), Some(b"w".as_slice()));
        for none in ["elida-8080=v", "elida-9090=", "elida-9090=v; elida-9090=w", "xelida-9090=v"] {
            assert_eq!(value(&sent(none)), None, "{none}");
        }
    }
}
