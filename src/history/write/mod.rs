//! The writer thread and what feeds it.
//!
//! - [`writer`]: the only thread that writes to the file, and what it does when the disk is full.
//! - [`rows`]: turns an event into rows.
//! - [`leg_queue`]: the queue for legs (`history.legs: all`), apart from records and events.
//! - [`capture_queue`]: the queue for captured bodies, bounded in bytes.
//! - [`prune`]: retention and `history.max_size`.
//! - [`schema`]: tables and migrations.

pub(in crate::history) mod capture_queue;
pub(in crate::history) mod leg_queue;
mod prune;
pub(in crate::history) mod rows;
mod schema;
pub(in crate::history) mod writer;
