//! Anthropic messages: `message_start` brings the first counts, each `message_delta` the sums so far.

use std::sync::LazyLock;

use super::usage::{Field, Rules, paths};

const FIELDS: &[(&str, Field)] = &[
    ("type", Field::Kind),
    ("message.model", Field::Model),
    ("message.usage.input_tokens", Field::Input),
    ("message.usage.output_tokens", Field::Output),
    ("message.usage.cache_read_input_tokens", Field::CacheRead),
    ("message.usage.cache_creation_input_tokens", Field::CacheWrite),
    // The whole answer, and `message_delta`.
    ("model", Field::Model),
    ("usage.input_tokens", Field::Input),
    ("usage.output_tokens", Field::Output),
    ("usage.cache_read_input_tokens", Field::CacheRead),
    ("usage.cache_creation_input_tokens", Field::CacheWrite),
];

pub(super) static RULES: Rules = Rules {
    fields: FIELDS,
    last_kinds: &["message_stop"],
    done_marker: false,
    paths: LazyLock::new(|| paths(FIELDS)),
};
