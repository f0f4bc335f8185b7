//! Prices of models, and what an answer cost.

use std::collections::HashMap;
use std::sync::Arc;

use crate::protocol::usage::{Cost, Usage};
use crate::routing::matcher::{Matcher, Pattern};
use crate::settings::fault::Faults;

/// What a token costs, in picodollars (10^-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Read by the model.
    pub input: u64,
    /// Written by the model, reasoning too.
    pub output: u64,
    /// Read from the provider's cache.
    pub cache_read: u64,
    /// Written to the provider's cache.
    pub cache_write: u64,
}

/// All prices.
#[derive(Clone, Debug)]
pub struct Prices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    prices: Vec<Price>,
    /// Prices that hold at one backend only.
    at: HashMap<String, Matcher>,
    everywhere: Matcher,
}

impl Prices {
    /// Compiles rows of backend (none is every one), model pattern and price; each bad pattern is a fault.
    pub(super) fn compile(rows: Vec<(Option<String>, String, Price)>, faults: &mut Faults) -> Option<Self> {
        let mut groups: HashMap<Option<&str>, Vec<Pattern<'_>>> = HashMap::from([(None, Vec::new())]);
        for (target, (backend, model, _)) in rows.iter().enumerate() {
            let path = format!("prices[{target}]");
            let pattern = Pattern { text: model, target, path, owner: (0, "") };
            groups.entry(backend.as_deref()).or_default().push(pattern);
        }
        let everywhere = Matcher::compile(groups.remove(&None).unwrap_or_default(), faults)?;
        let mut at = HashMap::new();
        for (backend, patterns) in groups {
            at.insert(backend.unwrap_or_default().to_owned(), Matcher::compile(patterns, faults)?);
        }
        let prices = rows.into_iter().map(|(_, _, price)| price).collect();
        Some(Self(Arc::new(Inner { prices, at, everywhere })))
    }

    /// What an answer cost; `None` when the model has no price. `input_has_cached`: the provider counts tokens
    /// from its cache in the input (OpenAI and most others; Anthropic does not).
    pub fn cost(&self, backend: &str, model: &str, usage: &Usage, input_has_cached: bool) -> Option<Cost> {
        let Inner { prices, at, everywhere } = &*self.0;
        let find = |prices: &Matcher| prices.find(model).next();
        let found = at.get(backend).and_then(find).or_else(|| find(everywhere))?.target;
        let price = prices.get(found)?;
        let cached = if input_has_cached { usage.cache_read_tokens } else { 0 };
        let parts = [
            (usage.input_tokens.saturating_sub(cached), price.input),
            (usage.output_tokens, price.output),
            (usage.cache_read_tokens, price.cache_read),
            (usage.cache_write_tokens, price.cache_write),
        ];
        let sum =
            parts.iter().fold(0_u64, |sum, (tokens, each)| sum.saturating_add(tokens.saturating_mul(*each)));
        Some(Cost(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> Prices {
        let price =
            |input| Price { input, output: 5 * input, cache_read: input / 10, cache_write: input * 2 };
        let rows = vec![
            (None, "gpt-*".to_owned(), price(1_000_000)),
            (Some("azure".to_owned()), "gpt-*".to_owned(), price(2_000_000)),
        ];
        Prices::compile(rows, &mut Faults::default()).unwrap()
    }

    #[test]
    fn cached_tokens_are_not_paid_twice() {
        let usage = Usage {
            input_tokens: 100,
            output_tokens: 10,
            cache_read_tokens: 40,
            cache_write_tokens: 5,
            reasoning_tokens: 8,
        };
        let cost = |has_cached| prices().cost("openai", "gpt-5", &usage, has_cached).unwrap();
        // 60 of the input at full price, 40 at a tenth, 10 of the output at five times, 5 written at twice.
        assert_eq!(cost(true), Cost(60_000_000 + 4_000_000 + 50_000_000 + 10_000_000));
        assert_eq!(cost(false).0 - cost(true).0, 40_000_000);
        assert!((cost(true).as_usd() - 0.000124).abs() < 1e-12);
    }

    #[test]
    fn a_backends_own_price_goes_first_and_nothing_overflows() {
        let usage = Usage { input_tokens: 1, ..Usage::default() };
        assert_eq!(prices().cost("azure", "gpt-5", &usage, true), Some(Cost(2_000_000)));
        assert_eq!(prices().cost("azure", "other", &usage, true), None);
        let absurd = Usage { input_tokens: u64::MAX, output_tokens: u64::MAX, ..Usage::default() };
        assert_eq!(prices().cost("azure", "gpt-5", &absurd, true), Some(Cost(u64::MAX)));
    }
}
