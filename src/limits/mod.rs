//! How fast callers may be, and for how much: rates, tokens and open requests (`limits:`) and costs (`budgets:`) for any
//! name that an expression gives.
//!
//! - [`settings`]: the section of the configuration, and the rates in it.
//! - [`bucket`]: a token bucket in whole numbers.
//! - [`counters`]: the counters of one limit, by name, bounded.
//! - [`limit`]: one limit, and [`limiter`] all of them.
//! - [`admission`]: what one request holds of them, [`places`] what of `in_flight`, and [`sessions`] what a session does.
//! - [`classes`]: the section `admission`, and [`line`] the order in which requests wait; [`waiting`] those that wait for a budget.
//! - [`fields`]: the `RateLimit` header fields.
//! - [`budgets`]: what requests may cost, in [`amount`]s; [`ledger`]: what was spent and is held; [`fleet`]: the same of a fleet;
//!   [`over_budget`]: why a request is refused; [`overrides`]: what operators add to the limits.
//! - [`fleet_rates`]: rates of a fleet, of which an instance has a [`share`] and else has to [`ask`], in its
//!   turn ([`turns`]).
//!
//! Pure but for its locks, and for [`fleet`]: the caller supplies the time and the facts of the request.

pub mod admission;
pub mod amount;
mod ask;
pub mod bucket;
pub mod budgets;
pub mod classes;
mod counters;
mod fields;
pub mod fleet;
pub mod fleet_rates;
pub mod ledger;
mod left;
pub mod limit;
pub mod limiter;
mod line;
mod over_budget;
pub mod overrides;
mod places;

pub mod sessions;
pub mod settings;
mod share;
mod turns;
pub mod waiting;

pub use admission::{Admission, Patience};
pub use classes::{AdmissionConfig, AdmissionRules, Class};
pub use limit::{Refused, Unit};
pub use limiter::Limits;
pub use sessions::{SessionLimits, SessionPlaces};
pub use settings::{BudgetConfig, LimitConfig};

#[cfg(test)]
mod tests;
