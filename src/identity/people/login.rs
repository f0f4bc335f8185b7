//! What one log-in has begun: a family of refresh tokens, of which only the newest is valid. One that is shown a second time was
//! copied, so it ends the family, and with it the access tokens.
//!
//! A refresh token has the form of a key: its prefix, 21 characters that all tokens of the family have, 22 more, and a checksum. So it
//! is recognised, and refused, wherever keys are. The name of the family, which access tokens and documents have, is a digest of the
//! 21 characters: who knows it cannot make a text that looks like a used token of the family.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::identity::key_holder::KeyHolder;
use crate::identity::key_text::{self, KeyDigest};
use crate::ids::SharedDocument;
use crate::settings::secret::Secret;

/// How long a refresh token is valid.
pub(super) const VALID: Duration = Duration::from_secs(24 * 3600);
/// The bit of a revision that says that the family has ended.
const ENDED: u64 = 1 << 31;
/// How the ids of shared families begin.
pub(super) const PREFIX: &str = "login:";
/// Characters that the tokens of a family have in common: 125 random bits.
const COMMON: usize = 21;
/// Characters of a family's name.
const NAME: usize = 32;

/// A family as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LoginDocument {
    /// Its name.
    pub(super) login: String,
    /// The name of the person.
    pub(super) user: String,
    /// The account's count when it began: the family ends when that changes.
    pub(super) epoch: u32,
    /// Counts refreshes; [`ENDED`] wins over them.
    pub(super) revision: u64,
    /// The digest of the newest refresh token.
    digest: String,
    /// When that expires.
    pub(super) expires: Timestamp,
}

/// A family in memory.
pub(super) struct Login {
    pub(super) document: LoginDocument,
    pub(super) text: String,
    /// What its access tokens permit, by the time at which they expire.
    pub(super) holders: Vec<(Timestamp, Arc<KeyHolder>)>,
}

impl LoginDocument {
    /// Begins a family; returns it with its first refresh token.
    pub(super) fn begin(user: &str, epoch: u32, prefix: &str, now: Timestamp) -> io::Result<(Self, Secret)> {
        let common = key_text::random_after("", COMMON)?;
        let login = name_of(&common);
        let none =
            Self { login, user: user.to_owned(), epoch, revision: 0, digest: String::new(), expires: now };
        none.with_token(&common, prefix, now)
    }

    /// Replaces this refresh token by a new one.
    pub(super) fn next(&self, token: &str, prefix: &str, now: Timestamp) -> io::Result<(Self, Secret)> {
        let common = common(token, prefix).ok_or_else(|| io::Error::other("it is no refresh token"))?;
        self.with_token(common, prefix, now)
    }

    fn with_token(&self, common: &str, prefix: &str, now: Timestamp) -> io::Result<(Self, Secret)> {
        let text = key_text::random_after(&format!("{prefix}{common}"), key_text::RANDOM - COMMON)?;
        let token = key_text::with_checksum(text);
        let digest = KeyDigest::of(token.reveal().as_bytes()).to_string();
        let expires = now.checked_add(VALID).map_err(io::Error::other)?;
        Ok((Self { revision: self.revision + 1, digest, expires, ..self.clone() }, token))
    }

    /// Returns the family after its end.
    pub(super) fn ended(&self) -> Self {
        Self { revision: self.revision | ENDED, ..self.clone() }
    }

    pub(super) fn is_open(&self, now: Timestamp) -> bool {
        self.revision & ENDED == 0 && now < self.expires
    }

    /// Returns whether no instance needs the document any more: no token of the family can still be valid.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.expires <= now
    }

    /// Returns whether this is the newest refresh token.
    pub(super) fn is_newest(&self, token: &str) -> bool {
        let shown = KeyDigest::of(token.as_bytes());
        KeyDigest::parse(&self.digest).is_some_and(|own| own.as_bytes().ct_eq(shown.as_bytes()).into())
    }

    /// Returns the document with its text.
    pub(super) fn shared(&self) -> Result<SharedDocument, String> {
        let text = serde_json::to_string(self).map_err(|fault| fault.to_string())?;
        Ok(SharedDocument { id: format!("{PREFIX}{}", self.login), revision: self.revision, text })
    }
}

/// Returns the name of the family of a refresh token; `None` for another text.
pub(super) fn family(token: &str, prefix: &str) -> Option<String> {
    common(token, prefix).map(name_of)
}

fn common<'t>(token: &'t str, prefix: &str) -> Option<&'t str> {
    let is_whole = !key_text::is_damaged(token.as_bytes(), prefix);
    token.strip_prefix(prefix).filter(|_| is_whole)?.get(..COMMON)
}

fn name_of(common: &str) -> String {
    let mut name = KeyDigest::of(common.as_bytes()).to_string();
    name.truncate(NAME);
    name
}

impl Login {
    /// Ends what its access tokens have opened.
    pub(super) fn revoke(&mut self) {
        self.holders.drain(..).for_each(|(_, holder)| holder.revoke());
    }
}
