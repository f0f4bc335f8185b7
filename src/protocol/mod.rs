//! What agents and providers speak: sans-IO, pure.

pub mod usage;
