//! The audit log: one line for each change that an operator makes, in a hash chain of its own.
//!
//! - [`line`]: what a line contains.
//! - [`log`]: appends lines to the table `audit` in `state.db`, which is never pruned, and reads them.
//! - [`verify`]: checks that lines are those that were written, without the gateway.
//!
//! Each line contains the digest of the one before it ([`super::proof::hash_chain`]) and is sealed with the key that signs
//! records. `audit-head.json` in the data directory names the last line, so that lines missing at the end are noticed.

pub mod line;
pub mod log;
pub mod verify;

pub use line::{AuditEntry, AuditLine, OperatorLine};
pub use log::{AuditFilter, AuditLog, AuditPage};
