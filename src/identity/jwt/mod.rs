//! Tokens of identity providers (JWT, RFC 7519) as credentials of callers.
//!
//! `settings` and `local` compile `auth.jwt`; `tokens` verifies what a request shows and remembers what it verified; `claims` turns a
//! token into a caller, `permissions` says what it may use; `key_set` reads the keys of an issuer (JWKS, RFC 7517), `issuer_keys` fetches and keeps them;
//! `own` signs and verifies the access tokens of people; `crypto` lets `jsonwebtoken` use the one library of cryptography. Invariants: nothing here waits for an issuer while a
//! request waits, and no fault contains a token.

mod claims;
pub mod crypto;
pub mod issuer_keys;
mod key_set;
pub mod local;
pub mod own;
mod permissions;
pub mod settings;
pub mod tokens;

pub use issuer_keys::IssuerKeys;
pub use settings::JwtConfig;
pub use tokens::{Jwt, Seen, TokenFault, VerifiedToken};

#[cfg(test)]
mod testing;
