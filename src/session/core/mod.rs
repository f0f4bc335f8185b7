//! Active sessions of this process: admission, legs, kill and timeouts.
//!
//! [`manager::Manager`] owns everything; `admit`, `kill`, `reap` and `query` hold its operations. [`session::Session`]
//! is the handle of one incarnation: atomics for the data path, a mutex for the rest.

pub mod active_counts;
mod admit;
pub mod agents;
pub mod client_keys;
pub mod cut;
pub mod event;
mod findings;
pub mod kill;
pub mod kill_orders;
pub mod leg;
mod legs;
pub mod lookup;
pub mod manager;
pub(in crate::session) mod packed_requests;
mod query;
mod reap;
pub(in crate::session) mod registry;
pub(in crate::session) mod replication;
pub mod request;
pub mod session;
pub mod start_rate;
pub mod totals;
pub(in crate::session) mod upgrade_peers;
mod view;
