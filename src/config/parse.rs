//! Parses YAML so that a syntax error or a duplicate key in one section does not hide faults in another.
//!
//! The YAML parser stops at the first error. In that case each top-level section is parsed on its own: invalid
//! sections are reported and left out, the others are used.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::value::EnumAccessDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed};
use serde_yaml::{Mapping, Value};

use super::lines::nth_place_of;
use super::tree::push;
use crate::settings::fault::{Fault, Faults};

/// The result of parsing.
pub(super) struct Parsed<'a> {
    /// The values; of duplicate keys, the first.
    pub(super) root: Mapping,
    /// The text of the values with its original line numbers; invalid sections are blank lines.
    pub(super) readable: Cow<'a, str>,
    /// False if a section was left out.
    pub(super) is_whole: bool,
}

/// Parses the text of a file; an empty file has no values.
pub(super) fn parse<'a>(text: &'a str, faults: &mut Faults) -> Parsed<'a> {
    let (value, twice, readable, is_whole) = match gather(text) {
        Ok((value, twice)) => (value, twice, Cow::Borrowed(text), true),
        Err(error) => {
            let readable = without_broken_sections(text, error, faults);
            let (value, twice) = gather(&readable).unwrap_or_default();
            (value, twice, Cow::Owned(readable), false)
        }
    };
    note_twice(&twice, &readable, faults);
    let mut root = match value {
        Value::Mapping(root) => root,
        Value::Null => Mapping::new(),
        _ => {
            let hint = "write keys such as listen: 0.0.0.0:8080";
            faults.push(top_fault(Some(1), None, "the file is not a list of keys and values", hint));
            return Parsed { root: Mapping::new(), readable: "".into(), is_whole: false };
        }
    };
    if !is_whole {
        // It refers to backends, which may be in a section that was left out.
        root.shift_remove("routing");
    }
    Parsed { root, readable, is_whole }
}

/// Builds a fault without a key.
pub(super) fn top_fault(
    line: Option<usize>,
    column: Option<usize>,
    message: impl Into<String>,
    hint: &str,
) -> Fault {
    Fault { path: String::new(), line, column, message: message.into(), hint: hint.into(), within: None }
}

/// Reports and blanks the sections that are not YAML, or the whole text if no single section is invalid on its own.
fn without_broken_sections(text: &str, error: serde_yaml::Error, faults: &mut Faults) -> String {
    let mut readable = String::with_capacity(text.len());
    let mut broken = Vec::new();
    let sections = sections(text);
    for section in &sections {
        let lines_above = "\n".repeat(readable.matches('\n').count());
        match gather(&format!("{lines_above}{section}")) {
            // A section may refer to an anchor (`*anchor`) of another one, which is not an error.
            Err(error) if !error.to_string().contains("unknown anchor") => {
                broken.push(syntax_fault(&error));
                readable.push_str(&"\n".repeat(section.matches('\n').count()));
            }
            _ => readable.push_str(section),
        }
    }
    if broken.is_empty() || gather(&readable).is_err() {
        faults.push(syntax_fault(&error));
        return String::new();
    }
    broken.into_iter().for_each(|fault| faults.push(fault));
    readable
}

/// Splits the text before every key in the first column.
fn sections(text: &str) -> Vec<&str> {
    let mut starts = vec![0];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let begins = line.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '"' | '\''));
        if begins && at > 0 {
            starts.push(at);
        }
        at += line.len();
    }
    let ends = starts.iter().copied().skip(1).chain([text.len()]);
    starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect()
}

fn syntax_fault(error: &serde_yaml::Error) -> Fault {
    let place = error.location();
    let (line, column) =
        (place.as_ref().map(|place| place.line()), place.as_ref().map(|place| place.column()));
    top_fault(line, column, format!("this is not YAML: {error}"), "fix it and check again")
}

fn note_twice(twice: &[String], text: &str, faults: &mut Faults) {
    for (i, path) in twice.iter().enumerate() {
        let nth = 1 + twice[..i].iter().filter(|before| *before == path).count();
        let first = nth_place_of(text, path, 0);
        let place = nth_place_of(text, path, nth);
        let message = match first {
            Some((line, _)) => format!("is set twice, first on line {line}"),
            None => "is set twice".into(),
        };
        faults.push(Fault {
            path: path.clone(),
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            message,
            hint: "remove one of the two".into(),
            within: None,
        });
    }
}

