//! Finds patterns in text, whole or in pieces.
//!
//! - [`pattern`]: what is searched, what is found.
//! - [`patterns`], `compile`, `literals`, `automaton`: the patterns of a phase, compiled once.
//! - [`lane`], `state`, `engine`: the state of a text that comes in pieces, and the loop that reads it.
//! - `encoded`, `escapes`: what a text reads as when it is decoded.
//! - `fold`, `letters`, `window`: text in the form in which patterns are written, and where it stands in the text.
//! - `regexes`, `candidates`, `shapes`: confirm what an automaton has seen a part of.
//! - [`work`]: the bounds of what one request or answer may cost.
//! - [`judged`]: the table of elements that were found clean.
//!
//! Any division of a text into pieces gives the same hits.

mod automaton;
mod candidates;
mod compile;
mod encoded;
mod engine;
mod escapes;
mod fold;
pub mod judged;
pub mod lane;
mod letters;
mod literals;
pub mod pattern;
pub mod patterns;
mod regexes;
mod shapes;
mod state;
mod window;
pub mod work;

pub use fold::{folded_name, is_ignorable};
pub use judged::Judged;
pub use lane::Lane;
pub use pattern::{HIDDEN_TEXT, Hit, Pattern, PatternFault, PatternKind, Via};
pub use patterns::Patterns;
pub use work::Work;

#[cfg(test)]
mod evasion;
#[cfg(test)]
mod tests;
