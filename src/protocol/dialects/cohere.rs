//! Cohere, version 2 of the API: chat, whole and streamed, embeddings and reranking
//! (docs.cohere.com/v2/reference/chat, /v2/docs/streaming; fields as in the vendor's SDK: `V2ChatResponse`,
//! `V2ChatStreamResponse`, `Usage`).
//!
//! Usage is in `billed_units`, which a client pays for; `tokens` beside it also counts what Cohere adds to the prompt
//! by itself, and is not read. A stream ends with `message-end`, which has the usage and the reason. Answers do not
//! name the model.

use std::sync::LazyLock;

use serde::Serialize;

use super::answer_rules::{AnswerRules, CallRules, CallStep, EndRules, Field, paths};
use super::error_body::{ErrorForm, StreamEnd, json};
use super::model_list::ModelListRequest;
use super::openai;
use super::request_shape::{Part, RequestShape};
use super::spec::PathRule::EndsWith;
use super::spec::{BackendKind, Dialect, DialectSpec, ProviderSpec};
use crate::error::RefusalMetadata;
use crate::policy::rule::{Place, Role};
use crate::protocol::facts::error_body::ErrorBody;
use crate::protocol::facts::usage::ReportedCounts;

const FIELDS: &[(&str, Field)] = &[
    ("type", Field::Kind),
    // `message-end`.
    ("delta.finish_reason", Field::Stop),
    ("delta.usage.billed_units.input_tokens", Field::Input),
    ("delta.usage.billed_units.output_tokens", Field::Output),
    ("delta.usage.cached_tokens", Field::CacheRead),
    // … which also ends a stream that failed.
    ("delta.error", Field::NotLast),
    ("delta.error", Field::Error),
    // The whole answer.
    ("finish_reason", Field::Stop),
    ("usage.billed_units.input_tokens", Field::Input),
    ("usage.billed_units.output_tokens", Field::Output),
    ("usage.cached_tokens", Field::CacheRead),
    // Embeddings.
    ("meta.billed_units.input_tokens", Field::Input),
    // `content-delta`; `tool-call-start` begins a call of this index, `tool-call-delta` adds to its arguments.
    ("index", Field::CallIndex),
    ("delta.message.content.text", Field::Text),
    ("delta.message.content.thinking", Field::Thought),
    ("delta.message.tool_plan", Field::Thought),
    ("delta.message.tool_calls.type", Field::CallKind),
    ("delta.message.tool_calls.id", Field::CallId),
    ("delta.message.tool_calls.function.name", Field::CallName),
    ("delta.message.tool_calls.function.arguments", Field::CallArguments),
    ("delta.message.citations", Field::Result),
    // The whole answer.
    ("message.citations", Field::Result),
    ("message.content[].text", Field::Text),
    ("message.content[].thinking", Field::Thought),
    ("message.tool_plan", Field::Thought),
    ("message.tool_calls[]", Field::CallEnd),
    ("message.tool_calls[].type", Field::CallKind),
    ("message.tool_calls[].id", Field::CallId),
    ("message.tool_calls[].function.name", Field::CallName),
    ("message.tool_calls[].function.arguments", Field::CallArguments),
];

static ANSWERS: AnswerRules = AnswerRules {
    fields: FIELDS,
    usage: ReportedCounts::with_cached_in_input,
    ends: EndRules {
        last_kinds: &["message-end"],
        done_marker: true,
        error_stops: &["ERROR", "TIMEOUT"],
        ..EndRules::BY_PATH
    },
    calls: CallRules {
        suffix: "function",
        steps: &[
            ("tool-call-delta", CallStep::Append),
            ("tool-call-start", CallStep::Begin),
            ("tool-call-end", CallStep::Close),
        ],
        ..CallRules::BY_PATH
    },
    paths: LazyLock::new(|| paths(FIELDS)),
};

/// docs.cohere.com/reference/chat; version 1 has its own members.
static REQUEST: RequestShape = RequestShape {
    members: &[
        ("messages", Part::Turns),
        ("message", Part::Turns),
        ("chat_history", Part::Turns),
        ("preamble", Part::System),
        ("tools", Part::Tools),
        ("documents", Part::Results),
        ("tool_results", Part::Results),
    ],
    roles: &[
        ("user", Role::User),
        ("assistant", Role::Assistant),
        ("chatbot", Role::Assistant),
        ("system", Role::System),
        ("tool", Role::Tool),
    ],
    types: &[("thinking", Place::Reasoning)],
    content: &[("tool_calls", Place::ToolArgs), ("tool_plan", Place::Reasoning)],
    ..openai::REQUEST
};

pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "cohere",
    rules: &[(EndsWith("/v2/chat"), None), (EndsWith("/v2/embed"), None), (EndsWith("/v2/rerank"), None)],
    operations: &[("/v2/chat", "chat"), ("/v2/embed", "embeddings")],
    request_shape: &REQUEST,
    answers: Some(&ANSWERS),
    errors: ErrorForm { body, stream_ends: &[StreamEnd::named_event(END_HEAD, end)], socket_event: None },
    gen_ai_provider: GEN_AI_PROVIDER,
    ..DialectSpec::MODEL
};

pub(super) static PROVIDER: ProviderSpec = ProviderSpec {
    name: "cohere",
    summary: "Cohere: version 2 of its API.",
    gen_ai_provider: Some(GEN_AI_PROVIDER),
    model_list: Some(ModelListRequest { target: "/v1/models?page_size=1000", headers: &[] }),
    // `/v1/models` is in both APIs.
    reads: &[(&openai::OTHER, &SPEC)],
    ..ProviderSpec::SERVER
};

/// The well-known value of OpenTelemetry's conventions.
const GEN_AI_PROVIDER: &str = "cohere";

impl Dialect {
    /// Cohere's `/v2/chat` and its neighbours.
    pub const COHERE: Self = Self(&SPEC);
}

impl BackendKind {
    /// Cohere.
    pub const COHERE: Self = Self(&PROVIDER);
}

/// An error as the API writes it: `id` and `message`; the rest is ELIDA's.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    message: &'a str,
    r#type: &'static str,
    code: &'a str,
    session_id: Option<&'a str>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RefusalMetadata>,
}

fn body(error: &ErrorBody<'_>) -> Vec<u8> {
    json(&of(error))
}

fn of<'a>(error: &ErrorBody<'a>) -> Body<'a> {
    Body {
        id: error.request_id,
        message: error.message,
        r#type: error.kind.word(),
        code: error.code,
        session_id: error.session_id,
        request_id: error.request_id,
        metadata: error.metadata,
    }
}

const END_HEAD: &str = "event: message-end\ndata: ";

/// The event that ends a stream in which something failed.
#[derive(Serialize)]
struct MessageEnd<'a> {
    r#type: &'static str,
    delta: Failed<'a>,
    /// Clients with a schema skip it.
    error: Body<'a>,
}

#[derive(Serialize)]
struct Failed<'a> {
    error: &'a str,
    finish_reason: &'static str,
}

fn end(error: &ErrorBody<'_>) -> Vec<u8> {
    json(&MessageEnd {
        r#type: "message-end",
        delta: Failed { error: error.message, finish_reason: "ERROR" },
        error: of(error),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::answer::events::Event;
    use crate::protocol::answer::tap::ResponseTap;
    use crate::protocol::chunks::{cut, sizes};
    use crate::protocol::facts::error_body::ErrorClass;
    use crate::protocol::facts::usage::Usage;
    use crate::protocol::wire::coding::Coding;
    use crate::protocol::wire::framing::Framing;

    const STREAM: &str = r#"event: message-start
data: {"id":"29f1","type":"message-start","delta":{"message":{"role":"assistant","content":[],"tool_plan":"","tool_calls":[],"citations":[]}}}

event: tool-plan-delta
data: {"type":"tool-plan-delta","delta":{"message":{"tool_plan":"I will look."}}}

event: content-start
data: {"type":"content-start","index":0,"delta":{"message":{"content":{"type":"text","text":""}}}}

event: content-delta
data: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"Z\u00fcri"}}}}

event: content-delta
data: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"ch"}}}}

event: content-end
data: {"type":"content-end","index":0}

event: tool-call-start
data: {"type":"tool-call-start","index":1,"delta":{"message":{"tool_calls":{"id":"weather_1","type":"function","function":{"name":"weather","arguments":""}}}}}

event: tool-call-delta
data: {"type":"tool-call-delta","index":1,"delta":{"message":{"tool_calls":{"function":{"arguments":"{\"city\":"}}}}}

