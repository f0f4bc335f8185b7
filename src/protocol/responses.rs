//! OpenAI responses: usage stands in the response object, which the last event carries whole.

use std::sync::LazyLock;

use super::usage::{Field, Rules, paths};

const FIELDS: &[(&str, Field)] = &[
    ("type", Field::Kind),
    ("response.model", Field::Model),
    ("response.usage.input_tokens", Field::Input),
    ("response.usage.output_tokens", Field::Output),
    ("response.usage.input_tokens_details.cached_tokens", Field::CacheRead),
    ("response.usage.output_tokens_details.reasoning_tokens", Field::Reasoning),
    ("model", Field::Model),
    ("usage.input_tokens", Field::Input),
    ("usage.output_tokens", Field::Output),
    ("usage.input_tokens_details.cached_tokens", Field::CacheRead),
    ("usage.output_tokens_details.reasoning_tokens", Field::Reasoning),
];

/// The API itself sends no `[DONE]`, but servers that imitate it do.
pub(super) static RULES: Rules = Rules {
    fields: FIELDS,
    last_kinds: &["response.completed", "response.failed", "response.incomplete"],
    done_marker: true,
    paths: LazyLock::new(|| paths(FIELDS)),
};
