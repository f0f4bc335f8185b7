//! The one way to Redis: settings, connection, the names of keys and channels, and what wakes us.
//!
//! Neighbours: `session` keeps live state and kill orders behind it. Only this folder and
//! `session/store/redis*` name the client crate (fred).
//!
//! Invariants: no command waits longer than [`connect::ANSWER`]; while the link is down none is sent
//! at all, but the telling of a kill; a message is a hint, what it hints at is read from the key.

pub mod connect;
pub mod keys;
pub mod principals;
mod probe;
pub mod rights;
pub mod settings;
pub mod signals;

pub use connect::{Call, Link, LinkError, Script};
pub use keys::Keys;
pub use probe::{Found, probe};
pub use settings::{OnUnavailable, Settings, Written};
