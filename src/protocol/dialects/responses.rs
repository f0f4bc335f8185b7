//! OpenAI responses: usage is in the response object, which the last event carries whole; tool calls are
//! items of its output, streamed by their index.
//! Fields as in the vendor's SDK (`openai.types.responses`: `ResponseUsage`, `ResponseStreamEvent`).

use std::sync::LazyLock;

use serde::Serialize;

use super::answer_rules::{AnswerRules, CallRules, CallStep, EndRules, Field, paths};
use super::error_body::{Detail, ErrorForm, StreamEnd, json};
use super::openai;
use super::request_shape::{Part, RequestShape};
use super::spec::PathRule::{Contains, EndsWith, Matches};
use super::spec::{Dialect, DialectSpec};
use crate::error::RefusalMetadata;
use crate::policy::rule::Place;
use crate::protocol::facts::error_body::ErrorBody;

const FIELDS: &[(&str, Field)] = &[
    ("type", Field::Kind),
    ("response.id", Field::Id),
    ("response.error.code", Field::ErrorWord),
    ("response.model", Field::Model),
    ("response.service_tier", Field::ServiceTier),
    ("response.output[].action.type", Field::SearchAction),
    ("response.usage.input_tokens", Field::Input),
    ("response.usage.output_tokens", Field::Output),
    ("response.usage.total_tokens", Field::Total),
    ("response.usage.input_tokens_details.cached_tokens", Field::CacheRead),
    ("response.usage.input_tokens_details.cache_write_tokens", Field::CacheWrite),
    ("response.usage.output_tokens_details.reasoning_tokens", Field::Reasoning),
    ("response.status", Field::Status),
    ("response.incomplete_details.reason", Field::StopDetail),
    ("id", Field::Id),
    ("error.type", Field::ErrorWord),
    ("error.code", Field::ErrorWord),
    ("error.message", Field::Error),
    ("model", Field::Model),
    ("service_tier", Field::ServiceTier),
    ("output[].action.type", Field::SearchAction),
    ("usage.input_tokens", Field::Input),
    ("usage.output_tokens", Field::Output),
    ("usage.total_tokens", Field::Total),
    ("usage.input_tokens_details.cached_tokens", Field::CacheRead),
    ("usage.input_tokens_details.cache_write_tokens", Field::CacheWrite),
    ("usage.output_tokens_details.reasoning_tokens", Field::Reasoning),
    ("status", Field::Status),
    ("incomplete_details.reason", Field::StopDetail),
    // Streams: an item is added, its arguments come in deltas and once more whole, it is done.
    ("output_index", Field::CallIndex),
    ("delta", Field::Delta),
    ("arguments", Field::CallArguments),
    ("input", Field::CallArguments),
    ("code", Field::CallArguments),
    ("name", Field::CallName),
    ("item.type", Field::CallKind),
    ("item.call_id", Field::CallId),
    ("item.name", Field::CallName),
    ("item.arguments", Field::CallArguments),
    ("item.input", Field::CallArguments),
    ("item.action", Field::CallArguments),
    ("item.operation", Field::CallArguments),
    ("item.code", Field::CallArguments),
    ("item.queries", Field::CallArguments),
    // Servers that imitate the API may send the response only.
    ("response.output[]", Field::CallAgainEnd),
    ("response.output[].type", Field::CallKind),
    ("response.output[].call_id", Field::CallId),
    ("response.output[].name", Field::CallName),
    ("response.output[].arguments", Field::CallArguments),
    ("response.output[].input", Field::CallArguments),
    ("response.output[].action", Field::CallArguments),
    ("response.output[].operation", Field::CallArguments),
    ("response.output[].code", Field::CallArguments),
    ("response.output[].queries", Field::CallArguments),
    // Text comes in deltas, and again at the ends of its part, its item and the response.
    ("content_index", Field::TextPart),
    ("summary_index", Field::TextPart),
    ("text", Field::TextDone),
    ("refusal", Field::TextDone),
    ("part.text", Field::TextAgain),
    ("part.refusal", Field::TextAgain),
    ("item.content[]", Field::TextAgainEnd),
    ("item.content[].text", Field::TextAgain),
    ("item.content[].refusal", Field::TextAgain),
    ("item.summary[]", Field::TextAgainEnd),
    ("item.summary[].text", Field::ThoughtAgain),
    ("response.output[].content[]", Field::TextAgainEnd),
    ("response.output[].content[].text", Field::TextAgain),
    ("response.output[].content[].refusal", Field::TextAgain),
    ("response.output[].summary[]", Field::TextAgainEnd),
    ("response.output[].summary[].text", Field::ThoughtAgain),
    // What the provider's own calls return, and the tools that its MCP servers list.
    ("item.output", Field::ResultAgain),
    ("item.outputs", Field::ResultAgain),
    ("item.results", Field::ResultAgain),
    ("item.tools", Field::ResultAgain),
    ("item.error", Field::ResultAgain),
    ("item.revised_prompt", Field::ResultAgain),
    ("response.output[].output", Field::ResultAgain),
    ("response.output[].outputs", Field::ResultAgain),
    ("response.output[].results", Field::ResultAgain),
    ("response.output[].tools", Field::ResultAgain),
    ("response.output[].error", Field::ResultAgain),
    ("response.output[].revised_prompt", Field::ResultAgain),
    // The whole answer.
    ("output[]", Field::CallEnd),
    ("output[].type", Field::CallKind),
    ("output[].call_id", Field::CallId),
    ("output[].name", Field::CallName),
    ("output[].arguments", Field::CallArguments),
    ("output[].input", Field::CallArguments),
    ("output[].action", Field::CallArguments),
    ("output[].operation", Field::CallArguments),
    ("output[].code", Field::CallArguments),
    ("output[].queries", Field::CallArguments),
    ("output[].content[].text", Field::Text),
    ("output[].content[].refusal", Field::Text),
    ("output[].summary[].text", Field::Thought),
    ("output[].output", Field::Result),
    ("output[].outputs", Field::Result),
    ("output[].results", Field::Result),
    ("output[].tools", Field::Result),
    ("output[].error", Field::Result),
    ("output[].revised_prompt", Field::Result),
];

