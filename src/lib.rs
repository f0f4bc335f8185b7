//! ELIDA, the session border controller for AI agents.
//!
//! Every agent call of a company passes through this program. It finds the **session** a request belongs to, opens a
//! **leg** in it, forwards the request byte for byte, counts what passes, and cuts it at once when an operator kills the
//! session. When a session ends, its **record** is written.
//!
//! Where to start reading:
//!
//! * [`proxy`] is the path of a request, one file per step (see `docs/life-of-a-request.md`).
//! * [`session`] holds sessions: states, admission, kill, timeouts, record.
//! * [`identity`] determines the caller and the session, [`routing`] the backend, [`upstream`] the connection to it.
//! * [`protocol`] reads the agents' protocols without doing IO.
//! * [`pricing`] holds the prices of models and computes what a response costs.
//! * [`limits`] counts how fast callers are, by the expressions of [`policy`].
//! * [`history`] stores ended sessions with tamper evidence; [`capture`] selects bodies and redacts secrets in them.
//! * [`control`] is the operator API, [`telemetry`] log, metrics and traces.
//! * [`app`] builds and runs the parts from what [`config`] read; [`cli`] is the command line.
//! * [`demo`] is a model provider that needs no key.
//!
//! Modules form rows and may use only lower rows; see `docs/ARCHITECTURE.md`, checked by `tests/architecture.rs`.

pub mod app;
pub mod cache;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod demo;
pub mod error;
pub mod forward;
pub mod history;
pub mod identity;
pub mod ids;
pub mod limits;
mod model_patterns;
pub mod notify;
pub mod policy;
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
