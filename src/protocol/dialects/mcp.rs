//! MCP's streamable HTTP: the header fields that repeat what the body says.
//!
//! Up to 2025-11-25 only the body counts, and a header names the session. From 2026-07-28 on
//! `MCP-Protocol-Version`, `Mcp-Method` and `Mcp-Name` repeat the body, so that intermediaries need not
//! read it; one that does read it must refuse a request in which the two differ (streamable HTTP, "Server
//! Validation"). Source: modelcontextprotocol.io/specification/2026-07-28/basic/transports.

use data_encoding::BASE64;
use http::HeaderMap;

use super::json_rpc;
use super::plain;
use super::request_shape::{Part, RequestShape};
use super::spec::PathRule::{Any, EndsWith};
use super::spec::{BackendKind, Content, Dialect, DialectSpec, ProviderSpec};
use crate::protocol::facts::model_request::ModelRequest;
use crate::protocol::facts::rpc::Rpc;

/// Names the session, in the answer to `initialize` and in every request after it.
pub const SESSION_ID: &str = "mcp-session-id";
/// Names the protocol's version.
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// Repeats the body's `method`.
pub const METHOD: &str = "mcp-method";
/// Repeats the tool, prompt or resource.
pub const NAME: &str = "mcp-name";

/// From this version on the header fields are required. Versions are dates, so their texts can be compared.
const REPEATS_SINCE: &[u8] = b"2026-07-28";

/// A model writes the arguments of a call, a server's question is answered by the user.
static REQUEST: RequestShape = RequestShape {
    members: &[("params", Part::Envelope), ("arguments", Part::Arguments)],
    ..RequestShape::UNKNOWN
};

pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "mcp",
    content: Content::JsonRpc,
    rules: &[
        (EndsWith("/mcp"), None),
        (Any, Some(SESSION_ID)),
        (Any, Some(PROTOCOL_VERSION)),
        (Any, Some(METHOD)),
    ],
    request_shape: &REQUEST,
    answers: Some(&json_rpc::ANSWERS),
    errors: json_rpc::ERRORS,
    ..DialectSpec::MODEL
};

pub(super) static PROVIDER: ProviderSpec = ProviderSpec {
    name: "mcp",
    summary: "An MCP server, at whatever path.",
    reads: &[(&plain::SPEC, &SPEC)],
    ..ProviderSpec::SERVER
};

impl Dialect {
    /// MCP's streamable HTTP.
    pub const MCP: Self = Self(&SPEC);
}

impl BackendKind {
    /// An MCP server, at whatever path.
    pub const MCP: Self = Self(&PROVIDER);
}

/// Returns what is wrong with the header fields of a POST; `None` when they agree with the body.
pub fn disagreement(headers: &HeaderMap, call: &ModelRequest) -> Option<String> {
    let nothing = Rpc::default();
    let rpc = call.rpc.as_deref().unwrap_or(&nothing);
    check(headers, rpc, call.malformed).err()
}

fn check(headers: &HeaderMap, rpc: &Rpc, malformed: bool) -> Result<(), String> {
    let (version, method, name) =
        (only(headers, PROTOCOL_VERSION)?, only(headers, METHOD)?, only(headers, NAME)?);
    let required = version.is_some_and(|version| version >= REPEATS_SINCE) || rpc.version.is_some();
    if !required && method.is_none() && name.is_none() {
        return Ok(());
    }
    if malformed {
        return Err(format!("the body is not plain JSON, so it cannot be held against {METHOD}"));
    }
    if rpc.is_mixed {
        return Err("the body has no one method, name, id and version for the header fields".to_owned());
    }
    // What a notification must repeat is not defined.
    let required = required && rpc.id.is_some();
    if rpc.version.is_some() {
        same(PROTOCOL_VERSION, version, rpc.version.as_deref(), required)?;
    }
    same(METHOD, method, rpc.method.as_deref(), required)?;
    let said = match rpc.method.as_deref() {
        Some("tools/call" | "prompts/get") => rpc.name.as_deref(),
        Some("resources/read") => rpc.uri.as_deref(),
        _ => return Ok(()),
    };
    same(NAME, name, said, required)
}

/// The one value of a field.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h [u8]>, String> {
    let mut values = headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii());
    let first = values.next();
    if values.any(|other| Some(other) != first) {
        return Err(format!("the field {name} is there more than once, with different values"));
    }
    Ok(first)
}

fn same(field: &str, told: Option<&[u8]>, said: Option<&str>, required: bool) -> Result<(), String> {
    match (told, said) {
        (None, Some(_)) if required => Err(format!("the field {field} is missing")),
        (None, _) => Ok(()),
        (Some(told), Some(said)) if means(told, said) => Ok(()),
        _ => Err(format!("the field {field} does not say what the body says")),
    }
}

