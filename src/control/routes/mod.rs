//! The endpoints, one file per noun. `docs/control-api.md` is their reference.

mod config;
mod events;
mod export;
mod health;
mod history;
mod kills;
mod metrics;
mod paths;
mod query;
mod sessions;
mod stats;

pub(super) use paths::all;
