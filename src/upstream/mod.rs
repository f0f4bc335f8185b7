//! Backends: where they are, how they are reached and checked.
//!
//! Duty: the `backends:` section, and (in `peer.rs`) the connection to a backend. Neighbours:
//! `proxy` asks for a peer; `routing` knows backends only by position. Invariant: a compiled backend
//! has an address that can be dialled and trust that could be read.

pub mod settings;
