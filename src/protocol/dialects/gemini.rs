//! Gemini (`…/models/MODEL:generateContent`, also in Vertex AI's longer paths): the model is in the
//! path. Streams are server-sent events with `?alt=sse` and one JSON array without.
//!
//! `usageMetadata` comes with every piece and counts all so far (ai.google.dev/api/generate-content#UsageMetadata).

use std::sync::LazyLock;

use serde::Serialize;

use super::answer_rules::{AnswerRules, CallRules, EndRules, Field, paths_in_elements};
use super::error_body::{ErrorForm, StreamEnd, json};
use super::model_list::ModelListRequest;
use super::openai;
use super::path_method::{is_call, read_path};
use super::request_shape::{Part, RequestShape};
use super::spec::PathRule::{Contains, EndsWith, Matches};
use super::spec::{BackendKind, Dialect, DialectSpec, ProviderSpec};
use crate::error::RefusalMetadata;
use crate::policy::rule::{Place, Role};
use crate::protocol::facts::error_body::{ErrorBody, ErrorClass};
use crate::protocol::facts::usage::{ReportedCounts, Usage};
use crate::protocol::wire::framing::Framing;

const FIELDS: &[(&str, Field)] = &[
    ("modelVersion", Field::Model),
    ("usageMetadata.promptTokenCount", Field::Input),
    ("usageMetadata.toolUsePromptTokenCount", Field::ToolInput),
    ("usageMetadata.candidatesTokenCount", Field::Output),
    ("usageMetadata.cachedContentTokenCount", Field::CacheRead),
    ("usageMetadata.thoughtsTokenCount", Field::Reasoning),
    ("usageMetadata.totalTokenCount", Field::Total),
    ("usageMetadata.trafficType", Field::ServiceTier),
    ("usageMetadata.serviceTier", Field::ServiceTier),
    ("candidates[].groundingMetadata.webSearchQueries[]", Field::SearchQuery),
    ("error.status", Field::ErrorWord),
    ("error.code", Field::ErrorWord),
    ("error.message", Field::Error),
    ("promptFeedback.blockReason", Field::Stop),
    ("candidates[].finishReason", Field::Stop),
    ("candidates[].content.parts[].text", Field::Text),
    // What the provider's own tools do and return.
    ("candidates[].content.parts[].executableCode.code", Field::Result),
    ("candidates[].content.parts[].codeExecutionResult.output", Field::Result),
    ("candidates[].content.parts[].functionResponse", Field::Result),
    ("candidates[].content.parts[].toolCall", Field::Result),
    ("candidates[].content.parts[].toolResponse", Field::Result),
    ("candidates[].groundingMetadata.groundingChunks", Field::Result),
    ("candidates[].content.parts[].functionCall", Field::CallEnd),
    ("candidates[].content.parts[].functionCall.id", Field::CallId),
    ("candidates[].content.parts[].functionCall.name", Field::CallName),
    ("candidates[].content.parts[].functionCall.args", Field::CallArguments),
    // As protobuf names them, which clients of Google read as well.
    ("candidates[].content.parts[].executable_code.code", Field::Result),
    ("candidates[].content.parts[].code_execution_result.output", Field::Result),
    ("candidates[].content.parts[].function_response", Field::Result),
    ("candidates[].content.parts[].tool_call", Field::Result),
    ("candidates[].content.parts[].tool_response", Field::Result),
    ("candidates[].grounding_metadata.grounding_chunks", Field::Result),
    ("candidates[].content.parts[].function_call", Field::CallEnd),
    ("candidates[].content.parts[].function_call.id", Field::CallId),
    ("candidates[].content.parts[].function_call.name", Field::CallName),
    ("candidates[].content.parts[].function_call.args", Field::CallArguments),
];

static ANSWERS: AnswerRules = AnswerRules {
    fields: FIELDS,
    usage,
    ends: EndRules { stop_suffices: true, ..EndRules::BY_PATH },
    calls: CallRules::BY_PATH,
    paths: LazyLock::new(|| paths_in_elements(FIELDS)),
};

