//! Finds patterns in text, whole or in pieces.
//!
//! - [`pattern`]: what is searched, what is found.
//! - [`patterns`]: the patterns of a phase, compiled once, and the search.
//! - [`lane`]: the state of a text that comes in pieces.
//! - [`work`]: the bounds of what one request or answer may cost.
//! - [`judged`]: the table of elements that were found clean.
//!
//! Any division of a text into pieces gives the same hits.

pub mod judged;
pub mod lane;
pub mod pattern;
pub mod patterns;
pub mod work;

pub use judged::Judged;
pub use lane::Lane;
pub use pattern::{HIDDEN_TEXT, Hit, Pattern, PatternFault, PatternKind, Via};
pub use patterns::Patterns;
pub use work::Work;
