//! The control API: lists and kills sessions, reads history, health and metrics, reloads the configuration.
//!
//! `service` runs axum in a Pingora service with a runtime of its own, so that load on the proxy cannot delay a kill;
//! `listen` accepts connections, `connection_limit` bounds their number and `connection` the time of each; `auth` checks
//! host, origin and credential before any route, `operator` the right that an endpoint needs, and writes the audit log; `extract` reads queries and bodies; `blocking` limits what runs on blocking
//! threads; `problem` writes error responses; `dashboard` has the files of the page and the log-ins of browsers; `routes` are the endpoints, `api` their types and `openapi` their
//! description. Neighbours: it drives `session::Manager`, reads `history` and `telemetry`, and reaches the rest of the
//! program through [`service::Runtime`]. Invariants: an unauthenticated client learns nothing; nothing slow delays a
//! kill.

pub mod api;
mod auth;
mod blocking;
mod connection;
mod connection_limit;
mod dashboard;
mod extract;
mod listen;
pub mod openapi;
mod operator;
mod problem;
mod routes;
pub mod service;
pub mod settings;

#[cfg(test)]
mod tests;
