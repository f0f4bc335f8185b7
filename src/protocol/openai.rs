//! OpenAI chat completions, completions and embeddings: where an answer writes its usage.
//!
//! Streams carry `usage` only when asked (`stream_options.include_usage`), on the last chunk before
//! `[DONE]`; other chunks have it null or not at all. Some servers repeat it, so the last one counts.

use std::sync::LazyLock;

use super::usage::{Field, Rules, paths};

/// Shared with Mistral, whose answers have the same shape.
pub(super) const FIELDS: &[(&str, Field)] = &[
    ("model", Field::Model),
    ("usage.prompt_tokens", Field::Input),
    ("usage.completion_tokens", Field::Output),
    ("usage.prompt_tokens_details.cached_tokens", Field::CacheRead),
    ("usage.completion_tokens_details.reasoning_tokens", Field::Reasoning),
    // Images and speech count in the words of the responses API.
    ("usage.input_tokens", Field::Input),
    ("usage.output_tokens", Field::Output),
];

pub(super) static RULES: Rules =
    Rules { fields: FIELDS, last_kinds: &[], done_marker: true, paths: LazyLock::new(|| paths(FIELDS)) };
