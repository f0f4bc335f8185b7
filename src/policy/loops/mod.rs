//! Loops: an agent that makes the same calls again and again without getting further.
//!
//! - [`watch`]: what an agent's turns have in common, and which signals that gives.
//! - [`builtin`]: the rules that stand for loops.
//! - [`settings`]: from which counts on something is done about it.

pub mod builtin;
pub mod settings;
pub mod watch;

pub use builtin::LoopSet;
pub use settings::{FoundLoop, LoopLevel, LoopRules, LoopsConfig};
pub use watch::{LoopWatch, Observation, Signal, TurnCall};
