//! Keeps ended sessions in one SQLite file: their records, requests, token counts, kills and events.
//!
//! The history is off the request path: events go into a bounded queue, and one thread writes them in batches.
//! The records form a signed hash chain, so that an auditor can prove that none was changed or removed.
//!
//! Neighbours: `app` passes on what `session` publishes, `control` reads, `cli` verifies exported files.
//!
//! - [`settings`]: the `history:` section of the configuration.
//! - [`archive`]: the entry point. Queues events without blocking and opens readers.
//! - [`write`]: the writer thread, its queues, the schema, and retention.
//! - [`read`]: pages, single records, time series, and exports.
//! - [`audit`]: what operators changed, in a hash chain of its own.
//! - `sql/`: the migrations and the longer statements.
//! - [`proof`]: the hash chain, signatures, and the checks against tampering.
//!
//! Invariants: nothing here blocks a request; whatever is dropped is counted; a record and its link in the chain are
//! written in one transaction, so neither `kill -9` nor a full disk leaves half of it; the gateway signs only what
//! continues from its last signature.

pub mod archive;
pub mod audit;
pub mod proof;
pub mod read;
pub mod settings;
mod spending;
pub mod state;
mod write;

#[cfg(test)]
mod leg_tests;
#[cfg(test)]
mod seal_tests;
#[cfg(test)]
mod tamper_tests;
#[cfg(test)]
mod tests;

pub use archive::Archive;
pub use rusqlite::{InterruptHandle, Result};
pub use settings::{HistoryConfig, Settings};
