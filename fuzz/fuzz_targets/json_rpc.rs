//! MCP and A2A: any chunking of the same body gives the same call, which agrees with serde_json; whatever
//! the header fields say, they are compared without a panic; the refusal is a JSON-RPC error with the id.
#![no_main]

use std::sync::Arc;

use elida::protocol::request::{ModelRequest, RequestPaths, RequestScan};
use elida::protocol::Dialect;
use elida::protocol::dialects::mcp::{METHOD, NAME, PROTOCOL_VERSION, SESSION_ID, disagreement};
use elida::protocol::facts::error_body::{ErrorBody, ErrorClass};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn scan<'a>(paths: &RequestPaths, chunks: impl Iterator<Item = &'a [u8]>) -> ModelRequest {
    let mut scan = RequestScan::speaking(Dialect::MCP, paths);
    chunks.for_each(|chunk| scan.feed(chunk));
    scan.finish()
}

fuzz_target!(|input: (u8, [&[u8]; 3], &str, &[u8])| {
    let (size, fields, path, message) = input;
    let paths = Arc::new(RequestPaths::new(&["params.message.contextId".to_owned()]));
    let call = scan(&paths, std::iter::once(message));
    assert_eq!(call, scan(&paths, message.chunks(usize::from(size).max(1))));
    if let (Ok(Value::Object(parsed)), Some(rpc)) = (serde_json::from_slice(message), &call.rpc)
        && !rpc.is_mixed
        && parsed.keys().filter(|key| key.eq_ignore_ascii_case("method")).count() == 1
        && let Some(Value::String(method)) = parsed.get("method")
    {
        assert!(rpc.method.as_deref() == Some(method) || message.len() > 4096);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in [PROTOCOL_VERSION, METHOD, NAME].into_iter().zip(fields) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    assert_eq!(disagreement(&headers, &call), disagreement(&headers, &call));
    let dialect = Dialect::detect(path, &headers);
    headers.insert(SESSION_ID, HeaderValue::from_static("s"));
    assert_eq!(Dialect::detect(path, &headers).is_llm(), dialect.is_llm(), "a field makes nothing else of a model call");
    let mut named = ModelRequest::default();
    dialect.read_path(path, &mut named);
    let ids: Vec<&str> = call.rpc.iter().flat_map(|rpc| rpc.ids()).collect();
    let notice = ErrorBody {
        code: "session_killed",
        kind: ErrorClass::Permission,
        status: 403,
        message: path,
        session_id: None,
        request_id: "r",
        rpc: call.rpc.as_deref(),
    };
    let refusal: Value = serde_json::from_slice(&Dialect::MCP.error_body(&notice)).expect("JSON");
    // A body with several ids is a batch, and gets an answer for each.
    let answers = match &refusal {
        Value::Array(answers) => answers.as_slice(),
        one => std::slice::from_ref(one),
    };
    let ids: Vec<Value> = ids.iter().map(|id| serde_json::from_str(id).expect("an id is JSON")).collect();
    let ids = if ids.is_empty() { vec![Value::Null] } else { ids };
    assert!(answers.iter().map(|answer| &answer["id"]).eq(&ids));
});
