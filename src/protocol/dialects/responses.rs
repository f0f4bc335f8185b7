//! OpenAI responses: usage stands in the response object, which the last event carries whole; tool calls are
//! items of its output, streamed by their index.
//! Fields as in the vendor's SDK (`openai.types.responses`: `ResponseUsage`, `ResponseStreamEvent`).

use std::sync::LazyLock;

use super::spec::{CallRules, CallStep, Field, Rules, paths};

const FIELDS: &[(&str, Field)] = &[
    ("type", Field::Kind),
    ("response.model", Field::Model),
    ("response.usage.input_tokens", Field::Input),
    ("response.usage.output_tokens", Field::Output),
    ("response.usage.input_tokens_details.cached_tokens", Field::CacheRead),
    ("response.usage.input_tokens_details.cache_write_tokens", Field::CacheWrite),
    ("response.usage.output_tokens_details.reasoning_tokens", Field::Reasoning),
    ("response.status", Field::Status),
    ("response.incomplete_details.reason", Field::StopDetail),
    ("model", Field::Model),
    ("usage.input_tokens", Field::Input),
    ("usage.output_tokens", Field::Output),
    ("usage.input_tokens_details.cached_tokens", Field::CacheRead),
    ("usage.input_tokens_details.cache_write_tokens", Field::CacheWrite),
    ("usage.output_tokens_details.reasoning_tokens", Field::Reasoning),
    ("status", Field::Status),
    ("incomplete_details.reason", Field::StopDetail),
    // Streams: an item is added, its arguments come in deltas and once more whole, it is done.
    ("output_index", Field::CallIndex),
    ("delta", Field::Delta),
    ("arguments", Field::CallArguments),
    ("input", Field::CallArguments),
    ("item.type", Field::CallKind),
    ("item.call_id", Field::CallId),
    ("item.name", Field::CallName),
    ("item.arguments", Field::CallArguments),
    ("item.input", Field::CallArguments),
    ("item.action", Field::CallArguments),
    // Servers that imitate the API may send the response only.
    ("response.output[]", Field::CallAgainEnd),
    ("response.output[].type", Field::CallKind),
    ("response.output[].call_id", Field::CallId),
    ("response.output[].name", Field::CallName),
    ("response.output[].arguments", Field::CallArguments),
    ("response.output[].input", Field::CallArguments),
    ("response.output[].action", Field::CallArguments),
    // The whole answer.
    ("output[]", Field::CallEnd),
    ("output[].type", Field::CallKind),
    ("output[].call_id", Field::CallId),
    ("output[].name", Field::CallName),
    ("output[].arguments", Field::CallArguments),
    ("output[].input", Field::CallArguments),
    ("output[].action", Field::CallArguments),
    ("output[].content[].text", Field::Text),
    ("output[].content[].refusal", Field::Text),
];

/// The API itself sends no `[DONE]`, but servers that imitate it do.
pub(super) static RULES: Rules = Rules {
    fields: FIELDS,
    last_kinds: &["response.completed", "response.failed", "response.incomplete"],
    done_marker: true,
    calls: CallRules {
        suffix: "_call",
        steps: &[
            ("response.output_item.added", CallStep::Begin),
            ("response.output_item.done", CallStep::Whole),
            ("response.function_call_arguments.delta", CallStep::Append),
            ("response.function_call_arguments.done", CallStep::SetAndClose),
            ("response.custom_tool_call_input.delta", CallStep::Append),
            ("response.custom_tool_call_input.done", CallStep::SetAndClose),
            ("response.mcp_call_arguments.delta", CallStep::Append),
            ("response.mcp_call_arguments.done", CallStep::SetAndClose),
        ],
        text_kinds: &["response.output_text.delta", "response.refusal.delta"],
    },
    paths: LazyLock::new(|| paths(FIELDS)),
};
