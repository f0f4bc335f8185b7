//! The merged values before deserialization, and where each of them came from.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

/// The merged sources.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The values.
    pub(super) root: Mapping,
    /// Origins of values that are not from the file, by path.
    pub(super) origins: BTreeMap<String, Origin>,
    /// Values in which a reference was expanded, by path.
    pub(super) expanded: BTreeMap<String, Expanded>,
    /// New paths of keys that are written under an old name, with the paths as they are written.
    pub(super) renamed: BTreeMap<String, String>,
}

/// The origin of a value that is not from the file.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The variable or flag: `ELIDA_LISTEN`, `--listen`.
    pub(super) name: String,
    /// Its text.
    pub(super) text: String,
}

/// A value with an expanded reference to the environment or a file.
#[derive(Clone, Debug)]
pub(super) struct Expanded {
    /// The value before expansion, such as `${env:NAME}`; safe to print.
    pub(super) reference: String,
    /// The value after expansion; may be a secret.
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
        // Replacing a value drops the origins of its parts.
        self.origins.retain(|noted, _| !is_within(noted, &path));
        self.origins.insert(path, origin);
    }

    /// The path under which a key is written.
    pub(super) fn written_path(&self, path: &str) -> Option<String> {
        let (new, old) = self.renamed.iter().find(|(new, _)| is_within(path, new))?;
        Some(format!("{old}{}", &path[new.len()..]))
    }

    /// Returns the origin of the value at a path, or of the nearest value that contains it.
    pub(super) fn origin(&self, path: &str) -> Option<&Origin> {
        let containing = self.origins.iter().filter(|(key, _)| is_within(path, key));
        containing.max_by_key(|(key, _)| key.len()).map(|(_, origin)| origin)
    }
}

/// True if `path` is `outer` or below it.
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

/// Returns the matching key of the mapping: names of variables have no lower-case letters and no `-`.
fn existing(mapping: &Mapping, key: &str) -> String {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let known = mapping.keys().filter_map(Value::as_str).find(|known| plain(known) == plain(key));
    known.map_or_else(|| key.to_ascii_lowercase(), str::to_owned)
}
