//! The composition root: the only place that knows everyone.
//!
//! `shared` builds the parts · `services` runs them · `signals` hears SIGHUP, SIGTERM and SIGINT from the first
//! moment on · `reload` swaps settings under running streams · `drain` ends the program in order ·
//! `ledger` takes what sessions publish to log and metrics · `demo` is all of it with a provider of its own ·
//! `reach` tries the backends without running anything.
//! Neighbours: `cli` calls it, `config` feeds it.
//! Invariant: nothing is decided here that one of the parts could decide.

mod demo;
mod drain;
mod ledger;
mod reach;
mod reload;
mod services;
mod shared;
mod signals;

pub use demo::demo;
pub use reach::{Reach, Unreachable, reach};
pub use services::run;
