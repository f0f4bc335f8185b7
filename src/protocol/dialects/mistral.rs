//! Mistral: the shape of OpenAI's chat completions; streams carry `usage` unasked, on the last chunk, and
//! tool calls mostly in one piece.

use std::sync::LazyLock;

use super::openai::FIELDS;
use super::spec::{CallRules, Rules, paths};

pub(super) static RULES: Rules = Rules {
    fields: FIELDS,
    last_kinds: &[],
    done_marker: true,
    calls: CallRules::BY_PATH,
    paths: LazyLock::new(|| paths(FIELDS)),
};
