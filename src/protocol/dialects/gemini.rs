//! Gemini (`…/models/MODEL:generateContent`, also in Vertex AI's longer paths): the model stands in the
//! path. Streams are server-sent events with `?alt=sse` and one JSON array without.
//!
//! `usageMetadata` comes with every piece and counts all so far. `candidatesTokenCount` does not include
//! `thoughtsTokenCount`; both are kept as they are.

use std::borrow::Cow;
use std::sync::LazyLock;

use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::spec::{CallRules, Field, Rules, paths_in_elements};
use crate::protocol::facts::error_body::{ErrorBody, ErrorClass};
use crate::protocol::facts::model_request::ModelRequest;

const FIELDS: &[(&str, Field)] = &[
    ("modelVersion", Field::Model),
    ("usageMetadata.promptTokenCount", Field::Input),
    ("usageMetadata.candidatesTokenCount", Field::Output),
    ("usageMetadata.cachedContentTokenCount", Field::CacheRead),
    ("usageMetadata.thoughtsTokenCount", Field::Reasoning),
    ("candidates[].finishReason", Field::Stop),
    ("candidates[].content.parts[].text", Field::Text),
    ("candidates[].content.parts[].functionCall", Field::CallEnd),
    ("candidates[].content.parts[].functionCall.id", Field::CallId),
    ("candidates[].content.parts[].functionCall.name", Field::CallName),
    ("candidates[].content.parts[].functionCall.args", Field::CallArguments),
];

pub(super) static RULES: Rules = Rules {
    fields: FIELDS,
    last_kinds: &[],
    done_marker: false,
    calls: CallRules::BY_PATH,
    paths: LazyLock::new(|| paths_in_elements(FIELDS)),
};

/// What is asked of a model: the word behind the colon.
const VERBS: [&str; 10] = [
    "asyncBatchEmbedContent",
    "batchEmbedContents",
    "batchGenerateContent",
    "computeTokens",
    "countTokens",
    "embedContent",
    "generateContent",
    "predict",
    "predictLongRunning",
    "streamGenerateContent",
];

/// Whether a path asks something of a model.
pub(super) fn is_call(path: &str) -> bool {
    has_colon(path) && calls(&spelled_out(path)).next().is_some()
}

/// Notes the model that the path names. Any segment counts, not only the last: whoever takes the dots or
/// empty segments behind it out of the path must not find another model than we did.
pub(super) fn read_path(path: &str, call: &mut ModelRequest) {
    let path = spelled_out(path);
    for (model, verb) in calls(&path) {
        if verb.eq_ignore_ascii_case("streamGenerateContent") {
            call.stream = Some(true);
        }
        // Bodies repeat it as `models/MODEL`.
        let same = |known: &str| known.strip_prefix("models/").unwrap_or(known) == model;
        call.model_doubled |= call.model.as_deref().is_some_and(|known| !same(known));
        call.model = Some(model.to_owned());
    }
}

fn has_colon(path: &str) -> bool {
    path.bytes().any(|byte| matches!(byte, b':' | b'%'))
}

/// Models and what is asked of them: `MODEL:VERB` in a segment, with or without `;parameters`.
fn calls(path: &str) -> impl Iterator<Item = (&str, &str)> {
    path.split(['/', '\\']).filter_map(|segment| {
        let segment = segment.split(';').next()?;
        let (model, verb) = segment.rsplit_once(':')?;
        VERBS.iter().any(|known| known.eq_ignore_ascii_case(verb)).then_some((model, verb))
    })
}

/// The path with its percent-escapes resolved, as servers see it.
fn spelled_out(path: &str) -> Cow<'_, str> {
    percent_decode_str(path).decode_utf8_lossy()
}

/// An error as Google's APIs write it (google.aip.dev/193).
#[derive(Serialize)]
pub(super) struct Response<'a> {
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
}

/// The refusal in Google's shape.
pub(super) fn refusal<'a>(notice: &ErrorBody<'a>) -> Response<'a> {
    let metadata = Metadata { session_id: notice.session_id, request_id: notice.request_id };
    Response {
        error: Error {
            code: notice.status,
            message: notice.message,
            status: status_word(notice.kind),
            details: [Detail {
                kind: "type.googleapis.com/google.rpc.ErrorInfo",
                reason: notice.code,
                domain: "elida",
                metadata,
            }],
        },
    }
}

/// The name of the class in google.rpc.Code.
fn status_word(kind: ErrorClass) -> &'static str {
    match kind {
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
