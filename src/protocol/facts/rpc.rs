//! What the body of a JSON-RPC 2.0 request says.
//!
//! A body may be a batch (MCP 2025-03-26): then its members speak together, and where they differ the
//! body has no one method.

use serde_json::value::RawValue;

use crate::protocol::json::scan::Value;

/// What the body of a JSON-RPC request said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rpc {
    /// `tools/call`; of several the last.
    pub method: Option<Box<str>>,
    /// `params.name`: the tool or prompt.
    pub name: Option<Box<str>>,
    /// `params.uri`: the resource.
    pub uri: Option<Box<str>>,
    /// The protocol's version, as the body says it.
    pub version: Option<Box<str>>,
    /// The request's id as JSON; none in a notification.
    pub id: Option<Box<str>>,
    /// A call of a tool is among the requests of the body.
    pub calls_tool: bool,
    /// The other values of `params.name`, if a body has several that differ; the first [`MAX`] of them.
    pub other_names: Vec<Box<str>>,
    /// The other ids, likewise.
    pub other_ids: Vec<Box<str>>,
    /// There are more names or ids than are kept.
    pub has_more: bool,
    /// Two of these differ in one body: a batch, or a key that is there twice.
    pub is_mixed: bool,
    /// A method, name, id or member of a batch is a list or an object, which some server may read.
    pub is_unclear: bool,
}

/// Names and ids of one body that are kept beside the last of each.
pub const MAX: usize = 64;

impl Rpc {
    /// Notes the value at path number `path`, counted from the first of `json_rpc::PATHS`.
    pub(in crate::protocol) fn take(&mut self, path: usize, value: &Value<'_>) {
        let text = match (path, value) {
            (1, Value::Str(id)) => serde_json::to_string(id).ok(),
            (1, Value::Number(id)) => {
                serde_json::from_str::<&RawValue>(id).ok().map(|id| id.get().to_owned())
            }
            (_, Value::Str(text)) => Some(text.as_ref().to_owned()),
            _ => None,
        };
        let place = match path {
            0 => &mut self.method,
            1 => &mut self.id,
            2 => &mut self.name,
            3 => &mut self.uri,
            _ => &mut self.version,
        };
        let Some(text) = text else { return };
        self.calls_tool |= path == 0 && text == "tools/call";
        let before = place.replace(text.as_str().into()).filter(|known| **known != *text);
        let Some(before) = before else { return };
        self.is_mixed = true;
        let others = match path {
            1 => &mut self.other_ids,
            2 => &mut self.other_names,
            _ => return,
        };
        match others.len() < MAX {
            true => others.push(before),
            false => self.has_more = true,
        }
    }

    /// Returns the values of `params.name` in the body.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.other_names.iter().chain(&self.name).map(|name| &**name)
    }

    /// Returns the ids in the body, as JSON.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.other_ids.iter().chain(&self.id).map(|id| &**id)
    }

    /// A short summary for a log line: `tools/call get_weather`. Resource URIs are left out: they may hold
    /// secrets.
    pub fn summary(&self) -> Option<String> {
        let method = self.method.as_deref()?;
        Some(match (self.is_mixed, self.name.as_deref()) {
            (true, _) => "batch".to_owned(),
            (false, Some(name)) => format!("{method} {name}"),
            (false, None) => method.to_owned(),
        })
    }
}