/// Returns the values, and the paths of duplicate keys.
fn gather(text: &str) -> Result<(Value, Vec<String>), serde_yaml::Error> {
    let twice = RefCell::default();
    let seed = Gather { path: String::new(), twice: &twice };
    let value = seed.deserialize(serde_yaml::Deserializer::from_str(text))?;
    Ok((value, twice.into_inner()))
}

/// Builds a value like `Value` itself, but continues after a duplicate key.
struct Gather<'a> {
    path: String,
    twice: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Gather<'_> {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Gather<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut mapping = Mapping::new();
        while let Some(key) = map.next_key::<Value>()? {
            let mut path = self.path.clone();
            push(&mut path, key.as_str().unwrap_or_default());
            let value = map.next_value_seed(Gather { path: path.clone(), twice: self.twice })?;
            match (mapping.get_mut(&key), value) {
                (None, value) => drop(mapping.insert(key, value)),
                (Some(first), value) => {
                    self.twice.borrow_mut().push(path);
                    add_missing(first, value);
                }
            }
        }
        Ok(Value::Mapping(mapping))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut sequence = Vec::new();
        let seed = |i| Gather { path: format!("{}[{i}]", self.path), twice: self.twice };
        while let Some(item) = items.next_element_seed(seed(sequence.len()))? {
            sequence.push(item);
        }
        Ok(Value::Sequence(sequence))
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        Value::deserialize(EnumAccessDeserializer::new(data))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    /// An empty file.
    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// Merges a duplicate section into the first one, so that its keys are checked as well.
fn add_missing(first: &mut Value, second: Value) {
    if let (Value::Mapping(first), Value::Mapping(second)) = (first, second) {
        for (key, value) in second {
            match first.get_mut(&key) {
                Some(known) => add_missing(known, value),
                None => drop(first.insert(key, value)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Vec<String>) {
        let mut faults = Faults::default();
        let parsed = parse(text, &mut faults);
        let root = serde_yaml::to_string(&parsed.root).unwrap();
        (root, faults.iter().map(|fault| format!("{:?}:{:?} {fault}", fault.line, fault.column)).collect())
    }

    #[test]
    fn what_the_reader_takes_is_what_serde_yaml_takes() {
        let shipped = include_str!("../../conf/elida.yaml");
        for text in [shipped, "a: &x {b: [1, -2, 3.5, ~, true, 'y', 2026-11-20]}\nc: *x\n1: 2\n", "", "# c\n"]
        {
            let (value, twice) = gather(text).unwrap();
            assert_eq!(value, serde_yaml::from_str::<Value>(text).unwrap());
            assert_eq!(twice, [""; 0]);
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_told_with_both_lines_and_hides_nothing() {
        let (root, faults) = read("a:\n  b: 1\n  b: 2\nc: 3\na:\n  d: 4\n  b: 5\na: 6\n");
        assert_eq!(root, "a:\n  b: 1\n  d: 4\nc: 3\n");
        assert_eq!(
            faults,
            [
                "Some(3):Some(3) line 3: a.b: is set twice, first on line 2 (remove one of the two)",
                "Some(5):Some(1) line 5: a: is set twice, first on line 1 (remove one of the two)",
                "Some(8):Some(1) line 8: a: is set twice, first on line 1 (remove one of the two)",
            ]
        );
    }

    #[test]
    fn a_section_that_is_not_yaml_hides_no_other() {
        let (root, faults) = read("# head\na: [1\nb:\n  c: 2\n\td: 3\ne:\n  f: 4\nrouting: {}\n");
        assert_eq!(root, "e:\n  f: 4\n");
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("this is not YAML"), "{faults:?}");
        assert!(faults[1].starts_with("Some(5)"), "{faults:?}");
    }

    #[test]
    fn text_without_sections_has_one_fault() {
        let (root, faults) = read("{ a: 1,\n  b: }}\n");
        assert_eq!((root.as_str(), faults.len()), ("{}\n", 1), "{faults:?}");
    }
}
