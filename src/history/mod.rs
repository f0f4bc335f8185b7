//! What happened, kept: ended sessions with their records, requests, token counts, kills and events, in one
//! SQLite file. Off the path of requests: a bounded queue leads to one thread that writes in batches.
//!
//! Neighbours: `app` hands it what `session` publishes, `control` reads from it, `cli` verifies what was
//! exported.
//!
//! - [`settings`]: `history:` of the file.
//! - [`archive`]: the front: takes what happens without ever waiting, and opens readers.
//! - [`writer`]: the one thread that writes; what it does when the disk is full.
//! - [`leg_queue`]: how legs come to it, apart from all else.
//! - [`prune`]: what is forgotten, and when.
//! - [`entries`]: how an event becomes rows.
//! - [`captures`]: bodies on their way to the file, bounded and apart.
//! - [`schema`]: the tables, by version.
//! - [`chain`]: the hash chain over the records, and its canonical form.
//! - [`seal`]: the signed head of the chain, and the key in the data directory.
//! - [`standing`]: the kill orders that still stand.
//! - [`reader`], [`window`]: pages, one record in full, series for charts.
//! - [`leg_reader`]: the legs of a session, page by page, or those of a time as a file.
//! - [`form`]: a record's form as a JSON Schema.
//! - [`export`]: the records as NDJSON with their chain, or as CSV.
//! - [`verify`]: an exported file, checked without the gateway.
//!
//! Invariants: nothing here blocks a request; what cannot be taken is counted; a record is written with its
//! link of the chain in one transaction, so neither `kill -9` nor a full disk leaves half of it.

pub mod archive;
pub mod chain;
pub mod export;
pub mod form;
pub mod leg_reader;
pub mod reader;
pub mod seal;
pub mod settings;
pub mod standing;
pub mod verify;
pub mod window;

mod captures;
mod entries;
mod leg_queue;
mod prune;
mod schema;
mod writer;

#[cfg(test)]
mod leg_tests;
#[cfg(test)]
mod tests;

pub use archive::Archive;
pub use rusqlite::{InterruptHandle, Result};
pub use settings::{Settings, Written};
