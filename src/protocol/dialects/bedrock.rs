//! Bedrock's runtime: `/model/NAME/converse` in an API of its own, `/model/NAME/invoke` in that of the model's vendor
//! (docs.aws.amazon.com/bedrock/latest/APIReference, "Amazon Bedrock Runtime"). NAME is a model's id or an ARN that ends
//! with one, percent-encoded. Streams are binary (`application/vnd.amazon.eventstream`) and not read.

use std::sync::LazyLock;

use percent_encoding::percent_decode_str;

use super::answer_rules::{AnswerRules, CallRules, EndRules, Field, paths};
use super::spec::DialectSpec;
use super::spec::PathRule::Matches;
use crate::protocol::facts::model_request::ModelRequest;
use crate::protocol::facts::usage::ReportedCounts;

/// What is asked of a model, and whether the answer is a stream.
const METHODS: [(&str, bool); 5] = [
    ("invoke", false),
    ("invoke-with-response-stream", true),
    ("converse", false),
    ("converse-stream", true),
    ("count-tokens", false),
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
            let (method, streams) =
                METHODS.iter().find(|(method, _)| window[2].eq_ignore_ascii_case(method))?;
            let model = window[1].strip_prefix("arn:").and_then(|arn| arn.rsplit('/').next());
            Some((model.unwrap_or(&window[1]).to_owned(), method.starts_with("invoke"), *streams))
        })
        .collect();
    found.into_iter()
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
        call.stream = call.stream.or(streams.then_some(true));
    }
}

const FIELDS: &[(&str, Field)] = &[
    ("usage.inputTokens", Field::Input),
    ("usage.outputTokens", Field::Output),
    ("usage.cacheReadInputTokens", Field::CacheRead),
    ("usage.cacheWriteInputTokens", Field::CacheWrite),
    ("stopReason", Field::Stop),
    ("output.message.content[].text", Field::Text),
    ("output.message.content[].toolUse", Field::CallEnd),
    ("output.message.content[].toolUse.toolUseId", Field::CallId),
    ("output.message.content[].toolUse.name", Field::CallName),
    ("output.message.content[].toolUse.input", Field::CallArguments),
];

static ANSWERS: AnswerRules = AnswerRules {
    fields: FIELDS,
    // Cached tokens are counted beside the input (API reference, "TokenUsage").
    usage: ReportedCounts::with_cached_beside_input,
    ends: EndRules::BY_PATH,
    calls: CallRules::BY_PATH,
    paths: LazyLock::new(|| paths(FIELDS)),
};

pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "bedrock",
    rules: &[(Matches(is_call), None)],
    operations: &[("/converse", "chat"), ("/converse-stream", "chat")],
    read_path: Some(read_path),
    answers: Some(&ANSWERS),
    gen_ai_provider: "aws.bedrock",
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
