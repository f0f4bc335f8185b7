//! A text that comes in pieces.

use super::state::State;
use super::work::Work;

/// A text that comes in pieces, such as the deltas of one block of an answer.
#[derive(Debug)]
pub struct Lane {
    pub(super) state: State,
    pub(super) work: Work,
}

impl Lane {
    /// A text that has not begun.
    pub fn new() -> Self {
        Self { state: State::new(), work: Work::new(0) }
    }

    /// Where the text must be held back from: the start of a secret that is not decided yet.
    pub fn held_from(&self) -> Option<u64> {
        self.state.held
    }

    /// Whether a part of the text was not read because a bound was reached: the finding `scan_limit`.
    pub fn exceeded(&self) -> bool {
        self.work.exceeded()
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self::new()
    }
}
