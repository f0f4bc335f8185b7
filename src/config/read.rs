//! Deserializes the tree of values and collects every fault.
//!
//! Serde stops at the first error. After each error the offending value is reported and removed, and the tree is
//! deserialized again, until the rest is valid.

use std::collections::{BTreeMap, BTreeSet};

use serde_path_to_error::{Path, Segment};
use serde_yaml::Value;

use super::config_file::ConfigFile;
use super::tree::{Tree, push};
use crate::settings::fault::Faults;
use crate::settings::nearest::did_you_mean;

/// Stops after this many faults.
const MAX_FAULTS: usize = 100;

/// Deserializes the tree; an invalid value becomes a fault, and its default is used. Returns also which items of lists were left
/// out because of that.
pub(super) fn read(tree: &Tree, faults: &mut Faults) -> Option<(ConfigFile, Removed)> {
    let mut root = Value::Mapping(tree.root.clone());
    if has_odd_keys("", &root, faults) {
        return None;
    }
    let mut removed = Removed::default();
    for _ in 0..MAX_FAULTS {
        let error = match serde_path_to_error::deserialize(&root) {
            Ok(written) => return Some((written, removed)),
            Err(error) => error,
        };
        let steps = steps(error.path());
        if !mend(tree, &mut root, &steps, &error.inner().to_string(), &mut removed, faults) {
            break;
        }
    }
    faults.add("", "there may be more errors", "fix these and check again");
    None
}

/// Reports one error and changes the tree so that the next attempt gets further; false if that is impossible.
fn mend(
    tree: &Tree,
    root: &mut Value,
    steps: &[Step],
    message: &str,
    removed: &mut Removed,
    faults: &mut Faults,
) -> bool {
    let path = removed.dotted(steps);
    let wrong = at(root, steps);
    // A section whose keys are all commented out is null and means its defaults.
    if matches!(wrong, Some(Value::Null)) && !message.starts_with("unknown field") {
        return removed.remove(root, steps);
    }
    if retry_as_text(tree, &path, wrong) {
        return true;
    }
    let missing = message.strip_prefix("missing field ").and_then(|rest| quoted(rest).first().copied());
    let Some(key) = missing else {
        note(tree, path, message, faults);
        return removed.remove(root, steps);
    };
    // The key may have been removed with an invalid value, which is reported already.
    if !faults.iter().any(|fault| fault.path == format!("{path}.{key}")) {
        faults.add(path, format!("'{key}' is missing"), format!("add {key}:"));
    }
    stand_in(root, steps, key) || removed.remove(root, steps)
}

/// One step of a path.
#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

fn steps(path: &Path) -> Vec<Step> {
    let steps = path.iter().map_while(|segment| match segment {
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    steps.collect()
}

fn at<'a>(root: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    steps.iter().try_fold(root, |value, step| match (value, step) {
        (Value::Mapping(mapping), Step::Key(key)) => mapping.get_mut(key.as_str()),
        (Value::Sequence(items), Step::Index(index)) => items.get_mut(*index),
        _ => None,
    })
}

/// Indexes of removed list items, so that later items are reported with their original index.
#[derive(Default)]
pub(super) struct Removed(BTreeMap<String, BTreeSet<usize>>);

impl Removed {
    /// Returns the position of a list item in the file.
    fn index(&self, list: &str, index: usize) -> usize {
        let gone = self.0.get(list).into_iter().flatten();
        gone.fold(index, |index, gone| index + usize::from(*gone <= index))
    }

    /// Returns a path in what was read as it is in the file.
    pub(super) fn original(&self, path: &str) -> String {
        let (mut original, mut rest) = (String::new(), path);
        while let Some((before, after)) = rest.split_once('[') {
            original.push_str(before);
            let (index, behind) = after.split_once(']').unwrap_or((after, ""));
            match index.parse() {
                Ok(index) => original.push_str(&format!("[{}]", self.index(&original, index))),
                Err(_) => original.push_str(&format!("[{index}]")),
            }
            rest = behind;
        }
        original + rest
    }

    /// Returns the dotted path of the key, as in the file.
    fn dotted(&self, steps: &[Step]) -> String {
        let mut path = String::new();
        for step in steps {
            match step {
                Step::Key(key) => push(&mut path, key),
                Step::Index(index) => {
                    path.push_str(&format!("[{}]", self.index(&path, *index)));
                }
            }
        }
        path
    }

