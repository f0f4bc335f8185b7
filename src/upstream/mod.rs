//! Backends: where they are, how they are reached and checked, whose credential they get, which one is asked.
//!
//! `settings` is the `backends:` section, with `credentials`, `retries` and `health` for its parts; `backend`
//! is a backend at work with its resolved addresses, its health and its load; `callers` keeps single
//! callers away from it; `balance` chooses between several; `peer` is a backend in Pingora's words. Neighbours: `proxy` asks for a peer and tells how requests
//! ended; `app` probes; `routing` knows backends only by position. Invariants: a compiled backend has an
//! address that can be dialled and trust that could be read; no name is ever resolved on a thread that serves
//! requests; a key is never printed.

pub mod backend;
pub mod balance;
pub mod callers;
pub mod credentials;
pub mod health;
pub mod peer;
pub mod retries;
pub mod settings;
