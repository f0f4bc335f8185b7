//! Who calls: the principal behind the credential, the session the request belongs to, the program.
//!
//! [`principal`] turns a credential into a name that tells nothing about it; [`chain`] finds the
//! session id among the hints of many clients; [`client`] recognises programs. All of it is a label
//! or a correlation, never authority by itself: with `session.scope: principal` an id counts only
//! together with the principal that sent it.
//!
//! Neighbours: `proxy` asks, in the order header, body, fallback. Nothing here knows sessions.
//! Invariant: an id that leaves here is printable ASCII of at most 256 bytes.

pub mod chain;
pub mod client;
pub mod principal;
pub mod settings;

pub use chain::{Conflict, Found};
pub use client::Client;
pub use principal::{Key, Principal};
pub use settings::{Settings, Written};
