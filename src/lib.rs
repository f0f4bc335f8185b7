//! ELIDA, the session border controller for AI agents.
//!
//! Every agent call of a company passes through this program. It finds the **session** a request
//! belongs to, opens a **leg** in it, forwards it byte for byte, counts what passes, and cuts it at once
//! when somebody kills the session. When a session ends, its **record** is written.
//!
//! Where to begin reading:
//!
//! * [`proxy`] is the way of a request, one file per step (`docs/life-of-a-request.md` tells it).
//! * [`session`] is what a session is: states, admission, kill, timeouts, record.
//! * [`identity`] says who calls and in which session; [`routing`] where it goes; [`upstream`] how.
//! * [`protocol`] reads the agents' languages without doing IO.
//! * [`pricing`] holds the prices of models and computes what a response costs.
//! * [`history`] keeps what has ended, and proves it; [`capture`] says which bodies, and takes secrets out of them.
//! * [`control`] is the operator's door, [`telemetry`] what is told of it all.
//! * [`app`] puts the parts together, from what [`config`] read; [`cli`] is the command line.
//! * [`demo`] is a model provider that needs no key.
//!
//! Modules stand in rows and may use lower rows only; `docs/ARCHITECTURE.md` has the map and
//! `tests/architecture.rs` the guard.

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
pub mod telemetry;
pub mod upstream;
