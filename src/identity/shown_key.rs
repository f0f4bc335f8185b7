//! What a request shows of its caller: a key, a token, or nothing but its connection.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use super::jwt::{TokenFault, VerifiedToken};
use super::key_fault::KeyFault;
use super::key_holder::KeyHolder;
use crate::ids::Invalid;
use crate::protocol::dialects::credentials::contains;

/// The key or token that a request shows, or its caller without one.
#[derive(Clone)]
pub struct ShownKey {
    holder: Arc<KeyHolder>,
    /// `None` for a caller that is known by its connection.
    text: Option<Box<[u8]>>,
    /// `None` for anything but a token of an issuer.
    token: Option<Arc<VerifiedToken>>,
    /// Whether the text is a token, which is replaced by a new one when it expires.
    is_token: bool,
}

impl ShownKey {
    pub(super) fn of_key(holder: Arc<KeyHolder>, text: &[u8]) -> Self {
        Self { holder, text: Some(text.into()), token: None, is_token: false }
    }

    /// Returns the access token of a person who logged in here.
    pub(super) fn of_person(holder: Arc<KeyHolder>, text: &[u8]) -> Self {
        Self { is_token: true, ..Self::of_key(holder, text) }
    }

    pub(super) fn of_connection(holder: Arc<KeyHolder>) -> Self {
        Self { holder, text: None, token: None, is_token: false }
    }

    pub(super) fn of_token(token: Arc<VerifiedToken>, text: &[u8]) -> Self {
        let holder = KeyHolder::unlimited(token.id.clone(), token.membership.clone(), Some(token.expires));
        let holder = KeyHolder { permitted: Arc::clone(&token.permitted), ..holder };
        Self { holder: Arc::new(holder), text: Some(text.into()), token: Some(token), is_token: true }
    }

    /// Returns whether it need not be looked up again: a token is verified once a minute.
    pub fn is_fresh(&self) -> bool {
        self.token.as_ref().is_none_or(|token| token.is_fresh())
    }

    /// Returns who holds the key.
    pub fn holder(&self) -> &KeyHolder {
        &self.holder
    }

    /// Returns the key itself, to find it in a request; `None` if its caller is known by its connection.
    pub fn text(&self) -> Option<&[u8]> {
        self.text.as_deref()
    }

    /// Returns whether a field's value contains the key.
    pub fn is_in(&self, value: &[u8]) -> bool {
        self.text.as_deref().is_some_and(|text| contains(value, text))
    }

    /// Checks that the key is still valid.
    ///
    /// # Errors
    /// It has expired or was revoked.
    pub fn check(&self) -> Result<(), KeyFault> {
        let now = Timestamp::now();
        self.holder.is_used(now);
        match self.holder.validity.fault(now) {
            None => Ok(()),
            Some(Invalid::Revoked) => Err(KeyFault::Revoked),
            Some(Invalid::Expired) if self.is_token => Err(TokenFault::Expired.into()),
            Some(Invalid::Expired) => {
                let at = self.holder.validity.expires().unwrap_or(now);
                Err(KeyFault::Expired { id: self.holder.id.clone(), at })
            }
        }
    }
}

impl fmt::Debug for ShownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShownKey").field("holder", self.holder.id()).finish_non_exhaustive()
    }
}
