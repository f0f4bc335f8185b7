//! `backends.NAME.auth`: whose credential a backend gets; and where credentials stand in a request.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use crate::protocol::BackendKind;
use crate::settings::fault::Faults;
use crate::settings::secret::Secret;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const X_GOOG_API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");

/// Fields that hold a caller's credential, or choose what it pays for.
pub const FIELDS: [HeaderName; 8] = [
    AUTHORIZATION,
    X_API_KEY,
    HeaderName::from_static("api-key"),
    X_GOOG_API_KEY,
    COOKIE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
];

/// Query parameters that hold one: Gemini takes `?key=`.
const PARAMETERS: [&str; 4] = ["key", "access_token", "api_key", "api-key"];

/// Beginnings of WebSocket subprotocols that hold one: a browser has no other place for the key of OpenAI's
/// Realtime API.
const SUBPROTOCOLS: [&str; 3] = ["openai-insecure-api-key.", "openai-organization.", "openai-project."];

/// `backends.NAME.auth`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "BackendAuth")]
pub struct Written {
    /// Whose credential the backend gets.
    pub mode: Mode,
    /// With `inject`: the key, best as `${env:NAME}`.
    #[schemars(with = "String")]
    pub api_key: Secret,
    /// With `inject`: a file that holds the key; it is read again at each reload.
    pub api_key_file: String,
    /// With `inject`: the header that carries the key; empty for the one of the backend's type.
    pub header: String,
    /// With `passthrough`: backends of one realm take each other's credentials; empty for the URL's origin.
    pub realm: String,
}

/// Whose credential a backend gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The client's own, as it came.
    #[default]
    Passthrough,
    /// The configured one; the client's is taken out.
    Inject,
    /// None; the client's is taken out.
    None,
}

/// Whose credential a backend gets, compiled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Auth {
    /// The client's own. A credential meant for another realm never comes here.
    Passthrough {
        /// The protection space (RFC 9110, 11.5): the origin, unless a name was written.
        realm: Arc<str>,
    },
    /// This one.
    Inject {
        /// The field.
        header: HeaderName,
        /// Its value, marked as sensitive: it is not printed.
        value: HeaderValue,
    },
    /// None.
    None,
}

impl Auth {
    /// The word of the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passthrough { .. } => "passthrough",
            Self::Inject { .. } => "inject",
            Self::None => "none",
        }
    }

    /// Whether the configured key is spent on whoever calls.
    pub fn is_injected(&self) -> bool {
        matches!(self, Self::Inject { .. })
    }

    /// Whether a request may come here whose credential was meant for a backend of the auth `meant_for`.
    pub fn may_take(&self, meant_for: &Self) -> bool {
        match self {
            Self::Passthrough { .. } => self == meant_for,
            Self::Inject { .. } | Self::None => true,
        }
    }
}

impl Written {
    /// Compiles the section of the backend `name`; reads its `api_key_file`. `origin` is that of its URL.
    pub fn compile(self, name: &str, kind: BackendKind, origin: String, faults: &mut Faults) -> Option<Auth> {
        let at = |key: &str| format!("backends.{name}.auth.{key}");
        let has_key = !self.api_key.is_empty() || !self.api_key_file.is_empty();
        if self.mode != Mode::Inject && (has_key || !self.header.is_empty()) {
            let hint = "write mode: inject, or remove api_key, api_key_file and header";
            faults.add(at("mode"), "a key is given, but it would not be used", hint);
            return None;
        }
        if self.mode != Mode::Passthrough && !self.realm.is_empty() {
            let hint = "remove it: clients' credentials do not come here";
            faults.add(at("realm"), "a realm counts with mode: passthrough only", hint);
            return None;
        }
        match self.mode {
            Mode::None => Some(Auth::None),
            Mode::Passthrough if self.realm.is_empty() => Some(Auth::Passthrough { realm: origin.into() }),
            Mode::Passthrough => Some(Auth::Passthrough { realm: self.realm.into() }),
            Mode::Inject => {
                let header = header(&at("header"), &self.header, kind, faults);
                let key = read_key(&at, &self.api_key, &self.api_key_file, faults);
                let (header, (path, key)) = (header?, key?);
                let value = value(&header, &key);
                if value.is_none() {
                    let hint = "give the key alone: letters, digits and signs without spaces";
                    faults.add(path, "the key holds what a header cannot", hint);
                }
                Some(Auth::Inject { header, value: value? })
            }
        }
    }
}

