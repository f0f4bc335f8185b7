//! OpenAI chat completions, completions and embeddings: where an answer writes its usage and its calls.
//!
//! Streams carry `usage` only when asked (`stream_options.include_usage`), on the last chunk before
//! `[DONE]`; other chunks have it null or not at all. Some servers repeat it with the sums so far.
//! Fields as in the vendor's SDK (`openai.types`: `CompletionUsage`, `ChatCompletionChunk`).

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::answer_rules::{AnswerRules, CallRules, EndRules, Field, paths};
use super::error_body::{ErrorForm, StreamEnd, common};
use super::model_list::{ModelListForm, ModelListRequest};
use super::request_shape::{Part, RequestShape};
use super::spec::PathRule::{Contains, EndsWith, Matches};
use super::spec::{BackendKind, Dialect, DialectSpec, ProviderSpec};
use super::{azure, vertex};
use crate::policy::rule::{Place, Role};
use crate::protocol::facts::model_request::ModelRequest;
use crate::protocol::facts::usage::{ReportedCounts, Usage};

/// Shared with Mistral, whose answers have the same shape.
pub(super) const FIELDS: &[(&str, Field)] = &[
    ("model", Field::Model),
    ("service_tier", Field::ServiceTier),
    // Within a stream, or with status 200 (OpenRouter). Older vLLM has an object of this kind instead of the member.
    ("object", Field::Kind),
    ("error", Field::Error),
    ("error.message", Field::Error),
    ("error.type", Field::ErrorWord),
    ("error.code", Field::ErrorWord),
    ("choices[].error.message", Field::Error),
    ("choices[].error.code", Field::ErrorWord),
    ("usage.prompt_tokens", Field::Input),
    ("usage.completion_tokens", Field::Output),
    ("usage.total_tokens", Field::Total),
    ("usage.prompt_tokens_details.cached_tokens", Field::CacheRead),
    ("usage.prompt_tokens_details.cache_write_tokens", Field::CacheWrite),
    ("usage.completion_tokens_details.reasoning_tokens", Field::Reasoning),
    // Mistral, DeepSeek (api-docs.deepseek.com/guides/kv_cache), Moonshot.
    ("usage.num_cached_tokens", Field::CacheRead),
    ("usage.prompt_cache_hit_tokens", Field::CacheRead),
    ("usage.cached_tokens", Field::CacheRead),
    // Moonshot's streams write it into the last choice.
    ("choices[].usage.prompt_tokens", Field::Input),
    ("choices[].usage.completion_tokens", Field::Output),
    ("choices[].usage.total_tokens", Field::Total),
    ("choices[].usage.cached_tokens", Field::CacheRead),
    // Images and speech count in the words of the responses API.
    ("usage.input_tokens", Field::Input),
    ("usage.output_tokens", Field::Output),
    ("choices[]", Field::ChoiceEnd),
    ("choices[].index", Field::ChoiceIndex),
    ("choices[].finish_reason", Field::ChoiceStop),
    // Streams: pieces of calls by their index, and the older form of one call without.
    ("choices[].delta.tool_calls[]", Field::CallPieceEnd),
    ("choices[].delta.tool_calls[].index", Field::CallIndex),
    ("choices[].delta.tool_calls[].id", Field::CallId),
    ("choices[].delta.tool_calls[].function.name", Field::CallName),
    ("choices[].delta.tool_calls[].function.arguments", Field::CallArguments),
    ("choices[].delta.tool_calls[].custom.name", Field::CallName),
    ("choices[].delta.tool_calls[].custom.input", Field::CallArguments),
    ("choices[].delta.function_call", Field::CallPieceEnd),
    ("choices[].delta.function_call.name", Field::CallName),
    ("choices[].delta.function_call.arguments", Field::CallArguments),
    ("choices[].delta.content", Field::Text),
    // Mistral's reasoning models write an array.
    ("choices[].delta.content[].text", Field::Text),
    ("choices[].delta.refusal", Field::Text),
    // DeepSeek, vLLM and others; OpenRouter; Mistral.
    ("choices[].delta.reasoning_content", Field::Thought),
    ("choices[].delta.reasoning", Field::Thought),
    ("choices[].delta.reasoning_details[].text", Field::Thought),
    ("choices[].delta.content[].thinking[].text", Field::Thought),
    // What spoken answers say.
    ("choices[].delta.audio.transcript", Field::Text),
    // What is cited; what Groq's own tools and Azure's own data return; what Perplexity has searched for.
    ("choices[].delta.annotations", Field::Result),
    ("choices[].delta.executed_tools", Field::Result),
    ("choices[].delta.context", Field::Result),
    ("search_results", Field::Result),
    // The whole answer.
    ("choices[].message.annotations", Field::Result),
    ("choices[].message.executed_tools", Field::Result),
    ("choices[].message.context", Field::Result),
    ("choices[].message.tool_calls[]", Field::CallEnd),
    ("choices[].message.tool_calls[].id", Field::CallId),
    ("choices[].message.tool_calls[].function.name", Field::CallName),
    ("choices[].message.tool_calls[].function.arguments", Field::CallArguments),
    ("choices[].message.tool_calls[].custom.name", Field::CallName),
    ("choices[].message.tool_calls[].custom.input", Field::CallArguments),
    ("choices[].message.function_call", Field::CallEnd),
    ("choices[].message.function_call.name", Field::CallName),
    ("choices[].message.function_call.arguments", Field::CallArguments),
    ("choices[].message.content", Field::Text),
    ("choices[].message.content[].text", Field::Text),
    ("choices[].message.refusal", Field::Text),
    ("choices[].message.reasoning_content", Field::Thought),
    ("choices[].message.reasoning", Field::Thought),
    ("choices[].message.reasoning_details[].text", Field::Thought),
    ("choices[].message.content[].thinking[].text", Field::Thought),
    ("choices[].message.audio.transcript", Field::Text),
    // Completions, whole and streamed.
    ("choices[].text", Field::Text),
];

