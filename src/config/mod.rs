//! Loads the configuration.
//!
//! Duty: merges the sources (built-in defaults, file, environment, flags; later ones win), checks them and compiles
//! every section to the `Settings` of its module, all in one [`Config`]. Neighbours: each module defines and compiles
//! its own section (`…Config::compile`); `app` starts and reloads with the result; `cli` names the sources.
//! Invariants: a [`Config`] is always valid; all faults are reported at once, each with its key, its line or
//! variable, and a fix; every key is used, and unknown keys are refused.

mod asked;
mod compiled;
mod config_file;
mod diff;
mod expand;
mod form;
mod forward_proxy;
mod guard;
mod key_sources;
mod lines;
mod parse;
mod places;
mod printable;
mod read;
mod renamed;
mod rule_targets;
mod schema;
mod session_section;
mod sources;
mod tree;
mod warnings;

pub use compiled::{Config, UnpricedModel};
pub use diff::{changed_restart_keys, in_force};
pub use schema::schema;
pub use sources::{Environment, Flags, Sources};

#[cfg(test)]
mod tests;
