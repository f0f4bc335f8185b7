//! Queries and exports. Every reader has a connection of its own, so that a long query never blocks the writer.
//!
//! - [`reader`]: pages of records, one record in full, events, and captures.
//! - [`sums`]: time series and usage.
//! - [`legs`]: the legs of a session, or of a time range as a file.
//! - [`time_range`], [`filter`]: what a query asks for.
//! - [`active_kills`]: the kill orders in force, which a gateway loads when it starts.
//! - [`export`], [`signed_export`]: records as CSV, or as NDJSON with the hash chain and its signatures.
//! - [`record_schema`]: the JSON Schema of a record.
//! - [`stored_captures`]: all captures of a time.

pub mod active_kills;
pub mod export;
pub mod filter;
pub mod legs;
pub mod reader;
pub mod record_schema;
mod signed_export;
pub mod stored_captures;
pub mod sums;
pub mod time_range;
