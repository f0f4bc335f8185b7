//! Keys that had another name. The old name still works and is warned of.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

use super::tree::{Tree, is_within, push};
use crate::settings::fault::Faults;

/// A key that was renamed.
pub(super) struct Renamed {
    /// The section; `*` is any key.
    section: &'static [&'static str],
    /// The name of the section's definition in the JSON schema.
    pub(super) definition: &'static str,
    pub(super) old: &'static str,
    pub(super) new: &'static str,
}

/// All renamed keys.
pub(super) const RENAMED: [Renamed; 2] = [
    Renamed {
        section: &["backends", "*", "health"],
        definition: "BackendHealth",
        old: "rest",
        new: "eject_for",
    },
    Renamed {
        section: &["backends", "*", "health"],
        definition: "BackendHealth",
        old: "max_rest",
        new: "max_eject",
    },
];

/// Gives the keys of the tree their new names. A key under both names is a fault.
pub(super) fn rename_keys(tree: &mut Tree, faults: &mut Faults) {
    for renamed in &RENAMED {
        let mut found = Vec::new();
        sections(&mut tree.root, renamed.section, String::new(), &mut |path, section| {
            if section.contains_key(renamed.old) {
                found.push((path, rename(section, renamed)));
            }
        });
        for (section, is_renamed) in found {
            let (mut old, mut new) = (section.clone(), section);
            push(&mut old, renamed.old);
            push(&mut new, renamed.new);
            let Renamed { old: old_name, new: new_name, .. } = renamed;
            if is_renamed {
                let message = format!("`{old_name}` is now called `{new_name}`; the old name still works");
                faults.warn(new.as_str(), message, format!("write {new_name}"));
                carry_over(&mut tree.origins, &old, &new);
                carry_over(&mut tree.expanded, &old, &new);
                tree.renamed.insert(new, old);
            } else {
                let message = format!("'{old_name}' is the old name of '{new_name}', and both are set");
                faults.add(old, message, format!("remove {old_name}"));
            }
        }
    }
}

/// Calls `each` with every mapping at a path of the file that fits `section`.
fn sections(
    mapping: &mut Mapping,
    section: &[&str],
    path: String,
    each: &mut impl FnMut(String, &mut Mapping),
) {
    let Some((first, rest)) = section.split_first() else {
        each(path, mapping);
        return;
    };
    for (key, value) in mapping {
        if let (Some(key), Value::Mapping(below)) = (key.as_str(), value)
            && (*first == "*" || *first == key)
        {
            let mut path = path.clone();
            push(&mut path, key);
            sections(below, rest, path, each);
        }
    }
}

/// Renames a key in its section; false, and the old key is removed, when the new one is there too.
fn rename(section: &mut Mapping, renamed: &Renamed) -> bool {
    let Some(value) = section.shift_remove(renamed.old) else { return false };
    let is_free = !section.contains_key(renamed.new);
    if is_free {
        section.insert(renamed.new.into(), value);
    }
    is_free
}

/// Moves what is known of the values at a path and below it.
fn carry_over<T>(known: &mut BTreeMap<String, T>, old: &str, new: &str) {
    let moved: Vec<String> = known.keys().filter(|path| is_within(path, old)).cloned().collect();
    for path in moved {
        if let Some(value) = known.remove(&path) {
            known.insert(format!("{new}{}", &path[old.len()..]), value);
        }
    }
}
