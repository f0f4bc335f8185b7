//! The bounds of what scanning one request or answer may cost.

use super::state::State;

/// What may be spent on one request or answer, and what has been.
#[derive(Debug, Default)]
pub struct Work {
    /// Bytes that may still be decoded.
    pub(super) decode: u64,
    /// Steps that may still be made to confirm secrets.
    pub(super) steps: u64,
    pub(super) is_exceeded: bool,
    /// The state of the texts, one after another.
    pub(super) state: Option<Box<State>>,
}

/// What may be decoded and confirmed of any text.
const BASE: u64 = 64 << 10;

impl Work {
    /// The bounds for a body of `bytes` bytes: twice as many bytes and 64 KiB may be decoded.
    pub fn new(bytes: usize) -> Self {
        let mut work = Self { decode: BASE, steps: BASE, ..Self::default() };
        work.grow(bytes);
        work
    }

    /// Adds the bounds for more bytes.
    pub(super) fn grow(&mut self, bytes: usize) {
        self.decode = self.decode.saturating_add(2 * bytes as u64);
        self.steps = self.steps.saturating_add(8 * bytes as u64);
    }

    /// Whether something was not read because a bound was reached: the finding `scan_limit`.
    pub fn exceeded(&self) -> bool {
        self.is_exceeded
    }
}
