//! The one JSON reader: finds the values at given paths in a text that arrives in chunks.
//!
//! - [`scan`]: the reader.
//! - [`paths`]: the set of paths it looks for.
//! - [`whole`]: the tokens of a text that is there as a whole.
//! - [`text`]: strings, numbers and words, unescaped.

pub mod paths;
pub mod scan;
pub mod text;
pub mod whole;
