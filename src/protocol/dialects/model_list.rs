//! Lists of models: how a provider is asked for its list, how the list is read, and the form in which a client
//! wants the list of all.

use serde_json::{Map, Value};

use super::spec::Dialect;

/// How a provider is asked for its models.
#[derive(Debug)]
pub struct ModelListRequest {
    /// Path and query, behind the base path of the backend.
    pub target: &'static str,
    /// Header fields that the provider requires.
    pub headers: &'static [(&'static str, &'static str)],
}

/// The form of a list of models.
pub(super) struct ModelListForm {
    /// Writes an entry. `fields` has `id`, `display_name` and `owned_by`, and what the provider wrote.
    pub(super) entry: fn(fields: Map<String, Value>) -> Map<String, Value>,
    /// Writes the list of these entries.
    pub(super) list: fn(entries: Vec<Value>) -> Value,
}

/// Reads the entries of a list: `data` in the form of OpenAI and Anthropic, `models` in that of Google and Cohere.
///
/// # Errors
/// A sentence that says why this is no list of models.
pub fn entries(body: &[u8]) -> Result<Vec<Value>, String> {
    let mut list: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| format!("its list is no JSON object: {error}"))?;
    match list.remove("data").or_else(|| list.remove("models")) {
        Some(Value::Array(entries)) => Ok(entries),
        _ => Err("its answer is no list of models".to_owned()),
    }
}

/// The model that an entry names: its `id`, or its `name` without Google's `models/`. `None` when it has neither.
pub fn id(entry: &Map<String, Value>) -> Option<&str> {
    let name = || entry.get("name")?.as_str().map(|name| name.strip_prefix("models/").unwrap_or(name));
    entry.get("id").and_then(Value::as_str).or_else(name).filter(|id| !id.is_empty())
}

impl Dialect {
    /// An entry of a list, with all that the provider wrote, in the form that clients of this dialect read.
    pub fn model_entry(self, entry: &Map<String, Value>, id: &str, backend: &str) -> Map<String, Value> {
        let mut model = entry.clone();
        let names = ["display_name", "displayName"];
        let name = names.iter().find_map(|key| entry.get(*key)?.as_str()).unwrap_or(id);
        model.insert("display_name".to_owned(), name.into());
        model.insert("id".to_owned(), id.into());
        model.entry("owned_by").or_insert_with(|| backend.into());
        (self.0.model_list.entry)(model)
    }

    /// The list of these entries, in the form that clients of this dialect read.
    pub fn model_list(self, entries: Vec<Value>) -> Value {
        (self.0.model_list.list)(entries)
    }
}
