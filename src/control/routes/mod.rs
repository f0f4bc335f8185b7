//! The endpoints, one file per noun; `table` and the other files that end so list them.
//! `docs/control-api.md` and `docs/openapi.json` describe them.

mod approvals;
mod audit;
mod budgets;
mod cache;
mod config;
mod dashboard;
mod documents;
mod endpoint;
mod events;
mod export;
mod governance_table;
mod health;
mod history;
mod instance_table;
mod keys;
mod kill_selected;
mod kill_table;
mod kills;
mod login;
mod metrics;
mod people_table;
mod policy;
mod policy_table;
mod router;
mod schema;
mod sessions;
mod stats;
mod table;
mod users;

pub(super) use dashboard::renew;
pub(super) use endpoint::Endpoint;
pub(super) use router::{is_open, router};
pub(super) use table::{TAGS, endpoints};
