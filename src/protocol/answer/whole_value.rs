//! Finds where arguments of a call that come in pieces may be parsed.

use serde::de::IgnoredAny;

/// Finds the end of a JSON value that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct WholeValue {
    read: usize,
    depth: u32,
    in_string: bool,
    is_escaped: bool,
    /// An object, array or string has ended at the outermost level.
    has_ended: bool,
}

impl WholeValue {
    /// Returns whether `text`, what was read before and what follows it, may be a whole value. Numbers and words have no end of
    /// their own: any of their beginnings may be one.
    pub(super) fn is_whole(&mut self, text: &[u8]) -> bool {
        /// No number or word is longer.
        const BARE: usize = 32;
        for byte in text.iter().skip(self.read) {
            let is_escaped = std::mem::take(&mut self.is_escaped);
            match byte {
                b'\\' if self.in_string => self.is_escaped = !is_escaped,
                b'"' if !is_escaped => {
                    self.in_string = !self.in_string;
                    self.has_ended = !self.in_string && self.depth == 0;
                }
                b'{' | b'[' if !self.in_string => self.depth = self.depth.saturating_add(1),
                b'}' | b']' if !self.in_string => {
                    self.depth = self.depth.saturating_sub(1);
                    self.has_ended = self.depth == 0;
                }
                _ => {}
            }
        }
        self.read = self.read.max(text.len());
        let is_bare = || text.len() <= BARE && serde_json::from_slice::<IgnoredAny>(text).is_ok();
        self.has_ended && self.depth == 0 && !self.in_string || is_bare()
    }
}
