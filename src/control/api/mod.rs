//! Request and response types of the control API, shared by the routes, the command line and the OpenAPI document.
//!
//! One file per group of endpoints; types that other modules own ([`crate::session::SessionView`],
//! [`crate::history::read::reader::RecordPage`]) are used as they are. Duty: the JSON of each body, the parameters of each
//! query and their descriptions, which become `docs/openapi.json`. Neighbours: `control/routes` answers with these
//! types, `cli` reads them, `control/openapi` describes them. Invariant: no logic beyond reading a parameter.

pub mod approvals;
pub mod audit;
pub mod budgets;
pub mod cache;
pub mod config;
pub mod error;
pub mod events;
pub mod health;
pub mod history;
pub mod keys;
pub mod kill_selector;
pub mod kills;
pub mod overview;
pub mod params;
pub mod people;
pub mod policy;
pub mod sessions;
