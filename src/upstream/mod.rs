//! Backends: configuration, connections, credentials, health, load balancing.
//!
//! `settings` compiles the `backends:` section, with `credentials`, `pool`, `retries` and `health` for its parts; `backend` is a
//! backend at runtime; `addresses` says which of its addresses a request tries; `callers` keeps single callers away from
//! it, and `reporters` says whether callers that fail are independent; `balance` chooses between several; `egress` says
//! which proxy leads to a backend, and `tunnel` connects through it; `peer` builds Pingora's `HttpPeer`.
//! Neighbours: `proxy` asks for a peer and reports results; `app` runs the probes; `routing` knows
//! backends by position only.
//! Invariants: a compiled backend has a valid address and readable certificates; no name is resolved on a thread that
//! serves requests; a key is never printed.

pub mod addresses;
pub mod backend;
pub mod balance;
pub mod callers;
pub mod credentials;
pub mod egress;
pub mod health;
pub mod http1;
pub mod peer;
pub mod pool;
pub mod reporters;
pub mod retries;
pub mod settings;
pub mod tunnel;
