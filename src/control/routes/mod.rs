//! The endpoints, one file per noun; `table` lists them. `docs/control-api.md` and `docs/openapi.json` describe them.

mod budgets;
mod config;
mod events;
mod export;
mod health;
mod history;
mod keys;
mod kills;
mod metrics;
mod schema;
mod sessions;
mod stats;
mod table;

pub(super) use table::{Endpoint, TAGS, endpoints, router};
