//! Anthropic messages: `message_start` brings the first counts, each `message_delta` the sums so far (some of
//! them null or not at all); content blocks come one after another, each known by its index.
//! Fields as in the vendor's SDK (`anthropic.types`: `Usage`, `MessageDeltaUsage`, `RawMessageStreamEvent`).
//!
//! Vertex AI (`…/publishers/anthropic/models/MODEL:rawPredict`, `:streamRawPredict`) and Amazon Bedrock
//! (`/model/MODEL/invoke`) have the same bodies and answers, but name the model in the path (`vertex.rs`, `bedrock.rs`).
//! The answer of `count_tokens` has its number elsewhere and is not counted: it used no tokens.

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::answer_rules::{AnswerRules, CallRules, CallStep, EndRules, Field, paths};
use super::error_body::{ErrorForm, StreamEnd, common};
use super::model_list::{ModelListForm, ModelListRequest};
use super::request_shape::{Part, RequestShape};
use super::spec::PathRule::{Contains, EndsWith, Matches};
use super::spec::{BackendKind, Dialect, DialectSpec, ProviderSpec};
use super::{bedrock, openai, vertex};
use crate::policy::rule::Place;
use crate::protocol::facts::model_request::ModelRequest;
use crate::protocol::facts::usage::ReportedCounts;

const FIELDS: &[(&str, Field)] = &[
    ("type", Field::Kind),
    ("error.type", Field::ErrorWord),
    ("message.model", Field::Model),
    ("message.usage.input_tokens", Field::Input),
    ("message.usage.output_tokens", Field::Output),
    ("message.usage.cache_read_input_tokens", Field::CacheRead),
    ("message.usage.cache_creation_input_tokens", Field::CacheWrite),
    ("message.usage.cache_creation.ephemeral_1h_input_tokens", Field::CacheWriteHour),
    ("message.usage.service_tier", Field::ServiceTier),
    ("message.usage.speed", Field::Speed),
    // The whole answer, and `message_delta`.
    ("model", Field::Model),
    ("usage.input_tokens", Field::Input),
    ("usage.output_tokens", Field::Output),
    ("usage.cache_read_input_tokens", Field::CacheRead),
    ("usage.cache_creation_input_tokens", Field::CacheWrite),
    ("usage.cache_creation.ephemeral_1h_input_tokens", Field::CacheWriteHour),
    ("usage.output_tokens_details.thinking_tokens", Field::Reasoning),
    ("usage.server_tool_use.web_search_requests", Field::WebSearches),
    ("usage.service_tier", Field::ServiceTier),
    ("usage.speed", Field::Speed),
    ("stop_reason", Field::Stop),
    ("delta.stop_reason", Field::Stop),
    // Content blocks: `tool_use`, `server_tool_use`, `mcp_tool_use`.
    ("index", Field::CallIndex),
    ("content_block.type", Field::CallKind),
    ("content_block.id", Field::CallId),
    ("content_block.name", Field::CallName),
    ("content_block.input", Field::CallArguments),
    ("delta.partial_json", Field::CallArguments),
    ("content_block.text", Field::Text),
    ("content_block.thinking", Field::Thought),
    ("delta.text", Field::Text),
    ("delta.thinking", Field::Thought),
    // What the provider's own tools return, and what is cited.
    ("content_block.content", Field::Result),
    ("content_block.citations", Field::Result),
    ("delta.citation", Field::Result),
    // A message may begin with blocks that are whole …
    ("message.content[]", Field::CallEnd),
    ("message.content[].type", Field::CallKind),
    ("message.content[].id", Field::CallId),
    ("message.content[].name", Field::CallName),
    ("message.content[].input", Field::CallArguments),
    ("message.content[].text", Field::Text),
    ("message.content[].thinking", Field::Thought),
    ("message.content[].content", Field::Result),
    ("message.content[].citations", Field::Result),
    // … and in the whole answer.
    ("content[]", Field::CallEnd),
    ("content[].type", Field::CallKind),
    ("content[].id", Field::CallId),
    ("content[].name", Field::CallName),
    ("content[].input", Field::CallArguments),
    ("content[].text", Field::Text),
    ("content[].thinking", Field::Thought),
    ("content[].content", Field::Result),
    ("content[].citations", Field::Result),
    // `/v1/complete`.
    ("completion", Field::Text),
];

static ANSWERS: AnswerRules = AnswerRules {
    fields: FIELDS,
    // Cached tokens are counted beside the input, thinking in the output.
    usage: ReportedCounts::with_cached_beside_input,
    ends: EndRules { last_kinds: &["message_stop"], error_kinds: &["error"], ..EndRules::BY_PATH },
    calls: CallRules {
        suffix: "tool_use",
        steps: &[
            ("content_block_delta", CallStep::Append),
            ("content_block_start", CallStep::Begin),
            ("content_block_stop", CallStep::Close),
        ],
        ..CallRules::BY_PATH
    },
    paths: LazyLock::new(|| paths(FIELDS)),
};

/// A header field that every request to the API has.
const VERSION: &str = "anthropic-version";

/// The well-known value of OpenTelemetry's conventions.
const GEN_AI_PROVIDER: &str = "anthropic";

/// `anthropic.types.MessageParam` and its content blocks.
static REQUEST: RequestShape = RequestShape {
    members: &[
        ("messages", Part::Turns),
        ("prompt", Part::Turns),
        ("system", Part::System),
        ("tools", Part::Tools),
        ("requests", Part::Envelope),
        ("params", Part::Envelope),
    ],
    types: &[
        ("tool_result", Place::ToolResult),
        ("tool_use", Place::ToolArgs),
        ("thinking", Place::Reasoning),
    ],
    content: &[],
    call_ids: &["id"],
    result_ids: &["tool_use_id"],
    tool_names: &["name"],
    failures: &["is_error"],
    ..openai::REQUEST
};

pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "anthropic",
    rules: &[
        // A bare `/messages` is not enough: chat servers and old MCP transports have it too.
        (EndsWith("/v1/messages"), None),
        (Contains("/v1/messages/"), None),
        (EndsWith("/v1/complete"), None),
        (EndsWith("/v1/models"), Some(VERSION)),
        (Contains("/v1/models/"), Some(VERSION)),
        // The clouds that serve it have the model in the path.
        (Matches(bedrock::is_anthropic), None),
        (Matches(vertex::is_anthropic), None),
    ],
    read_path: Some(read_path),
    request_shape: &REQUEST,
    // platform.claude.com/docs/en/api/creating-message-batches
    batch_models: &["requests[].params.model"],
    batches_name_models: true,
    operations: &[
        ("/v1/messages", "chat"),
        ("/v1/complete", "text_completion"),
        (":rawPredict", "chat"),
        (":streamRawPredict", "chat"),
        ("/invoke", "chat"),
        ("/invoke-with-response-stream", "chat"),
    ],
    // Batches; their results have no usage at the paths above. Counting tokens uses none.
    stored: &[Contains("/v1/messages/")],
    answers: Some(&ANSWERS),
    errors: ErrorForm {
        stream_ends: &[StreamEnd::named_event("event: error\ndata: ", common)],
        ..ErrorForm::COMMON
    },
    ping: Some(b"event: ping\ndata: {\"type\": \"ping\"}\n\n"),
    model_list: ModelListForm { entry: model_entry, list: model_list },
    gen_ai_provider: GEN_AI_PROVIDER,
    ..DialectSpec::MODEL
};

fn read_path(path: &str, call: &mut ModelRequest) {
    bedrock::read_path(path, call);
    vertex::read_path(path, call);
}

pub(super) static PROVIDER: ProviderSpec = ProviderSpec {
    name: "anthropic",
    summary: "Anthropic.",
    gen_ai_provider: Some(GEN_AI_PROVIDER),
    auth_header: "x-api-key",
    model_list: Some(ModelListRequest {
        target: "/v1/models?limit=1000",
        headers: &[(VERSION, "2023-06-01")],
    }),
    client_headers: &[VERSION, "anthropic-beta"],
    // `/v1/models` is in both APIs.
    reads: &[(&openai::OTHER, &SPEC)],
};

impl Dialect {
    /// `/v1/messages`, `/v1/messages/count_tokens` and `/v1/complete`.
    pub const ANTHROPIC: Self = Self(&SPEC);
}

impl BackendKind {
    /// Anthropic.
    pub const ANTHROPIC: Self = Self(&PROVIDER);
}

fn model_entry(mut model: Map<String, Value>) -> Map<String, Value> {
    model.remove("object");
    model.insert("type".to_owned(), "model".into());
    if !model.get("created_at").is_some_and(Value::is_string) {
        let created = model.get("created").and_then(Value::as_i64);
        let created = created.and_then(|at| Timestamp::from_second(at).ok());
        model.insert("created_at".to_owned(), created.unwrap_or(Timestamp::UNIX_EPOCH).to_string().into());
    }
    model
}

fn model_list(entries: Vec<Value>) -> Value {
    let id = |entry: Option<&Value>| entry.map(|entry| entry["id"].clone());
    json!({"first_id": id(entries.first()), "last_id": id(entries.last()), "has_more": false, "data": entries})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_cloud_call(path: &str) -> bool {
        bedrock::is_anthropic(path) || vertex::is_anthropic(path)
    }

    fn read(path: &str) -> ModelRequest {
        let mut call = ModelRequest::default();
        read_path(path, &mut call);
        call
    }

    #[test]
    fn a_cloud_names_the_model_in_the_path() {
        let vertex = "/v1/projects/p/locations/l/publishers/anthropic/models";
        let cases = [
            (format!("{vertex}/claude-sonnet-4-5@20250929:rawPredict"), "claude-sonnet-4-5@20250929", None),
            (format!("{vertex}/claude-opus-4-5:streamRawPredict"), "claude-opus-4-5", Some(true)),
            (format!("/vertex{vertex}/claude-opus-4-5%3AstreamRawPredict"), "claude-opus-4-5", Some(true)),
            ("/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke".into(), "us.anthropic.claude-haiku-4-5-20251001-v1:0", None),
            ("/model/anthropic.claude-v1:0/invoke-with-response-stream".into(), "anthropic.claude-v1:0", Some(true)),
            ("/model/arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Feu.anthropic.claude-x/invoke".into(), "eu.anthropic.claude-x", None),
        ];
        for (path, model, stream) in cases {
            let call = read(&path);
            assert!(is_cloud_call(&path), "{path}");
            assert_eq!(
                (call.model.as_deref(), call.stream, call.model_doubled),
                (Some(model), stream, false),
                "{path}"
            );
        }
        let count = format!("{vertex}/count-tokens:rawPredict");
        assert!(is_cloud_call(&count) && read(&count).model.is_none());
        for path in [
            "/v1/publishers/mistralai/models/m:rawPredict",
            "/model/amazon.nova/invoke",
            "/x/invoke",
            "/v1/x:rawPredict",
        ] {
            assert!(!is_cloud_call(path), "{path}");
        }
    }
}
