//! OpenAI Realtime: each answer ends with `response.done`, which counts its tokens; the model is in the
//! session object. The words differ a little from those of the responses API (`input_token_details`).

use std::sync::LazyLock;

use serde::Serialize;

use super::answer_rules::{AnswerRules, CallRules, CallStep, EndRules, Field, paths};
use super::error_body::{Detail, ErrorForm, json};
use super::request_shape::{Part, RequestShape};
use super::spec::PathRule::{Contains, EndsWith};
use super::spec::{Dialect, DialectSpec};
use super::{azure, openai, responses};
use crate::protocol::facts::error_body::ErrorBody;

const FIELDS: &[(&str, Field)] = &[
    ("type", Field::Kind),
    ("session.model", Field::Model),
    ("error.type", Field::ErrorWord),
    ("error.code", Field::ErrorWord),
    ("response.status_details.error.type", Field::ErrorWord),
    ("response.status_details.error.code", Field::ErrorWord),
    ("response.usage.input_tokens", Field::Input),
    ("response.usage.output_tokens", Field::Output),
    ("response.usage.total_tokens", Field::Total),
    ("response.usage.input_token_details.cached_tokens", Field::CacheRead),
    ("response.status", Field::Status),
    ("response.status_details.reason", Field::StopDetail),
    // Text and calls while they are written.
    ("output_index", Field::CallIndex),
    ("delta", Field::Delta),
    ("arguments", Field::CallArguments),
    ("item.type", Field::CallKind),
    ("item.call_id", Field::CallId),
    ("item.name", Field::CallName),
    ("item.arguments", Field::CallArguments),
    // The summary repeats them.
    ("response.output[]", Field::CallAgainEnd),
    ("response.output[].type", Field::CallKind),
    ("response.output[].call_id", Field::CallId),
    ("response.output[].name", Field::CallName),
    ("response.output[].arguments", Field::CallArguments),
    // Items are also those of the client, which hears of them.
    ("content_index", Field::TextPart),
    ("text", Field::TextDone),
    ("transcript", Field::TextDone),
    ("part.text", Field::TextDone),
    ("part.transcript", Field::TextDone),
    ("item.content[].text", Field::TextDone),
    ("item.content[].transcript", Field::TextDone),
    ("response.output[].content[]", Field::TextAgainEnd),
    ("response.output[].content[].text", Field::TextAgain),
    ("response.output[].content[].transcript", Field::TextAgain),
    ("item.output", Field::ResultDone),
    ("item.error", Field::ResultDone),
    ("item.tools", Field::ResultDone),
    ("response.output[].output", Field::ResultAgain),
    ("response.output[].error", Field::ResultAgain),
    ("response.output[].tools", Field::ResultAgain),
    // Of a transcription.
    ("usage.input_tokens", Field::Input),
    ("usage.output_tokens", Field::Output),
];

static ANSWERS: AnswerRules = AnswerRules {
    fields: FIELDS,
    usage: openai::usage,
    ends: EndRules {
        last_kinds: &["response.done", "conversation.item.input_audio_transcription.completed"],
        error_kinds: &["error"],
        ..EndRules::BY_PATH
    },
    calls: CallRules {
        suffix: "_call",
        steps: &[
            ("response.output_item.added", CallStep::Begin),
            ("response.output_item.done", CallStep::Whole),
            ("response.function_call_arguments.delta", CallStep::Append),
            ("response.function_call_arguments.done", CallStep::SetAndClose),
            ("response.mcp_call_arguments.delta", CallStep::Append),
            ("response.mcp_call_arguments.done", CallStep::SetAndClose),
        ],
        // Those of the beta version first.
        text_kinds: &[
            "response.text.delta",
            "response.audio_transcript.delta",
            "response.output_text.delta",
            "response.output_audio_transcript.delta",
        ],
        again_kinds: &[
            "response.text.done",
            "response.audio_transcript.done",
            "response.output_text.done",
            "response.output_audio_transcript.done",
            "response.content_part.added",
            "response.content_part.done",
            "response.output_item.added",
            "response.output_item.done",
        ],
        ..CallRules::BY_PATH
    },
    paths: LazyLock::new(|| paths(FIELDS)),
};

/// The events of clients (`openai.types.realtime.RealtimeClientEvent`).
static REQUEST: RequestShape = RequestShape {
    members: &[
        ("item", Part::Turns),
        ("input", Part::Turns),
        ("instructions", Part::System),
        ("tools", Part::Tools),
        ("session", Part::Envelope),
        ("response", Part::Envelope),
    ],
    ..responses::REQUEST
};

/// Only sockets: requests by HTTP below `/v1/realtime` create keys and calls.
pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "openai_realtime",
    socket_model: azure::SOCKET_MODEL,
    socket_paths: &[EndsWith("/realtime"), Contains("/v1/realtime/")],
    request_shape: &REQUEST,
    answers: Some(&ANSWERS),
    errors: ErrorForm { socket_event: Some(socket_event), ..ErrorForm::COMMON },
    ..DialectSpec::MODEL
};

impl Dialect {
    /// The WebSocket `/v1/realtime`.
    pub const OPENAI_REALTIME: Self = Self(&SPEC);
}

/// The `error` event.
#[derive(Serialize)]
struct ErrorEvent<'a> {
    r#type: &'static str,
    /// SDKs want one.
    event_id: &'a str,
    error: Detail<'a>,
    session_id: Option<&'a str>,
}

fn socket_event(_status: u16, error: &ErrorBody<'_>) -> Vec<u8> {
    json(&ErrorEvent {
        r#type: "error",
        event_id: error.request_id,
        error: Detail::of(error),
        session_id: error.session_id,
    })
}
