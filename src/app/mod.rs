//! The composition root: the only module that knows all others.
//!
//! `descriptors` raises the limit of open files and divides it · `components` builds the parts · `services` runs them ·
//! `listeners` binds the ports · `signals` handles SIGHUP, SIGTERM, SIGINT and SIGQUIT from the start · `reload` swaps
//! settings under running streams · `drain` shuts down in order · `upgrade` starts a new process that takes over, and
//! `fd_passing` passes it the listening sockets · `kill_recovery` restores kill orders from the history · `sd_notify`
//! reports to the service manager · `panics` counts and logs panics · `event_sink` writes session events to log, metrics,
//! history and collector · `made_keys` and `people` keep keys and accounts in `state.db`, `budget_overrides`, `approvals` and `suppressions` what operators decide (`shared_documents`) · `principal_key` loads the key of principals · `demo` runs the gateway with a provider of its
//! own · `admin` makes the first account · `backend_check` checks the backends without running a gateway · `health_checks` probes them while it runs.
//! Neighbours: `cli` calls it, `config` feeds it.
//! Invariant: it decides nothing that one of the parts could decide.

mod admin;
mod approvals;
mod backend_check;
mod budget_overrides;
pub(crate) mod components;
mod demo;
mod descriptors;
mod drain;
mod event_sink;
mod fd_passing;
mod health_checks;
mod issuers;
mod kill_recovery;
mod listeners;
mod made_keys;
mod panics;
pub(crate) mod people;
mod principal_key;
mod reload;
mod sd_notify;
mod services;
mod shared_documents;
mod sharing;
mod signals;
mod sources;
mod spending;
mod suppressions;
mod upgrade;

pub use admin::make_admin;
pub use backend_check::{BackendCheck, Unreachable, check_backends, check_redis};
pub use demo::{demo, demo_provider};
pub use descriptors::Plan;
pub use listeners::start_faults;
pub use services::run;
