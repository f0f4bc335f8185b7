//! Where the value of each key comes from, for people who look for what to change.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use serde_yaml::{Mapping, Value};

use super::lines::place_of;
use super::tree::{Tree, push};
use crate::settings::fault::Fault;

/// Keys below sections are named, not the keys of those: finding a position parses the text again.
const DEPTH: usize = 2;

/// What there is to tell of a configuration besides its values.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) warnings: Vec<Fault>,
    pub(super) sources: KeySources,
}

/// The sources of all keys that are set.
#[derive(Default)]
pub(super) struct KeySources {
    /// The path of the file, as it was given.
    file: String,
    text: String,
    /// Keys, with the path under which the file has them.
    written: Vec<(String, String)>,
    /// Keys that a variable or a flag sets.
    others: BTreeMap<String, String>,
    /// The result, which is computed once.
    all: OnceLock<BTreeMap<String, String>>,
}

impl fmt::Debug for KeySources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text may hold secrets.
        f.debug_struct("KeySources").field("file", &self.file).finish_non_exhaustive()
    }
}

impl KeySources {
    /// Notes what `tree` has from the text of the file, and what from elsewhere.
    pub(super) fn new(file: Option<&Path>, text: &str, tree: &Tree) -> Self {
        let mut written = Vec::new();
        keys(&tree.root, "", DEPTH, &mut written);
        let written = written.into_iter().filter(|key| tree.origin(key).is_none());
        let written = written.map(|key| {
            let path = tree.written_path(&key).unwrap_or_else(|| key.clone());
            (key, path)
        });
        Self {
            file: file.map_or_else(|| "built in".to_owned(), |file| file.display().to_string()),
            text: text.to_owned(),
            written: written.collect(),
            others: tree.origins.iter().map(|(key, origin)| (key.clone(), origin.name.clone())).collect(),
            all: OnceLock::new(),
        }
    }

    /// Returns the source of each key that is set: `FILE:LINE`, a variable or a flag. Parses the text once per key at the first
    /// call.
    pub(super) fn all(&self) -> &BTreeMap<String, String> {
        self.all.get_or_init(|| {
            let places = self.written.iter().filter_map(|(key, path)| {
                let (line, _) = place_of(&self.text, path)?;
                Some((key.clone(), format!("{}:{line}", self.file)))
            });
            places.chain(self.others.clone()).collect()
        })
    }
}

/// Collects the keys whose values are no sections, and those of the last level.
fn keys(mapping: &Mapping, above: &str, depth: usize, found: &mut Vec<String>) {
    for (key, value) in mapping {
        let Some(key) = key.as_str() else { continue };
        let mut path = above.to_owned();
        push(&mut path, key);
        match value {
            Value::Mapping(below) if depth > 1 => keys(below, &path, depth - 1, found),
            _ => found.push(path),
        }
    }
}
