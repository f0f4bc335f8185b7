//! Ollama's own API: the counts stand on the line with `done: true`, or in the whole answer.

use std::sync::LazyLock;

use super::usage::{Field, Rules, paths};

const FIELDS: &[(&str, Field)] = &[
    ("model", Field::Model),
    ("done", Field::Done),
    ("prompt_eval_count", Field::Input),
    ("eval_count", Field::Output),
];

pub(super) static RULES: Rules =
    Rules { fields: FIELDS, last_kinds: &[], done_marker: false, paths: LazyLock::new(|| paths(FIELDS)) };
