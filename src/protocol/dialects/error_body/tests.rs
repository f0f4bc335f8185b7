//! Tests of refusals: their fields, and that a cut stream never looks whole.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::protocol::answer::tap::ResponseTap;
use crate::protocol::facts::error_body::ErrorClass;
use crate::protocol::facts::rpc::Rpc;
use crate::protocol::wire::ndjson::{self, LineReader};
use crate::protocol::wire::sse::{self, SseReader};

/// A request with the id 7.
static SEVEN: LazyLock<Rpc> = LazyLock::new(|| Rpc { id: Some("7".into()), ..Rpc::default() });

fn notice(message: &str) -> ErrorBody<'_> {
    ErrorBody {
        code: "session_killed",
        kind: ErrorClass::Permission,
        status: 403,
        message,
        session_id: Some("s-1"),
        request_id: "r-1",
        rpc: Some(&SEVEN),
        metadata: None,
    }
}

/// The events or lines of a stream.
fn read(framing: Framing, bytes: &[u8]) -> Vec<(String, String)> {
    let (mut events, mut data) = (Vec::new(), Vec::new());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match framing {
        Framing::Sse => SseReader::default().feed(bytes, |piece| match piece {
            sse::Piece::Data(part) => data.extend_from_slice(part),
            sse::Piece::End { name } => events.push((text(name), text(&std::mem::take(&mut data)))),
        }),
        _ => LineReader::default().feed(bytes, |piece| match piece {
            ndjson::Piece::Data(part) => data.extend_from_slice(part),
            ndjson::Piece::End => events.push((String::new(), text(&std::mem::take(&mut data)))),
        }),
    }
    events
}

/// The streams that have a native end.
fn native() -> [(Dialect, Framing, &'static str); 10] {
    [
        (Dialect::ANTHROPIC, Framing::Sse, "error"),
        (Dialect::OPENAI_RESPONSES, Framing::Sse, "error"),
        (Dialect::OPENAI_CHAT, Framing::Sse, ""),
        (Dialect::OPENAI_OTHER, Framing::Sse, ""),
        (Dialect::MISTRAL, Framing::Sse, ""),
        (Dialect::OLLAMA, Framing::Ndjson, ""),
        (Dialect::GEMINI, Framing::Sse, ""),
        (Dialect::MCP, Framing::Sse, ""),
        (Dialect::A2A, Framing::Sse, ""),
        (Dialect::COHERE, Framing::Sse, "message-end"),
    ]
}

#[test]
fn a_body_has_both_vendors_fields() {
    let message = "Session killed by operator: \"runaway\"\n é";
    for dialect in Dialect::all() {
        let parsed: Value = serde_json::from_slice(&dialect.error_body(&notice(message))).unwrap();
        let expected = if dialect == Dialect::OLLAMA {
            json!({
                "error": message, "type": "permission_error", "code": "session_killed",
                "session_id": "s-1", "request_id": "r-1",
            })
        } else if dialect == Dialect::GEMINI {
            json!({"error": {
                "code": 403, "message": message, "status": "PERMISSION_DENIED",
                "details": [{
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "session_killed",
                    "domain": "elida", "metadata": {"session_id": "s-1", "request_id": "r-1"},
                }],
            }})
        } else if dialect == Dialect::COHERE {
            json!({
                "id": "r-1", "message": message, "type": "permission_error", "code": "session_killed",
                "session_id": "s-1", "request_id": "r-1",
            })
        } else if dialect.is_json_rpc() {
            json!({"jsonrpc": "2.0", "id": 7, "error": {
                "code": 403, "message": message,
                "data": {
                    "type": "permission_error", "code": "session_killed", "session_id": "s-1",
                    "request_id": "r-1",
                },
            }})
        } else {
            json!({
                "type": "error",
                "error": {
                    "type": "permission_error", "code": "session_killed", "message": message, "param": null,
                },
                "session_id": "s-1", "request_id": "r-1",
            })
        };
        assert_eq!(parsed, expected, "{dialect:?}");
    }
}

#[test]
fn the_body_is_written_as_the_surface_page_shows_it() {
    assert_eq!(
        String::from_utf8(Dialect::ANTHROPIC.error_body(&notice("Session killed by operator: runaway")))
            .unwrap(),
        r#"{"type":"error","error":{"type":"permission_error","code":"session_killed","message":"Session killed by operator: runaway","param":null},"session_id":"s-1","request_id":"r-1"}"#
    );
}

#[test]
fn without_a_session_the_field_is_null() {
    let bytes = Dialect::PLAIN.error_body(&ErrorBody { session_id: None, ..notice("x") });
    let parsed: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(parsed.get("session_id"), Some(&Value::Null));
}

#[test]
fn a_stream_ends_with_its_own_dialects_error() {
    for (dialect, framing, name) in native() {
        let end = dialect.stream_end(framing, true, &notice("cut\nhere")).unwrap();
        let events = read(framing, &end);
        assert_eq!(events.len(), 1, "{dialect:?}");
        assert_eq!(events[0].0, name, "{dialect:?}");
        let event: Value = serde_json::from_str(&events[0].1).unwrap();
        if dialect == Dialect::OLLAMA {
            assert_eq!(event["error"], "cut\nhere");
            continue;
        }
        if dialect == Dialect::GEMINI || dialect.is_json_rpc() {
            assert_eq!(
                (&event["error"]["message"], &event["error"]["code"]),
                (&json!("cut\nhere"), &json!(403))
            );
            continue;
        }
        assert_eq!(event["type"], if dialect == Dialect::COHERE { "message-end" } else { "error" });
        assert_eq!(event["error"]["message"], "cut\nhere");
        assert_eq!(event["error"]["code"], "session_killed");
        if dialect == Dialect::OPENAI_RESPONSES {
            assert_eq!((&event["code"], &event["message"]), (&json!("session_killed"), &json!("cut\nhere")));
            assert!(event["param"].is_null() && event["sequence_number"].is_number());
        }
    }
}

#[test]
fn a_streamed_array_ends_with_an_error_as_its_last_element() {
    let whole = "[{\"a\":\"]\"}\n,\r\n{\"b\":{}}\n]";
    for at in 0..=whole.len() {
        let stream = &whole.as_bytes()[..at];
        let mut tap = ResponseTap::new(Dialect::GEMINI, Framing::Json);
        tap.feed(stream);
        let end = Dialect::GEMINI.stream_end(Framing::Json, tap.at_boundary(), &notice("cut"));
        let behind =
            matches!(&whole[..at], text if text.trim_end().ends_with(['}']) && !text.ends_with("{}"));
        assert_eq!(end.is_some(), behind, "{:?}", &whole[..at]);
        if let Some(end) = end {
            let elements: Vec<Value> = serde_json::from_slice(&[stream, &end].concat()).unwrap();
            assert_eq!(elements.last().unwrap()["error"]["status"], "PERMISSION_DENIED");
        }
    }
}

#[test]
fn a_request_without_an_id_is_refused_with_null() {
    let bytes =
        Dialect::MCP.error_body(&ErrorBody { rpc: None, kind: ErrorClass::HeaderMismatch, ..notice("x") });
    let parsed: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&parsed["id"], &parsed["error"]["code"]), (&Value::Null, &json!(-32020)));
}

