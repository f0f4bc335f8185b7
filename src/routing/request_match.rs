//! `match:` of a rule, which is another spelling of a condition over the head of the request.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::settings::fault::Faults;

/// What the head of a request must be; all that is written must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "RoutingMatch")]
pub struct MatchConfig {
    /// The host: `a.com`, `*.a.com` (every name below it) or `.a.com` (both). Any case; any port unless one is written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The path without the query. `*` is any number of bytes, also of slashes; `?` is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The methods; any if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub method: Vec<String>,
    /// Header fields and their values, with `*` and `?`. Of a repeated field, the first one counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl MatchConfig {
    /// Returns the condition that means the same. `path` is where the match is written.
    pub(super) fn condition(&self, path: &str, faults: &mut Faults) -> Option<String> {
        let mut parts = Vec::new();
        if !self.host.is_empty() {
            parts.push(host_condition(&self.host));
        }
        if !self.path.is_empty() {
            if !self.path.starts_with(['/', '*']) {
                let message = format!("'{}' matches no path", self.path);
                faults.add(format!("{path}.path"), message, "begin with / or *, as in /v1/*");
                return None;
            }
            parts.push(format!("request.path.glob({})", quoted(&self.path)));
        }
        if !self.method.is_empty() {
            for (at, method) in self.method.iter().enumerate() {
                let is_method = http::Method::from_bytes(method.as_bytes()).is_ok();
                // Methods have a case (RFC 9110, 9.1), and no registered one has small letters.
                if !is_method || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
                    let message = format!("'{method}' is not a method");
                    faults.add(format!("{path}.method[{at}]"), message, "write it like GET or POST");
                    return None;
                }
            }
            let methods: Vec<_> = self.method.iter().map(|method| quoted(method)).collect();
            parts.push(format!("request.method in [{}]", methods.join(", ")));
        }
        for (name, value) in &self.headers {
            if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                let message = format!("'{name}' is not a header name");
                faults.add(format!("{path}.headers.{name}"), message, "use letters, digits and -");
                return None;
            }
            let name = quoted(&name.to_ascii_lowercase());
            parts.push(format!("request.headers[{name}].glob({})", quoted(value)));
        }
        if parts.is_empty() {
            faults.add(path, "the match is empty", "write host, path, method or headers");
            return None;
        }
        Some(parts.join(" && "))
    }
}

/// Returns the condition for a host; without a port, any port will do.
fn host_condition(pattern: &str) -> String {
    let pattern = pattern.to_ascii_lowercase();
    let names = match pattern.strip_prefix('.') {
        Some(name) => vec![name.to_owned(), format!("*.{name}")],
        None => vec![pattern],
    };
    let is_one = |name: String| {
        let has_port = name.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
        let with_port = (!has_port).then(|| format!("{name}:*"));
        let all = [Some(name), with_port].into_iter().flatten();
        let all: Vec<_> =
            all.map(|pattern| format!("lower(request.host).glob({})", quoted(&pattern))).collect();
        all.join(" || ")
    };
    format!("({})", names.into_iter().map(is_one).collect::<Vec<_>>().join(" || "))
}

/// Returns a literal of the language.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(json: &str) -> Result<String, String> {
        let written: MatchConfig = serde_json::from_str(json).expect("a match");
        let mut faults = Faults::default();
        written.condition("m", &mut faults).ok_or_else(|| faults.to_string())
    }

    #[test]
    fn it_is_a_condition_over_the_head() {
        let text = condition(
            r#"{"host": ".A.com", "path": "/v1/*", "method": ["GET", "PUT"], "headers": {"X-Env": "pr\"od*"}}"#,
        );
        let host = "(lower(request.host).glob(\"a.com\") || lower(request.host).glob(\"a.com:*\") || \
                    lower(request.host).glob(\"*.a.com\") || lower(request.host).glob(\"*.a.com:*\"))";
        let rest = r#"request.path.glob("/v1/*") && request.method in ["GET", "PUT"] && request.headers["x-env"].glob("pr\"od*")"#;
        assert_eq!(text.unwrap(), format!("{host} && {rest}"));
        assert_eq!(
            condition(r#"{"host": "[::1]:80"}"#).unwrap(),
            r#"(lower(request.host).glob("[::1]:80"))"#
        );
    }

    #[test]
    fn faults_name_the_key_and_the_remedy() {
        for (json, expected) in [
            ("{}", "the match is empty"),
            (r#"{"path": "v1"}"#, "'v1' matches no path"),
            (r#"{"method": ["get"]}"#, "'get' is not a method"),
            (r#"{"method": ["G T"]}"#, "'G T' is not a method"),
            (r#"{"headers": {"a b": "c"}}"#, "'a b' is not a header name"),
        ] {
            let fault = condition(json).expect_err(json);
            assert!(fault.contains(expected), "{fault}");
        }
    }
}
