//! Mistral: the shapes of OpenAI's chat completions; streams carry `usage` unasked, on the last chunk, and
//! tool calls mostly in one piece. Its own paths are OpenAI's, so it is detected by the type of the backend; by path in
//! Vertex AI (`…/publishers/mistralai/models/MODEL:rawPredict`), which has the same bodies, and in its batches.

use super::request_shape::{Part, RequestShape};
use super::spec::PathRule::{EndsWith, Matches};
use super::spec::{BackendKind, Dialect, DialectSpec, ProviderSpec};
use super::{openai, vertex};

/// That of chat, also in a batch.
static REQUEST: RequestShape = RequestShape {
    members: &[
        ("messages", Part::Turns),
        ("prompt", Part::Turns),
        ("suffix", Part::Turns),
        ("inputs", Part::Turns),
        ("input", Part::Turns),
        ("instructions", Part::System),
        ("tools", Part::Tools),
        ("requests", Part::Envelope),
        ("body", Part::Envelope),
    ],
    ..openai::REQUEST
};

pub(super) static SPEC: DialectSpec = DialectSpec {
    name: "mistral",
    rules: &[(Matches(vertex::is_mistral), None), (EndsWith(BATCHES), None)],
    read_path: Some(vertex::read_path),
    // docs.mistral.ai/api/endpoint/batch: for all requests, or in each of them.
    batch_models: &["requests[].body.model"],
    stored: &[EndsWith(BATCHES)],
    request_shape: &REQUEST,
    answers: Some(&openai::ANSWERS),
    errors: openai::ERRORS,
    gen_ai_provider: GEN_AI_PROVIDER,
    ..DialectSpec::MODEL
};

/// Where a batch is made; its answers are written later.
const BATCHES: &str = "/v1/batch/jobs";

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
