//! Anthropic messages: `message_start` brings the first counts, each `message_delta` the sums so far (some of
//! them null or not at all); content blocks come one after another, each known by its index.
//! Fields as in the vendor's SDK (`anthropic.types`: `Usage`, `MessageDeltaUsage`, `RawMessageStreamEvent`).
//! The answer of `count_tokens` has its number elsewhere: nothing was used up for it.

use std::sync::LazyLock;

use super::spec::{CallRules, CallStep, Field, Rules, paths};

const FIELDS: &[(&str, Field)] = &[
    ("type", Field::Kind),
    ("message.model", Field::Model),
    ("message.usage.input_tokens", Field::Input),
    ("message.usage.output_tokens", Field::Output),
    ("message.usage.cache_read_input_tokens", Field::CacheRead),
    ("message.usage.cache_creation_input_tokens", Field::CacheWrite),
    ("message.usage.cache_creation.ephemeral_1h_input_tokens", Field::CacheWriteHour),
    // The whole answer, and `message_delta`.
    ("model", Field::Model),
    ("usage.input_tokens", Field::Input),
    ("usage.output_tokens", Field::Output),
    ("usage.cache_read_input_tokens", Field::CacheRead),
    ("usage.cache_creation_input_tokens", Field::CacheWrite),
    ("usage.cache_creation.ephemeral_1h_input_tokens", Field::CacheWriteHour),
    ("usage.output_tokens_details.thinking_tokens", Field::Reasoning),
    ("usage.server_tool_use.web_search_requests", Field::WebSearches),
    ("stop_reason", Field::Stop),
    ("delta.stop_reason", Field::Stop),
    // Content blocks: `tool_use`, `server_tool_use`, `mcp_tool_use`.
    ("index", Field::CallIndex),
    ("content_block.type", Field::CallKind),
    ("content_block.id", Field::CallId),
    ("content_block.name", Field::CallName),
    ("content_block.input", Field::CallArguments),
    ("delta.partial_json", Field::CallArguments),
    ("delta.text", Field::Text),
    // … and in the whole answer.
    ("content[]", Field::CallEnd),
    ("content[].type", Field::CallKind),
    ("content[].id", Field::CallId),
    ("content[].name", Field::CallName),
    ("content[].input", Field::CallArguments),
    ("content[].text", Field::Text),
];

pub(super) static RULES: Rules = Rules {
    fields: FIELDS,
    last_kinds: &["message_stop"],
    done_marker: false,
    calls: CallRules {
        suffix: "tool_use",
        steps: &[
            ("content_block_delta", CallStep::Append),
            ("content_block_start", CallStep::Begin),
            ("content_block_stop", CallStep::Close),
        ],
        text_kinds: &[],
    },
    paths: LazyLock::new(|| paths(FIELDS)),
};
