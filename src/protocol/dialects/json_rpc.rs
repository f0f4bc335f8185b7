//! JSON-RPC 2.0, the envelope of MCP and A2A: what a request's body says, and how one is refused.
//!
//! A body may be a batch (MCP 2025-03-26): then its members speak together, and where they differ the
//! body has no one method.

use std::sync::LazyLock;

use serde::Serialize;
use serde_json::value::RawValue;

use super::answer_rules::{AnswerRules, CallRules, EndRules, Field, paths};
use super::error_body::{ErrorForm, StreamEnd, json};
use crate::error::RefusalMetadata;
use crate::protocol::facts::error_body::{ErrorBody, ErrorClass};
use crate::protocol::facts::usage::ReportedCounts;

const FIELDS: &[(&str, Field)] = &[
    ("id", Field::Reply),
    ("method", Field::NotLast),
    ("error.code", Field::NotLast),
    // What MCP and A2A give to a model.
    ("error.message", Field::Text),
    ("error.data", Field::Text),
    ("result", Field::Text),
    ("result.content", Field::Text),
    ("result.content[].text", Field::Text),
    ("result.content[].title", Field::Text),
    ("result.content[].name", Field::Text),
    ("result.content[].uri", Field::Text),
    ("result.content[].description", Field::Text),
    ("result.content[]._meta", Field::Text),
    ("result.content[].resource.text", Field::Text),
    ("result.content[].resource.uri", Field::Text),
    ("result.structuredContent", Field::Text),
    ("result.toolResult", Field::Text),
    ("result._meta", Field::Text),
    ("result.instructions", Field::Text),
    ("result.serverInfo", Field::Text),
    ("result.description", Field::Text),
    ("result.tools", Field::Definition),
    ("result.prompts", Field::Text),
    ("result.resources", Field::Text),
    ("result.resourceTemplates", Field::Text),
    ("result.completion", Field::Text),
    ("result.contents[].text", Field::Text),
    ("result.messages[].content", Field::Text),
    ("result.messages[].content.text", Field::Text),
    ("result.messages[].content.description", Field::Text),
    ("result.messages[].content.resource.text", Field::Text),
    ("result.messages[].content[].text", Field::Text),
    ("result.parts[].text", Field::Text),
    ("result.status.message.parts[].text", Field::Text),
    ("result.artifact.parts[].text", Field::Text),
    ("result.artifacts[].parts[].text", Field::Text),
    // Files in Base64: the scanner decodes them.
    ("result.content[].resource.blob", Field::Result),
    ("result.contents[].blob", Field::Result),
    ("result.messages[].content.resource.blob", Field::Result),
    // What a server asks and tells besides.
    ("params", Field::Thought),
    // The same in batches.
    ("[].error.message", Field::Text),
    ("[].error.data", Field::Text),
    ("[].result", Field::Text),
    ("[].result.content", Field::Text),
    ("[].result.content[].text", Field::Text),
    ("[].result.content[].title", Field::Text),
    ("[].result.content[].name", Field::Text),
    ("[].result.content[].uri", Field::Text),
    ("[].result.content[].description", Field::Text),
    ("[].result.content[]._meta", Field::Text),
    ("[].result.content[].resource.text", Field::Text),
    ("[].result.content[].resource.uri", Field::Text),
    ("[].result.structuredContent", Field::Text),
    ("[].result.toolResult", Field::Text),
    ("[].result._meta", Field::Text),
    ("[].result.instructions", Field::Text),
    ("[].result.serverInfo", Field::Text),
    ("[].result.description", Field::Text),
    ("[].result.tools", Field::Definition),
    ("[].result.prompts", Field::Text),
    ("[].result.resources", Field::Text),
    ("[].result.resourceTemplates", Field::Text),
    ("[].result.completion", Field::Text),
    ("[].result.contents[].text", Field::Text),
    ("[].result.messages[].content", Field::Text),
    ("[].result.messages[].content.text", Field::Text),
    ("[].result.messages[].content.description", Field::Text),
    ("[].result.messages[].content.resource.text", Field::Text),
    ("[].result.messages[].content[].text", Field::Text),
    ("[].result.parts[].text", Field::Text),
    ("[].result.content[].resource.blob", Field::Result),
    ("[].result.contents[].blob", Field::Result),
    ("[].result.messages[].content.resource.blob", Field::Result),
    ("[].params", Field::Thought),
];

