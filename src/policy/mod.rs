//! Expressions over the facts of a request, patterns of text, and the table of secrets and personal data.
//!
//! - [`expr`]: the language of conditions (`when`) and names of counters (`by`), a subset of CEL, compiled when the
//!   configuration is loaded.
//! - [`facts`]: what an expression may ask for, and from when on it is known.
//! - [`scan`]: finds phrases, regular expressions and secrets in text, also in text that comes in pieces.
//! - [`secrets`]: what secrets and personal data look like, with the checks that tell them from look-alikes.
//!
//! Pure: no I/O, no clock, nothing of a request but what the caller supplies.

pub mod expr;
pub mod facts;
pub mod scan;
pub mod secrets;
