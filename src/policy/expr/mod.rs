//! The expression language: the syntax and meaning of CEL (<https://cel.dev>), of which it is a subset, evaluated without
//! allocation, loops or side effects.
//!
//! [`lexer`] and [`parser`] read the text, [`check`] gives every part its type and turns names into slots (calls in [`functions`]), and [`eval`]
//! computes. What differs from CEL: a fact that is absent is no error ([`super::facts::Value::Absent`]), and whole and
//! floating-point numbers compare and calculate with each other.

mod check;
mod eval;
mod expression;
mod functions;
mod lexer;
mod parser;
mod texts;

pub use eval::Truth;
pub use expression::{Expression, SourceFault};

#[cfg(test)]
mod judge;
#[cfg(test)]
mod tests;
