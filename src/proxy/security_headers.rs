//! Header fields that tell browsers what not to do with an answer (`server.security_headers`).
//!
//! They go on every final answer of the proxy listener but upgrades. None replaces a field of the backend. Their values are
//! fixed when the configuration is read, so that an answer costs no more than their insertion.

use std::sync::Arc;

use http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::fault::Faults;

/// `server.security_headers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "SecurityHeaders")]
pub struct SecurityHeadersConfig {
    /// Whether answers get `X-Content-Type-Options`, `X-Frame-Options` and the fields below, where the backend has not set
    /// them.
    pub enabled: bool,
    /// `Strict-Transport-Security`, only to clients over TLS; empty for none.
    pub hsts: String,
    /// `Content-Security-Policy` of the gateway's own answers; empty for none.
    pub csp: String,
    /// Whether HTML of backends gets it, too.
    pub csp_on_proxied: bool,
}

impl Default for SecurityHeadersConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            hsts: "max-age=31536000".into(),
            csp: "default-src 'none'; frame-ancestors 'none'".into(),
            csp_on_proxied: false,
        }
    }
}

/// The compiled section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityHeaders(Option<Fields>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    hsts: Option<HeaderValue>,
    csp: Option<HeaderValue>,
    csp_on_proxied: bool,
}

/// Who has written an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// The gateway.
    Gateway,
    /// The backend.
    Backend,
}

impl SecurityHeadersConfig {
    /// Compiles the section. Reports every fault; `None` after any.
    pub(super) fn compile(self, faults: &mut Faults) -> Option<Arc<SecurityHeaders>> {
        let mut value = |key: &str, text: &str| {
            let value = HeaderValue::from_str(text).ok().filter(|value| value.to_str().is_ok());
            if value.is_none() {
                let hint = "write printable ASCII on one line, or \"\" to leave the field out";
                let path = format!("server.security_headers.{key}");
                faults.add(path, "this is no value of a header field", hint);
            }
            value.map(|value| Some(value).filter(|value| !value.is_empty()))
        };
        let (hsts, csp) = (value("hsts", self.hsts.trim()), value("csp", self.csp.trim()));
        let fields = Fields { hsts: hsts?, csp: csp?, csp_on_proxied: self.csp_on_proxied };
        Some(Arc::new(SecurityHeaders(self.enabled.then_some(fields))))
    }
}

impl SecurityHeaders {
    /// Adds the fields to the head of a final answer that is no upgrade. `is_secure`: the client came over TLS.
    ///
    /// # Errors
    /// A header cannot be set, which would be a bug.
    pub(crate) fn add(&self, head: &mut ResponseHeader, is_secure: bool, writer: Writer) -> Result<()> {
        let Some(fields) = &self.0 else { return Ok(()) };
        if head.status.is_informational() {
            return Ok(());
        }
        add(head, X_CONTENT_TYPE_OPTIONS, &HeaderValue::from_static("nosniff"))?;
        add(head, X_FRAME_OPTIONS, &HeaderValue::from_static("DENY"))?;
        if let Some(hsts) = fields.hsts.as_ref().filter(|_| is_secure) {
            add(head, STRICT_TRANSPORT_SECURITY, hsts)?;
        }
        if let Some(csp) = &fields.csp
            && (writer == Writer::Gateway || fields.csp_on_proxied && is_html(head))
        {
            add(head, CONTENT_SECURITY_POLICY, csp)?;
        }
        Ok(())
    }
}

/// Adds a field that is not there yet.
fn add(head: &mut ResponseHeader, name: HeaderName, value: &HeaderValue) -> Result<()> {
    if head.headers.contains_key(&name) { Ok(()) } else { head.insert_header(name, value.clone()) }
}

fn is_html(head: &ResponseHeader) -> bool {
    let media = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = media.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    media.eq_ignore_ascii_case("text/html") || media.eq_ignore_ascii_case("application/xhtml+xml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(config: SecurityHeadersConfig) -> Arc<SecurityHeaders> {
        let mut faults = Faults::default();
        config.compile(&mut faults).unwrap_or_else(|| panic!("{faults}"))
    }

    fn added(
        headers: &SecurityHeaders,
        status: u16,
        fields: &[(&'static str, &'static str)],
        is_secure: bool,
        writer: Writer,
    ) -> String {
        let mut head = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            head.insert_header(*name, *value).unwrap();
        }
        headers.add(&mut head, is_secure, writer).unwrap();
        let shown =
            |name: &str| head.headers.get(name).map_or("-", |value| value.to_str().unwrap()).to_owned();
        let names = ["x-content-type-options", "x-frame-options", "strict-transport-security"];
        let fields: Vec<String> =
            names.iter().chain(&["content-security-policy"]).map(|name| shown(name)).collect();
        fields.join(" | ")
    }

    #[test]
    fn what_the_backend_has_set_stays_and_each_field_goes_where_it_belongs() {
        use Writer::{Backend, Gateway};
        let short = SecurityHeadersConfig { csp: "a".into(), hsts: "b".into(), ..Default::default() };
        let normal = compile(short.clone());
        let on_proxied = compile(SecurityHeadersConfig { csp_on_proxied: true, ..short.clone() });
        let off = compile(SecurityHeadersConfig { enabled: false, ..short.clone() });
        let empty = compile(SecurityHeadersConfig { csp: String::new(), hsts: " ".into(), ..short });
        let html = &[("content-type", "Text/HTML; charset=utf-8")][..];
        let json = &[("content-type", "application/json")][..];
        let own = &[
            ("x-frame-options", "SAMEORIGIN"),
            ("content-security-policy", "mine"),
            ("strict-transport-security", "max-age=0"),
            ("content-type", "text/html"),
        ][..];
        for (headers, status, fields, is_secure, writer, expected) in [
            (&normal, 200, json, false, Backend, "nosniff | DENY | - | -"),
            (&normal, 200, html, true, Backend, "nosniff | DENY | b | -"),
            (&normal, 403, json, false, Gateway, "nosniff | DENY | - | a"),
            (&normal, 500, json, true, Gateway, "nosniff | DENY | b | a"),
            (&on_proxied, 200, html, false, Backend, "nosniff | DENY | - | a"),
            (&on_proxied, 200, json, false, Backend, "nosniff | DENY | - | -"),
            (&on_proxied, 200, own, true, Backend, "nosniff | SAMEORIGIN | max-age=0 | mine"),
            (&normal, 101, json, true, Backend, "- | - | - | -"),
            (&normal, 103, json, true, Backend, "- | - | - | -"),
            (&off, 200, json, true, Gateway, "- | - | - | -"),
            (&empty, 200, json, true, Gateway, "nosniff | DENY | - | -"),
        ] {
            assert_eq!(added(headers, status, fields, is_secure, writer), expected, "{status} {fields:?}");
        }
    }

    #[test]
    fn what_is_no_field_value_is_refused() {
        let mut faults = Faults::default();
        let config =
            SecurityHeadersConfig { hsts: "a\r\nb: c".into(), csp: "é".into(), ..Default::default() };
        assert_eq!(config.compile(&mut faults), None);
        let hint = "(write printable ASCII on one line, or \"\" to leave the field out)";
        assert_eq!(
            faults.to_string(),
            format!(
                "server.security_headers.hsts: this is no value of a header field {hint}\n\
                 server.security_headers.csp: this is no value of a header field {hint}"
            )
        );
    }
}