/// Answers count no tokens. They are read to know where a stream may be cut, and whether a client that
/// hangs up has its answer: the response to its request, behind whatever else the server had to say.
pub(super) static ANSWERS: AnswerRules = AnswerRules {
    fields: FIELDS,
    usage: ReportedCounts::with_cached_in_input,
    ends: EndRules::BY_PATH,
    calls: CallRules::BY_PATH,
    paths: LazyLock::new(|| paths(FIELDS)),
};

/// Where a body of MCP's 2026-07-28 repeats the protocol's version; the last key has dots itself.
pub(in crate::protocol) const VERSION_KEYS: [&str; 3] =
    ["params", "_meta", "io.modelcontextprotocol/protocolVersion"];

/// The other paths, in the order of [`Rpc::take`].
pub(in crate::protocol) const PATHS: [&str; 4] = ["method", "id", "params.name", "params.uri"];

/// The codes of refusals that a model reads as the result of its call, and goes on.
const OF_CALL: [&str; 5] =
    ["tool_denied", "policy_blocked", "approval_denied", "approval_timeout", "loop_detected"];

#[derive(Serialize)]
struct Response<'a> {
    jsonrpc: &'static str,
    /// Null when it could not be read (JSON-RPC 2.0, section 5).
    id: Option<&'a RawValue>,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome<'a> {
    Error(Error<'a>),
    Result(ToolResult<'a>),
}

/// The answer to a call of a tool that was not made (MCP, "Tools", "Error Handling"): the model reads it and goes on, where an
/// error would look like a broken server.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToolResult<'a> {
    content: [Text<'a>; 1],
    is_error: bool,
    /// Required from 2026-07-28 on.
    result_type: &'static str,
    #[serde(rename = "_meta")]
    meta: Meta<'a>,
}

#[derive(Serialize)]
struct Text<'a> {
    r#type: &'static str,
    text: &'a str,
}

#[derive(Serialize)]
struct Meta<'a> {
    #[serde(rename = "elida/error")]
    error: Data<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: i32,
    message: &'a str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    r#type: &'static str,
    code: &'a str,
    session_id: Option<&'a str>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RefusalMetadata>,
}

/// Errors are JSON-RPC error responses.
pub(super) const ERRORS: ErrorForm =
    ErrorForm { body, stream_ends: &[StreamEnd::event(body)], socket_event: None };

/// Returns the answer; to a batch, one for each of its requests.
fn body(error: &ErrorBody<'_>) -> Vec<u8> {
    let ids: Vec<&str> = error.rpc.iter().flat_map(|rpc| rpc.ids()).collect();
    match ids[..] {
        [] | [_] => json(&response(error, ids.first().copied())),
        [..] => json(&ids.iter().map(|id| response(error, Some(*id))).collect::<Vec<_>>()),
    }
}

