//! Access to Redis: settings, connections, names of keys and channels, messages.
//!
//! Neighbors: `session` stores sessions and kill orders in Redis. Only this folder and `session/store/redis*` use
//! the client crate (fred).
//!
//! Invariants: no command waits longer than [`connect::ANSWER`]. While the link is down no command is sent, except
//! the message about a kill. A command goes to the server that owns its key, wherever the key moves. A message only
//! says where to look; the key is the source of truth.

pub mod answers;
pub mod budgets;
mod call;
pub mod connect;
pub mod keys;
mod plan;
pub mod principals;
mod probe;
pub mod rates;
pub mod rights;
mod servers;
pub mod settings;
pub mod signals;
mod subscription;
#[cfg(test)]
pub(crate) mod testing;

pub use call::{Call, Script};
pub use connect::{Link, LinkError};
pub use keys::Keys;
pub use probe::{ProbeResult, probe};
pub use settings::{OnUnavailable, RedisConfig, Settings};
