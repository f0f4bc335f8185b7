//! What an answer says again: events that end a part, an item or a response repeat the text that came in deltas. What they repeat
//! was judged and counted; what they say for the first time is text as any other.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

/// Texts that are known at one time; what repeats another one is text again.
const KNOWN: usize = 128;
/// Bytes of a repetition that are kept until its end; a longer one is text again.
const MAX_AGAIN: usize = 1 << 20;

/// The index of an item, and that of a part in it.
type PartIndex = (Option<u64>, Option<u64>);

/// The texts of an answer.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    keys: RandomState,
    /// Texts that come in deltas, by the index of their item and part.
    spoken: Vec<(PartIndex, DefaultHasher)>,
    /// Digests of texts that came as a whole.
    whole: Vec<u64>,
    /// The delta of the event under way.
    delta: Vec<u8>,
    /// The index of the part that the event under way speaks of.
    pub(super) part: Option<u64>,
    /// What it says again.
    again: Vec<u8>,
    /// And that it is text, whatever kind it is of.
    is_sure: bool,
    /// It is too long to be compared.
    is_long: bool,
}

impl Repeats {
    /// The event has a delta.
    pub(super) fn delta(&mut self, text: &[u8]) {
        self.delta.extend_from_slice(text);
    }

    /// The event may say a text again, of which `on` is told when it is too long; `is_sure`, unless its kind says that it is something else.
    pub(super) fn again(&mut self, text: &[u8], is_sure: bool, on: impl FnOnce(&[u8])) {
        self.is_sure |= is_sure;
        if self.again.len() + text.len() > MAX_AGAIN {
            self.is_long = true;
            on(&self.again);
            self.again.clear();
        }
        self.again.extend_from_slice(text);
    }

    /// A text that may be a repetition has ended: calls `on` with it if it is none.
    pub(super) fn end_text(&mut self, on: impl FnOnce(&[u8])) {
        self.is_sure = false;
        if self.again.is_empty() {
            return;
        }
        let mut hasher = self.keys.build_hasher();
        hasher.write(&self.again);
        let digest = hasher.finish();
        let is_known =
            self.whole.contains(&digest) || self.spoken.iter().any(|(_, spoken)| spoken.finish() == digest);
        if std::mem::take(&mut self.is_long) || !is_known {
            if self.whole.len() < KNOWN {
                self.whole.push(digest);
            }
            on(&self.again);
        }
        self.again.clear();
    }

    /// The event has ended, and belongs to this item. `is_text` tells whether events of its kind have text outside of parts.
    pub(super) fn end_event(&mut self, index: Option<u64>, is_text: bool, on: impl FnOnce(&[u8])) {
        let part = self.part.take();
        if self.is_sure || is_text {
            self.end_text(on);
        }
        self.again.clear();
        self.is_long = false;
        if self.delta.is_empty() {
            return;
        }
        let at = self.spoken.iter().rposition(|(known, _)| *known == (index, part)).unwrap_or_else(|| {
            if self.spoken.len() >= KNOWN {
                self.spoken.remove(0);
            }
            self.spoken.push(((index, part), self.keys.build_hasher()));
            self.spoken.len() - 1
        });
        self.spoken[at].1.write(&self.delta);
        self.delta.clear();
    }

    /// The next answer begins.
    pub(super) fn clear(&mut self) {
        self.spoken.clear();
        self.whole.clear();
    }
}
