//! Mistral: the shapes of OpenAI's chat completions; streams carry `usage` unasked, on the last chunk, and
//! tool calls mostly in one piece. Its own paths are OpenAI's, so it is detected by the type of the backend; by path in
//! Vertex AI (`…/publishers/mistralai/models/MODEL:rawPredict`), which has the same bodies.

use super::anthropic::RAW_VERBS;
use super::gemini::{calls, has_colon, spelled_out};
use super::openai;
use super::spec::PathRule::Matches;
use super::spec::{BackendKind, Dialect, DialectSpec, ProviderSpec};
use crate::protocol::facts::model_request::ModelRequest;

/// Whether a path calls a model of this vendor in Vertex AI.
fn is_vertex_call(path: &str) -> bool {
    has_colon(path) && {
        let path = spelled_out(path);
        path.to_ascii_lowercase().contains("/publishers/mistralai/")
            && calls(&path, &RAW_VERBS).next().is_some()
    }
}

fn read_path(path: &str, call: &mut ModelRequest) {
    if is_vertex_call(path) {
        for (model, _) in calls(&spelled_out(path), &RAW_VERBS) {
            // The body repeats it without the version.
            let is_same = |known: &str| model.split('@').next() == Some(known) || model == known;
            call.model_doubled |= call.model.as_deref().is_some_and(|known| !is_same(known));
            call.model = Some(model.to_owned());
        }
    }
}

pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "mistral",
    rules: &[(Matches(is_vertex_call), None)],
    read_path: Some(read_path),
    answers: Some(&openai::ANSWERS),
    errors: openai::ERRORS,
    gen_ai_provider: GEN_AI_PROVIDER,
    ..DialectSpec::MODEL
};

pub(super) static PROVIDER: ProviderSpec = ProviderSpec {
    name: "mistral",
    summary: "Mistral: the OpenAI API with a few paths of its own.",
    gen_ai_provider: Some(GEN_AI_PROVIDER),
    model_list: Some(openai::MODELS),
    reads: &[(&openai::CHAT, &SPEC), (&openai::OTHER, &SPEC)],
    ..ProviderSpec::SERVER
};

/// The well-known value of OpenTelemetry's conventions.
const GEN_AI_PROVIDER: &str = "mistral_ai";

impl Dialect {
    /// The OpenAI API at a Mistral backend.
    pub const MISTRAL: Self = Self(&SPEC);
}

impl BackendKind {
    /// Mistral: the OpenAI API with a few paths of its own.
    pub const MISTRAL: Self = Self(&PROVIDER);
}
