//! ELIDA, the session border controller for AI agents.
//!
//! Every agent call of a company passes through this program. It finds the **session** that a request belongs to, opens a
//! **leg** in it, forwards it byte for byte, counts what passes, and cuts it at once when an operator kills the session.
//! When a session has ended, its **record** is written.
//!
//! Where to start reading:
//!
//! * [`proxy`] is the path of a request, one file per step (see `docs/life-of-a-request.md`).
//! * [`session`] implements sessions: states, admission, kills, timeouts, records.
//! * [`identity`] determines the caller and the session; [`routing`] the backend; [`upstream`] connects to it.
//! * [`protocol`] parses the agents' protocols, without IO.
//! * [`pricing`] has the prices of models, and computes what a response costs.
//! * [`history`] stores and signs records of ended sessions; [`capture`] selects and redacts bodies to store.
//! * [`control`] is the operators' API; [`telemetry`] has logs, metrics and traces.
//! * [`app`] composes the parts according to [`config`]; [`cli`] is the command line.
//! * [`demo`] is a model provider that needs no API key.
//!
//! Modules are in rows and may use lower rows only: `docs/ARCHITECTURE.md` has the map, and `tests/architecture.rs` checks
//! it. `docs/glossary.md` explains the words that are ours.

pub mod app;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod demo;
pub mod error;
pub mod history;
pub mod identity;
pub mod ids;
mod model_patterns;
pub mod pricing;
pub mod protocol;
pub mod proxy;
pub mod redis;
pub mod routing;
pub mod session;
pub mod settings;
pub mod summary;
pub mod telemetry;
pub mod upstream;