/// Cached tokens are counted in the prompt, results of tools beside it. Thoughts are counted beside the candidates,
/// except by servers whose total shows that they are counted in them.
fn usage(counts: &ReportedCounts) -> Usage {
    let ReportedCounts { input, tool_input, output, reasoning, total, .. } = *counts;
    let is_in_output = total == input + output || total == input + tool_input + output;
    let thoughts = if is_in_output { 0 } else { reasoning };
    ReportedCounts { input: input + tool_input, output: output + thoughts, ..*counts }.with_cached_in_input()
}

/// ai.google.dev/api/caching#Content. Members are written in either way.
static REQUEST: RequestShape = RequestShape {
    members: &[
        ("contents", Part::Turns),
        ("content", Part::Turns),
        ("instances", Part::Turns),
        ("systemInstruction", Part::System),
        ("system_instruction", Part::System),
        ("tools", Part::Tools),
        ("requests", Part::Envelope),
        ("generateContentRequest", Part::Envelope),
    ],
    roles: &[
        ("user", Role::User),
        ("model", Role::Assistant),
        ("function", Role::Tool),
        ("system", Role::System),
    ],
    types: &[],
    content: &[
        ("functionCall", Place::ToolArgs),
        ("function_call", Place::ToolArgs),
        ("executableCode", Place::ToolArgs),
        ("executable_code", Place::ToolArgs),
        ("functionResponse", Place::ToolResult),
        ("function_response", Place::ToolResult),
        ("codeExecutionResult", Place::ToolResult),
        ("code_execution_result", Place::ToolResult),
    ],
    call_ids: &["id"],
    result_ids: &["id"],
    tool_names: &["name"],
    failures: &[],
};

pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "gemini",
    request_shape: &REQUEST,
    rules: &[
        (Matches(is_call), None),
        (EndsWith("/v1beta/models"), None),
        (Contains("/v1beta/models/"), None),
    ],
    operations: &[
        (":generateContent", "generate_content"),
        (":streamGenerateContent", "generate_content"),
        (":embedContent", "embeddings"),
        (":batchEmbedContents", "embeddings"),
    ],
    read_path: Some(read_path),
    // ai.google.dev/api/batch-mode (protobuf's JSON takes both spellings of a name) and ai.google.dev/api/embeddings
    batch_models: &[
        "batch.model",
        "batch.inputConfig.requests.requests[].request.model",
        "batch.input_config.requests.requests[].request.model",
        "requests[].request.model",
        "requests[].model",
    ],
    answers: Some(&ANSWERS),
    errors: ErrorForm {
        body,
        stream_ends: &[
            StreamEnd::event(body),
            // The last element of the streamed array. Inside another one nothing can be written.
            StreamEnd {
                framing: Framing::Json,
                terminator: "]",
                head: ",\n",
                data: body,
                only_at_boundary: true,
            },
        ],
        socket_event: None,
    },
    gen_ai_provider: GEN_AI_PROVIDER,
    ..DialectSpec::MODEL
};

pub(super) static PROVIDER: ProviderSpec = ProviderSpec {
    name: "gemini",
    summary: "Google's Gemini API.",
    gen_ai_provider: Some(GEN_AI_PROVIDER),
    auth_header: "x-goog-api-key",
    model_list: Some(ModelListRequest { target: "/v1beta/models?pageSize=1000", headers: &[] }),
    // `/v1/models` is in both APIs.
    reads: &[(&openai::OTHER, &SPEC)],
    ..ProviderSpec::SERVER
};

/// The well-known value of OpenTelemetry's conventions.
const GEN_AI_PROVIDER: &str = "gcp.gemini";

impl Dialect {
    /// Gemini's own API, `…/models/MODEL:generateContent` and its neighbours.
    pub const GEMINI: Self = Self(&SPEC);
}

impl BackendKind {
    /// Google's Gemini API.
    pub const GEMINI: Self = Self(&PROVIDER);
}

