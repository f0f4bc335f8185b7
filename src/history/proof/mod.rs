//! Proof that the records are the ones the gateway wrote.
//!
//! - [`hash_chain`]: each record contains the digest of the one before it.
//! - [`signature`]: the signing key, and the signed head of the chain.
//! - [`statement`]: what else the gateway signs: pruning, a new key, an operator's acceptance, an export.
//! - [`head_file`]: the last signature, kept in a file apart from the history.
//! - [`record_check`], [`chain_walk`], [`continuity`]: check one record, a run of records, and the whole file.
//! - [`integrity`]: whether the file continues from the last signature. If not, nothing is signed.
//! - [`accept`]: `elida cdr accept`: an operator accepts a file that does not.
//! - [`verify`], [`signing_keys`]: `elida cdr verify`: checks an exported file without the gateway.

pub mod accept;
pub(in crate::history) mod chain_walk;
pub(in crate::history) mod continuity;
pub mod hash_chain;
pub(in crate::history) mod head_file;
pub(in crate::history) mod integrity;
pub(in crate::history) mod record_check;
pub mod signature;
mod signing_keys;
pub mod statement;
pub mod verify;
