//! Vertex AI: models of other vendors below `…/publishers/VENDOR/models/NAME:rawPredict`, in the vendor's own API but for
//! the model, which is in the path (cloud.google.com/vertex-ai/generative-ai/docs/partner-models). Google's own models
//! speak Gemini's API there (`gemini.rs`).

use super::path_method::{self, calls, spelled_out};
use crate::protocol::facts::model_request::ModelRequest;

/// The methods that pass a body on in the vendor's own API.
const RAW: [&str; 2] = ["rawPredict", "streamRawPredict"];

/// Whether a path calls a model of Anthropic.
pub(super) fn is_anthropic(path: &str) -> bool {
    raw_vendor(path).is_some_and(|vendor| vendor.eq_ignore_ascii_case("anthropic"))
}

/// Whether a path calls a model of another vendor: Mistral, AI21 and Meta have the API of chat completions there.
pub(super) fn is_chat(path: &str) -> bool {
    raw_vendor(path).is_some_and(|vendor| {
        !vendor.eq_ignore_ascii_case("anthropic") && !vendor.eq_ignore_ascii_case("google")
    })
}

/// Returns the vendor of the model that is called in its own API.
fn raw_vendor(path: &str) -> Option<String> {
    if !path.ends_with("redict") && !path.contains(['%', ';']) {
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
    if !path.contains([':', '%']) || calls(&spelled_out(path)).next().is_none() {
        return;
    }
    let body = call.model.take();
    path_method::read_path(path, call);
    call.also = body.map(Box::from);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = "/v1/projects/p/locations/us-east5/publishers";

    #[test]
    fn the_vendor_decides_on_the_api() {
        let path = |end: &str| format!("{PLACE}/{end}");
        for end in
            ["anthropic/models/claude-sonnet-4@20250514:rawPredict", "Anthropic/models/c:streamRawPredict"]
        {
            assert!(is_anthropic(&path(end)) && !is_chat(&path(end)), "{end}");
        }
        let mistral = path("mistralai/models/mistral-small-2503:rawPredict");
        assert!(is_chat(&mistral) && !is_anthropic(&mistral));
        for end in [
            "google/models/gemini-3:generateContent",
            "google/models/g:rawPredict",
            "anthropic/models/c:countTokens",
        ] {
            assert!(!is_chat(&path(end)) && !is_anthropic(&path(end)), "{end}");
        }
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
    }
}
