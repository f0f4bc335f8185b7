//! People who log in with a name and a password, if `auth.people.login` asks for it.
//!
//! `settings` is the section of the configuration; `user` is an account as it is stored, `login` what one log-in has
//! begun: a family of refresh tokens, of which the newest is valid; `directory` keeps both and finds whose an access token
//! is; `accounts` makes and changes accounts, `sessions` logs people in and out; `storage` is where documents are kept;
//! `password` hashes passwords, `attempts` counts failures, and `tickets` are for the URL of a stream. Invariants: passwords and
//! tokens are stored as digests only, and nothing here blocks but `password` and what stores a document.

pub mod accounts;
pub mod attempts;
pub mod directory;
mod login;
pub mod password;
pub mod sessions;
pub mod settings;
pub mod storage;
pub mod tickets;
pub mod user;

pub use directory::{People, Person};
pub use settings::{PeopleConfig, PeopleSettings};
pub use storage::{PeopleError, PeopleStorage};

#[cfg(test)]
mod tests;
