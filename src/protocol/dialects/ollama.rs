//! Ollama's own API: the counts stand on the line with `done: true`, or in the whole answer; a tool call is
//! never divided between lines, and its arguments are an object.

use std::sync::LazyLock;

use super::spec::{CallRules, Field, Rules, paths};

/// Its calls below `/api`; a bare `/api/…` belongs to many other programs.
const CALLS: [&str; 13] = [
    "chat",
    "copy",
    "create",
    "delete",
    "embed",
    "embeddings",
    "generate",
    "ps",
    "pull",
    "push",
    "show",
    "tags",
    "version",
];

/// Whether a path is one of its own API.
pub(super) fn is_call(path: &str) -> bool {
    let call = path.rsplit_once('/').filter(|(before, _)| before.ends_with("/api")).map(|(_, call)| call);
    call.is_some_and(|call| CALLS.contains(&call)) || path.contains("/api/blobs/")
}

const FIELDS: &[(&str, Field)] = &[
    ("model", Field::Model),
    ("done", Field::Done),
    ("done_reason", Field::Stop),
    ("prompt_eval_count", Field::Input),
    ("eval_count", Field::Output),
    ("message.content", Field::Text),
    ("message.tool_calls[]", Field::CallEnd),
    ("message.tool_calls[].id", Field::CallId),
    ("message.tool_calls[].function.name", Field::CallName),
    ("message.tool_calls[].function.arguments", Field::CallArguments),
    // `/api/generate`.
    ("response", Field::Text),
];

pub(super) static RULES: Rules = Rules {
    fields: FIELDS,
    last_kinds: &[],
    done_marker: false,
    calls: CallRules::BY_PATH,
    paths: LazyLock::new(|| paths(FIELDS)),
};
