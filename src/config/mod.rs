//! The written configuration: where its values come from, and what they compile to.
//!
//! Duty: gather the sources (built-in defaults, file, environment, flags, the later one wins), check
//! them and compile every module's share to its `Settings`, all in one [`Config`]. Neighbours: each
//! module reads its own share (`Written::compile`); `app` starts and reloads with the result; `cli`
//! names the sources. Invariants: a [`Config`] is always valid; every fault is found at once and
//! names the key, its line or variable, and the remedy; no key is read and unused, none is ignored.

mod compiled;
mod diff;
mod expand;
mod lines;
mod parse;
mod places;
mod read;
mod schema;
mod sources;
mod tree;
mod written;

pub use compiled::Config;
pub use diff::{changed_restart_keys, in_force};
pub use schema::schema;
pub use sources::{Environment, Flags, Sources};

#[cfg(test)]
mod tests;