/// An error as Google's APIs write it (google.aip.dev/193).
#[derive(Serialize)]
struct Response<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: u16,
    message: &'a str,
    status: &'static str,
    details: [Detail<'a>; 1],
}

#[derive(Serialize)]
struct Detail<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    reason: &'a str,
    domain: &'static str,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    request_id: &'a str,
    #[serde(flatten)]
    limit: Option<&'a RefusalMetadata>,
}

fn body(error: &ErrorBody<'_>) -> Vec<u8> {
    let metadata =
        Metadata { session_id: error.session_id, request_id: error.request_id, limit: error.metadata };
    json(&Response {
        error: Error {
            code: error.status,
            message: error.message,
            status: status_word(error.kind),
            details: [Detail {
                kind: "type.googleapis.com/google.rpc.ErrorInfo",
                reason: error.code,
                domain: "elida",
                metadata,
            }],
        },
    })
}

/// The name of the class in google.rpc.Code.
fn status_word(kind: ErrorClass) -> &'static str {
    match kind {
        ErrorClass::Authentication => "UNAUTHENTICATED",
        ErrorClass::Permission => "PERMISSION_DENIED",
        ErrorClass::InvalidRequest | ErrorClass::HeaderMismatch | ErrorClass::TooLarge => "INVALID_ARGUMENT",
        ErrorClass::NotFound => "NOT_FOUND",
        ErrorClass::RateLimit => "RESOURCE_EXHAUSTED",
        ErrorClass::Overloaded => "UNAVAILABLE",
        ErrorClass::Timeout => "DEADLINE_EXCEEDED",
        ErrorClass::Api => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::facts::model_request::ModelRequest;

    fn read(path: &str, body: Option<&str>) -> ModelRequest {
        let mut call = ModelRequest::default();
        if let Some(model) = body {
            call.model = Some(model.to_owned());
        }
        read_path(path, &mut call);
        call
    }

    #[test]
    fn the_path_names_the_model() {
        let cases = [
            ("/v1beta/models/gemini-2.5-pro:generateContent", "gemini-2.5-pro"),
            ("/google/v1/models/gemini-2.5-pro:countTokens", "gemini-2.5-pro"),
            ("/v1/projects/p/locations/l/publishers/google/models/gemini-3:generateContent", "gemini-3"),
            ("/v1beta/models/gemini%2D3%3AgenerateContent", "gemini-3"),
            ("/v1beta/models/gemini-3:GenerateContent", "gemini-3"),
            ("/v1beta/models/gemini-3:generateContent;x=1", "gemini-3"),
            ("/v1beta/models/gemini-3:generateContent/", "gemini-3"),
            ("/v1beta/models//gemini-3:generateContent/x/..", "gemini-3"),
            ("/v1beta/tunedModels/mine:generateContent", "mine"),
        ];
        for (path, model) in cases {
            let call = read(path, None);
            assert!(is_call(path), "{path}");
            assert_eq!((call.model.as_deref(), call.model_doubled), (Some(model), false), "{path}");
        }
        for path in ["/v1/models/ft:gpt-4o:acme::1", "/v1beta/models/gemini-3", "/x%3", "/message:send"] {
            assert!(!is_call(path), "{path}");
        }
        assert_eq!(read("/v1beta/models/g:streamGenerateContent", None).stream, Some(true));
    }

    #[test]
    fn two_models_are_noticed() {
        let doubled = |path: &str, body| read(path, body).model_doubled;
        assert!(!doubled("/v1beta/models/a:embedContent", Some("models/a")));
        assert!(!doubled("/v1beta/models/a:embedContent", Some("a")));
        assert!(doubled("/v1beta/models/a:embedContent", Some("models/b")));
        assert!(doubled("/v1beta/models/a:generateContent/../b:generateContent", None));
    }

    proptest! {
        #[test]
        fn no_path_panics_and_what_is_a_call_names_a_model(path in "[/a%:;.3ApredictT\\\\é]{0,40}") {
            prop_assert_eq!(is_call(&path), read(&path, None).model.is_some());
        }
    }
}
