//! Tools with which a module reads its section of the configuration file.
//!
//! Each module with a section has a `…Config` type (serde, unknown keys refused), a compiled `Settings` with private
//! fields, and `…Config::compile(self, &mut Faults) -> Option<Settings>`.
//! Neighbours: `config` collects the sections; no other module sees the whole file.
//! Invariant: a compiled settings value is always valid.

pub mod acl;
pub mod address;
pub mod fault;
pub mod folder;
pub mod key_file;
pub mod nearest;
pub mod origin;
pub mod private;
pub mod rate;
pub mod secret;
pub mod units;

#[cfg(test)]
#[path = "../../tests/gateway/support/json_schema.rs"]
#[expect(unreachable_pub, reason = "the end-to-end tests use it, too")]
pub(crate) mod json_schema;
