//! `backends.NAME.auth`: which credential a backend gets. Where a request carries credentials is defined in
//! [`crate::protocol::dialects::credentials`].

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::protocol::BackendKind;
use crate::settings::fault::Faults;
use crate::settings::secret::Secret;

/// `backends.NAME.auth`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "BackendAuth")]
pub struct BackendAuthConfig {
    /// Which credential the backend gets.
    pub mode: Mode,
    /// For `inject`: the key, preferably as `${env:NAME}`.
    #[schemars(with = "String")]
    pub api_key: Secret,
    /// For `inject`: a file with the key. It is read again at each reload.
    pub api_key_file: String,
    /// For `inject`: the header for the key; empty for that of the backend's type.
    pub header: String,
    /// Protection space (RFC 9110, 11.5). Within a realm, a failed-over request keeps all its fields and, with
    /// `passthrough`, its credentials; a backend of another realm gets neither. Empty for the origin of the URL.
    pub realm: String,
}

/// Which credential a backend gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The client's own, unchanged.
    #[default]
    Passthrough,
    /// The configured one; the client's is removed.
    Inject,
    /// None; the client's is removed.
    None,
}

/// Which credential a backend gets, compiled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Auth {
    /// The client's own. One that was meant for another realm is never sent.
    Passthrough,
    /// The configured credential.
    Inject {
        /// The header.
        header: HeaderName,
        /// Its value, marked as sensitive so that it is not logged.
        value: HeaderValue,
    },
    /// None.
    None,
}

impl Auth {
    /// Returns the word used in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Inject { .. } => "inject",
            Self::None => "none",
        }
    }

    /// Returns whether every caller uses the configured key.
    pub fn is_injected(&self) -> bool {
        matches!(self, Self::Inject { .. })
    }
}

impl BackendAuthConfig {
    /// Returns the protection space (RFC 9110, 11.5): `realm`, or the origin of the URL.
    pub fn realm(&self, origin: String) -> Arc<str> {
        if self.realm.is_empty() { origin.into() } else { self.realm.as_str().into() }
    }

    /// Compiles the section of the backend `name`; reads its `api_key_file`.
    pub fn compile(self, name: &str, kind: BackendKind, faults: &mut Faults) -> Option<Auth> {
        let at = |key: &str| format!("backends.{name}.auth.{key}");
        let has_key = !self.api_key.is_empty() || !self.api_key_file.is_empty();
        if self.mode != Mode::Inject && (has_key || !self.header.is_empty()) {
            let hint = "write mode: inject, or remove api_key, api_key_file and header";
            faults.add(at("mode"), "a key is given, but it would not be used", hint);
            return None;
        }
        match self.mode {
            Mode::None => Some(Auth::None),
            Mode::Passthrough => Some(Auth::Passthrough),
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

/// Returns the header that carries the key of a backend of this type.
fn header(path: &str, written: &str, kind: BackendKind, faults: &mut Faults) -> Option<HeaderName> {
    if written.is_empty() {
        return Some(HeaderName::from_static(kind.auth_header()));
    }
    let name = HeaderName::from_bytes(written.as_bytes()).ok();
    if name.is_none() {
        faults.add(path, format!("'{written}' is not a header name"), "use letters, digits and -");
    }
    name
}

/// Returns the key, and the configuration path of where it was given.
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

/// Prepends `Bearer` to a key for `Authorization`, unless it has a scheme.
fn value(header: &HeaderName, key: &Secret) -> Option<HeaderValue> {
    let key = key.reveal();
    let scheme = if *header == AUTHORIZATION && !key.contains(' ') { "Bearer " } else { "" };
    let is_plain = key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let mut value = HeaderValue::from_str(&format!("{scheme}{key}")).ok().filter(|_| is_plain)?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(written: BackendAuthConfig, kind: BackendKind) -> Result<Auth, String> {
        let mut faults = Faults::default();
        let auth = written.compile("b", kind, &mut faults);
        auth.ok_or_else(|| faults.to_string())
    }

    fn inject(key: &str) -> BackendAuthConfig {
        BackendAuthConfig { mode: Mode::Inject, api_key: Secret::new(key), ..BackendAuthConfig::default() }
    }

    #[test]
    fn a_key_goes_where_the_type_of_the_backend_wants_it() {
        let sent = |written, kind| match compiled(written, kind) {
            Ok(Auth::Inject { header, value }) => format!("{header}: {}", value.to_str().unwrap()),
            other => panic!("{other:?}"),
        };
        assert_eq!(sent(inject("sk-1"), BackendKind::ANTHROPIC), "x-api-key: sk-1");
        assert_eq!(sent(inject("sk-1"), BackendKind::OPENAI), "authorization: Bearer sk-1");
        let azure = BackendAuthConfig { header: "api-key".into(), ..inject("k") };
        assert_eq!(sent(azure, BackendKind::OPENAI), "api-key: k");
        let basic = BackendAuthConfig { header: "Authorization".into(), ..inject("Basic eA==") };
        assert_eq!(sent(basic, BackendKind::HTTP), "authorization: Basic eA==");
    }

    #[test]
    fn a_key_is_never_printed() {
        let written = inject("sk-very");
        assert!(!format!("{written:?}").contains("very"));
        assert!(!serde_json::to_string(&written).unwrap().contains("very"));
        assert!(!format!("{:?}", compiled(written, BackendKind::OPENAI)).contains("very"));
        let fault = compiled(inject("sk-\nvery"), BackendKind::OPENAI).unwrap_err();
        assert!(fault.starts_with("backends.b.auth.api_key: the key holds"), "{fault}");
        assert!(!fault.contains("very"));
        let number =
            serde_json::from_str::<BackendAuthConfig>(r#"{"api_key": 12345}"#).unwrap_err().to_string();
        assert!(!number.contains("12345"), "{number}");
    }

    #[test]
    fn a_file_is_read_without_its_last_newline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let from_file = || {
            let api_key_file = file.path().display().to_string();
            BackendAuthConfig { mode: Mode::Inject, api_key_file, ..BackendAuthConfig::default() }
        };
        assert!(compiled(from_file(), BackendKind::OPENAI).unwrap_err().ends_with("(write the key into it)"));
        std::fs::write(file.path(), "sk-2\n").unwrap();
        assert_eq!(
            compiled(from_file(), BackendKind::OPENAI).unwrap(),
            compiled(inject("sk-2"), BackendKind::OPENAI).unwrap()
        );
        let both = BackendAuthConfig { api_key: Secret::new("x"), ..from_file() };
        assert!(compiled(both, BackendKind::OPENAI).unwrap_err().contains("both set"));
    }

    #[test]
    fn what_would_not_be_used_is_a_fault() {
        let idle = BackendAuthConfig { mode: Mode::Passthrough, ..inject("k") };
        assert!(compiled(idle, BackendKind::OPENAI).unwrap_err().contains("would not be used"));
        let none = BackendAuthConfig { mode: Mode::Inject, ..BackendAuthConfig::default() };
        assert!(compiled(none, BackendKind::OPENAI).unwrap_err().contains("no key to inject"));
    }
}