/// Whether a field's value means this text: as it is, or in Base64 as `=?base64?…?=`.
fn means(told: &[u8], said: &str) -> bool {
    match told.strip_prefix(b"=?base64?").and_then(|rest| rest.strip_suffix(b"?=")) {
        // Compared in its encoded form: there is only one, so no second reading can slip through.
        Some(encoded) => BASE64.encode(said.as_bytes()).as_bytes() == encoded,
        None => told == said.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::request::{RequestPaths, RequestScan};

    fn wrong(fields: &[(&'static str, &str)], body: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let mut scan = RequestScan::speaking(Dialect::MCP, &Arc::new(RequestPaths::new(&[])));
        scan.feed(body.as_bytes());
        disagreement(&headers, &scan.finish())
    }

    fn call_of(tool: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":{tool},"_meta":
            {{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#
        )
    }

    type Field = (&'static str, &'static str);

    const NEW: Field = (PROTOCOL_VERSION, "2026-07-28");

    #[test]
    fn a_request_that_repeats_its_body_passes() {
        let fields = [NEW, (METHOD, "tools/call"), (NAME, "search")];
        assert_eq!(wrong(&fields, &call_of("\"search\"")), None);
        let encoded = [NEW, (METHOD, "tools/call"), (NAME, "=?base64?SGVsbG8sIOS4lueVjA==?=")];
        assert_eq!(wrong(&encoded, &call_of("\"Hello, 世界\"")), None);
        let uri = r#"{"id":1,"method":"resources/read","params":{"uri":"file:///a","name":"other"}}"#;
        assert_eq!(wrong(&[NEW, (METHOD, "resources/read"), (NAME, "file:///a")], uri), None);
        let list = r#"{"id":1,"method":"tools/list"}"#;
        assert_eq!(wrong(&[NEW, (METHOD, "tools/list"), (METHOD, "tools/list")], list), None);
    }

    #[test]
    fn a_name_in_base64_is_padded_as_rfc_4648_has_it() {
        for (name, encoded) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
            ("?>~?", "Pz5+Pw=="),
        ] {
            assert!(means(format!("=?base64?{encoded}?=").as_bytes(), name), "{name}");
        }
        for other in ["Zg", "Zh==", "Zg=", "zg==", "Zg==\n"] {
            assert!(!means(format!("=?base64?{other}?=").as_bytes(), "f"), "{other}");
        }
    }

    #[test]
    fn old_versions_say_everything_in_the_body() {
        let body = r#"[{"id":1,"method":"tools/call","params":{"name":"a"}},{"id":2,"method":"ping"}]"#;
        for version in ["2025-03-26", "2025-06-18", "2025-11-25"] {
            assert_eq!(wrong(&[(PROTOCOL_VERSION, version), (SESSION_ID, "s")], body), None, "{version}");
        }
        assert_eq!(wrong(&[], "not JSON"), None);
    }

    #[test]
    fn a_disagreement_is_told() {
        let body = call_of("\"search\"");
        let all = [NEW, (METHOD, "tools/call"), (NAME, "search")];
        let cases: [(&[Field], &str, &str); 12] = [
            (&all[..2], &body, "mcp-name is missing"),
            (&[all[0], all[2]], &body, "mcp-method is missing"),
            (&all[1..], &body, "mcp-protocol-version is missing"),
            (&[], &body, "mcp-protocol-version is missing"),
            (&[NEW, all[1], (NAME, "read")], &body, "mcp-name does not say"),
            (&[NEW, (METHOD, "tools/list"), all[2]], &body, "mcp-method does not say"),
            (&[(PROTOCOL_VERSION, "2026-12-01"), all[1], all[2]], &body, "mcp-protocol-version does not"),
            (&[NEW, all[1], all[2], (NAME, "delete")], &body, "more than once"),
            (&[NEW, all[1], (NAME, "=?base64?c2VhcmNo?=")], &call_of("\"delete\""), "mcp-name does not say"),
            (&all, "[{},{}]", "mcp-method does not say"),
            (&all, &format!("[{body},{}]", call_of("\"delete\"")), "no one method"),
            (&all, "\u{1f}\u{8b}", "not plain JSON"),
        ];
        for (fields, body, expected) in cases {
            let told = wrong(fields, body).unwrap_or_else(|| panic!("{fields:?} {body}"));
            assert!(told.contains(expected), "{told} for {fields:?} {body}");
        }
        // What is said must be true, required or not.
        assert!(wrong(&[(METHOD, "tools/list")], r#"{"id":1,"method":"tools/call"}"#).is_some());
    }

    #[test]
    fn what_a_notification_must_repeat_is_not_defined() {
        assert_eq!(wrong(&[NEW], r#"{"method":"notifications/x"}"#), None);
        assert!(wrong(&[NEW, (METHOD, "ping")], r#"{"method":"notifications/x"}"#).is_some());
    }
}
