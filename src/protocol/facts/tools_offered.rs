//! The tools that a request offers the model, and about how long the request is.

use crate::protocol::json::scan::Value;

/// Names that are kept.
pub(in crate::protocol) const NAMES_MAX: usize = 128;
/// Bytes that are kept of a name.
pub(in crate::protocol) const NAME_MAX: usize = 128;
/// Bytes of JSON that make a token, about: four letters of English, fewer of other languages, far more of
/// pictures. A rough estimate, for limits only: the provider reports what was used.
const BYTES_PER_TOKEN: u64 = 4;

/// The tools a request offers, and its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolsOffered {
    /// `None` without tools.
    named: Option<Box<Named>>,
    count: u32,
    /// Not all names are kept whole, or a tool has none.
    is_cut: bool,
    /// The element of `tools` that is being read has a name.
    is_named: bool,
    /// The request has a body, read or not. Here it takes no memory of its own.
    has_body: bool,
    bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Named {
    names: Vec<Box<str>>,
    /// Tools of the provider's own, by their types, and those that are named elsewhere; where they are looked for.
    beside: Vec<Box<str>>,
}

impl ToolsOffered {
    pub(in crate::protocol) fn take(&mut self, value: &Value<'_>) {
        let Value::Str(name) = value else { return };
        self.count = self.count.saturating_add(1);
        let names = &mut self.named.get_or_insert_default().names;
        self.is_cut |= names.len() >= NAMES_MAX || name.len() > NAME_MAX;
        if names.len() < NAMES_MAX {
            names.push(name[..name.floor_char_boundary(NAME_MAX)].into());
        }
    }

    /// Notes a tool that is not counted among those of the request.
    pub(in crate::protocol) fn take_beside(&mut self, name: &str) {
        let beside = &mut self.named.get_or_insert_default().beside;
        if beside.iter().any(|known| **known == *name) {
            return;
        }
        match beside.len() < NAMES_MAX {
            true => beside.push(name.into()),
            false => self.is_cut = true,
        }
    }

    /// Notes that the element of `tools` that is being read has a name.
    pub(in crate::protocol) fn name_element(&mut self) {
        self.is_named = true;
    }

    /// Notes the end of an element of `tools`.
    pub(in crate::protocol) fn end_element(&mut self) {
        self.is_cut |= !std::mem::take(&mut self.is_named);
    }

    /// All names of tools, also of the provider's own; `None` if not all were kept, or a tool has none that is known.
    pub fn all_names(&self) -> Option<impl Iterator<Item = &str>> {
        let all = self.named.iter().flat_map(|named| named.names.iter().chain(&named.beside));
        (!self.is_cut).then(|| all.map(|name| &**name))
    }

    pub(in crate::protocol) fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The names of the tools, of the first 128 of them.
    pub fn names(&self) -> &[Box<str>] {
        self.named.as_ref().map_or(&[], |named| &named.names)
    }

    /// How many tools are offered.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Notes whether the request has a body.
    pub fn note_body(&mut self, has_body: bool) {
        self.has_body = has_body;
    }

    /// Whether the request has a body, read or not.
    pub fn has_body(&self) -> bool {
        self.has_body
    }

    /// How many bytes the request has, decoded.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// About how many tokens the request has: its bytes by four.
    pub fn token_estimate(&self) -> u64 {
        self.bytes.div_ceil(BYTES_PER_TOKEN)
    }
}
