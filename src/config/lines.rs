//! Finds the line and column of a key.
//!
//! The YAML parser reports positions only in its errors. Therefore the text is parsed again along the path of the
//! key, and parsing is stopped with an error at that key. This happens only for faults and warnings
//! (docs/adr/0028-libraries-and-what-stays-ours.md compares this with parsers that keep positions).

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, IgnoredAny};

/// Line and column, both starting at 1.
pub(super) type Place = (usize, usize);

/// Returns the position of the key at a dotted path, or of its nearest parent in the text.
pub(super) fn place_of(text: &str, path: &str) -> Option<Place> {
    let mut path = path;
    while !path.is_empty() {
        if let Some(place) = nth_place_of(text, path, 0) {
            return Some(place);
        }
        path = &path[..path.rfind(['.', '['])?];
    }
    None
}

/// Returns the position of a duplicate key after skipping the first `nth` occurrences.
pub(super) fn nth_place_of(text: &str, path: &str, nth: usize) -> Option<Place> {
    let search = Search { found: Cell::new(false), pass: Cell::new(nth) };
    let deserializer = serde_yaml::Deserializer::from_str(text);
    let error = Seek { rest: path, search: &search }.deserialize(deserializer).err()?;
    let location = error.location().filter(|_| search.found.get())?;
    Some((location.line(), location.column()))
}

/// State of a search.
struct Search {
    found: Cell<bool>,
    /// Occurrences left to skip.
    pass: Cell<usize>,
}

impl Search {
    /// True if this occurrence is the wanted one.
    fn is_it(&self) -> bool {
        let left = self.pass.get();
        self.pass.set(left.saturating_sub(1));
        self.found.set(left == 0);
        left == 0
    }
}

/// Descends along the rest of the path.
struct Seek<'a> {
    rest: &'a str,
    search: &'a Search,
}

impl Seek<'_> {
    /// At the end of the path: stops the parser here.
    fn stop_at_end<E: de::Error>(&self) -> Result<(), E> {
        if !self.rest.is_empty() || !self.search.is_it() {
            return Ok(());
        }
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
        while let Some(below) = map.next_key_seed(SeekKey { rest: self.rest, search: self.search })? {
            match below {
                Some(rest) => map.next_value_seed(Seek { rest, search: self.search })?,
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
                    items.next_element_seed(Seek { rest, search: self.search })?.is_some()
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

/// Reads a key: stops the parser at the last key of the path, otherwise returns the rest of the path.
struct SeekKey<'a> {
    rest: &'a str,
    search: &'a Search,
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
            return if self.search.is_it() { Err(E::custom("found")) } else { Ok(None) };
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
        let line = |path| place_of(TEXT, path).map(|(line, _)| line);
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
    fn columns_are_those_of_the_key() {
        assert_eq!(place_of(TEXT, "listen"), Some((2, 1)));
        assert_eq!(place_of(TEXT, "backends.my.own.url"), Some((5, 5)));
        assert_eq!(place_of(TEXT, "backends.other.url"), Some((8, 12)));
        assert_eq!(place_of(TEXT, "list[1].two"), Some((12, 7)));
        let twice = "a: { b: 1 }\nc: 1\na:\n  b: 2\n";
        assert_eq!(nth_place_of(twice, "a", 1), Some((3, 1)));
        assert_eq!(nth_place_of(twice, "a.b", 1), Some((4, 3)));
        assert_eq!(nth_place_of(twice, "a", 2), None);
    }

    #[test]
    fn a_key_that_is_not_written_is_placed_at_the_one_above_it() {
        assert_eq!(place_of(TEXT, "backends.other.tls.ca_file"), Some((8, 3)));
        assert_eq!(place_of(TEXT, "list[7]"), Some((10, 1)));
        assert_eq!(place_of(TEXT, "server.threads"), None);
        assert_eq!(place_of("", "listen"), None);
        assert_eq!(place_of("[", "listen"), None);
    }
}