    /// Removes a value; false if there is none. A list that becomes empty is removed as well, because an empty list
    /// could be a fault of its own.
    fn remove(&mut self, root: &mut Value, steps: &[Step]) -> bool {
        let Some((last, above)) = steps.split_last() else {
            return false;
        };
        match (at(root, above), last) {
            (Some(Value::Mapping(mapping)), Step::Key(key)) => mapping.shift_remove(key.as_str()).is_some(),
            (Some(Value::Sequence(items)), Step::Index(_)) if items.len() == 1 => self.remove(root, above),
            (Some(Value::Sequence(items)), Step::Index(index)) if *index < items.len() => {
                items.remove(*index);
                let path = self.dotted(steps);
                let (list, place) = path.rsplit_once('[').unwrap_or((&path, ""));
                let place = place.trim_end_matches(']').parse().unwrap_or(*index);
                self.0.entry(list.to_owned()).or_default().insert(place);
                true
            }
            _ => false,
        }
    }
}

/// Retries a value of a variable as a string: `ELIDA__SESSION__HEADER=123` parses as a number.
fn retry_as_text(tree: &Tree, path: &str, wrong: Option<&mut Value>) -> bool {
    match (wrong, tree.origins.get(path)) {
        (Some(wrong), Some(origin)) if wrong.is_number() || wrong.is_bool() => {
            *wrong = Value::String(origin.text.clone());
            true
        }
        _ => false,
    }
}

/// Reports an error of serde in plain words.
fn note(tree: &Tree, path: String, message: &str, faults: &mut Faults) {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let words = quoted(rest);
        let key = words.first().copied().unwrap_or_default();
        let hint = did_you_mean(key, words.iter().copied().skip(1));
        match tree.origin(&path) {
            Some(origin) => {
                faults.add(origin.name.as_str(), format!("unknown key '{path}'"), hint);
            }
            None => faults.add(path, format!("unknown key '{key}'"), hint),
        }
    } else if let Some(rest) = message.strip_prefix("unknown variant ") {
        let words = quoted(rest);
        let word = words.first().copied().unwrap_or_default();
        let hint = did_you_mean(word, words.into_iter().skip(1));
        faults.add(path, format!("'{word}' is not known here"), hint);
    } else {
        let text = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "));
        match text.and_then(|text| text.rsplit_once(", expected ")) {
            Some((found, expected)) => {
                let hint = format!("write {}", plain_words(expected));
                faults.add(path, format!("{} does not fit", plain_words(found)), hint);
            }
            None => faults.add(path, message, ""),
        }
    }
}

/// The words between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Serde's names of types in plain words.
fn plain_words(text: &str) -> String {
    match text {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number".into(),
        "f64" | "f32" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" => "a text, in quotes if need be".into(),
        "a sequence" => "a list such as [a, b]".into(),
        "sequence" => "a list".into(),
        "map" | "a map" | "backends by name" => "a section of keys".into(),
        "unit value" => "an empty value".into(),
        _ if text.starts_with("struct ") => "a section of keys".into(),
        _ => {
            let number = text.strip_prefix("integer ").or(text.strip_prefix("floating point "));
            let number = number.map(|number| format!("the number {}", number.replace('`', "")));
            let other = || text.strip_prefix("string ").unwrap_or(text).replace(['`', '"'], "'");
            number.unwrap_or_else(other)
        }
    }
}

/// Inserts a valid value for a missing required key, so that the rest can be checked; false for an unknown key.
/// Only backends have required keys.
fn stand_in(root: &mut Value, steps: &[Step], key: &str) -> bool {
    let value = match key {
        "url" => "http://stand-in.invalid",
        "type" => "http",
        _ => return false,
    };
    match at(root, steps) {
        Some(Value::Mapping(mapping)) => mapping.insert(key.into(), value.into()).is_none(),
        _ => false,
    }
}

/// Reports keys that are not strings, such as `8080:`.
fn has_odd_keys(path: &str, value: &Value, faults: &mut Faults) -> bool {
    let mut odd = false;
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                if let Some(key) = key.as_str() {
                    let mut path = path.to_owned();
                    push(&mut path, key);
                    odd |= has_odd_keys(&path, value, faults);
                } else {
                    odd = true;
                    faults.add(path, "a key here is not a string", "put the key in quotes if it is intended");
                }
            }
        }
        Value::Sequence(items) => {
            for (i, item) in items.iter().enumerate() {
                odd |= has_odd_keys(&format!("{path}[{i}]"), item, faults);
            }
        }
        _ => {}
    }
    odd
}
