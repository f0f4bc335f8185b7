//! Prices of models, and the cost of a response.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::found::Found;
use super::names::Prefixes;
use crate::model_patterns::{Matcher, Pattern, PatternMatch};
use crate::protocol::facts::usage::{Cost, Usage};
use crate::settings::fault::Faults;

/// Names of the service tier whose prices are the row's own.
const STANDARD_TIERS: [&str; 4] = ["default", "standard", "auto", "on_demand"];

/// Prices of a token, in picodollars (10^-12 USD).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
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

/// Prices of a service tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tier {
    /// Prices of a token.
    pub rates: Rates,
    /// Prices of all tokens of a request with a longer prompt than this number of tokens; `None` if they are the same.
    pub long_context: Option<(u64, Rates)>,
}

/// Prices of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Of the standard service tier.
    pub standard: Tier,
    /// Of the others, by their names in lower case.
    pub tiers: BTreeMap<String, Tier>,
    /// Of one web search, in picodollars; `None` if it is unknown.
    pub web_search: Option<u64>,
    /// Of one request with web searches, in picodollars; `None` if it is not priced so.
    pub web_search_prompt: Option<u64>,
}

/// The price list.
#[derive(Clone, Debug)]
pub struct Prices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    prices: Vec<Price>,
    /// Prices of single backends, which override the general ones.
    at: HashMap<String, Models>,
    everywhere: Models,
    prefixes: Prefixes,
}

/// Models that have prices.
#[derive(Debug)]
struct Models {
    patterns: Matcher,
    found: Found,
}

/// A row of the price list: the backend (`None` is any), the patterns of its models, and the price.
pub(super) type PriceRow = (Option<String>, Vec<String>, Price);

impl Prices {
    /// Compiles the rows; each invalid pattern is a fault.
    pub(super) fn compile(rows: Vec<PriceRow>, prefixes: Prefixes, faults: &mut Faults) -> Option<Self> {
        let mut groups: HashMap<Option<&str>, Vec<Pattern<'_>>> = HashMap::from([(None, Vec::new())]);
        for (target, (backend, models, _)) in rows.iter().enumerate() {
            for text in models {
                let path = format!("prices[{target}]");
                let pattern = Pattern { text, target, path, owner: (target, "") };
                groups.entry(backend.as_deref()).or_default().push(pattern);
            }
        }
        let everywhere = Models::compile(groups.remove(&None).unwrap_or_default(), faults)?;
        let mut at = HashMap::new();
        for (backend, patterns) in groups {
            at.insert(backend.unwrap_or_default().to_owned(), Models::compile(patterns, faults)?);
        }
        let prices = rows.into_iter().map(|(_, _, price)| price).collect();
        Some(Self(Arc::new(Inner { prices, at, everywhere, prefixes })))
    }

    /// Returns true if the model has a price at this backend.
    pub fn has(&self, backend: &str, model: &str) -> bool {
        self.find(backend, model).is_some()
    }

    /// Returns the cost of a response. `tier` is the service tier that the response names. `None` if the model, the tier
    /// or a search has no price at this backend.
    pub fn cost(&self, backend: &str, model: &str, tier: Option<&str>, usage: &Usage) -> Option<Cost> {
        let price = self.find(backend, model)?;
        let tokens = price.tier(tier)?.cost(usage);
        Some(Cost::of(tokens.saturating_add(price.searches(usage.web_search_requests)?)))
    }

    /// Returns the most that a response may cost, in picodollars: every token of the prompt at the dearest price that it may
    /// have, and what its prompt costs of that. `tier` is the service tier that the request names. `None` if the model or the
    /// tier has no price.
    pub fn most(
        &self,
        backend: &str,
        model: &str,
        tier: Option<&str>,
        input: u64,
        output: u64,
    ) -> Option<(u64, u64)> {
        let tier = self.find(backend, model)?.tier(tier)?;
        let rates = match &tier.long_context {
            Some((above, rates)) if input > *above => rates,
            _ => &tier.rates,
        };
        let dearest = rates.input.max(rates.cache_write).max(rates.cache_write_1h);
        let input = input.saturating_mul(dearest);
        Some((input.saturating_add(output.saturating_mul(rates.output)), input))
    }

    /// Finds the price of the name, or of a shorter name that it means. The most specific pattern wins.
    fn find(&self, backend: &str, model: &str) -> Option<&Price> {
        let Inner { prices, at, everywhere, prefixes } = &*self.0;
        let find = |models: &Models| models.find(model, prefixes);
        let found = at.get(backend).and_then(find).or_else(|| find(everywhere))?;
        prices.get(found.target)
    }
}

impl Models {
    fn compile(patterns: Vec<Pattern<'_>>, faults: &mut Faults) -> Option<Self> {
        Some(Self { patterns: Matcher::compile(patterns, faults)?, found: Found::new() })
    }

    fn find(&self, model: &str, prefixes: &Prefixes) -> Option<PatternMatch> {
        self.found.or_search(model, || {
            let found = prefixes.names(model).filter_map(|name| self.patterns.find(name).next());
            found.min_by_key(|found| found.rank)
        })
    }
}

impl Price {
    fn tier(&self, name: Option<&str>) -> Option<&Tier> {
        match name.map(str::to_ascii_lowercase) {
            None => Some(&self.standard),
            Some(name) if STANDARD_TIERS.contains(&name.as_str()) => Some(&self.standard),
            Some(name) => self.tiers.get(&name),
        }
    }

    fn searches(&self, searches: u64) -> Option<u64> {
        match (searches, self.web_search, self.web_search_prompt) {
            (0, ..) => Some(0),
            (_, Some(each), _) => Some(searches.saturating_mul(each)),
            (.., prompt) => prompt,
        }
    }
}