event: tool-call-delta
data: {"type":"tool-call-delta","index":1,"delta":{"message":{"tool_calls":{"function":{"arguments":"1}"}}}}}

event: tool-call-end
data: {"type":"tool-call-end","index":1}

event: message-end
data: {"id":"29f1","type":"message-end","delta":{"error":null,"finish_reason":"TOOL_CALL","usage":{"billed_units":{"input_tokens":17,"output_tokens":12},"tokens":{"input_tokens":215,"output_tokens":14},"cached_tokens":6}}}

data: [DONE]

"#;

    const WHOLE: &str = r#"{"id":"29f1","finish_reason":"TOOL_CALL","message":{"role":"assistant","tool_plan":"I will look.","content":[{"type":"text","text":"Zürich"}],"tool_calls":[{"id":"weather_1","type":"function","function":{"name":"weather","arguments":"{\"city\":1}"}}]},"usage":{"billed_units":{"input_tokens":17,"output_tokens":12},"tokens":{"input_tokens":215,"output_tokens":14},"cached_tokens":6}}"#;

    /// Text, calls (id, name, arguments), stop reason, counts, and whether the last event was seen.
    type Seen = (String, Vec<[String; 3]>, Option<String>, Option<Usage>, bool);

    fn seen(framing: Framing, chunks: &[&[u8]]) -> Seen {
        let (mut text, mut calls) = (Vec::new(), Vec::new());
        let mut tap = ResponseTap::listening(Dialect::COHERE, framing, Coding::Identity);
        for chunk in chunks {
            tap.listen(chunk, &mut |event| match event {
                Event::Text(part) => text.extend_from_slice(part),
                Event::Call(call) => {
                    calls.push([call.id.clone(), call.name.clone(), call.arguments.clone()]);
                }
                _ => {}
            });
        }
        tap.end();
        let stop = tap.stop_reason().map(str::to_owned);
        (String::from_utf8(text).unwrap(), calls, stop, tap.usage(), tap.is_complete())
    }

    fn expected() -> Seen {
        let usage = Usage { input_tokens: 11, output_tokens: 12, cache_read_tokens: 6, ..Usage::default() };
        let call = ["weather_1", "weather", "{\"city\":1}"].map(str::to_owned);
        ("Zürich".to_owned(), vec![call], Some("TOOL_CALL".to_owned()), Some(usage), true)
    }

    proptest! {
        #[test]
        fn answers_are_read_at_any_chunking(sizes in sizes()) {
            prop_assert_eq!(seen(Framing::Sse, &cut(STREAM.as_bytes(), &sizes)), expected());
            prop_assert_eq!(seen(Framing::Json, &cut(WHOLE.as_bytes(), &sizes)), expected());
        }
    }

    fn error() -> ErrorBody<'static> {
        ErrorBody {
            code: "session_killed",
            kind: ErrorClass::Permission,
            status: 403,
            message: "killed",
            session_id: Some("s-1"),
            request_id: "r-1",
            rpc: None,
            metadata: None,
        }
    }

    #[test]
    fn a_refusal_has_the_vendors_shape() {
        let body: Value = serde_json::from_slice(&Dialect::COHERE.error_body(&error())).unwrap();
        let expected = json!({"id": "r-1", "message": "killed", "type": "permission_error",
            "code": "session_killed", "session_id": "s-1", "request_id": "r-1"});
        assert_eq!(body, expected);
    }

    #[test]
    fn a_stream_that_is_cut_ends_as_the_vendor_ends_one_that_failed() {
        let cut_at = STREAM.find("event: content-end").unwrap();
        let mut tap = ResponseTap::new(Dialect::COHERE, Framing::Sse);
        tap.feed(&STREAM.as_bytes()[..cut_at]);
        let end = Dialect::COHERE.stream_end(Framing::Sse, tap.at_boundary(), &error()).unwrap();
        tap.feed(&end);
        assert!(!tap.is_complete());
        assert_eq!(tap.stop_reason(), Some("ERROR"));
        let text = String::from_utf8(end).unwrap();
        let data = text.strip_prefix(END_HEAD).unwrap();
        let event: Value = serde_json::from_str(data).unwrap();
        assert_eq!(event["delta"], json!({"error": "killed", "finish_reason": "ERROR"}));
        assert_eq!(
            (&event["type"], &event["error"]["code"]),
            (&json!("message-end"), &json!("session_killed"))
        );
    }
}
