//! Token counts as the provider gave them, and the tables that say where each dialect writes them.

use std::ops::AddAssign;
use std::sync::{Arc, LazyLock};

use serde::Serialize;

use super::dialect::Dialect;
use super::json_scan::PathSet;
use super::{anthropic, gemini, json_rpc, mistral, ollama, openai, responses};

/// Tokens of one answer, the provider's own numbers. What `input_tokens` includes differs: OpenAI
/// counts cached tokens in, Anthropic does not.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read_tokens: u64,
    /// Prompt tokens written to the provider's cache.
    pub cache_write_tokens: u64,
    /// Answer tokens spent on reasoning, counted in `output_tokens`.
    pub reasoning_tokens: u64,
}

impl AddAssign for Usage {
    /// Adds without wrapping: the numbers come from a peer.
    fn add_assign(&mut self, other: Self) {
        for (mine, theirs) in [
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.output_tokens, other.output_tokens),
            (&mut self.cache_read_tokens, other.cache_read_tokens),
            (&mut self.cache_write_tokens, other.cache_write_tokens),
            (&mut self.reasoning_tokens, other.reasoning_tokens),
        ] {
            *mine = mine.saturating_add(theirs);
        }
    }
}

/// What the value at a path of an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Input,
    Output,
    CacheRead,
    CacheWrite,
    Reasoning,
    Model,
    /// The event's kind; some kinds are the last event.
    Kind,
    /// `true` on the last line.
    Done,
    /// The event that has it is the last one: the id of a JSON-RPC response.
    Reply,
    /// The event that has it is not, whatever else it has.
    NotLast,
}

/// How answers of one dialect are read. The same table serves whole answers and streams: where both
/// shapes exist their paths differ.
pub(super) struct Rules {
    /// The meaning of each path, in the order of `paths`.
    pub(super) fields: &'static [(&'static str, Field)],
    /// Event kinds after which nothing comes.
    pub(super) last_kinds: &'static [&'static str],
    /// Whether `data: [DONE]` ends a stream.
    pub(super) done_marker: bool,
    /// `fields` as the scanner wants it.
    pub(super) paths: LazyLock<Arc<PathSet>>,
}

impl Rules {
    /// The rules of a dialect; none where answers are not read.
    pub(super) fn of(dialect: Dialect) -> Option<&'static Self> {
        match dialect {
            Dialect::OpenAiChat | Dialect::OpenAiOther => Some(&openai::RULES),
            Dialect::OpenAiResponses => Some(&responses::RULES),
            Dialect::Anthropic => Some(&anthropic::RULES),
            Dialect::Mistral => Some(&mistral::RULES),
            Dialect::Ollama => Some(&ollama::RULES),
            Dialect::Gemini => Some(&gemini::RULES),
            Dialect::Mcp | Dialect::A2a => Some(&json_rpc::RULES),
            Dialect::Plain => None,
        }
    }
}

/// The scanner's form of a table of fields.
pub(super) fn paths(fields: &[(&'static str, Field)]) -> Arc<PathSet> {
    Arc::new(PathSet::new(fields.iter().map(|(path, _)| path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_adds_up_and_does_not_wrap() {
        let mut sum = Usage { input_tokens: 1, output_tokens: u64::MAX, ..Usage::default() };
        sum += Usage { input_tokens: 2, output_tokens: 5, reasoning_tokens: 3, ..Usage::default() };
        assert_eq!(
            sum,
            Usage { input_tokens: 3, output_tokens: u64::MAX, reasoning_tokens: 3, ..Usage::default() }
        );
    }
}
