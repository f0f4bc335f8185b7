//! Expressions over the facts of a request: conditions (`when`) and names of counters (`by`).
//!
//! - [`expr`]: the language, a subset of CEL, compiled when the configuration is loaded.
//! - [`facts`]: what an expression may ask for, and from when on it is known.
//!
//! Pure: no I/O, no clock, nothing of a request but the [`facts::Facts`] that the caller supplies.

pub mod expr;
pub mod facts;
