//! The one way to Redis: settings, connection, the names of keys and channels, and what wakes us.
//!
//! Neighbours: `session` keeps live state and kill orders behind it. Only this folder and
//! `session/store/redis*` name the client crate (fred).
//!
//! Invariants: no command waits longer than [`connect::ANSWER`]; while the link is down none is sent
//! at all, but the telling of a kill; a command goes to the server that has its key, wherever that moves; a message
//! is a hint, what it hints at is read from the key.

mod call;
pub mod connect;
pub mod keys;
mod plan;
pub mod principals;
mod probe;
pub mod rights;
mod servers;
pub mod settings;
pub mod signals;
mod subscription;

pub use call::{Call, Script};
pub use connect::{Link, LinkError};
pub use keys::Keys;
pub use probe::{Found, probe};
pub use settings::{OnUnavailable, RedisConfig, Settings};
