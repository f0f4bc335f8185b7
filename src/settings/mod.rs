//! The kit with which a module reads its own share of the configuration file.
//!
//! Each module with a share has a `Written` form (serde, unknown keys refused), a compiled
//! `Settings` with private fields, and `Written::compile(self, &mut Faults) -> Option<Settings>`.
//! Neighbours: `config` gathers the written forms; nobody else sees the whole file.
//! Invariant: a compiled settings value is always valid.

pub mod address;
pub mod fault;
pub mod folder;
pub mod key_file;
pub mod nearest;
pub mod origin;
pub mod private;
pub mod secret;
pub mod units;
