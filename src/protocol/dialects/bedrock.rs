//! Bedrock's runtime: `/model/NAME/converse` in an API of its own, `/model/NAME/invoke` in that of the model's vendor
//! (docs.aws.amazon.com/bedrock/latest/APIReference, "Amazon Bedrock Runtime"). NAME is a model's id or an ARN that ends
//! with one, percent-encoded. Streams are binary (`wire/event_stream.rs`): the kind of an event is in its head, and events
//! of `invoke` have the vendor's own ones inside. `/async-invoke` names the model in its body.

use std::sync::LazyLock;

use percent_encoding::percent_decode_str;

use super::answer_rules::{AnswerRules, CallRules, CallStep, EndRules, Field, paths};
use super::openai;
use super::request_shape::{Part, RequestShape};
use super::spec::DialectSpec;
use super::spec::PathRule::{EndsWith, Matches};
use crate::policy::rule::Place;
use crate::protocol::facts::model_request::{ModelPlace, ModelRequest};
use crate::protocol::facts::usage::ReportedCounts;

/// A method of a model.
struct Method {
    name: &'static str,
    /// The body is in the API of the model's vendor.
    is_raw: bool,
    /// The answer is a stream.
    streams: bool,
}

const METHODS: [Method; 6] = [
    Method { name: "invoke", is_raw: true, streams: false },
    Method { name: "invoke-with-response-stream", is_raw: true, streams: true },
    Method { name: "invoke-with-bidirectional-stream", is_raw: false, streams: true },
    Method { name: "converse", is_raw: false, streams: false },
    Method { name: "converse-stream", is_raw: false, streams: true },
    Method { name: "count-tokens", is_raw: false, streams: false },
];

/// Models that a path names, whether each is called in its vendor's own API, and whether the answer is a stream.
fn calls(path: &str) -> impl Iterator<Item = (String, bool, bool)> {
    let segments: Vec<_> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy())
        .collect();
    let found: Vec<_> = segments
        .windows(3)
        .filter(|window| window[0].eq_ignore_ascii_case("model"))
        .filter_map(|window| {
            let method = METHODS.iter().find(|method| window[2].eq_ignore_ascii_case(method.name))?;
            Some((id(&window[1]).to_owned(), method.is_raw, method.streams))
        })
        .collect();
    found.into_iter()
}

/// Returns the id of a model, which may be at the end of an ARN.
fn id(name: &str) -> &str {
    name.strip_prefix("arn:").and_then(|arn| arn.rsplit('/').next()).unwrap_or(name)
}

fn may_call(path: &str) -> bool {
    path.contains("/model/") || path.contains('%')
}

/// Whether a path calls a model.
fn is_call(path: &str) -> bool {
    may_call(path) && calls(path).next().is_some()
}

/// Whether a path calls a model of Anthropic in Anthropic's own API.
pub(super) fn is_anthropic(path: &str) -> bool {
    may_call(path)
        && calls(path).last().is_some_and(|(model, is_raw, _)| is_raw && model.contains("anthropic."))
}

/// Takes the model that the path names.
pub(super) fn read_path(path: &str, call: &mut ModelRequest) {
    if !may_call(path) {
        return;
    }
    for (model, _, streams) in calls(path) {
        call.named_by_path(&model);
        if streams {
            call.streams_by_path();
        }
    }
}

/// The body of `/async-invoke` names the model.
fn read_async(_: &str, call: &mut ModelRequest) {
    if let Some(model) = &mut call.model {
        *model = id(model).to_owned();
    }
    // Its member has another name than the one that is rewritten.
    call.model_place = ModelPlace::Fixed;
}

const FIELDS: &[(&str, Field)] = &[
    ("usage.inputTokens", Field::Input),
    ("usage.outputTokens", Field::Output),
    ("usage.cacheReadInputTokens", Field::CacheRead),
    ("usage.cacheWriteInputTokens", Field::CacheWrite),
    ("stopReason", Field::Stop),
    ("output.message.content[].text", Field::Text),
    ("output.message.content[].reasoningContent.reasoningText.text", Field::Thought),
    ("output.message.content[].toolUse", Field::CallEnd),
    ("output.message.content[].toolUse.toolUseId", Field::CallId),
    ("output.message.content[].toolUse.name", Field::CallName),
    ("output.message.content[].toolUse.input", Field::CallArguments),
    // What the provider's own tools return.
    ("output.message.content[].toolResult", Field::Result),
    ("output.message.content[].citationsContent", Field::Result),
    // Events of `converse-stream`.
    ("contentBlockIndex", Field::CallIndex),
    ("start.toolUse.toolUseId", Field::CallId),
    ("start.toolUse.name", Field::CallName),
    ("delta.toolUse.input", Field::CallArguments),
    ("delta.text", Field::Text),
    ("start.toolResult", Field::Result),
    ("delta.toolResult", Field::Result),
    ("delta.citation", Field::Result),
    ("delta.reasoningContent.text", Field::Thought),
    // What vendors say in their own words, and what is added to the last event of each.
    ("stop_reason", Field::Stop),
    ("completionReason", Field::Stop),
    ("messageStop.stopReason", Field::Stop),
    ("outputs[].stop_reason", Field::Stop),
    ("amazon-bedrock-invocationMetrics.inputTokenCount", Field::Input),
    ("amazon-bedrock-invocationMetrics.outputTokenCount", Field::Output),
    ("amazon-bedrock-invocationMetrics.cacheReadInputTokenCount", Field::CacheRead),
    ("amazon-bedrock-invocationMetrics.cacheWriteInputTokenCount", Field::CacheWrite),
    ("amazon-bedrock-invocationMetrics.invocationLatency", Field::Reply),
    // Events of `invoke-with-bidirectional-stream`.
    ("event.usageEvent.totalInputTokens", Field::Input),
    ("event.usageEvent.totalOutputTokens", Field::Output),
];