fn response<'a>(error: &ErrorBody<'a>, id: Option<&'a str>) -> Response<'a> {
    let data = Data {
        r#type: error.kind.word(),
        code: error.code,
        session_id: error.session_id,
        request_id: error.request_id,
        metadata: error.metadata,
    };
    let is_tool_call = error.rpc.is_some_and(|rpc| rpc.calls_tool && !rpc.is_mixed);
    let outcome = match error.code {
        code if is_tool_call && OF_CALL.contains(&code) => Outcome::Result(ToolResult {
            content: [Text { r#type: "text", text: error.message }],
            is_error: true,
            result_type: "complete",
            meta: Meta { error: data },
        }),
        _ => Outcome::Error(Error { code: number(error), message: error.message, data }),
    };
    Response { jsonrpc: "2.0", id: id.and_then(|id| serde_json::from_str(id).ok()), outcome }
}

/// The error's number. What JSON-RPC and MCP name has theirs; all else has its HTTP status, which lies
/// outside the range that both reserve.
fn number(error: &ErrorBody<'_>) -> i32 {
    match error.kind {
        ErrorClass::HeaderMismatch => -32020,
        ErrorClass::InvalidRequest | ErrorClass::TooLarge => -32600,
        ErrorClass::Api => -32603,
        ErrorClass::Authentication
        | ErrorClass::Permission
        | ErrorClass::NotFound
        | ErrorClass::RateLimit
        | ErrorClass::Overloaded
        | ErrorClass::Timeout => i32::from(error.status),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use crate::protocol::chunks::{cut, sizes};
    use crate::protocol::dialects::spec::Dialect;
    use crate::protocol::facts::model_request::ModelRequest;
    use crate::protocol::facts::rpc::Rpc;
    use crate::protocol::request::{RequestPaths, RequestScan};

    fn call(chunks: &[&[u8]]) -> ModelRequest {
        let mut scan = RequestScan::speaking(Dialect::MCP, &Arc::new(RequestPaths::new(&["x".to_owned()])));
        chunks.iter().for_each(|chunk| scan.feed(chunk));
        scan.finish()
    }

    fn rpc(body: &str) -> Rpc {
        *call(&[body.as_bytes()]).rpc.expect("a JSON-RPC call")
    }

    #[test]
    fn a_request_says_what_it_wants() {
        let body = r#"{"jsonrpc":"2.0","id":"a\"1","method":"tools/call","params":{"name":"search","arguments":
            {"name":"no"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let rpc = rpc(body);
        assert_eq!(rpc.id.as_deref(), Some(r#""a\"1""#));
        assert_eq!(rpc.version.as_deref(), Some("2026-07-28"));
        assert_eq!(rpc.summary().as_deref(), Some("tools/call search"));
        assert!(!rpc.is_mixed);
    }

    #[test]
    fn every_name_and_id_of_a_batch_is_kept() {
        let call = |id: u32, method: &str, name: &str| {
            format!(r#"{{"id":{id},"method":"{method}","params":{{"name":"{name}"}}}}"#)
        };
        let body = format!(
            "[{},{},{}]",
            call(1, "tools/call", "a"),
            call(2, "prompts/get", "b"),
            call(3, "ping", "c")
        );
        for size in [1, 7, body.len()] {
            let rpc = super::tests::call(&body.as_bytes().chunks(size).collect::<Vec<_>>()).rpc.unwrap();
            let (names, ids): (Vec<_>, Vec<_>) = (rpc.names().collect(), rpc.ids().collect());
            assert_eq!(
                (names, ids, rpc.calls_tool, rpc.has_more),
                (vec!["a", "b", "c"], vec!["1", "2", "3"], true, false)
            );
        }
        let many: Vec<String> = (0..70).map(|id| call(id, "tools/call", &id.to_string())).collect();
        let many = rpc(&format!("[{}]", many.join(",")));
        assert!(many.has_more && many.names().count() == 65);
        assert!(!rpc(&call(1, "tools/list", "tools/call")).calls_tool);
    }

    #[test]
    fn ids_are_numbers_or_texts() {
        let id = |id: &str| rpc(&format!(r#"{{"method":"ping","id":{id}}}"#)).id;
        assert_eq!(id("12").as_deref(), Some("12"));
        assert_eq!(id("-1.5e3").as_deref(), Some("-1.5e3"));
        // What only looks like a number would break our own answer.
        assert_eq!((id("1-2"), id("null"), id("[1]"), id("01")), (None, None, None, None));
    }

    #[test]
    fn a_batch_has_one_method_only_if_all_say_the_same() {
        let one = rpc(r#"[{"method":"tools/list","id":1}]"#);
        assert_eq!((one.summary().as_deref(), one.id.as_deref()), (Some("tools/list"), Some("1")));
        let two = rpc(r#"[ 7, "x", [{"method":"no"}], {"method":"tools/list"}, {"method":"ping"} ]"#);
        assert_eq!((two.summary().as_deref(), two.is_mixed), (Some("batch"), true));
        let doubled = rpc(r#"{"method":"tools/list","Method":"tools/call"}"#);
        assert!(doubled.is_mixed, "servers in Go read keys in any case");
        assert_eq!(call(&[b"[]"]).rpc, None);
    }

    proptest! {
        #[test]
        fn chunking_does_not_matter(count in 0usize..4, sizes in sizes()) {
            let member = r#"{"id":1,"method":"tools/call","params":{"name":"é\"","uri":"file:///x"}}"#;
            let body = format!(" [{}] ", vec![member; count].join(" , "));
            let whole = call(&[body.as_bytes()]);
            prop_assert!(!whole.malformed);
            prop_assert_eq!(whole.rpc.is_some(), count > 0);
            prop_assert_eq!(call(&cut(body.as_bytes(), &sizes)), whole);
        }
    }
}
