//! Mistral: the shape of OpenAI's chat completions; streams carry `usage` unasked, on the last chunk.

use std::sync::LazyLock;

use super::openai::FIELDS;
use super::usage::{Rules, paths};

pub(super) static RULES: Rules =
    Rules { fields: FIELDS, last_kinds: &[], done_marker: true, paths: LazyLock::new(|| paths(FIELDS)) };
