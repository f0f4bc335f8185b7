//! Durations and sizes as the configuration writes them: `30s`, `24h`, `16KiB`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de};

/// A duration in the form `300ms`, `30s`, `1h 30m`; a bare `0` is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationText(pub Duration);

/// The longest duration: 100 years. Short enough that the sum of two does not overflow.
const MAX_SPAN: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

impl DurationText {
    /// Creates a duration of whole seconds.
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Returns the duration; `None` for zero, which means "no limit".
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for DurationText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = DurationText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time with its unit, like 300ms, 30s, 5m or 24h")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<DurationText, E> {
                if text.trim() == "0" {
                    return Ok(DurationText(Duration::ZERO));
                }
                match humantime::parse_duration(text) {
                    Ok(time) if time > MAX_SPAN => {
                        Err(E::custom(format!("'{text}' is longer than 100 years")))
                    }
                    Ok(time) => Ok(DurationText(time)),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<DurationText, E> {
                match number {
                    0 => Ok(DurationText(Duration::ZERO)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A length of time with its unit, like 300ms, 30s, 5m, 1h 30m; 0 is zero.",
            "type": ["string", "integer"],
            "maximum": 0,
        })
    }
}

/// A number of bytes in the form `16KiB`, `10MB`, `512`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Creates a size in KiB (1,024 bytes).
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// Creates a size in MiB (1,048,576 bytes).
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// Returns the size as a `usize`, saturating.
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Exact, so that a dump of the configuration can be read back.
        const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match UNITS.iter().find(|(bits, _)| self.0.trailing_zeros() >= *bits && self.0 > 0) {
            Some((bits, unit)) => write!(f, "{}{unit}", self.0 >> bits),
            None => self.0.fmt(f),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, like 8192, 16KiB or 10MB")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse::<bytesize::ByteSize>()
                    .map(|size| ByteSize(size.0))
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(number))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes, like 8192, 16KiB, 10MB.",
            "type": ["string", "integer"],
            "minimum": 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_units_and_zero() {
        let read = |text: &str| serde_yaml::from_str::<DurationText>(text);
        assert_eq!(read("30s").unwrap(), DurationText::secs(30));
        assert_eq!(read("1h 30m").unwrap(), DurationText::secs(5400));
        assert_eq!(read("0").unwrap().limit(), None);
        assert_eq!(read("0s").unwrap().limit(), None);
        let fault = read("30").unwrap_err().to_string();
        assert!(fault.contains("with its unit"), "{fault}");
        assert!(read("soon").is_err());
        assert!(read("-5s").is_err());
    }

    #[test]
    fn sizes_read_units_and_numbers() {
        let read = |text: &str| serde_yaml::from_str::<ByteSize>(text);
        assert_eq!(read("16KiB").unwrap(), ByteSize::kib(16));
        assert_eq!(read("8192").unwrap(), ByteSize(8192));
        assert_eq!(read("10MB").unwrap(), ByteSize(10_000_000));
        assert!(read("lots").is_err());
        assert!(read("-1").is_err());
        for text in ["16KiB", "32MiB", "3GiB", "8193", "0"] {
            assert_eq!(read(text).unwrap().to_string(), text);
        }
    }
}
