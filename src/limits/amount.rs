//! Amounts of budgets as the configuration writes them: `500 USD`, `2M tokens`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de};

use super::bucket::MAX;
use crate::settings::rate::count;

/// Nanodollars in a dollar.
const NANO: u64 = 1_000_000_000;

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CostUnit {
    /// US dollars; counted in nanodollars.
    Usd,
    /// Tokens of prompts and answers.
    Tokens,
}

impl CostUnit {
    /// Returns an amount in dollars, or in tokens.
    pub fn shown(self, amount: u64) -> f64 {
        match self {
            Self::Usd => amount as f64 / NANO as f64,
            Self::Tokens => amount as f64,
        }
    }
}

/// An amount and its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmountText {
    /// Nanodollars or tokens.
    pub amount: u64,
    /// Which of the two.
    pub unit: CostUnit,
}

/// Parses dollars with up to nine decimals.
fn nanodollars(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: u64 = format!("{fraction:0<9}").parse().ok()?;
    count(whole)?.checked_mul(NANO)?.checked_add(fraction)
}

fn parse(text: &str) -> Option<AmountText> {
    let text = text.trim();
    let (amount, unit) = match text.strip_suffix("tokens") {
        Some(number) => (count(number.trim_end())?, CostUnit::Tokens),
        None => {
            let number = text.strip_suffix("USD").or_else(|| text.strip_suffix("usd"))?;
            (nanodollars(number.trim_end())?, CostUnit::Usd)
        }
    };
    (1..=MAX).contains(&amount).then_some(AmountText { amount, unit })
}

impl fmt::Display for AmountText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            CostUnit::Tokens => write!(f, "{} tokens", self.amount),
            CostUnit::Usd => {
                let fraction = format!("{:09}", self.amount % NANO);
                let fraction = fraction.trim_end_matches('0');
                let point = if fraction.is_empty() { "" } else { "." };
                write!(f, "{}{point}{fraction} USD", self.amount / NANO)
            }
        }
    }
}

impl Serialize for AmountText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AmountText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = AmountText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "an amount above zero and below 9 million dollars, like 500 USD, 0.25 USD or 2M tokens",
                )
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<AmountText, E> {
                parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl JsonSchema for AmountText {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An amount, like 500 USD, 0.25 USD, 2M tokens.",
            "type": "string",
            "pattern": "^\\s*[0-9]+([kKMG]|\\.[0-9]{1,9})?\\s*(USD|usd|tokens)\\s*$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_written_exactly() {
        for (text, amount, written) in [
            ("500 USD", 500_000_000_000, "500 USD"),
            ("0.25 usd", 250_000_000, "0.25 USD"),
            ("0.000000001 USD", 1, "0.000000001 USD"),
            ("9k USD", 9_000_000_000_000, "9000 USD"),
            ("2M tokens", 2_000_000, "2000000 tokens"),
            ("100USD", 100_000_000_000, "100 USD"),
        ] {
            let parsed = parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((parsed.amount, parsed.to_string().as_str()), (amount, written), "{text}");
            assert_eq!(parse(written), Some(parsed));
        }
        for wrong in
            ["500", "USD", "0 USD", "-1 USD", "1.5 tokens", "10M USD", "1.0000000001 USD", "1 EUR", "tokens"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