pub(super) static ANSWERS: AnswerRules = AnswerRules {
    fields: FIELDS,
    usage,
    ends: EndRules {
        done_marker: true,
        // Not every server of this API sends it.
        stop_suffices: true,
        error_kinds: &["error"],
        error_stops: &["error"],
        ..EndRules::BY_PATH
    },
    calls: CallRules::BY_PATH,
    paths: LazyLock::new(|| paths(FIELDS)),
};

/// The vendor counts cached tokens in the input and reasoning in the output. Some servers of its API count reasoning in
/// the total only (xAI, and Gemini behind this API): what the total has beside prompt and answer is output. An answer
/// that has a total alone is one without output (embeddings and reranking of Voyage and Jina).
pub(super) fn usage(counts: &ReportedCounts) -> Usage {
    let (input, output) = match counts.total {
        total if counts.input == 0 && counts.output == 0 => (total, 0),
        total => (counts.input, counts.output.max(total.saturating_sub(counts.input))),
    };
    ReportedCounts { input, output, ..*counts }.with_cached_in_input()
}

/// The well-known value of OpenTelemetry's conventions.
pub(super) const GEN_AI_PROVIDER: &str = "openai";

/// A stream is ended by an event without a name.
pub(super) const ERRORS: ErrorForm =
    ErrorForm { stream_ends: &[StreamEnd::event(common)], ..ErrorForm::COMMON };

fn read_path(path: &str, call: &mut ModelRequest) {
    azure::read_path(path, call);
    vertex::read_path(path, call);
}