/// The well-known value of OpenTelemetry's conventions.
const GEN_AI_PROVIDER: &str = "aws.bedrock";

static ANSWERS: AnswerRules = AnswerRules {
    fields: FIELDS,
    // Cached tokens are counted beside the input (API reference, "TokenUsage").
    usage: ReportedCounts::with_cached_beside_input,
    ends: EndRules { last_kinds: &["metadata"], stop_suffices: true, ..EndRules::BY_PATH },
    calls: CallRules {
        steps: &[
            ("contentBlockDelta", CallStep::Append),
            ("contentBlockStart", CallStep::Begin),
            ("contentBlockStop", CallStep::Close),
        ],
        ..CallRules::BY_PATH
    },
    paths: LazyLock::new(|| paths(FIELDS)),
};

/// docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
static REQUEST: RequestShape = RequestShape {
    members: &[
        ("messages", Part::Turns),
        ("system", Part::System),
        ("tools", Part::Tools),
        ("toolConfig", Part::Envelope),
        ("modelInput", Part::Envelope),
        ("input", Part::Envelope),
        ("converse", Part::Envelope),
    ],
    types: &[],
    content: &[
        ("toolUse", Place::ToolArgs),
        ("toolResult", Place::ToolResult),
        ("reasoningContent", Place::Reasoning),
    ],
    call_ids: &["toolUseId"],
    result_ids: &["toolUseId"],
    failures: &["status"],
    ..openai::REQUEST
};

pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "bedrock",
    request_shape: &REQUEST,
    rules: &[(Matches(is_call), None)],
    operations: &[("/converse", "chat"), ("/converse-stream", "chat")],
    read_path: Some(read_path),
    // Both sides speak at once.
    uploads: &[EndsWith("/invoke-with-bidirectional-stream")],
    answers: Some(&ANSWERS),
    gen_ai_provider: GEN_AI_PROVIDER,
    ..DialectSpec::MODEL
};

/// Its answers tell where the result will be.
pub(super) static ASYNC: DialectSpec = DialectSpec {
    name: "bedrock_async",
    request_shape: &REQUEST,
    rules: &[(EndsWith("/async-invoke"), None)],
    read_path: Some(read_async),
    body_model: "modelId",
    gen_ai_provider: GEN_AI_PROVIDER,
    ..DialectSpec::MODEL
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_names_the_model() {
        let claude = "us.anthropic.claude-sonnet-4-20250514-v1:0";
        let profile =
            "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-sonnet-4-20250514-v1:0";
        for (path, model, is_own) in [
            (format!("/model/{claude}/invoke"), claude, true),
            (
                format!("/bedrock/model/{}/invoke-with-response-stream", claude.replace(':', "%3A")),
                claude,
                true,
            ),
            (format!("/model/{}/invoke", profile.replace('/', "%2F")), claude, true),
            (format!("/model/{claude}/converse"), claude, false),
            ("/model/amazon.nova-pro-v1:0/invoke".to_owned(), "amazon.nova-pro-v1:0", false),
            ("/model/anthropic.x/invoke-with-bidirectional-stream".to_owned(), "anthropic.x", false),
        ] {
            let mut call = ModelRequest::default();
            read_path(&path, &mut call);
            assert!(is_call(&path), "{path}");
            assert_eq!(call.model.as_deref(), Some(model), "{path}");
            assert_eq!(is_anthropic(&path), is_own, "{path}");
            assert_eq!(call.stream.is_some(), path.ends_with("stream"), "{path}");
        }
        for path in ["/model/x", "/model/x/delete", "/models/x/invoke", "/x/invoke"] {
            assert!(!is_call(path), "{path}");
        }
        let mut call = ModelRequest::default();
        read_path("/model/a/invoke/../../../model/b/invoke", &mut call);
        assert!(call.model_doubled);
    }
}
