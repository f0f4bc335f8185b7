//! OpenAI Realtime: each answer ends with `response.done`, which counts its tokens; the model stands in the
//! session object. The words differ a little from those of the responses API (`input_token_details`).

use std::sync::LazyLock;

use super::spec::{CallRules, Field, Rules, paths};

const FIELDS: &[(&str, Field)] = &[
    ("type", Field::Kind),
    ("session.model", Field::Model),
    ("response.usage.input_tokens", Field::Input),
    ("response.usage.output_tokens", Field::Output),
    ("response.usage.input_token_details.cached_tokens", Field::CacheRead),
    ("response.status", Field::Status),
    ("response.status_details.reason", Field::StopDetail),
    ("response.output[]", Field::CallEnd),
    ("response.output[].type", Field::CallKind),
    ("response.output[].call_id", Field::CallId),
    ("response.output[].name", Field::CallName),
    ("response.output[].arguments", Field::CallArguments),
    // Of a transcription.
    ("usage.input_tokens", Field::Input),
    ("usage.output_tokens", Field::Output),
];

pub(super) static RULES: Rules = Rules {
    fields: FIELDS,
    last_kinds: &["response.done", "conversation.item.input_audio_transcription.completed"],
    done_marker: false,
    calls: CallRules { suffix: "_call", steps: &[], text_kinds: &[] },
    paths: LazyLock::new(|| paths(FIELDS)),
};
