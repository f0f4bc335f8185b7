//! The `usage` section and the price file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::Prefixes;
use super::price::{Price, Prices, Rates, Tier};
use crate::settings::fault::Faults;

/// The built-in prices.
const BUILT_IN: &str = include_str!("../../conf/prices.yaml");

/// The only supported `version` of a price file.
const VERSION: u32 = 1;

/// Highest accepted price, in US dollars for a million tokens; more is a typing error.
const MAX: f64 = 1e6;

/// The `usage` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Usage")]
pub struct PricingConfig {
    /// A price file in the format of `conf/prices.yaml`; empty uses the built-in prices.
    pub prices_file: String,
    /// How many tenants have metrics of their own; further ones are counted as `other`, and with 0 none is counted.
    pub max_tenants: u16,
}

impl Default for PricingConfig {
    fn default() -> Self {
        Self { prices_file: String::new(), max_tenants: 100 }
    }
}

/// A price file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    prefixes: Vec<String>,
    prices: Vec<Row>,
}

/// A row of the price file, in US dollars: for a million tokens, or a thousand searches.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    model: Models,
    backend: Option<String>,
    input: f64,
    output: f64,
    cache_read: Option<f64>,
    cache_write: Option<f64>,
    cache_write_1h: Option<f64>,
    long_context: Option<LongContextRow>,
    #[serde(default)]
    tiers: BTreeMap<String, TierRow>,
    web_search: Option<f64>,
    web_search_prompt: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected the name of a model or a list of names")]
enum Models {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LongContextRow {
    above: u64,
    input: f64,
    output: f64,
    cache_read: Option<f64>,
    cache_write: Option<f64>,
    cache_write_1h: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a factor such as 0.5, or prices: input and output, with or without cache_read, \
                              cache_write, cache_write_1h and long_context"
)]
enum TierRow {
    Factor(f64),
    Prices(TierPrices),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TierPrices {
    input: f64,
    output: f64,
    cache_read: Option<f64>,
    cache_write: Option<f64>,
    cache_write_1h: Option<f64>,
    long_context: Option<LongContextRow>,
}

impl PricingConfig {
    /// Compiles the section and reads the price file.
    pub fn compile(&self, faults: &mut Faults) -> Option<Prices> {
        const AT: &str = "usage.prices_file";
        let text = if self.prices_file.is_empty() {
            BUILT_IN.to_owned()
        } else {
            match std::fs::read_to_string(&self.prices_file) {
                Ok(text) => text,
                Err(error) => {
                    faults.unreadable(AT, &self.prices_file, &error);
                    return None;
                }
            }
        };
        match serde_yaml::from_str::<File>(&text) {
            Ok(file) if file.version == VERSION => compile(file, faults),
            Ok(file) => {
                let message = format!("'{}' has version {}", self.prices_file, file.version);
                faults.add(AT, message, format!("write version: {VERSION}"));
                None
            }
            Err(error) => {
                let message = format!("'{}' is not a price file: {error}", self.prices_file);
                faults.add(AT, message, "use the format of conf/prices.yaml");
                None
            }
        }
    }
}

fn compile(file: File, faults: &mut Faults) -> Option<Prices> {
    let mut of_rows = Faults::default();
    let mut rows = Vec::with_capacity(file.prices.len());
    for (index, row) in file.prices.into_iter().enumerate() {
        let models = match &row.model {
            Models::One(model) => vec![model.clone()],
            Models::Several(models) => models.clone(),
        };
        let mut amounts = Amounts::default();
        let price = row.price(&mut amounts);
        if let Some(wrong) = amounts.wrong {
            let name = models.first().map_or("", String::as_str);
            let message = format!("price {} ('{name}'): {wrong} is not from 0 to {MAX}", index + 1);
            of_rows.add("", message, "write US dollars for a million tokens");
            continue;
        }
        if models.is_empty() {
            of_rows.add("", format!("price {} has no model", index + 1), "name the model, or * for any");
        }
        rows.push((row.backend, models, price));
    }
    let compiled = Prices::compile(rows, Prefixes::new(&file.prefixes), &mut of_rows);
    let is_good = of_rows.is_empty();
    faults.absorb(of_rows, |_| "usage.prices_file".to_owned());
    compiled.filter(|_| is_good)
}

/// Converts amounts, and keeps the first that cannot be one.
#[derive(Default)]
struct Amounts {
    wrong: Option<f64>,
}

/// Input, output, cache_read, cache_write, cache_write_1h; what is `None` has the default of the price file.
type FileRates = (f64, f64, Option<f64>, Option<f64>, Option<f64>);

impl Amounts {
    /// Converts dollars for a million tokens to picodollars for a token; exact for prices with up to six decimals.
    fn per_token(&mut self, dollars_per_million: f64) -> u64 {
        if !(0.0..=MAX).contains(&dollars_per_million) {
            self.wrong.get_or_insert(dollars_per_million);
        }
        (dollars_per_million * 1e6).round() as u64
    }

    /// Converts dollars for a thousand searches to picodollars for one.
    fn per_search(&mut self, dollars_per_thousand: f64) -> u64 {
        self.per_token(dollars_per_thousand).saturating_mul(1000)
    }

