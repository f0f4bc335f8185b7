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
    /// Elements of lists inside tools without a name so far; negative, if one has two.
    inner: i32,
    /// The lists of tools that have ended.
    lists: u8,
    /// The element of `tools` that is being read has a name of its own.
    has_name: bool,
    /// A list or a name is there twice, so servers may differ in which they read.
    is_doubled: bool,
    /// Tools come from where they are not seen.
    is_open: bool,
}

impl ToolsOffered {
    /// Takes the name of a tool; `is_element` for one that is an element of `tools`.
    pub(in crate::protocol) fn take(&mut self, value: &Value<'_>, is_element: bool) {
        let Value::Str(name) = value else { return };
        self.count = self.count.saturating_add(1);
        let Named { names, has_name, is_doubled, .. } = self.named.get_or_insert_default().as_mut();
        if is_element {
            self.is_named = true;
            let is_again = std::mem::replace(has_name, true);
            *is_doubled |= is_again && names.last().is_none_or(|known| **known != **name);
        }
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
        if let Some(named) = &mut self.named {
            named.has_name = false;
        }
    }

    /// Counts an element of a list inside a tool, or its name.
    pub(in crate::protocol) fn count_inner(&mut self, by: i32) {
        let named = self.named.get_or_insert_default();
        named.inner = named.inner.saturating_add(by);
    }

    /// Notes the end of a list of tools.
    pub(in crate::protocol) fn end_list(&mut self, number: u8) {
        let named = self.named.get_or_insert_default();
        let list = 1 << number;
        named.is_doubled |= named.lists & list != 0;
        named.lists |= list;
    }

    /// Notes that the request has tools that it does not name.
    pub(in crate::protocol) fn come_from_elsewhere(&mut self) {
        self.named.get_or_insert_default().is_open = true;
    }

    /// The names that a backend finds for sure: those of the request and of the provider's own tools.
    pub fn sure_names(&self) -> impl Iterator<Item = &str> {
        let sure = self.named.as_deref().filter(|named| !named.is_doubled && named.inner >= 0);
        sure.into_iter().flat_map(|named| named.names.iter().chain(&named.beside)).map(|name| &**name)
    }

    /// Whether [`ToolsOffered::sure_names`] are all.
    pub fn is_sure(&self) -> bool {
        let is_sure = |named: &Named| !named.is_doubled && !named.is_open && named.inner == 0;
        !self.is_cut && self.named.as_deref().is_none_or(is_sure)
    }

    /// All names of tools, also of the provider's own; `None` if not all were kept, or a tool has none that is known.
    pub fn all_names(&self) -> Option<impl Iterator<Item = &str>> {
        let all = self.named.iter().flat_map(|named| named.names.iter().chain(&named.beside));
        let is_cut = self.is_cut || self.named.as_ref().is_some_and(|named| named.inner > 0);
        (!is_cut).then(|| all.map(|name| &**name))
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
