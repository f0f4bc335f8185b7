//! The operator's state: see sessions, kill them, read numbers, reload the configuration.
//!
//! `service` runs axum in a Pingora service with a runtime of its own, so load on the proxy cannot starve a
//! kill; `listen` accepts connections, of which `connection_limit` bounds the number and `connection` the time; `auth` decides
//! who may come in, before any route; `blocking` bounds what runs on blocking threads; `problem` is what a refusal
//! looks like; `routes` are the endpoints. Neighbours: it drives `session::Manager` and reads `telemetry`; what else it
//! needs (the configuration, how to reload it) `app` hands over in [`service::Parts`].
//! Invariants: whoever may not come in learns nothing; nothing slow stands before a kill.

mod auth;
mod blocking;
mod connection;
mod connection_limit;
mod listen;
mod problem;
mod routes;
pub mod service;
pub mod settings;

#[cfg(test)]
mod tests;