/// The field that carries the key of a backend of this kind.
fn header(path: &str, written: &str, kind: BackendKind, faults: &mut Faults) -> Option<HeaderName> {
    if written.is_empty() {
        return Some(match kind {
            BackendKind::Anthropic => X_API_KEY,
            BackendKind::Gemini => X_GOOG_API_KEY,
            _ => AUTHORIZATION,
        });
    }
    let name = HeaderName::from_bytes(written.as_bytes()).ok();
    if name.is_none() {
        faults.add(path, format!("'{written}' is not a header name"), "use letters, digits and -");
    }
    name
}

/// The key, and the path of the key of the file that gave it.
fn read_key(
    at: &impl Fn(&str) -> String,
    key: &Secret,
    file: &str,
    faults: &mut Faults,
) -> Option<(String, Secret)> {
    match (key.is_empty(), file.is_empty()) {
        (false, true) => Some((at("api_key"), key.clone())),
        (true, false) => match std::fs::read_to_string(file) {
            Ok(text) if !text.trim().is_empty() => Some((at("api_key_file"), Secret::new(text.trim()))),
            Ok(_) => {
                faults.add(at("api_key_file"), format!("'{file}' is empty"), "write the key into it");
                None
            }
            Err(error) => {
                faults.unreadable(at("api_key_file"), file, &error);
                None
            }
        },
        (true, true) => {
            let hint = "write api_key: ${env:NAME}, or api_key_file";
            faults.add(at("mode"), "there is no key to inject", hint);
            None
        }
        (false, false) => {
            faults.add(at("api_key"), "api_key and api_key_file are both set", "set one of the two");
            None
        }
    }
}

