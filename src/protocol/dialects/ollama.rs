//! Ollama's own API: the counts are on the line with `done: true`, or in the whole answer; a tool call is
//! never divided between lines, and its arguments are an object.

use std::sync::LazyLock;

use serde::Serialize;

use super::answer_rules::{AnswerRules, CallRules, EndRules, Field, paths};
use super::error_body::{ErrorForm, StreamEnd, json};
use super::openai;
use super::request_shape::{Part, RequestShape};
use super::spec::PathRule::Matches;
use super::spec::{BackendKind, Dialect, DialectSpec, ProviderSpec};
use crate::error::RefusalMetadata;
use crate::protocol::facts::error_body::ErrorBody;
use crate::protocol::facts::usage::ReportedCounts;
use crate::protocol::wire::framing::Framing;

/// Its calls below `/api`; a bare `/api/…` belongs to many other programs.
const CALLS: [&str; 13] = [
    "chat",
    "copy",
    "create",
    "delete",
    "embed",
    "embeddings",
    "generate",
    "ps",
    "pull",
    "push",
    "show",
    "tags",
    "version",
];

/// Whether a path is one of its own API.
fn is_call(path: &str) -> bool {
    let call = path.rsplit_once('/').filter(|(before, _)| before.ends_with("/api")).map(|(_, call)| call);
    call.is_some_and(|call| CALLS.contains(&call)) || path.contains("/api/blobs/")
}

impl Dialect {
    /// Whether an answer at this path is streamed unless the request says otherwise: Ollama's own calls that make a model write.
    pub fn streams_by_default(self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self == Self::OLLAMA && ["/api/chat", "/api/generate"].iter().any(|end| path.ends_with(end))
    }
}

/// Whether a path takes the file of a model: `/api/blobs/sha256:DIGEST`, of any size.
fn is_blob(path: &str) -> bool {
    let name = path.rsplit_once("/api/blobs/").map_or("", |(_, name)| name);
    let digest = name.strip_prefix("sha256:").or_else(|| name.strip_prefix("sha256-")).unwrap_or_default();
    !digest.is_empty() && digest.bytes().all(|digit| digit.is_ascii_hexdigit())
}

const FIELDS: &[(&str, Field)] = &[
    ("model", Field::Model),
    ("error", Field::Error),
    ("done", Field::Done),
    ("done_reason", Field::Stop),
    ("prompt_eval_count", Field::Input),
    ("eval_count", Field::Output),
    ("message.content", Field::Text),
    ("message.thinking", Field::Thought),
    ("message.tool_calls[]", Field::CallEnd),
    ("message.tool_calls[].id", Field::CallId),
    ("message.tool_calls[].function.name", Field::CallName),
    ("message.tool_calls[].function.arguments", Field::CallArguments),
    // `/api/generate`.
    ("response", Field::Text),
    ("thinking", Field::Thought),
];

static ANSWERS: AnswerRules = AnswerRules {
    fields: FIELDS,
    usage: ReportedCounts::with_cached_in_input,
    ends: EndRules::BY_PATH,
    calls: CallRules::BY_PATH,
    paths: LazyLock::new(|| paths(FIELDS)),
};

/// docs.ollama.com/api
static REQUEST: RequestShape = RequestShape {
    members: &[
        ("messages", Part::Turns),
        ("prompt", Part::Turns),
        ("suffix", Part::Turns),
        ("input", Part::Turns),
        ("system", Part::System),
        ("template", Part::System),
        ("tools", Part::Tools),
    ],
    tool_names: &["name", "tool_name"],
    ..openai::REQUEST
};

pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "ollama",
    rules: &[(Matches(is_call), None)],
    uploads: &[Matches(is_blob)],
    operations: &[("/api/chat", "chat"), ("/api/generate", "text_completion"), ("/api/embed", "embeddings")],
    request_shape: &REQUEST,
    answers: Some(&ANSWERS),
    errors: ErrorForm {
        body,
        stream_ends: &[StreamEnd {
            framing: Framing::Ndjson,
            terminator: "\n",
            head: "",
            data: body,
            only_at_boundary: false,
        }],
        socket_event: None,
    },
    gen_ai_provider: GEN_AI_PROVIDER,
    ..DialectSpec::MODEL
};

pub(super) static PROVIDER: ProviderSpec = ProviderSpec {
    name: "ollama",
    summary: "Ollama: its own API, and the OpenAI one beside it.",
    gen_ai_provider: Some(GEN_AI_PROVIDER),
    model_list: Some(openai::MODELS),
    ..ProviderSpec::SERVER
};

/// The conventions of OpenTelemetry have no word for it.
const GEN_AI_PROVIDER: &str = "ollama";

impl Dialect {
    /// Ollama's own API, `/api/chat` and its neighbours.
    pub const OLLAMA: Self = Self(&SPEC);
}

impl BackendKind {
    /// Ollama: its own API, and the OpenAI one beside it.
    pub const OLLAMA: Self = Self(&PROVIDER);
}

/// An error as the API writes it: `error` is a text; the rest is ELIDA's.
#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    r#type: &'static str,
    code: &'a str,
    session_id: Option<&'a str>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RefusalMetadata>,
}

fn body(error: &ErrorBody<'_>) -> Vec<u8> {
    json(&Body {
        error: error.message,
        r#type: error.kind.word(),
        code: error.code,
        session_id: error.session_id,
        request_id: error.request_id,
        metadata: error.metadata,
    })
}
