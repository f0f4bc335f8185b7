//! The `usage` section and the price file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::price::{Price, Prices};
use crate::settings::fault::Faults;

/// The built-in prices.
const BUILT_IN: &str = include_str!("../../conf/prices.yaml");

/// The only supported `version` of a price file.
const VERSION: u32 = 1;

/// Highest accepted price, in US dollars for a million tokens; more is a typing error.
const MAX: f64 = 1e6;

/// The `usage` section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Usage")]
pub struct PricingConfig {
    /// A price file in the format of `conf/prices.yaml`; empty uses the built-in prices.
    pub prices_file: String,
}

/// A price file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    prices: Vec<Row>,
}

/// A row of the price file, in US dollars for a million tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    model: String,
    backend: Option<String>,
    input: f64,
    output: f64,
    cache_read: Option<f64>,
    cache_write: Option<f64>,
    cache_write_1h: Option<f64>,
}

impl PricingConfig {
    /// Compiles the section and reads the price file.
    pub fn compile(self, faults: &mut Faults) -> Option<Prices> {
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
            Ok(file) if file.version == VERSION => compile(file.prices, faults),
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

fn compile(rows: Vec<Row>, faults: &mut Faults) -> Option<Prices> {
    let mut of_rows = Faults::default();
    let mut prices = Vec::with_capacity(rows.len());
    for (index, row) in rows.into_iter().enumerate() {
        let all = [Some(row.input), Some(row.output), row.cache_read, row.cache_write, row.cache_write_1h];
        if all.into_iter().flatten().any(|price| !(0.0..=MAX).contains(&price)) {
            let message = format!("price {} ('{}') is not from 0 to {MAX}", index + 1, row.model);
            of_rows.add("", message, "write US dollars for a million tokens");
            continue;
        }
        let cache_write = row.cache_write.unwrap_or(row.input);
        let price = Price {
            input: per_token(row.input),
            output: per_token(row.output),
            cache_read: per_token(row.cache_read.unwrap_or(row.input)),
            cache_write: per_token(cache_write),
            cache_write_1h: per_token(row.cache_write_1h.unwrap_or(cache_write)),
        };
        prices.push((row.backend, row.model, price));
    }
    let compiled = Prices::compile(prices, &mut of_rows);
    let is_good = of_rows.is_empty();
    faults.absorb(of_rows, |_| "usage.prices_file".to_owned());
    compiled.filter(|_| is_good)
}

/// Converts dollars for a million tokens to picodollars for a token; exact for prices with up to six decimals.
fn per_token(dollars_per_million: f64) -> u64 {
    (dollars_per_million * 1e6).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::facts::usage::Usage;

    #[test]
    fn the_prices_that_are_built_in_are_in_order() {
        let mut faults = Faults::default();
        let prices = PricingConfig::default().compile(&mut faults).unwrap();
        assert!(faults.is_empty() && faults.warnings().is_empty(), "{faults}");
        let million = Usage { input_tokens: 1_000_000, ..Usage::default() };
        let cost = |model: &str| prices.cost("x", model, &million).map(|cost| cost.as_usd());
        assert_eq!(cost("claude-sonnet-4-5-20250929"), Some(3.0));
        assert_eq!(cost("claude-opus-4-5"), Some(5.0));
        assert_eq!(cost("claude-opus-4-1-20250805"), Some(15.0));
        assert_eq!(cost("gpt-5"), Some(1.25));
        assert_eq!(cost("gpt-5-mini-2025-08-07"), Some(0.25));
        assert_eq!(cost("GPT-4o"), Some(2.5));
        assert_eq!(cost("my-own-model"), None);
    }

    #[test]
    fn a_faulty_file_of_prices_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prices.yaml");
        let fault = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let mut faults = Faults::default();
            let written = PricingConfig { prices_file: path.to_string_lossy().into_owned() };
            assert!(written.compile(&mut faults).is_none(), "{text}");
            faults.to_string()
        };
        assert!(fault("version: 1\nprices: [{ model: a, input: 1 }]").contains("output"));
        assert!(fault("version: 2\nprices: []").contains("version 2"));
        assert!(fault("version: 1\nprices: [{ model: a, input: -1, output: 1 }]").contains("price 1 ('a')"));
        assert!(fault("version: 1\nprices: [{ model: '[', input: 1, output: 1 }]").contains("not a pattern"));
        std::fs::remove_file(&path).unwrap();
        let mut faults = Faults::default();
        let written = PricingConfig { prices_file: path.to_string_lossy().into_owned() };
        assert!(written.compile(&mut faults).is_none() && faults.to_string().contains("usage.prices_file"));
    }
}
