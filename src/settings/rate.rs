//! Rates as the configuration writes them: `100/s`, `2M/min`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de};

/// The period of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day of 24 hours.
    Day,
}

impl Period {
    /// The periods and the words that the configuration knows them by; the first is the one that is written.
    const WORDS: [(Self, &[&str]); 4] = [
        (Self::Second, &["s", "sec", "second"]),
        (Self::Minute, &["min", "m", "minute"]),
        (Self::Hour, &["h", "hour"]),
        (Self::Day, &["d", "day"]),
    ];

    /// Its length in seconds.
    pub fn secs(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 24 * 3600,
        }
    }

    /// Its length in milliseconds.
    pub fn millis(self) -> u64 {
        1000 * self.secs()
    }

    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// A number of something in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateText {
    /// How many.
    pub count: u64,
    /// In which time.
    pub period: Period,
}

/// Factors of the suffixes of a number.
const FACTORS: [(char, u64); 4] = [('k', 1000), ('K', 1000), ('M', 1_000_000), ('G', 1_000_000_000)];

/// Parses a whole number with an optional suffix: `600`, `10k`, `2M`.
pub fn count(text: &str) -> Option<u64> {
    let factor = FACTORS.iter().find(|(suffix, _)| text.ends_with(*suffix));
    let digits = factor.map_or(text, |(suffix, _)| text.trim_end_matches(*suffix));
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = is_number.then(|| digits.parse().ok()).flatten()?;
    number.checked_mul(factor.map_or(1, |(_, factor)| *factor))
}

fn parse(text: &str) -> Option<RateText> {
    let (number, word) = text.split_once('/')?;
    let word = word.trim();
    let (period, _) = Period::WORDS.iter().find(|(_, words)| words.contains(&word))?;
    Some(RateText { count: count(number.trim())?, period: *period })
}

impl fmt::Display for RateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word =
            Period::WORDS.iter().find(|(period, _)| *period == self.period).map_or("", |(_, words)| words[0]);
        write!(f, "{}/{word}", self.count)
    }
}

impl Serialize for RateText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RateText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = RateText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number in a time, like 100/s, 600/min, 2M/h or 5k/day")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RateText, E> {
                parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl JsonSchema for RateText {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A whole number in a time, like 100/s, 600/min, 2M/h, 5k/day.",
            "type": "string",
            "pattern": "^\\s*[0-9]+[kKMG]?\\s*/\\s*(s|sec|second|m|min|minute|h|hour|d|day)\\s*$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written() {
        for (text, count, period) in [
            ("100/s", 100, Period::Second),
            ("2M/min", 2_000_000, Period::Minute),
            ("5k / day", 5000, Period::Day),
            ("0/h", 0, Period::Hour),
        ] {
            assert_eq!(parse(text), Some(RateText { count, period }), "{text}");
            let written = RateText { count, period }.to_string();
            assert_eq!(parse(&written), Some(RateText { count, period }), "{written}");
        }
        for wrong in
            ["100", "/s", "1.5/s", "-1/s", "100/week", "kk/s", "99999999999999999999/s", "99999999999999G/s"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
