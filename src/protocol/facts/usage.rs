//! Token counts: as a provider reports them, and in the one meaning that everything else uses.

use std::ops::AddAssign;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tokens of an answer, or of several, and what they cost. The numbers mean the same for every provider: each token
/// of the prompt is in one of `input_tokens`, `cache_read_tokens` and `cache_write_tokens`, so sums over providers and
/// prices apply to them as they are.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the prompt that were neither read from the provider's cache nor written to it.
    pub input_tokens: u64,
    /// Tokens that the model wrote, including those of its reasoning.
    pub output_tokens: u64,
    /// Tokens of the prompt that were read from the provider's cache.
    pub cache_read_tokens: u64,
    /// Tokens of the prompt that were written to the provider's cache.
    pub cache_write_tokens: u64,
    /// Those of `cache_write_tokens` that are kept for an hour, which costs more; the others are kept for minutes.
    pub cache_write_1h_tokens: u64,
    /// Those of `output_tokens` that the model spent on reasoning, where the provider reports them.
    pub reasoning_tokens: u64,
    /// Searches that the provider made for the model; they are charged beside the tokens.
    pub web_search_requests: u64,
    /// Answers whose model, service tier or searches have no price: what they cost is not in `cost_usd`. Absent when there
    /// are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unpriced_answers: u64,
    /// Answers some of whose tokens are an estimate of the gateway, because their provider has not counted them. Absent when
    /// there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub estimated_answers: u64,
    /// What the tokens cost by the configured prices, in US dollars; null when nothing of it has a price.
    #[serde(rename = "cost_usd", default)]
    #[schemars(with = "Option<f64>")]
    pub cost: Cost,
}

impl Usage {
    /// All tokens of the prompt, cached or not: `gen_ai.usage.input_tokens` of OpenTelemetry's conventions.
    pub fn prompt_tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.cache_read_tokens).saturating_add(self.cache_write_tokens)
    }

    /// The usage of one answer with what it costs; `None` if it has no price.
    #[must_use]
    pub fn priced(self, cost: Option<Cost>) -> Self {
        match cost {
            Some(cost) => Self { cost, ..self },
            None => Self { cost: Cost::UNKNOWN, unpriced_answers: 1, ..self },
        }
    }

    /// True if there is nothing to pay: neither a token nor a search.
    pub fn is_empty(&self) -> bool {
        (self.prompt_tokens(), self.output_tokens, self.web_search_requests) == (0, 0, 0)
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The counts of one answer as its provider reports them. What each number includes depends on the dialect, whose file
/// turns them into a [`Usage`]. A count that an answer repeats is the sum so far, so the largest one is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportedCounts {
    /// Tokens of the prompt.
    pub input: u64,
    /// Tokens that the results of the provider's own tools added to the prompt.
    pub tool_input: u64,
    /// Tokens of the answer.
    pub output: u64,
    /// Tokens read from the provider's cache.
    pub cache_read: u64,
    /// Tokens written to the provider's cache.
    pub cache_write: u64,
    /// The part of them that is kept for an hour.
    pub cache_write_1h: u64,
    /// Tokens spent on reasoning.
    pub reasoning: u64,
    /// All tokens of prompt and answer; 0 when the provider does not report them.
    pub total: u64,
    /// Searches that the provider made for the model.
    pub web_searches: u64,
}

impl ReportedCounts {
    /// The usage where cached tokens are reported as parts of `input`, and reasoning as a part of `output`.
    pub fn with_cached_in_input(&self) -> Usage {
        let cached = self.cache_read.saturating_add(self.cache_write);
        Self { input: self.input.saturating_sub(cached), ..*self }.with_cached_beside_input()
    }

    /// The usage where cached tokens are reported beside `input`, and reasoning as a part of `output`.
    pub fn with_cached_beside_input(&self) -> Usage {
        Usage {
            input_tokens: self.input,
            output_tokens: self.output,
            cache_read_tokens: self.cache_read,
            cache_write_tokens: self.cache_write.max(self.cache_write_1h),
            cache_write_1h_tokens: self.cache_write_1h,
            reasoning_tokens: self.reasoning,
            web_search_requests: self.web_searches,
            unpriced_answers: 0,
            estimated_answers: 0,
            cost: Cost::default(),
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
            (&mut self.unpriced_answers, other.unpriced_answers),
            (&mut self.estimated_answers, other.estimated_answers),
        ] {
            *mine = mine.saturating_add(theirs);
        }
        self.cost += other.cost;
    }
}

/// An amount of money, in picodollars (10^-12 US dollars): sums are exact. Shown in dollars, and as null when nothing in
/// the sum has a price.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Cost {
    picodollars: u64,
    has_unknown: bool,
}

impl Cost {
    /// What something without a price costs.
    pub const UNKNOWN: Self = Self { picodollars: 0, has_unknown: true };

    /// A known amount.
    pub fn of(picodollars: u64) -> Self {
        Self { picodollars, has_unknown: false }
    }

    /// The known part of the sum.
    pub fn picodollars(self) -> u64 {
        self.picodollars
    }

    /// The known part of the sum in US dollars; `None` if nothing in it has a price.
    pub fn as_usd(self) -> Option<f64> {
        let is_known = self.picodollars > 0 || !self.has_unknown;
        is_known.then_some(self.picodollars as f64 / 1e12)
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.picodollars = self.picodollars.saturating_add(other.picodollars);
        self.has_unknown = self.has_unknown || other.has_unknown;
    }
}

impl Serialize for Cost {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_usd().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A float becomes the nearest integer in range; a negative one none.
        let usd = Option::<f64>::deserialize(deserializer)?;
        Ok(usd.map_or(Self::UNKNOWN, |usd| Self::of((usd * 1e12).round() as u64)))
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

    #[test]
    fn a_cost_is_null_only_when_nothing_in_it_has_a_price() {
        let json = |usage: Usage| serde_json::to_value(usage).unwrap();
        let none = Usage::default();
        assert_eq!(json(none)["cost_usd"], 0.0, "nothing was used");
        let mut sum = none;
        sum += Usage { input_tokens: 7, ..none }.priced(None);
        assert_eq!(
            (&json(sum)["cost_usd"], &json(sum)["unpriced_answers"]),
            (&serde_json::Value::Null, &1.into())
        );
        let read: Usage = serde_json::from_value(json(sum)).unwrap();
        assert_eq!(read, sum);
        sum += none.priced(Some(Cost::of(250_000_000_000)));
        assert_eq!((&json(sum)["cost_usd"], &json(sum)["unpriced_answers"]), (&0.25.into(), &1.into()));
    }
}
