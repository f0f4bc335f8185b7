//! The last folded bytes of a text, with their places in it.

use super::regexes::Folded;

/// How much is kept, at least: a match, and the literal that opens its region.
pub(super) const KEEP: usize = 640;

/// The last folded bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    bytes: Vec<u8>,
    len: usize,
    /// The place of the first among all folded bytes.
    from: u64,
    /// Where the text is longer or shorter than what is folded of it.
    steps: Vec<Step>,
    /// Where the last one ends in the text.
    pub(super) text_end: u64,
}

/// From a folded byte on, up to the next step, each stands for a byte of the text.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// The place of that byte among all folded bytes.
    place: u64,
    /// Where it ends in the text.
    text_end: u64,
}

impl Window {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        (self.len, self.from, self.text_end) = (0, 0, 0);
        self.steps.clear();
    }

    /// Makes room for `more` bytes, forgetting the oldest.
    pub(super) fn reserve(&mut self, more: usize) {
        if self.len > 2 * KEEP {
            let old = self.len - KEEP;
            self.bytes.copy_within(old..self.len, 0);
            self.from += old as u64;
            self.len = KEEP;
            // The one before the first byte says where that begins.
            let passed = self.steps.partition_point(|step| step.place < self.from);
            self.steps.drain(..passed.saturating_sub(1));
        }
        if self.bytes.len() < self.len + more {
            self.bytes.resize(self.len + more, 0);
        }
    }

    /// Takes note of bytes of the text that are dropped before the next folded byte.
    pub(super) fn skip(&mut self, dropped: u64) {
        if dropped > 0 {
            self.text_end += dropped;
            self.steps.push(Step { place: self.end(), text_end: self.text_end + 1 });
        }
    }

    /// Returns room for `count` folded bytes.
    pub(super) fn room(&mut self, count: usize) -> &mut [u8] {
        let end = self.len + count;
        // Some characters become more bytes than they have.
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.len..end]
    }

    /// Takes the first bytes of the room, each of which stands for a byte of the text.
    pub(super) fn add(&mut self, count: usize) {
        self.len += count;
        self.text_end += count as u64;
    }

    /// Adds a byte that stands for so many of the text.
    pub(super) fn push(&mut self, byte: u8, size: u64) {
        if self.len == self.bytes.len() {
            self.reserve(64);
        }
        self.text_end += size;
        if size != 1 {
            self.steps.push(Step { place: self.end(), text_end: self.text_end });
        }
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    /// The number of bytes folded so far.
    pub(super) fn end(&self) -> u64 {
        self.from + self.len as u64
    }

    /// The bytes that are kept.
    pub(super) fn folded(&self, is_over: bool) -> Folded<'_> {
        Folded { bytes: &self.bytes[..self.len], from: self.from, is_over }
    }

    /// Returns the place in the text at which the folded bytes up to `place` end.
    pub(super) fn text_place(&self, place: u64) -> u64 {
        let passed = self.steps.partition_point(|step| step.place < place);
        match self.steps[..passed].last() {
            Some(step) => step.text_end + (place - 1 - step.place),
            None => place,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Pattern, PatternKind, Patterns, Work};
    use super::*;

    proptest! {
        #[test]
        fn places_are_those_of_the_text(
            bytes in prop::collection::vec((0_u64..4, prop::bool::weighted(0.1), 0_usize..80), 0..200),
        ) {
            let mut window = Window::default();
            // Where each folded byte ends.
            let mut ends = vec![0];
            for (size, is_skipped, ascii) in bytes {
                window.reserve(4);
                window.push(b'x', size);
                ends.push(ends[ends.len() - 1] + size);
                let dropped = if is_skipped { size + 1 } else { 0 };
                window.skip(dropped);
                window.room(ascii).fill(b'a');
                window.add(ascii);
                let before = ends[ends.len() - 1] + dropped;
                ends.extend((1..=ascii as u64).map(|count| before + count));
                // What is skipped belongs to the next byte.
                if ascii == 0 && dropped > 0 {
                    window.push(b'x', 1);
                    ends.push(before + 1);
                }
                prop_assert_eq!(window.end() + 1, ends.len() as u64);
                for place in window.from..=window.end() {
                    prop_assert_eq!(window.text_place(place), ends[place as usize]);
                }
            }
        }
    }

    #[test]
    fn places_hold_behind_blanks_and_behind_letters_that_become_longer() {
        let phrase = Pattern { kind: PatternKind::Phrase("drop table".to_owned()), slow: false };
        let patterns = Patterns::compile(&[phrase]).unwrap();
        for filler in ["İ".repeat(3000), " \n\t".repeat(3000), "ｆ".repeat(3000), "x   y".repeat(2000)] {
            let text = format!("{filler}; DROP \n  table;{filler};drop table");
            let mut found = Vec::new();
            patterns.whole(text.as_bytes(), &mut Work::new(text.len()), &mut |hit| {
                found.push(text[hit.start as usize..hit.end as usize].to_owned());
            });
            assert_eq!(found, ["DROP \n  table", "drop table"]);
        }
    }
}
