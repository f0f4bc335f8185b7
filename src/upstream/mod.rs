//! Backends: where they are, how they are reached and checked.
//!
//! `settings` is the `backends:` section, `backend` a backend at work with its resolved addresses,
//! `peer` the same in Pingora's words. Neighbours: `proxy` asks for a peer; `routing` knows backends
//! only by position. Invariants: a compiled backend has an address that can be dialled and trust that
//! could be read; no name is ever resolved on a thread that serves requests.

pub mod backend;
pub mod peer;
pub mod settings;