impl Tier {
    fn cost(&self, usage: &Usage) -> u64 {
        let rates = match &self.long_context {
            Some((above, rates)) if usage.prompt_tokens() > *above => rates,
            _ => &self.rates,
        };
        let parts = [
            (usage.input_tokens, rates.input),
            (usage.output_tokens, rates.output),
            (usage.cache_read_tokens, rates.cache_read),
            (usage.cache_write_tokens.saturating_sub(usage.cache_write_1h_tokens), rates.cache_write),
            (usage.cache_write_1h_tokens, rates.cache_write_1h),
        ];
        let add = |sum: u64, (tokens, each): (u64, u64)| sum.saturating_add(tokens.saturating_mul(each));
        parts.into_iter().fold(0, add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(input: u64) -> Rates {
        Rates {
            input,
            output: 5 * input,
            cache_read: input / 10,
            cache_write: input * 2,
            cache_write_1h: input * 3,
        }
    }

    fn price(input: u64) -> Price {
        let tier = |input| Tier { rates: rates(input), long_context: Some((1000, rates(2 * input))) };
        Price {
            standard: tier(input),
            tiers: BTreeMap::from([("flex".to_owned(), tier(input / 2))]),
            web_search: None,
            web_search_prompt: None,
        }
    }

    fn prices() -> Prices {
        let searches = Price { web_search: Some(7), ..price(1_000_000) };
        let prompts = Price { web_search_prompt: Some(9), ..price(1_000_000) };
        let rows = vec![
            (None, vec!["gpt-*".to_owned()], price(1_000_000)),
            (Some("azure".to_owned()), vec!["gpt-*".to_owned()], price(2_000_000)),
            (None, vec!["finder".to_owned()], searches),
            (None, vec!["prompter".to_owned()], prompts),
            (None, vec!["us.maker.m-1".to_owned()], price(3_000_000)),
            (None, vec!["m-1".to_owned(), "m-2".to_owned()], price(4_000_000)),
        ];
        let prefixes = Prefixes::new(&["us.maker.".to_owned(), "seller/".to_owned()]);
        Prices::compile(rows, prefixes, &mut Faults::default()).unwrap()
    }

    fn one() -> Usage {
        Usage { input_tokens: 1, ..Usage::default() }
    }

    fn of(model: &str, tier: Option<&str>, usage: &Usage) -> Option<u64> {
        prices().cost("x", model, tier, usage).map(|cost| cost.picodollars())
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
        assert_eq!(of("gpt-5", None, &usage), Some(expected));
    }

    #[test]
    fn a_backends_own_price_goes_first_and_nothing_overflows() {
        let at =
            |model, usage: &Usage| prices().cost("azure", model, None, usage).map(|cost| cost.picodollars());
        assert_eq!(at("gpt-5", &one()), Some(2_000_000));
        assert_eq!(at("other", &one()), None);
        let absurd = Usage { input_tokens: u64::MAX, output_tokens: u64::MAX, ..Usage::default() };
        assert_eq!(at("gpt-5", &absurd), Some(u64::MAX));
    }

    #[test]
    fn a_long_prompt_makes_all_tokens_dearer() {
        let long = |cache_read_tokens| Usage { output_tokens: 1, cache_read_tokens, ..one() };
        assert_eq!(of("gpt-5", None, &long(999)), Some(1_000_000 + 5_000_000 + 999 * 100_000));
        assert_eq!(of("gpt-5", None, &long(1000)), Some(2_000_000 + 10_000_000 + 1000 * 200_000));
    }

    #[test]
    fn a_service_tier_has_its_own_prices_or_none() {
        for standard in ["default", "standard", "auto", "ON_DEMAND"] {
            assert_eq!(of("gpt-5", Some(standard), &one()), Some(1_000_000));
        }
        assert_eq!(of("gpt-5", Some("Flex"), &one()), Some(500_000));
        assert_eq!(of("gpt-5", Some("priority"), &one()), None, "nothing is known of it");
    }

    #[test]
    fn the_most_that_a_response_may_cost() {
        let most = |tier, input, output| prices().most("x", "gpt-5", tier, input, output).map(|(all, _)| all);
        assert_eq!(most(None, 10, 1), Some(30_000_000 + 5_000_000), "all of the prompt is kept for an hour");
        assert_eq!(most(None, 2000, 1), Some(2000 * 6_000_000 + 10_000_000), "a long prompt");
        assert_eq!(most(Some("flex"), 10, 0), Some(15_000_000));
        assert_eq!((most(Some("priority"), 1, 1), prices().most("x", "none", None, 1, 1)), (None, None));
    }

    #[test]
    fn searches_are_paid_each_or_by_request_or_are_unpriced() {
        let found = Usage { web_search_requests: 3, ..one() };
        assert_eq!(of("finder", None, &found), Some(1_000_021));
        assert_eq!(of("prompter", None, &found), Some(1_000_009));
        assert_eq!(of("prompter", None, &one()), Some(1_000_000));
        assert_eq!(of("gpt-5", None, &found), None);
    }

    #[test]
    fn a_name_with_a_prefix_or_version_has_the_price_of_the_model() {
        assert_eq!(of("us.maker.m-1-20250929-v1:0", None, &one()), Some(3_000_000), "the longer name wins");
        assert_eq!(of("us.maker.m-2@20250929", None, &one()), Some(4_000_000));
        assert_eq!(of("seller/m-1", None, &one()), Some(4_000_000));
        assert_eq!(of("m-1-mini", None, &one()), None);
        assert_eq!(
            prices().cost("azure", "seller/gpt-5", None, &one()).map(|cost| cost.picodollars()),
            Some(2_000_000)
        );
        assert!(prices().has("x", "M-2-2025-08-07") && !prices().has("x", "m-3"));
    }
}
