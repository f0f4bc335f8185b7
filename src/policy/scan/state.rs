//! The state of a text between two pieces.

use super::candidates::{Candidates, Slot, Text};
use super::encoded::Runs;
use super::escapes::Escapes;
use super::fold::Fold;
use super::pattern::Via;
use super::regexes::Region;
use super::shapes::Digits;
use super::window::{KEEP, Window};

/// How often readings are read again, such as base64 of percent-coding.
const DEPTH: u8 = 2;

/// The state of a text.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The patterns that the states belong to.
    pub(super) of: u64,
    /// The last bytes, and the place of the first of them.
    pub(super) raw: Vec<u8>,
    raw_from: u64,
    pub(super) anchor: u32,
    pub(super) digits: Digits,
    pub(super) literal: u32,
    pub(super) fold: Fold,
    pub(super) window: Window,
    pub(super) candidates: Candidates,
    pub(super) regions: Vec<Region>,
    /// Expressions that wait in their regions.
    pub(super) open: Vec<u32>,
    pub(super) is_hidden_told: bool,
    /// Where the first secret starts that is not decided.
    pub(super) held: Option<u64>,
    /// Readings of this reading that are still possible.
    depth: u8,
    pub(super) again: Again,
}

/// What a text may be read as besides.
#[derive(Clone, Debug, Default)]
pub(super) struct Again {
    pub(super) decoders: Decoders,
    /// The states of the readings that have begun.
    pub(super) readings: Vec<(Via, Box<State>)>,
}

/// What finds readings.
#[derive(Clone, Debug)]
pub(super) struct Decoders {
    pub(super) runs: Runs,
    pub(super) escapes: [Escapes; 3],
}

impl Default for Decoders {
    fn default() -> Self {
        let escapes = [Via::Percent, Via::Escapes, Via::Html].map(Escapes::new);
        Self { runs: Runs::default(), escapes }
    }
}

impl Again {
    /// Forgets all readings.
    pub(super) fn clear(&mut self) {
        self.decoders = Decoders::default();
        self.readings.clear();
    }
}

impl State {
    /// The state before the first byte.
    pub(super) fn new() -> Self {
        Self {
            of: 0,
            raw: Vec::new(),
            raw_from: 0,
            anchor: 0,
            digits: Digits::default(),
            literal: 0,
            fold: Fold::new(),
            window: Window::default(),
            candidates: Candidates::default(),
            regions: Vec::new(),
            open: Vec::new(),
            is_hidden_told: false,
            held: None,
            depth: DEPTH,
            again: Again::default(),
        }
    }

    /// The state before the first byte of a reading of this text.
    pub(super) fn reading(depth: u8) -> Self {
        Self { depth, ..Self::new() }
    }

    /// How often this text may be read again; `None` if no more.
    pub(super) fn depth_below(&self) -> Option<u8> {
        self.depth.checked_sub(1)
    }

    /// Begins another text.
    pub(super) fn reset(&mut self) {
        self.of = 0;
        self.raw.clear();
        self.raw_from = 0;
        self.window.clear();
        self.fold = Fold::new();
        self.is_hidden_told = false;
    }

    /// Adds bytes to those that are kept, forgetting the oldest; returns their place.
    pub(super) fn push(&mut self, block: &[u8]) -> u64 {
        if self.raw.len() > 2 * KEEP {
            let old = self.raw.len() - KEEP;
            self.raw.drain(..old);
            self.raw_from += old as u64;
        }
        self.raw.extend_from_slice(block);
        self.window.reserve(block.len() + 64);
        self.raw_from + (self.raw.len() - block.len()) as u64
    }

    /// The text that is kept.
    pub(super) fn text(&self, is_over: bool) -> Text<'_> {
        Text { bytes: &self.raw, from: self.raw_from, is_over }
    }

    /// The state of the loop over the last `left` bytes.
    pub(super) fn run(&mut self, left: usize) -> Run<'_> {
        let (before, bytes) = self.raw.split_at(self.raw.len() - left);
        Run {
            before,
            bytes,
            from: self.raw_from + before.len() as u64,
            folded: self.window.room(left),
            anchor: self.anchor,
            digits: self.digits,
            literal: self.literal,
            last: self.fold.last,
            number: 0,
        }
    }

    /// What folded text needs, and the text that is kept.
    pub(super) fn parts(&mut self, is_over: bool) -> (Found<'_>, Text<'_>) {
        let Self { window, regions, open, raw, raw_from, .. } = self;
        (Found { window, regions, open }, Text { bytes: raw, from: *raw_from, is_over })
    }

    /// The text that is kept, up to a place.
    pub(super) fn text_before(&self, end: u64) -> &[u8] {
        &self.raw[..(end.saturating_sub(self.raw_from) as usize).min(self.raw.len())]
    }

    /// Adds a candidate for a secret.
    pub(super) fn candidate(&mut self, slots: &[Slot], slot: u16, start: u64) {
        let text = Text { bytes: &self.raw, from: self.raw_from, is_over: false };
        self.candidates.add(slots, slot, start, text);
    }
}

/// The state while ASCII is read.
pub(super) struct Run<'a> {
    /// The text before, as far as it is kept.
    pub(super) before: &'a [u8],
    /// What is read.
    pub(super) bytes: &'a [u8],
    /// The place of its first byte in the text.
    pub(super) from: u64,
    /// Takes what is folded.
    pub(super) folded: &'a mut [u8],
    pub(super) anchor: u32,
    pub(super) digits: Digits,
    pub(super) literal: u32,
    /// The last folded byte.
    pub(super) last: u8,
    /// What ends with the last byte, if it is a digit.
    pub(super) number: u8,
}

/// What is found in folded text.
pub(super) struct Found<'a> {
    pub(super) window: &'a Window,
    pub(super) regions: &'a mut Vec<Region>,
    pub(super) open: &'a mut Vec<u32>,
}
