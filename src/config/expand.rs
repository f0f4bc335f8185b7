//! Expands references in values: `${env:NAME}` and `${file:/path}`.

use serde_yaml::{Mapping, Value};

use super::sources::Environment;
use super::tree::{Expanded, Tree, push};
use crate::settings::fault::Faults;

/// Expands every reference in the tree's strings; a missing variable or file is a fault.
pub(super) fn expand(tree: &mut Tree, environment: &Environment, faults: &mut Faults) {
    let mut walk = Walk { environment, faults, expanded: Vec::new() };
    walk.mapping("", &mut tree.root);
    tree.expanded.extend(walk.expanded);
}

struct Walk<'a> {
    environment: &'a Environment,
    faults: &'a mut Faults,
    expanded: Vec<(String, Expanded)>,
}

impl Walk<'_> {
    fn mapping(&mut self, path: &str, mapping: &mut Mapping) {
        for (key, value) in mapping {
            let mut path = path.to_owned();
            push(&mut path, key.as_str().unwrap_or_default());
            self.value(path, value);
        }
    }

    fn value(&mut self, path: String, value: &mut Value) {
        match value {
            Value::Mapping(mapping) => self.mapping(&path, mapping),
            Value::Sequence(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.value(format!("{path}[{i}]"), item);
                }
            }
            Value::String(text) if text.contains("${") => {
                match self.text(&path, text) {
                    Some(full) if full != *text => {
                        let reference = std::mem::replace(text, full.clone());
                        self.expanded.push((path, Expanded { reference, text: full }));
                    }
                    Some(_) => {}
                    // Reported already; null means the default.
                    None => *value = Value::Null,
                }
            }
            _ => {}
        }
    }

    /// Returns the text with its references expanded; `None` after a fault.
    fn text(&mut self, path: &str, text: &str) -> Option<String> {
        let mut full = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            full.push_str(&rest[..start]);
            let inside = &rest[start + 2..];
            let end = inside.find('}');
            let name = &inside[..end.unwrap_or(inside.len())];
            if let Some(problem) = self.reference(name, end.is_some(), &mut full) {
                self.faults.add(path, problem.0, problem.1);
                return None;
            }
            rest = end.map_or("", |end| &inside[end + 1..]);
        }
        full.push_str(rest);
        Some(full)
    }

    /// Appends the value of `${name}`, or returns the problem and its fix.
    fn reference(&self, name: &str, closed: bool, full: &mut String) -> Option<(String, String)> {
        let known = name.starts_with("env:") || name.starts_with("file:");
        if known && !closed {
            return Some((format!("'${{{name}' is not closed"), "write } at its end".into()));
        }
        if let Some(variable) = name.strip_prefix("env:") {
            if self.environment.is_unreadable(variable) {
                return Some((
                    format!("the variable {variable} is not UTF-8 text"),
                    format!("set {variable} again"),
                ));
            }
            let Some(value) = self.environment.get(variable) else {
                return Some((format!("the variable {variable} is not set"), format!("set {variable}")));
            };
            full.push_str(value);
        } else if let Some(file) = name.strip_prefix("file:") {
            match std::fs::read_to_string(file) {
                Ok(text) => full.push_str(text.trim_end_matches(['\n', '\r'])),
                Err(error) => {
                    let hint = "check the path and its permissions";
                    return Some((format!("'{file}' cannot be read: {error}"), hint.into()));
                }
            }
        } else if closed && is_variable(name) {
            let hint = format!("write ${{env:{name}}} or ${{file:/path}}");
            return Some((format!("'${{{name}}}' is not a known reference"), hint));
        } else {
            // Not a reference: a pattern may contain such a text.
            full.push_str("${");
            full.push_str(name);
            full.push_str(if closed { "}" } else { "" });
        }
        None
    }
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
