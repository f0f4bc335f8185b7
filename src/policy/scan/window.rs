//! The last folded bytes of a text, with their places in it.

use super::regexes::Folded;

/// How much is kept, at least: a match, and the literal that opens its region.
pub(super) const KEEP: usize = 640;

/// The last folded bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    bytes: Vec<u8>,
    /// For how many bytes of the text each stands, with those dropped before it.
    sizes: Vec<u16>,
    len: usize,
    /// The place of the first among all folded bytes.
    from: u64,
    /// Where the last one ends in the text.
    pub(super) text_end: u64,
}

impl Window {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        (self.len, self.from, self.text_end) = (0, 0, 0);
    }

    /// Makes room for `more` bytes, forgetting the oldest.
    pub(super) fn reserve(&mut self, more: usize) {
        if self.len > 2 * KEEP {
            let old = self.len - KEEP;
            self.bytes.copy_within(old..self.len, 0);
            self.sizes.copy_within(old..self.len, 0);
            self.from += old as u64;
            self.len = KEEP;
        }
        if self.bytes.len() < self.len + more {
            self.bytes.resize(self.len + more, 0);
            self.sizes.resize(self.len + more, 0);
        }
    }

    /// Adds a byte for which there is room.
    #[inline(always)]
    pub(super) fn set(&mut self, byte: u8, size: u64) {
        if let (Some(place), Some(count)) = (self.bytes.get_mut(self.len), self.sizes.get_mut(self.len)) {
            (*place, *count) = (byte, size.min(u64::from(u16::MAX)) as u16);
            self.len += 1;
        }
    }

    /// Adds a byte that ends at this place in the text.
    pub(super) fn push(&mut self, byte: u8, size: u64) {
        if self.len == self.bytes.len() {
            self.reserve(64);
        }
        self.set(byte, size);
        self.text_end += size;
    }

    /// The number of bytes folded so far.
    pub(super) fn end(&self) -> u64 {
        self.from + self.len as u64
    }

    /// The bytes that are kept.
    pub(super) fn folded(&self, is_over: bool) -> Folded<'_> {
        Folded { bytes: &self.bytes[..self.len], from: self.from, is_over }
    }

    /// The place in the text at which the folded bytes up to `place` end, if the last one ends at `text_end`.
    pub(super) fn text_place(&self, place: u64, text_end: u64) -> u64 {
        let at = (place.saturating_sub(self.from) as usize).min(self.len);
        let behind: u64 = self.sizes[at..self.len].iter().map(|size| u64::from(*size)).sum();
        text_end.saturating_sub(behind)
    }
}
