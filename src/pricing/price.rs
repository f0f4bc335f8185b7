//! Prices of models, and the cost of a response.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model_patterns::{Matcher, Pattern};
use crate::protocol::facts::usage::{Cost, Usage};
use crate::settings::fault::Faults;

/// Price of a token, in picodollars (10^-12 USD).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Input tokens.
    pub input: u64,
    /// Output tokens, including reasoning.
    pub output: u64,
    /// Input tokens read from the provider's cache.
    pub cache_read: u64,
    /// Input tokens written to the provider's cache for some minutes.
    pub cache_write: u64,
    /// Input tokens written to the provider's cache for an hour.
    pub cache_write_1h: u64,
}

/// The price list.
#[derive(Clone, Debug)]
pub struct Prices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    prices: Vec<Price>,
    /// Prices of single backends, which override the general ones.
    at: HashMap<String, Matcher>,
    everywhere: Matcher,
}

impl Prices {
    /// Compiles rows of backend (`None` is any), model pattern and price; each invalid pattern is a fault.
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

    /// Returns the cost of a response; `None` if the model has no price at this backend.
    pub fn cost(&self, backend: &str, model: &str, usage: &Usage) -> Option<Cost> {
        let Inner { prices, at, everywhere } = &*self.0;
        let find = |prices: &Matcher| prices.find(model).next();
        let found = at.get(backend).and_then(find).or_else(|| find(everywhere))?.target;
        let price = prices.get(found)?;
        let parts = [
            (usage.input_tokens, price.input),
            (usage.output_tokens, price.output),
            (usage.cache_read_tokens, price.cache_read),
            (usage.cache_write_tokens.saturating_sub(usage.cache_write_1h_tokens), price.cache_write),
            (usage.cache_write_1h_tokens, price.cache_write_1h),
        ];
        let add = |sum: u64, (tokens, each): (u64, u64)| sum.saturating_add(tokens.saturating_mul(each));
        Some(Cost(parts.into_iter().fold(0, add)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> Prices {
        let price = |input| Price {
            input,
            output: 5 * input,
            cache_read: input / 10,
            cache_write: input * 2,
            cache_write_1h: input * 3,
        };
        let rows = vec![
            (None, "gpt-*".to_owned(), price(1_000_000)),
            (Some("azure".to_owned()), "gpt-*".to_owned(), price(2_000_000)),
        ];
        Prices::compile(rows, &mut Faults::default()).unwrap()
    }

    #[test]
    fn each_token_is_paid_once() {
        let usage = Usage {
            input_tokens: 60,
            output_tokens: 10,
            cache_read_tokens: 40,
            cache_write_tokens: 5,
            cache_write_1h_tokens: 2,
            reasoning_tokens: 8,
            ..Usage::default()
        };
        // 40 at a tenth, the output with its reasoning at five times, 3 written at twice, 2 at three times.
        let expected = 60_000_000 + 4_000_000 + 50_000_000 + 6_000_000 + 6_000_000;
        assert_eq!(prices().cost("openai", "gpt-5", &usage), Some(Cost(expected)));
    }

    #[test]
    fn a_backends_own_price_goes_first_and_nothing_overflows() {
        let one = Usage { input_tokens: 1, ..Usage::default() };
        assert_eq!(prices().cost("azure", "gpt-5", &one), Some(Cost(2_000_000)));
        assert_eq!(prices().cost("azure", "other", &one), None);
        let absurd = Usage { input_tokens: u64::MAX, output_tokens: u64::MAX, ..Usage::default() };
        assert_eq!(prices().cost("azure", "gpt-5", &absurd), Some(Cost(u64::MAX)));
    }
}
