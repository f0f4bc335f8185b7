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
    names: Vec<Box<str>>,
    count: u32,
    bytes: u64,
}

impl ToolsOffered {
    pub(in crate::protocol) fn take(&mut self, value: &Value<'_>) {
        if let Value::Str(name) = value {
            self.count = self.count.saturating_add(1);
            if self.names.len() < NAMES_MAX {
                self.names.push(name[..name.floor_char_boundary(NAME_MAX)].into());
            }
        }
    }

    pub(in crate::protocol) fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The names of the tools, of the first 128 of them.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// How many tools are offered.
    pub fn count(&self) -> u32 {
        self.count
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
