//! Ollama's own API: the counts stand on the line with `done: true`, or in the whole answer.

use std::sync::LazyLock;

use super::usage::{Field, Rules, paths};

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
    ("prompt_eval_count", Field::Input),
    ("eval_count", Field::Output),
];

pub(super) static RULES: Rules =
    Rules { fields: FIELDS, last_kinds: &[], done_marker: false, paths: LazyLock::new(|| paths(FIELDS)) };