/// `Authorization` wants a scheme before the key; one that has a scheme keeps it.
fn value(header: &HeaderName, key: &Secret) -> Option<HeaderValue> {
    let key = key.reveal();
    let scheme = if *header == AUTHORIZATION && !key.contains(' ') { "Bearer " } else { "" };
    let is_plain = key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let mut value = HeaderValue::from_str(&format!("{scheme}{key}")).ok().filter(|_| is_plain)?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether a request carries a credential of its caller's.
pub fn is_present(headers: &HeaderMap, query: Option<&str>) -> bool {
    FIELDS.iter().any(|field| headers.contains_key(field))
        || headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().any(|value| without_subprotocols(value).is_some())
        || query.is_some_and(|query| query.split('&').any(|pair| is_parameter(pair.as_bytes())))
}

fn is_parameter(pair: &[u8]) -> bool {
    form_urlencoded::parse(pair).next().is_some_and(|(name, _)| PARAMETERS.contains(&&*name))
}

/// The value of `Sec-WebSocket-Protocol` without the entries that hold a credential; `None` when there are none.
pub fn without_subprotocols(value: &HeaderValue) -> Option<HeaderValue> {
    let entries = || value.to_str().unwrap_or_default().split(',').map(str::trim);
    let holds = |entry: &&str| SUBPROTOCOLS.iter().any(|start| entry.starts_with(start));
    entries().any(|entry| holds(&entry)).then(|| {
        let kept: Vec<&str> = entries().filter(|entry| !holds(entry)).collect();
        HeaderValue::from_str(&kept.join(", ")).unwrap_or(HeaderValue::from_static(""))
    })
}

/// A request target without the query parameters that hold a credential; all else byte for byte.
pub fn without_parameters(target: &[u8]) -> Cow<'_, [u8]> {
    let Some(mark) = memchr::memchr(b'?', target) else { return Cow::Borrowed(target) };
    let query = &target[mark + 1..];
    if !query.split(|byte| *byte == b'&').any(is_parameter) {
        return Cow::Borrowed(target);
    }
    let kept: Vec<&[u8]> = query.split(|byte| *byte == b'&').filter(|pair| !is_parameter(pair)).collect();
    let mut rest = target[..mark].to_vec();
    if !kept.is_empty() {
        rest.push(b'?');
        rest.extend(kept.join(&b'&'));
    }
    Cow::Owned(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(written: Written, kind: BackendKind) -> Result<Auth, String> {
        let mut faults = Faults::default();
        let auth = written.compile("b", kind, "https://h".into(), &mut faults);
        auth.ok_or_else(|| faults.to_string())
    }

    fn inject(key: &str) -> Written {
        Written { mode: Mode::Inject, api_key: Secret::new(key), ..Written::default() }
    }

    #[test]
    fn a_key_goes_where_the_type_of_the_backend_wants_it() {
        let sent = |written, kind| match compiled(written, kind) {
            Ok(Auth::Inject { header, value }) => format!("{header}: {}", value.to_str().unwrap()),
            other => panic!("{other:?}"),
        };
        assert_eq!(sent(inject("sk-1"), BackendKind::Anthropic), "x-api-key: sk-1");
        assert_eq!(sent(inject("sk-1"), BackendKind::Openai), "authorization: Bearer sk-1");
        let azure = Written { header: "api-key".into(), ..inject("k") };
        assert_eq!(sent(azure, BackendKind::Openai), "api-key: k");
        let basic = Written { header: "Authorization".into(), ..inject("Basic eA==") };
        assert_eq!(sent(basic, BackendKind::Http), "authorization: Basic eA==");
    }

    #[test]
    fn a_key_is_never_printed() {
        let written = inject("sk-very");
        assert!(!format!("{written:?}").contains("very"));
        assert!(!serde_json::to_string(&written).unwrap().contains("very"));
        assert!(!format!("{:?}", compiled(written, BackendKind::Openai)).contains("very"));
        let fault = compiled(inject("sk-\nvery"), BackendKind::Openai).unwrap_err();
        assert!(fault.starts_with("backends.b.auth.api_key: the key holds"), "{fault}");
        assert!(!fault.contains("very"));
        let number = serde_json::from_str::<Written>(r#"{"api_key": 12345}"#).unwrap_err().to_string();
        assert!(!number.contains("12345"), "{number}");
    }

    #[test]
    fn a_file_is_read_without_its_last_newline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let from_file = || {
            let api_key_file = file.path().display().to_string();
            Written { mode: Mode::Inject, api_key_file, ..Written::default() }
        };
        assert!(compiled(from_file(), BackendKind::Openai).unwrap_err().ends_with("(write the key into it)"));
        std::fs::write(file.path(), "sk-2\n").unwrap();
        assert_eq!(
            compiled(from_file(), BackendKind::Openai).unwrap(),
            compiled(inject("sk-2"), BackendKind::Openai).unwrap()
        );
        let both = Written { api_key: Secret::new("x"), ..from_file() };
        assert!(compiled(both, BackendKind::Openai).unwrap_err().contains("both set"));
    }

    #[test]
    fn what_would_not_be_used_is_a_fault() {
        let idle = Written { mode: Mode::Passthrough, ..inject("k") };
        assert!(compiled(idle, BackendKind::Openai).unwrap_err().contains("would not be used"));
        let realm = Written { realm: "r".into(), ..inject("k") };
        assert!(compiled(realm, BackendKind::Openai).unwrap_err().contains("mode: passthrough only"));
        let none = Written { mode: Mode::Inject, ..Written::default() };
        assert!(compiled(none, BackendKind::Openai).unwrap_err().contains("no key to inject"));
    }

    #[test]
    fn a_credential_is_taken_by_its_own_realm_only() {
        let realm = |realm: &str| Auth::Passthrough { realm: realm.into() };
        assert!(realm("a").may_take(&realm("a")));
        assert!(!realm("a").may_take(&realm("b")));
        assert!(!realm("a").may_take(&Auth::None), "a key for the gateway is for no backend");
        assert!(Auth::None.may_take(&realm("a")));
    }

    #[test]
    fn a_key_among_subprotocols_is_found_and_taken_out() {
        let left = |value: &'static str| {
            let value = without_subprotocols(&HeaderValue::from_static(value));
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        let key = "realtime,openai-insecure-api-key.sk-1 , openai-beta.realtime-v1";
        assert_eq!(left(key).as_deref(), Some("realtime, openai-beta.realtime-v1"));
        assert_eq!(left("openai-insecure-api-key.sk-1").as_deref(), Some(""));
        assert_eq!(left("realtime"), None);
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(key));
        assert!(is_present(&headers, None));
    }

    #[test]
    fn parameters_with_credentials_are_found_and_taken_out() {
        for (target, left) in [
            ("/m:generate?key=AIza&alt=sse", "/m:generate?alt=sse"),
            ("/m?alt=sse&%6bey=AIza", "/m?alt=sse"),
            ("/m?key=a", "/m"),
            ("/m?key", "/m"),
            ("/m?a=%20+&monkey=1&&x", "/m?a=%20+&monkey=1&&x"),
            ("/m?", "/m?"),
            ("/key=1", "/key=1"),
        ] {
            assert_eq!(without_parameters(target.as_bytes()), left.as_bytes(), "{target}");
            let query = target.split_once('?').map(|(_, query)| query);
            assert_eq!(is_present(&HeaderMap::new(), query), target != left, "{target}");
        }
    }
}
