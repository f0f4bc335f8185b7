//! The composition root: the only place that knows everyone.
//!
//! `descriptors` raises the limit of open files and divides it · `shared` builds the parts · `services` runs them ·
//! `listeners` takes the ports · `signals` hears SIGHUP,
//! SIGTERM, SIGINT and SIGQUIT from the first moment on · `reload` swaps settings under running streams ·
//! `drain` ends the program in order · `upgrade` lets a new process take its place, to which `handover` gives
//! the ports · `kills` takes over what stands in the history · `notify` tells the service manager · `panics` counts and logs our own faults · `ledger` takes
//! what sessions publish to log and metrics · `demo` is all of it with a provider of its own · `backend_check` tries
//! the backends without running anything · `probes` asks those that want it how they are.
//! Neighbours: `cli` calls it, `config` feeds it.
//! Invariant: nothing is decided here that one of the parts could decide.

mod backend_check;
mod demo;
mod descriptors;
mod drain;
mod handover;
mod kills;
mod ledger;
mod listeners;
mod names;
mod notify;
mod panics;
mod probes;
mod reload;
mod services;
pub(crate) mod shared;
mod signals;
mod upgrade;

pub use backend_check::{BackendCheck, Unreachable, check_backends, check_redis};
pub use demo::{demo, demo_provider};
pub use descriptors::Plan;
pub use listeners::start_faults;
pub use services::run;
