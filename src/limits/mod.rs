//! How fast callers may be, and for how much: rates, tokens and open requests (`limits:`) and costs (`budgets:`) for any
//! name that an expression gives.
//!
//! - [`settings`]: the section of the configuration, and [`rate`] the rates in it.
//! - [`bucket`]: a token bucket in whole numbers.
//! - [`counters`]: the counters of one limit, by name, bounded.
//! - [`limiter`]: all limits, and what one request holds of them.
//! - [`fields`]: the `RateLimit` header fields.
//! - [`budgets`]: what requests may cost, in [`amount`]s; [`ledger`]: what was spent and is held; [`fleet`]: the same of a fleet;
//!   [`overrides`]: what operators add to the limits.
//!
//! Pure but for its locks, and for [`fleet`]: the caller supplies the time and the facts of the request.

pub mod amount;
pub mod bucket;
pub mod budgets;
mod counters;
mod fields;
pub mod fleet;
pub mod ledger;
pub mod limiter;
pub mod overrides;
pub mod rate;
pub mod settings;

pub use limiter::{Admission, Limits, Refused, Unit};
pub use settings::{BudgetConfig, LimitConfig};

#[cfg(test)]
mod tests;
