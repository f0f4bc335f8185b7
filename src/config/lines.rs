//! On which line of the file a key stands.
//!
//! The YAML reader tells a place only in its errors. So the text is read once more along the path,
//! and the reader is stopped with an error where the key is found.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, IgnoredAny};

/// The line of the key at a dotted path (1 is the first); when the key is not written, the line of
/// the nearest key above it that is.
pub(super) fn line_of(text: &str, path: &str) -> Option<usize> {
    let mut path = path;
    while !path.is_empty() {
        let found = Cell::new(false);
        let deserializer = serde_yaml::Deserializer::from_str(text);
        let outcome = Seek { rest: path, found: &found }.deserialize(deserializer);
        if let Err(error) = outcome
            && found.get()
        {
            return error.location().map(|location| location.line());
        }
        path = &path[..path.rfind(['.', '['])?];
    }
    None
}

/// Goes down the values along what is left of the path.
struct Seek<'a> {
    rest: &'a str,
    found: &'a Cell<bool>,
}

impl Seek<'_> {
    /// At the end of the path: stops the reader here.
    fn stop_at_end<E: de::Error>(&self) -> Result<(), E> {
        if !self.rest.is_empty() {
            return Ok(());
        }
        self.found.set(true);
        Err(E::custom("found"))
    }
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.stop_at_end()?;
        while let Some(below) = map.next_key_seed(SeekKey { rest: self.rest, found: self.found })? {
            match below {
                Some(rest) => map.next_value_seed(Seek { rest, found: self.found })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.stop_at_end()?;
        let index = self.rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let index = index.and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest)));
        for i in 0.. {
            let more = match index {
                Some((wanted, rest)) if wanted == i => {
                    let rest = rest.strip_prefix('.').unwrap_or(rest);
                    items.next_element_seed(Seek { rest, found: self.found })?.is_some()
                }
                _ => items.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.stop_at_end()
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.stop_at_end()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.stop_at_end()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.stop_at_end()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.stop_at_end()
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.stop_at_end()
    }
}

/// Reads a key: stops the reader when it is the last of the path, else gives what is left after it.
struct SeekKey<'a> {
    rest: &'a str,
    found: &'a Cell<bool>,
}

impl<'de, 'a> DeserializeSeed<'de> for SeekKey<'a> {
    type Value = Option<&'a str>;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> de::Visitor<'_> for SeekKey<'a> {
    type Value = Option<&'a str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        let Some(rest) = self.rest.strip_prefix(key) else {
            return Ok(None);
        };
        if rest.is_empty() {
            self.found.set(true);
            return Err(E::custom("found"));
        }
        // The key of a backend may itself hold a dot: only a whole key goes on.
        Ok(rest.strip_prefix('.').or_else(|| rest.starts_with('[').then_some(rest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
listen: x
backends:
  my.own:
    url: a
    models: [a,
      b]
  other: { url: b,
    type: c }
list:
  - one
  - { two: 2 }
";

    #[test]
    fn keys_are_found_in_block_and_flow_form() {
        let line = |path| line_of(TEXT, path);
        assert_eq!(line("listen"), Some(2));
        assert_eq!(line("backends"), Some(3));
        assert_eq!(line("backends.my.own"), Some(4));
        assert_eq!(line("backends.my.own.url"), Some(5));
        assert_eq!(line("backends.my.own.models[1]"), Some(7));
        assert_eq!(line("backends.other.type"), Some(9));
        assert_eq!(line("list[0]"), Some(11));
        assert_eq!(line("list[1].two"), Some(12));
    }

    #[test]
    fn a_key_that_is_not_written_is_placed_at_the_one_above_it() {
        assert_eq!(line_of(TEXT, "backends.other.tls.ca_file"), Some(8));
        assert_eq!(line_of(TEXT, "list[7]"), Some(10));
        assert_eq!(line_of(TEXT, "server.threads"), None);
        assert_eq!(line_of("", "listen"), None);
        assert_eq!(line_of("[", "listen"), None);
    }
}