/// The API itself sends no `[DONE]`, but servers that imitate it do.
static ANSWERS: AnswerRules = AnswerRules {
    fields: FIELDS,
    usage: openai::usage,
    ends: EndRules {
        last_kinds: &["response.completed", "response.failed", "response.incomplete"],
        done_marker: true,
        error_kinds: &["error", "response.failed"],
        ..EndRules::BY_PATH
    },
    calls: CallRules {
        suffix: "_call",
        steps: &[
            ("response.output_item.added", CallStep::Begin),
            ("response.output_item.done", CallStep::Whole),
            ("response.function_call_arguments.delta", CallStep::Append),
            ("response.function_call_arguments.done", CallStep::SetAndClose),
            ("response.custom_tool_call_input.delta", CallStep::Append),
            ("response.custom_tool_call_input.done", CallStep::SetAndClose),
            ("response.code_interpreter_call_code.delta", CallStep::Append),
            ("response.code_interpreter_call_code.done", CallStep::SetAndClose),
            ("response.mcp_call_arguments.delta", CallStep::Append),
            ("response.mcp_call_arguments.done", CallStep::SetAndClose),
        ],
        text_kinds: &["response.output_text.delta", "response.refusal.delta"],
        thought_kinds: &["response.reasoning_text.delta", "response.reasoning_summary_text.delta"],
        again_kinds: &[
            "response.output_text.done",
            "response.refusal.done",
            "response.reasoning_text.done",
            "response.reasoning_summary_text.done",
        ],
    },
    paths: LazyLock::new(|| paths(FIELDS)),
};

/// Whether a path is below `/responses/ID`. Two words in its place are operations that make an answer or count.
fn is_stored(path: &str) -> bool {
    let below = path.rsplit_once("/responses/").map(|(_, below)| below);
    below.is_some_and(|below| !matches!(below.trim_end_matches('/'), "" | "compact" | "input_tokens"))
}

/// `openai.types.responses.ResponseInputItemParam`; a message of a socket has the same members.
pub(super) static REQUEST: RequestShape = RequestShape {
    members: &[
        ("input", Part::Turns),
        ("instructions", Part::System),
        ("tools", Part::Tools),
        ("response", Part::Envelope),
    ],
    types: &[("call_output", Place::ToolResult), ("_call", Place::ToolArgs), ("reasoning", Place::Reasoning)],
    // Calls that the provider makes itself have their results beside the arguments.
    content: &[("output", Place::ToolResult), ("results", Place::ToolResult)],
    call_ids: &["call_id"],
    result_ids: &["call_id"],
    ..openai::REQUEST
};

pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "openai_responses",
    rules: &[
        (EndsWith("/responses"), None),
        // Codex, also below `/backend-api/codex`.
        (EndsWith("/responses/compact"), None),
        (Contains("/v1/responses/"), None),
    ],
    socket_paths: &[EndsWith("/responses")],
    operations: &[("/responses", "chat")],
    stored: &[Matches(is_stored)],
    request_shape: &REQUEST,
    answers: Some(&ANSWERS),
    errors: ErrorForm {
        stream_ends: &[StreamEnd::named_event("event: error\ndata: ", event)],
        socket_event: Some(socket_event),
        ..ErrorForm::COMMON
    },
    ..DialectSpec::MODEL
};

impl Dialect {
    /// `/v1/responses` and what is below it.
    pub const OPENAI_RESPONSES: Self = Self(&SPEC);
}

/// The `error` event. The `error` member beside its own fields is what makes the Python SDK raise.
#[derive(Serialize)]
struct ErrorEvent<'a> {
    r#type: &'static str,
    code: &'a str,
    message: &'a str,
    param: Option<()>,
    /// Clients with a schema want a number; the stream's own is not known here.
    sequence_number: u64,
    error: Detail<'a>,
    session_id: Option<&'a str>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RefusalMetadata>,
}

/// The same over a socket, with the status that an HTTP answer would have.
#[derive(Serialize)]
struct SocketEvent<'a> {
    status: u16,
    #[serde(flatten)]
    event: ErrorEvent<'a>,
}

fn of<'a>(error: &ErrorBody<'a>) -> ErrorEvent<'a> {
    ErrorEvent {
        r#type: "error",
        code: error.code,
        message: error.message,
        param: None,
        sequence_number: 0,
        error: Detail::of(error),
        session_id: error.session_id,
        request_id: error.request_id,
        metadata: error.metadata,
    }
}

fn event(error: &ErrorBody<'_>) -> Vec<u8> {
    json(&of(error))
}

fn socket_event(status: u16, error: &ErrorBody<'_>) -> Vec<u8> {
    json(&SocketEvent { status, event: of(error) })
}
