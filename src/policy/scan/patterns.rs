//! The patterns of a phase, compiled once.

use super::automaton::Automaton;
use super::candidates::Slot;
use super::regexes::Expression;

/// Compiled patterns. The place of a pattern in the list is its number in a [`Hit`](super::Hit).
#[derive(Debug)]
pub struct Patterns {
    /// Tells these patterns from others, whose states a lane may have.
    pub(super) id: u64,
    /// What the loop needs of each byte.
    pub(super) bytes: Box<[ByteClass; 256]>,
    /// Over the bytes as they are.
    pub(super) anchors: Option<Anchors>,
    pub(super) detectors: Vec<Slot>,
    /// Over folded bytes.
    pub(super) literals: Option<Literals>,
    pub(super) expressions: Vec<Expression>,
    /// The expressions that are searched in all text.
    pub(super) slow: Vec<u32>,
}

/// What the loop needs of a byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ByteClass {
    /// Its folded form; [`SLOW`](super::fold::SLOW) if it needs more than a look-up.
    pub(super) folded: u8,
    /// Its class among the anchors, and that of its folded form among the literals.
    pub(super) anchor: u8,
    pub(super) literal: u8,
    pub(super) is_digit: bool,
}

/// The automaton of the anchors of detectors.
#[derive(Debug)]
pub(super) struct Anchors {
    pub(super) automaton: Automaton,
    /// The detector of each anchor.
    pub(super) slots: Vec<u16>,
}

/// The automaton of phrases and of the literals of expressions.
#[derive(Debug)]
pub(super) struct Literals {
    pub(super) automaton: Automaton,
    /// What each literal is.
    pub(super) outputs: Vec<Literal>,
}

/// What a literal is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Literal {
    /// A phrase.
    Phrase { pattern: u32 },
    /// One of those that each match of an expression contains.
    Needle { expression: u32 },
}

impl Patterns {
    /// Whether there is nothing to search.
    pub fn is_empty(&self) -> bool {
        self.detectors.is_empty() && self.literals.is_none() && self.expressions.is_empty()
    }
}
