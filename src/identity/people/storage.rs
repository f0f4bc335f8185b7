//! Where accounts and log-ins are stored, and why one was not changed.

use crate::ids::SharedDocument;
use crate::settings::secret::Secret;

/// Where documents of people are stored.
pub trait PeopleStorage: Send + Sync {
    /// Returns all documents.
    ///
    /// # Errors
    /// They cannot be read.
    fn all(&self) -> Result<Vec<String>, String>;

    /// Stores a document; returns after it is on disk.
    ///
    /// # Errors
    /// Why it cannot be stored.
    fn put(&self, document: &SharedDocument) -> Result<(), String>;

    /// Removes documents that are no longer needed.
    ///
    /// # Errors
    /// They cannot be removed.
    fn remove(&self, ids: &[String]) -> Result<(), String>;

    /// Returns the secret that signs access tokens; it is made when it is asked for first.
    ///
    /// # Errors
    /// It can be neither read nor made.
    fn secret(&self) -> Result<Secret, String>;
}

/// Why an account was not changed, or a person is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeopleError {
    /// People do not log in here.
    #[error("people do not log in on this gateway (auth.people.login)")]
    Off,
    /// The name or the password is wrong, or the account is disabled. Says nothing more, so that names cannot be found out.
    #[error("the name or the password is wrong")]
    Wrong,
    /// The refresh token is not valid.
    #[error(
        "the refresh token is not valid: it has expired, was used, or its log-in has ended; log in again"
    )]
    Refresh,
    /// The account has logged in too often; how many seconds to wait.
    #[error(
        "the account has logged in 256 times in a day, which is the most; renew tokens with the refresh token, or use a key; try \
         again in {0} s"
    )]
    Full(u32),
    /// Accounts are made by admins, or the invitation is not valid.
    #[error("{0}")]
    Closed(&'static str),
    /// The request is not valid.
    #[error("{0}")]
    Invalid(String),
    /// Another account has this name.
    #[error("there is an account with the name '{0}'; choose another name")]
    Exists(String),
    /// No account has this name.
    #[error("no account has the name '{0}'")]
    Unknown(String),
    /// The document cannot be stored, so nothing was changed.
    #[error("the account cannot be stored, so nothing was changed: {0}")]
    Storage(String),
}
