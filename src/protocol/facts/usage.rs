//! Token counts as the provider gave them, and what each is counted in.

use std::ops::AddAssign;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// What a provider's token numbers include.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCounts {
    /// `input_tokens` includes those read from the cache; otherwise they are counted beside it.
    pub input_includes_cached: bool,
    /// `output_tokens` includes those spent on reasoning; otherwise they are counted beside it.
    pub output_includes_reasoning: bool,
}

impl Usage {
    /// The same numbers, each token in one place.
    pub fn billed(&self, counts: TokenCounts) -> Billed {
        let cached = if counts.input_includes_cached { self.cache_read_tokens } else { 0 };
        let reasoning = if counts.output_includes_reasoning { 0 } else { self.reasoning_tokens };
        Billed {
            input: self.input_tokens.saturating_sub(cached),
            output: self.output_tokens.saturating_add(reasoning),
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