    fn rates(&mut self, (input, output, read, write, write_1h): FileRates) -> Rates {
        let write = write.unwrap_or(input);
        Rates {
            input: self.per_token(input),
            output: self.per_token(output),
            cache_read: self.per_token(read.unwrap_or(input)),
            cache_write: self.per_token(write),
            cache_write_1h: self.per_token(write_1h.unwrap_or(write)),
        }
    }

    fn tier(&mut self, rates: FileRates, long: Option<&LongContextRow>) -> Tier {
        let long = long.map(|long| {
            let rates = (long.input, long.output, long.cache_read, long.cache_write, long.cache_write_1h);
            (long.above, self.rates(rates))
        });
        Tier { rates: self.rates(rates), long_context: long }
    }

    fn times(&mut self, tier: &Tier, factor: f64) -> Tier {
        if !(0.0..=MAX).contains(&factor) {
            self.wrong.get_or_insert(factor);
        }
        let times = |rates: &Rates| {
            let [input, output, cache_read, cache_write, cache_write_1h] =
                [rates.input, rates.output, rates.cache_read, rates.cache_write, rates.cache_write_1h]
                    .map(|price| (price as f64 * factor).round() as u64);
            Rates { input, output, cache_read, cache_write, cache_write_1h }
        };
        let long = tier.long_context.as_ref().map(|(above, rates)| (*above, times(rates)));
        Tier { rates: times(&tier.rates), long_context: long }
    }
}

impl Row {
    fn price(&self, amounts: &mut Amounts) -> Price {
        let rates = (self.input, self.output, self.cache_read, self.cache_write, self.cache_write_1h);
        let standard = amounts.tier(rates, self.long_context.as_ref());
        let tiers = self.tiers.iter().map(|(name, tier)| {
            let tier = match tier {
                TierRow::Factor(factor) => amounts.times(&standard, *factor),
                TierRow::Prices(own) => {
                    let rates = (own.input, own.output, own.cache_read, own.cache_write, own.cache_write_1h);
                    amounts.tier(rates, own.long_context.as_ref())
                }
            };
            (name.to_ascii_lowercase(), tier)
        });
        let tiers = tiers.collect();
        Price {
            standard,
            tiers,
            web_search: self.web_search.map(|dollars| amounts.per_search(dollars)),
            web_search_prompt: self.web_search_prompt.map(|dollars| amounts.per_search(dollars)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::facts::usage::Usage;

    fn built_in() -> Prices {
        let mut faults = Faults::default();
        let prices = PricingConfig::default().compile(&mut faults).unwrap();
        assert!(faults.is_empty() && faults.warnings().is_empty(), "{faults}");
        prices
    }

    fn usd(model: &str, tier: Option<&str>, usage: Usage) -> Option<f64> {
        built_in().cost("x", model, tier, &usage).and_then(|cost| cost.as_usd())
    }

    /// 100,000 tokens: a longer prompt has another price with some models.
    fn input() -> Usage {
        Usage { input_tokens: 100_000, ..Usage::default() }
    }

    #[test]
    fn every_model_has_its_own_price_and_not_that_of_its_sister() {
        let cases = [
            ("claude-sonnet-4-5-20250929", 3.0),
            ("claude-opus-4-5", 5.0),
            ("claude-opus-4-1-20250805", 15.0),
            ("claude-opus-5-5", 4.0),
            ("claude-haiku-5-5", 0.1),
            ("claude-3-5-haiku-20241022", 0.8),
            ("gpt-5", 1.25),
            ("gpt-5-mini-2025-08-07", 0.25),
            ("gpt-5-nano", 0.05),
            ("gpt-5.1-codex", 1.25),
            ("gpt-5.1-codex-mini", 0.25),
            ("gpt-5.1-codex-max", 1.25),
            ("gpt-5.2", 1.75),
            ("gpt-5.6-luna", 0.2),
            ("gpt-6.1-sol", 2.0),
            ("gpt-6-luna", 0.1),
            ("GPT-4o", 2.5),
            ("gpt-4o-2024-05-13", 5.0),
            ("gpt-4o-mini-2024-07-18", 0.15),
            ("ft:gpt-4o-mini-2024-07-18:acme::1a2b", 0.3),
            ("gemini-2.5-flash", 0.3),
            ("gemini-2.5-flash-lite", 0.1),
            ("gemini-2.5-pro", 1.25),
            ("gemini-3.8-flash", 0.75),
            ("gemini-3.1-pro-preview", 2.0),
            ("mistral-large-2512", 0.5),
            ("mistral-large-2411", 2.0),
            ("mistral-medium-2604", 1.5),
            ("codestral-latest", 0.3),
            ("ministral-8b-latest", 0.15),
            ("command-r7b-12-2024", 0.0375),
            ("command-a-03-2025", 2.5),
            ("deepseek-chat", 0.28),
            ("deepseek-v4-pro", 1.32),
        ];
        for (model, per_million) in cases {
            let cost = usd(model, None, input()).map(|cost| (cost * 1e9).round());
            assert_eq!(cost, Some((per_million * 1e8_f64).round()), "{model}");
        }
        for model in
            ["my-own-model", "gpt-5.1-mega", "gpt-4o-audio-preview", "gemini-9-pro", "claude-opus-4-9"]
        {
            assert_eq!(usd(model, None, input()), None, "{model}");
        }
    }

    #[test]
    fn names_of_those_who_resell_models_are_known() {
        let cases = [
            ("openai/gpt-4o", 0.25),
            ("openrouter/openai/gpt-5.1-codex-mini", 0.025),
            ("anthropic/claude-sonnet-4.5", 0.3),
            ("anthropic.claude-sonnet-4-5-20250929-v1:0", 0.3),
            ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", 0.3),
            ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", 0.33),
            ("eu.anthropic.claude-opus-5-5", 0.44),
            ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", 0.3),
            ("arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-opus-4-1-20250805-v1:0", 1.5),
            ("claude-sonnet-4-5@20250929", 0.3),
            ("claude-opus-5@default", 0.5),
            ("models/gemini-2.5-pro", 0.125),
            ("publishers/google/models/gemini-2.5-flash", 0.03),
            ("projects/p/locations/us/publishers/anthropic/models/claude-haiku-4-5@20251001", 0.1),
            ("mistralai/mistral-large-2512", 0.05),
            ("deepseek/deepseek-chat", 0.028),
        ];
        for (model, dollars) in cases {
            let cost = usd(model, None, input()).map(|cost| (cost * 1e9).round());
            assert_eq!(cost, Some((dollars * 1e9_f64).round()), "{model}");
        }
    }

    #[test]
    fn long_contexts_tiers_and_searches_have_the_vendors_prices() {
        let long = Usage {
            input_tokens: 200_000,
            output_tokens: 1000,
            cache_read_tokens: 100_000,
            ..Usage::default()
        };
        let near = |cost: Option<f64>, expected: f64| {
            assert!(cost.is_some_and(|cost| (cost - expected).abs() < 1e-9), "{cost:?} is not {expected}");
        };
        near(usd("gemini-2.5-pro", None, long), 0.2 * 2.5 + 0.001 * 15.0 + 0.1 * 0.25);
        near(usd("gpt-5.5", None, long), 0.2 * 10.0 + 0.001 * 45.0 + 0.1 * 1.0);
        near(usd("gpt-5.5", Some("flex"), long), 0.2 * 5.0 + 0.001 * 22.5 + 0.1 * 0.5);
        near(usd("claude-haiku-5-5", None, input()), 0.01);
        near(usd("gpt-5", Some("priority"), input()), 0.25);
        near(usd("gpt-5", Some("flex"), input()), 0.0625);
        near(usd("gemini-2.5-flash", Some("priority"), input()), 0.054);
        near(usd("claude-opus-5-5", Some("fast"), input()), 0.8);
        near(usd("claude-sonnet-4-6", Some("batch"), input()), 0.15);
        assert_eq!(usd("claude-sonnet-4-6", Some("priority"), input()), None, "it is sold by contract");
        let searched = Usage { web_search_requests: 3, ..input() };
        near(usd("claude-sonnet-4-6", None, searched), 0.3 + 0.03);
        near(usd("gpt-5", None, searched), 0.125 + 0.03);
        near(usd("gemini-2.5-flash", None, searched), 0.03 + 0.035);
        near(usd("gemini-3.8-flash", None, searched), 0.075 + 0.042);
    }

    #[test]
    fn a_faulty_file_of_prices_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prices.yaml");
        let fault = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let mut faults = Faults::default();
            let written = PricingConfig {
                prices_file: path.to_string_lossy().into_owned(),
                ..PricingConfig::default()
            };
            assert!(written.compile(&mut faults).is_none(), "{text}");
            faults.to_string()
        };
        assert!(fault("version: 1\nprices: [{ model: a, input: 1 }]").contains("output"));
        assert!(fault("version: 2\nprices: []").contains("version 2"));
        assert!(fault("version: 1\nprices: [{ model: a, input: -1, output: 1 }]").contains("price 1 ('a')"));
        assert!(fault("version: 1\nprices: [{ model: '[', input: 1, output: 1 }]").contains("not a pattern"));
        assert!(
            fault("version: 1\nprices: [{ model: [], input: 1, output: 1 }]")
                .contains("price 1 has no model")
        );
        let tier = |tier: &str| {
            fault(&format!(
                "version: 1\nprices: [{{ model: a, input: 1, output: 1, tiers: {{ flex: {tier} }} }}]"
            ))
        };
        assert!(tier("-1").contains("price 1 ('a'): -1 is not"));
        assert!(tier("{ input: 1 }").contains("a factor such as 0.5"));
        std::fs::remove_file(&path).unwrap();
        let mut faults = Faults::default();
        let written =
            PricingConfig { prices_file: path.to_string_lossy().into_owned(), ..PricingConfig::default() };
        assert!(written.compile(&mut faults).is_none() && faults.to_string().contains("usage.prices_file"));
    }
}
