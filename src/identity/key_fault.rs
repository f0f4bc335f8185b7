//! Why a caller is not accepted.

use jiff::Timestamp;

use super::jwt::TokenFault;
use super::principal::TooMany;
use crate::ids::PrincipalId;

/// Why a caller is not accepted. The texts are for the caller: they name no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// The request has more credentials than are looked up.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The request shows two keys or tokens.
    #[error("the request carries two different keys or tokens for this gateway; send one")]
    Several,
    /// The request shows no key, and one is required.
    #[error(
        "this gateway requires a key of its own, or a token that it accepts; send it where your client sends its API key \
         (Authorization, x-api-key), or in the header x-elida-key"
    )]
    Missing,
    /// The key has a wrong checksum.
    #[error(
        "the key is damaged: its last characters, a checksum, do not fit the rest; copy the whole key again"
    )]
    Damaged,
    /// The key is not known.
    #[error("the key is not known to this gateway; ask its operators for another one")]
    Unknown,
    /// The key was revoked.
    #[error("the key was revoked; ask the operators of this gateway for another one")]
    Revoked,
    /// The key has expired.
    #[error("the key of {id} has expired on {at}; ask the operators of this gateway for another one")]
    Expired {
        /// Its holder.
        id: PrincipalId,
        /// When it expired.
        at: Timestamp,
    },
    /// A token is not accepted.
    #[error(transparent)]
    Token(#[from] TokenFault),
}
