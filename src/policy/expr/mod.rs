//! The expression language: the syntax and meaning of CEL (<https://cel.dev>), of which it is a subset, evaluated without
//! allocation or side effects, and with no loops but over the elements of one list.
//!
//! [`lexer`] and [`parser`] read the text, [`check`] gives every part its type and turns names into slots (names in [`names`], calls in [`functions`]; [`never`] finds conditions that never hold), and [`eval`]
//! computes. What differs from CEL: a fact that is absent is no error ([`super::facts::Value::Absent`]), and whole and
//! floating-point numbers compare and calculate with each other, and JSON of another type than it is compared with is unknown.

mod check;
mod eval;
mod expression;
mod functions;
mod lexer;
mod names;
mod never;
mod parser;
mod parts;
mod texts;

pub use eval::Truth;
pub use expression::{Expression, SourceFault};
pub use names::may_be_credential;
pub(super) use texts::glob;

#[cfg(test)]
mod json_tests;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod tests;
