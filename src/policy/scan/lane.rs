//! The state of a text that comes in pieces.

/// A text that comes in pieces, such as the deltas of one block of an answer.
#[derive(Debug, Default)]
pub struct Lane {
    pub(super) text: Vec<u8>,
    pub(super) reported: Vec<(u32, u64)>,
    pub(super) held: Option<u64>,
}

impl Lane {
    /// A text that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the text must be held back from: the start of a secret that is not decided yet.
    pub fn held_from(&self) -> Option<u64> {
        self.held
    }

    /// Whether a part of the text was not read because a bound was reached: the finding `scan_limit`.
    pub fn exceeded(&self) -> bool {
        false
    }
}