/// Chat, and the older calls beside it (`openai.types.chat.ChatCompletionMessageParam`).
pub(super) static REQUEST: RequestShape = RequestShape {
    members: &[
        ("messages", Part::Turns),
        ("prompt", Part::Turns),
        ("input", Part::Turns),
        ("instructions", Part::System),
        ("tools", Part::Tools),
        ("functions", Part::Tools),
    ],
    roles: &[
        ("user", Role::User),
        ("assistant", Role::Assistant),
        ("system", Role::System),
        ("developer", Role::System),
        ("tool", Role::Tool),
        ("function", Role::Tool),
    ],
    types: &[],
    content: &[
        ("tool_calls", Place::ToolArgs),
        ("function_call", Place::ToolArgs),
        ("reasoning_content", Place::Reasoning),
        ("reasoning", Place::Reasoning),
        ("thinking", Place::Reasoning),
    ],
    call_ids: &["id"],
    result_ids: &["tool_call_id"],
    tool_names: &["name"],
    failures: &["is_error"],
};

pub(super) static CHAT: DialectSpec = DialectSpec {
    name: "openai_chat",
    rules: &[(EndsWith("/chat/completions"), None), (Matches(vertex::is_chat), None)],
    read_path: Some(read_path),
    operations: &[("/chat/completions", "chat")],
    answers: Some(&ANSWERS),
    errors: ERRORS,
    ..DialectSpec::MODEL
};

/// The rest of the API that names a model.
pub(super) static OTHER: DialectSpec = DialectSpec {
    name: "openai",
    rules: &[
        (EndsWith("/completions"), None),
        (EndsWith("/embeddings"), None),
        (EndsWith("/v1/models"), None),
        (EndsWith("/v1/moderations"), None),
        (EndsWith("/v1/rerank"), None),
        (EndsWith("/images/generations"), None),
        (EndsWith("/images/edits"), None),
        (EndsWith("/images/variations"), None),
        (EndsWith("/audio/speech"), None),
        (EndsWith("/audio/transcriptions"), None),
        (EndsWith("/audio/translations"), None),
        (EndsWith("/v1/videos"), None),
        (Contains("/chat/completions/"), None),
        (Contains("/v1/models/"), None),
    ],
    read_path: Some(read_path),
    operations: &[("/completions", "text_completion"), ("/embeddings", "embeddings")],
    stored: &[Contains("/chat/completions/")],
    answers: Some(&ANSWERS),
    errors: ERRORS,
    ..DialectSpec::MODEL
};

pub(super) static PROVIDER: ProviderSpec = ProviderSpec {
    name: "openai",
    summary: "OpenAI, or a server that speaks its API.",
    gen_ai_provider: Some(GEN_AI_PROVIDER),
    model_list: Some(MODELS),
    ..ProviderSpec::SERVER
};

/// How a server that speaks this API is asked for its models.
pub(super) const MODELS: ModelListRequest = ModelListRequest { target: "/v1/models", headers: &[] };

impl Dialect {
    /// `POST /v1/chat/completions`.
    pub const OPENAI_CHAT: Self = Self(&CHAT);
    /// The rest of the OpenAI API that names a model: completions, embeddings, models, ….
    pub const OPENAI_OTHER: Self = Self(&OTHER);
}

impl BackendKind {
    /// OpenAI, or a server that speaks its API.
    pub const OPENAI: Self = Self(&PROVIDER);
}

/// The form of a list of models, also for clients whose API has none.
pub(super) const MODEL_LIST: ModelListForm = ModelListForm { entry: model_entry, list: model_list };

fn model_entry(mut model: Map<String, Value>) -> Map<String, Value> {
    model.remove("type");
    model.insert("object".to_owned(), "model".into());
    if !model.get("created").is_some_and(Value::is_number) {
        let created = model.get("created_at").and_then(Value::as_str);
        let created = created.and_then(|at| at.parse::<Timestamp>().ok());
        model.insert("created".to_owned(), created.map_or(0, Timestamp::as_second).into());
    }
    model
}

fn model_list(entries: Vec<Value>) -> Value {
    json!({"object": "list", "data": entries})
}
