//! Vertex AI: models of other vendors below `…/publishers/VENDOR/models/NAME:rawPredict`, in the vendor's own API but for
//! the model, which is in the path (cloud.google.com/vertex-ai/generative-ai/docs/partner-models). Google's own models
//! speak Gemini's API there (`gemini.rs`).

use super::path_method::{calls, is_stream, spelled_out};
use crate::protocol::facts::model_request::ModelRequest;

/// The methods that pass a body on in the vendor's own API.
const RAW: [&str; 2] = ["rawPredict", "streamRawPredict"];
/// What is in the place of the model where tokens are counted: the body names the model.
const COUNT_TOKENS: &str = "count-tokens";

/// Whether a path calls a model of Anthropic.
pub(super) fn is_anthropic(path: &str) -> bool {
    raw_vendor(path).is_some_and(|vendor| vendor.eq_ignore_ascii_case("anthropic"))
}

/// Whether a path calls a model of Mistral.
pub(super) fn is_mistral(path: &str) -> bool {
    raw_vendor(path).is_some_and(|vendor| vendor.eq_ignore_ascii_case("mistralai"))
}

/// Whether a path calls a model of another vendor but Google: AI21 and Meta have the API of chat completions there.
pub(super) fn is_chat(path: &str) -> bool {
    let others = ["anthropic", "google", "mistralai"];
    raw_vendor(path).is_some_and(|vendor| !others.iter().any(|other| vendor.eq_ignore_ascii_case(other)))
}

/// Returns the vendor of the model that is called in its own API.
fn raw_vendor(path: &str) -> Option<String> {
    if !path.contains([':', '%']) {
        return None;
    }
    let path = spelled_out(path);
    let (_, method) = calls(&path).last()?;
    if !RAW.iter().any(|raw| raw.eq_ignore_ascii_case(method)) {
        return None;
    }
    let mut segments = path.split(['/', '\\']).filter(|segment| !segment.is_empty());
    segments.find(|segment| segment.eq_ignore_ascii_case("publishers"))?;
    segments.next().map(str::to_owned)
}

/// Takes the model that the path names; the body may repeat it without its version.
pub(super) fn read_path(path: &str, call: &mut ModelRequest) {
    if !path.contains([':', '%']) {
        return;
    }
    for (model, method) in calls(&spelled_out(path)) {
        if is_stream(method) {
            call.streams_by_path();
        }
        if model != COUNT_TOKENS {
            call.named_by_path(model);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = "/v1/projects/p/locations/us-east5/publishers";

    #[test]
    fn the_vendor_decides_on_the_api() {
        let path = |end: &str| format!("{PLACE}/{end}");
        for end in
            ["anthropic/models/claude-sonnet-4@20250514:rawPredict", "Anthropic/models/c:streamRawPredict/"]
        {
            assert!(is_anthropic(&path(end)) && !is_chat(&path(end)) && !is_mistral(&path(end)), "{end}");
        }
        let mistral = path("mistralai/models/mistral-small-2503:rawPredict");
        assert!(is_mistral(&mistral) && !is_chat(&mistral) && !is_anthropic(&mistral));
        assert!(is_chat(&path("ai21/models/jamba-1.5-large@001:rawPredict")));
        for end in [
            "google/models/gemini-3:generateContent",
            "google/models/g:rawPredict",
            "anthropic/models/c:countTokens",
        ] {
            assert!(!is_chat(&path(end)) && !is_anthropic(&path(end)) && !is_mistral(&path(end)), "{end}");
        }
        assert_eq!(raw_vendor("/v1/x:rawPredict"), None);
    }

    #[test]
    fn the_path_names_the_model() {
        let mut call = ModelRequest { model: Some("mistral-small".to_owned()), ..ModelRequest::default() };
        read_path(&format!("{PLACE}/mistralai/models/mistral-small@001:streamRawPredict"), &mut call);
        assert_eq!(
            (call.model.as_deref(), call.also.as_deref()),
            (Some("mistral-small@001"), Some("mistral-small"))
        );
        assert_eq!((call.stream, call.model_doubled), (Some(true), false));
        let mut count = ModelRequest { model: Some("claude-sonnet-4".to_owned()), ..ModelRequest::default() };
        read_path(&format!("{PLACE}/anthropic/models/count-tokens:rawPredict"), &mut count);
        assert_eq!((count.model.as_deref(), count.also), (Some("claude-sonnet-4"), None));
    }
}
