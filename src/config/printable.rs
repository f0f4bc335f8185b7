//! The configuration as it is displayed.

use serde_json::Value;

use super::config_file::ConfigFile;
use super::tree::Tree;

/// Returns the effective values under the keys of the file, for display: secrets are masked, and expanded values replaced by
/// their reference.
pub(super) fn printable(written: &ConfigFile, has_token: bool, tree: &Tree) -> Value {
    // Serialization fails only for maps with keys that are not strings, and there are none.
    let mut printable = serde_json::to_value(written).unwrap_or_default();
    for (path, expanded) in &tree.expanded {
        hide(&mut printable, path, &expanded.reference);
    }
    let Value::Object(root) = &mut printable else {
        return printable;
    };
    if has_token && let Some(auth) = root.get_mut("control").and_then(|control| control.get_mut("auth")) {
        auth["token"] = Value::from("***");
    }
    printable
}

/// Replaces an expanded value by its reference.
fn hide(root: &mut Value, path: &str, reference: &str) {
    if let Some(value) = step_down(root, path) {
        *value = Value::from(reference);
    }
}

/// Returns the value at a dotted path; keys may contain dots.
fn step_down<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    if path.is_empty() {
        return Some(value);
    }
    match value {
        Value::Object(map) => {
            let whole = |key: &str| {
                let rest = path.strip_prefix(key)?;
                rest.strip_prefix('.').or_else(|| (rest.is_empty() || rest.starts_with('[')).then_some(rest))
            };
            let (key, rest) = map.keys().find_map(|key| Some((key.clone(), whole(key)?)))?;
            step_down(map.get_mut(&key)?, rest)
        }
        Value::Array(items) => {
            let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
            step_down(items.get_mut(index.parse::<usize>().ok()?)?, rest.strip_prefix('.').unwrap_or(rest))
        }
        _ => None,
    }
}
