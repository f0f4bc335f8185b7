//! Where snapshots of sessions live that are not live here: ended ones, until their retention is over.
//!
//! Two implementations stand behind the trait: memory for a single instance, and Redis for several. Both pass the same suite
//! (`contract.rs`). The manager lays its live sessions over what the store says.

#[cfg(test)]
pub(crate) mod contract;
mod filter;
mod interface;
mod memory;
pub(in crate::session) mod redis;
pub(in crate::session) mod share_document;

pub(in crate::session) use filter::ListLabels;
pub use filter::{Filter, Page};
pub use interface::{Listed, SessionStore, StoreError};
pub use memory::MemoryStore;
pub use redis::RedisStore;
