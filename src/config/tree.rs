//! The values as a tree, before serde reads it, with a note of where each came from.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

/// All sources laid over each other.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The values.
    pub(super) root: Mapping,
    /// Values that do not come from the file, by the path of their key.
    pub(super) origins: BTreeMap<String, Origin>,
    /// Values in which a reference was expanded, by path.
    pub(super) expanded: BTreeMap<String, Expanded>,
}

/// Where a value comes from that is not in the file.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The variable or flag: `ELIDA_LISTEN`, `--listen`.
    pub(super) name: String,
    /// Its text.
    pub(super) text: String,
}

/// A value that holds a reference to the environment or a file.
#[derive(Clone, Debug)]
pub(super) struct Expanded {
    /// As it is written: `${env:NAME}`. This is what may be shown.
    pub(super) reference: String,
    /// What it became; perhaps a secret.
    pub(super) text: String,
}

impl Tree {
    /// The values of a file.
    pub(super) fn new(root: Mapping) -> Self {
        Self { root, ..Self::default() }
    }

    /// Sets a value from outside the file.
    pub(super) fn set(&mut self, keys: &[&str], value: Value, origin: Origin) {
        let Some((last, parents)) = keys.split_last() else {
            return;
        };
        let mut path = String::new();
        let mut mapping = &mut self.root;
        for key in parents {
            let key = existing(mapping, key);
            push(&mut path, &key);
            let below = mapping.entry(Value::String(key)).or_insert(Value::Null);
            if !below.is_mapping() {
                *below = Value::Mapping(Mapping::new());
            }
            let Value::Mapping(below) = below else { return };
            mapping = below;
        }
        let key = existing(mapping, last);
        push(&mut path, &key);
        mapping.insert(Value::String(key), value);
        // A value that is replaced whole takes what was noted about its parts with it.
        self.origins.retain(|noted, _| !is_within(noted, &path));
        self.origins.insert(path, origin);
    }

    /// The origin of the value at a path, or of the nearest value that contains it.
    pub(super) fn origin(&self, path: &str) -> Option<&Origin> {
        let containing = self.origins.iter().filter(|(key, _)| is_within(path, key));
        containing.max_by_key(|(key, _)| key.len()).map(|(_, origin)| origin)
    }
}

/// Whether `path` is `outer` or a part of it.
pub(super) fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Appends a key to a dotted path.
pub(super) fn push(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// The key as the mapping has it: variables cannot be written in small letters or with `-`.
fn existing(mapping: &Mapping, key: &str) -> String {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let known = mapping.keys().filter_map(Value::as_str).find(|known| plain(known) == plain(key));
    known.map_or_else(|| key.to_ascii_lowercase(), str::to_owned)
}
