//! How fast callers may be: rates, tokens and open requests for any name that an expression gives (`limits:`).
//!
//! - [`settings`]: the section of the configuration, and [`rate`] the rates in it.
//! - [`bucket`]: a token bucket in whole numbers.
//! - [`counters`]: the counters of one limit, by name, bounded.
//! - [`limiter`]: all limits, and what one request holds of them.
//! - [`fields`]: the `RateLimit` header fields.
//!
//! Pure but for its locks: the caller supplies the time and the facts of the request.

pub mod bucket;
mod counters;
mod fields;
pub mod limiter;
pub mod rate;
pub mod settings;

pub use limiter::{Admission, Limits, Refused, Unit};
pub use settings::LimitConfig;

#[cfg(test)]
mod tests;