#[test]
fn where_no_native_end_exists_there_is_none() {
    for dialect in Dialect::all() {
        for framing in [Framing::Sse, Framing::Ndjson, Framing::Json, Framing::Opaque] {
            let is_array = (dialect, framing) == (Dialect::GEMINI, Framing::Json);
            let expected = is_array || native().iter().any(|(d, f, _)| (*d, *f) == (dialect, framing));
            let end = dialect.stream_end(framing, true, &notice("x"));
            assert_eq!(end.is_some(), expected, "{dialect:?} {framing:?}");
        }
    }
}

proptest! {
    /// Whatever the stream was doing, our event is the last one, by itself, and the tap does not take
    /// the stream for a whole answer.
    #[test]
    fn a_cut_stream_ends_with_one_error_and_never_looks_whole(
        which in 0..native().len(),
        at in any::<prop::sample::Index>(),
        crlf in any::<bool>(),
    ) {
        let (dialect, framing, name) = native()[which];
        let text = match framing {
            Framing::Sse => "event: x\ndata: {\"type\":\"x\",\"a\":\"b\"}\n\n: ping\n\ndata: {\"a\":1}\n\n",
            _ => "{\"done\":false,\"a\":\"b\"}\n{\"done\":false}\n",
        };
        let text = if crlf { text.replace('\n', "\r\n") } else { text.to_owned() };
        let mut stream = text.as_bytes()[..at.index(text.len() + 1)].to_vec();
        let before = read(framing, &stream);
        let mut tap = ResponseTap::new(dialect, framing);
        tap.feed(&stream);
        let end = dialect.stream_end(framing, tap.at_boundary(), &notice("cut")).unwrap();
        tap.feed(&end);
        tap.end();
        prop_assert!(!tap.is_complete());
        stream.extend_from_slice(&end);

        let after = read(framing, &stream);
        let (last, rest) = after.split_last().unwrap();
        prop_assert_eq!(&last.0, name);
        prop_assert!(last.1.contains("session_killed"));
        prop_assert!(rest.len() <= before.len() + 1 && rest.starts_with(&before));
        prop_assert!(rest.iter().all(|(_, data)| !data.contains("session_killed")));
    }
}

#[test]
fn the_limit_that_is_used_up_is_in_every_body_for_programs() {
    let metadata = RefusalMetadata {
        scope: Some("research".into()),
        limit: Some("500 USD".into()),
        spent: Some("499.5 USD".into()),
        resets_at: "2027-01-01T00:00:00Z".parse().ok(),
        ..RefusalMetadata::default()
    };
    let expected = serde_json::json!({
        "scope": "research", "limit": "500 USD", "spent": "499.5 USD", "resets_at": "2027-01-01T00:00:00Z"
    });
    for (dialect, place) in [
        (Dialect::PLAIN, "/metadata"),
        (Dialect::OLLAMA, "/metadata"),
        (Dialect::COHERE, "/metadata"),
        (Dialect::OPENAI_RESPONSES, "/metadata"),
        (Dialect::MCP, "/error/data/metadata"),
        (Dialect::GEMINI, "/error/details/0/metadata"),
    ] {
        let refused = dialect.error_body(&ErrorBody { metadata: Some(&metadata), ..notice("x") });
        let refused: serde_json::Value = serde_json::from_slice(&refused).unwrap();
        let found = refused.pointer(place).unwrap();
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(found.get(name), Some(value), "{dialect:?} {refused}");
        }
        let other = dialect.error_body(&notice("x"));
        assert!(!String::from_utf8_lossy(&other).contains("scope"), "{dialect:?}");
    }
}
