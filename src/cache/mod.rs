//! The HTTP cache: what may be stored and reused (RFC 9111), and where answers are kept.
//!
//! `settings` is the section `cache`, `key` says which answers are the same, `directives`, `freshness` and `decide` are the
//! rules of RFC 9111 without IO, `entry` is a stored answer, `store` keeps entries in memory and in Redis, `fill` gathers the body of one,
//! `flights` lets requests wait for a fill, `purge` finds what an operator names, and `stats`
//! counts.
//!
//! Neighbours: `proxy/cached` asks it in Pingora's cache phases, `control/routes/cache` purges. Invariants: nothing half is
//! stored; what is stored and what is being filled together stay within `cache.max_memory`; an answer to a request with a
//! credential is stored only if it says `public` or `s-maxage`, and then only for the callers of one tenant.

mod decide;
mod directives;
mod entry;
mod fill;
mod flights;
mod freshness;
mod key;
mod purge;
pub mod settings;
mod stats;
mod store;

pub use decide::{Asked, Refused, Reuse, Verdict};
pub use entry::{Entry, freshened};
pub use fill::{Fill, Filled};
pub use flights::{Flight, Seat, Waiting};
pub use freshness::Freshness;
pub use key::{Id, Target, place, variance};
pub use purge::{PurgePattern, Purged};
pub use settings::{CacheConfig, Settings, Share};
pub use stats::{CacheStats, Counters, HostStats};
pub use store::Cache;
