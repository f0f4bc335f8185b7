//! Token counts as the provider gave them, and the tables that say where each dialect writes them.

use std::ops::AddAssign;
use std::sync::{Arc, LazyLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::calls::Step;
use super::dialect::Dialect;
use super::json_scan::{PathSet, Want};
use super::{anthropic, gemini, json_rpc, mistral, ollama, openai, realtime, responses};

/// Tokens of one answer, the provider's own numbers, and what they cost. What `input_tokens` includes differs: OpenAI
/// counts cached tokens in, Anthropic does not.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read_tokens: u64,
    /// Prompt tokens written to the provider's cache.
    pub cache_write_tokens: u64,
    /// Those of them that are kept for an hour, which costs more.
    pub cache_write_1h_tokens: u64,
    /// Answer tokens spent on reasoning, counted in `output_tokens`.
    pub reasoning_tokens: u64,
    /// Searches that the provider made for the model; they are charged beside the tokens.
    pub web_search_requests: u64,
    /// What the tokens cost by the configured prices; 0 where there is none.
    #[serde(rename = "cost_usd", default)]
    #[schemars(with = "f64")]
    pub cost: Cost,
}

/// The tokens of an answer as they are paid, each once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Billed {
    /// Read by the model, from no cache.
    pub input: u64,
    /// Written by the model, reasoning too.
    pub output: u64,
    /// Read from the provider's cache.
    pub cache_read: u64,
    /// Written to it for minutes.
    pub cache_write: u64,
    /// Written to it for an hour.
    pub cache_write_1h: u64,
}

impl Usage {
    /// The same numbers, each token in one place. Anthropic counts cached tokens beside the input, all others
    /// in it; Google counts thoughts beside the answer, all others in it.
    pub fn billed(&self, dialect: Dialect) -> Billed {
        let cached = if dialect == Dialect::Anthropic { 0 } else { self.cache_read_tokens };
        let thoughts = if dialect == Dialect::Gemini { self.reasoning_tokens } else { 0 };
        Billed {
            input: self.input_tokens.saturating_sub(cached),
            output: self.output_tokens.saturating_add(thoughts),
            cache_read: self.cache_read_tokens,
            cache_write: self.cache_write_tokens.saturating_sub(self.cache_write_1h_tokens),
            cache_write_1h: self.cache_write_1h_tokens,
        }
    }
}

impl AddAssign for Usage {
    /// Adds without wrapping: the numbers come from a peer.
    fn add_assign(&mut self, other: Self) {
        for (mine, theirs) in [
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.output_tokens, other.output_tokens),
            (&mut self.cache_read_tokens, other.cache_read_tokens),
            (&mut self.cache_write_tokens, other.cache_write_tokens),
            (&mut self.cache_write_1h_tokens, other.cache_write_1h_tokens),
            (&mut self.reasoning_tokens, other.reasoning_tokens),
            (&mut self.web_search_requests, other.web_search_requests),
        ] {
            *mine = mine.saturating_add(theirs);
        }
        self.cost += other.cost;
    }
}

/// An amount of money, in picodollars (10^-12 US dollars): sums are exact. Shown in dollars.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost(pub u64);

impl Cost {
    /// In US dollars.
    pub fn as_usd(self) -> f64 {
        self.0 as f64 / 1e12
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

impl Serialize for Cost {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_usd())
    }
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A float becomes the nearest integer in range; a negative one none.
        f64::deserialize(deserializer).map(|usd| Self((usd * 1e12).round() as u64))
    }
}

/// What the value at a path of an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Input,
    Output,
    CacheRead,
    CacheWrite,
    /// The part of the cache writes that is kept for an hour.
    CacheWriteHour,
    Reasoning,
    /// Searches that the provider made for the model.
    WebSearches,
    Model,
    /// The event's kind; some kinds are the last event.
    Kind,
    /// `true` on the last line.
    Done,
    /// The event that has it is the last one: the id of a JSON-RPC response.
    Reply,
    /// The event that has it is not, whatever else it has.
    NotLast,
    /// Why the model stopped.
    Stop,
    /// How the answer stands; when it is over, why it stopped, unless [`Field::StopDetail`] says more.
    Status,
    StopDetail,
    /// Text the user will see.
    Text,
    /// More of whatever the event's kind says: text, or arguments of a call.
    Delta,
    /// Of a tool call: which one of the answer, its kind, id, name and arguments.
    CallIndex,
    CallKind,
    CallId,
    CallName,
    CallArguments,
    /// The end of an object that is one whole call.
    CallEnd,
    /// The same in the summary at a stream's end, where calls stand once more.
    CallAgainEnd,
    /// The end of an object that is a piece of a call.
    CallPieceEnd,
    /// Which of several answers to the same request, why it stopped, and the end of its object.
    ChoiceIndex,
    ChoiceStop,
    ChoiceEnd,
}

impl Field {
    /// What the scanner is to report; what only a listener needs, only with one.
    fn want(self, listening: bool) -> Option<Want> {
        match self {
            Self::Text | Self::Delta | Self::CallArguments => listening.then_some(Want::Parts),
            Self::CallEnd | Self::CallAgainEnd | Self::CallPieceEnd | Self::ChoiceEnd => Some(Want::End),
            _ => Some(Want::Scalar),
        }
    }
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
    /// How tool calls and text come.
    pub(super) calls: CallRules,
    /// `fields` as the scanner wants it.
    pub(super) paths: LazyLock<Paths>,
}

/// How tool calls and text come, where paths alone do not tell.
pub(super) struct CallRules {
    /// How the kinds of items end that are tool calls; empty where every item is one.
    pub(super) suffix: &'static str,
    /// What events of these kinds do to a call.
    pub(super) steps: &'static [(&'static str, Step)],
    /// Event kinds whose [`Field::Delta`] is text.
    pub(super) text_kinds: &'static [&'static str],
}

impl CallRules {
    /// Paths tell everything.
    pub(super) const BY_PATH: Self = Self { suffix: "", steps: &[], text_kinds: &[] };
}

impl Rules {
    /// The rules of a dialect; none where answers are not read.
    pub(super) fn of(dialect: Dialect) -> Option<&'static Self> {
        match dialect {
            Dialect::OpenAiChat | Dialect::OpenAiOther => Some(&openai::RULES),
            Dialect::OpenAiResponses => Some(&responses::RULES),
            Dialect::OpenAiRealtime => Some(&realtime::RULES),
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
pub(super) struct Paths {
    /// What is read of every answer.
    pub(super) facts: Arc<PathSet>,
    /// With text and arguments, for a listener.
    pub(super) all: Arc<PathSet>,
}

/// The scanner's form of a table of fields.
pub(super) fn paths(fields: &[(&'static str, Field)]) -> Paths {
    let set = |listening| Arc::new(set(fields, listening));
    Paths { facts: set(false), all: set(true) }
}

/// The same for answers that may be an array of events ([`PathSet::in_elements`]).
pub(super) fn paths_in_elements(fields: &[(&'static str, Field)]) -> Paths {
    let set = |listening| Arc::new(set(fields, listening).in_elements());
    Paths { facts: set(false), all: set(true) }
}

fn set(fields: &[(&'static str, Field)], listening: bool) -> PathSet {
    PathSet::wanting(fields.iter().map(|(path, field)| (*path, field.want(listening))))
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
