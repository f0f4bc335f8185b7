//! OpenAI chat completions, completions and embeddings: where an answer writes its usage and its calls.
//!
//! Streams carry `usage` only when asked (`stream_options.include_usage`), on the last chunk before
//! `[DONE]`; other chunks have it null or not at all. Some servers repeat it, so the last one counts.
//! Fields as in the vendor's SDK (`openai.types`: `CompletionUsage`, `ChatCompletionChunk`).

use std::sync::LazyLock;

use super::spec::{CallRules, Field, Rules, paths};

/// Shared with Mistral, whose answers have the same shape.
pub(super) const FIELDS: &[(&str, Field)] = &[
    ("model", Field::Model),
    ("usage.prompt_tokens", Field::Input),
    ("usage.completion_tokens", Field::Output),
    ("usage.prompt_tokens_details.cached_tokens", Field::CacheRead),
    ("usage.prompt_tokens_details.cache_write_tokens", Field::CacheWrite),
    ("usage.completion_tokens_details.reasoning_tokens", Field::Reasoning),
    // Mistral.
    ("usage.num_cached_tokens", Field::CacheRead),
    // Images and speech count in the words of the responses API.
    ("usage.input_tokens", Field::Input),
    ("usage.output_tokens", Field::Output),
    ("choices[]", Field::ChoiceEnd),
    ("choices[].index", Field::ChoiceIndex),
    ("choices[].finish_reason", Field::ChoiceStop),
    // Streams: pieces of calls by their index, and the older form of one call without.
    ("choices[].delta.tool_calls[]", Field::CallPieceEnd),
    ("choices[].delta.tool_calls[].index", Field::CallIndex),
    ("choices[].delta.tool_calls[].id", Field::CallId),
    ("choices[].delta.tool_calls[].function.name", Field::CallName),
    ("choices[].delta.tool_calls[].function.arguments", Field::CallArguments),
    ("choices[].delta.tool_calls[].custom.name", Field::CallName),
    ("choices[].delta.tool_calls[].custom.input", Field::CallArguments),
    ("choices[].delta.function_call", Field::CallPieceEnd),
    ("choices[].delta.function_call.name", Field::CallName),
    ("choices[].delta.function_call.arguments", Field::CallArguments),
    ("choices[].delta.content", Field::Text),
    // Mistral's reasoning models write an array.
    ("choices[].delta.content[].text", Field::Text),
    ("choices[].delta.refusal", Field::Text),
    // The whole answer.
    ("choices[].message.tool_calls[]", Field::CallEnd),
    ("choices[].message.tool_calls[].id", Field::CallId),
    ("choices[].message.tool_calls[].function.name", Field::CallName),
    ("choices[].message.tool_calls[].function.arguments", Field::CallArguments),
    ("choices[].message.tool_calls[].custom.name", Field::CallName),
    ("choices[].message.tool_calls[].custom.input", Field::CallArguments),
    ("choices[].message.function_call", Field::CallEnd),
    ("choices[].message.function_call.name", Field::CallName),
    ("choices[].message.function_call.arguments", Field::CallArguments),
    ("choices[].message.content", Field::Text),
    ("choices[].message.content[].text", Field::Text),
    ("choices[].message.refusal", Field::Text),
    // Completions, whole and streamed.
    ("choices[].text", Field::Text),
];

pub(super) static RULES: Rules = Rules {
    fields: FIELDS,
    last_kinds: &[],
    done_marker: true,
    calls: CallRules::BY_PATH,
    paths: LazyLock::new(|| paths(FIELDS)),
};
