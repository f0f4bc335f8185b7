//! Views of sessions that are not active in this process: ended ones, until their retention is over.
//!
//! The trait has two implementations: memory for a single instance, Redis for several. Both pass the same test
//! suite (`contract.rs`). The manager combines its active sessions with what the store returns.

#[cfg(test)]
pub(crate) mod contract;
mod filter;
mod interface;
mod memory;
pub(in crate::session) mod redis;
pub(in crate::session) mod share_document;

pub(in crate::session) use filter::ListLabels;
pub use filter::{Filter, Page};
pub(in crate::session) use interface::MOST_SCOPES;
pub use interface::{Listed, NamedSessions, SessionStore, StoreError};
pub use memory::MemoryStore;
pub use redis::RedisStore;
pub(in crate::session) use redis::client_keys::DocumentSet;
