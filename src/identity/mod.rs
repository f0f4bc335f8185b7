//! Identifies a request: its principal, its session and the client program.
//!
//! Duty: [`principal`] turns credentials into a name that does not reveal them; [`chain`] finds the session id among
//! the hints of many clients; [`client`] recognises programs. These results are labels, not authority: with
//! `session.scope: principal` an id is valid only together with the principal that sent it. [`auth`] is authority: it
//! finds the caller's own key ([`key_text`]) among the keys of [`auth_settings`] and [`made_keys`], or its token ([`jwt`]),
//! or its account ([`people`]), or knows it by its connection ([`connections`]), and what it may do.
//!
//! Neighbours: `proxy` asks for the session by header, then by body, then for the fallback. Nothing here knows the
//! state of sessions. Invariant: every id returned is printable ASCII of at most 256 bytes.

pub mod auth;
pub mod auth_settings;
pub mod chain;
pub mod client;
pub mod connections;
mod group_binding;
pub mod jwt;
mod key_documents;
pub mod key_fault;
mod key_holder;
pub mod key_text;
pub mod made_keys;
pub mod people;
pub mod principal;
mod principal_fields;
pub mod roles;
pub mod settings;
mod shown_key;

pub use auth::{Auth, KeyHolder, KnownOperator, Made, MadeKeys, ShownKey};
pub use auth_settings::AuthConfig;
pub use chain::{Conflict, FoundSession};
pub use client::Client;
pub use connections::Origin;
pub use jwt::TokenFault;
pub use key_fault::KeyFault;
pub use made_keys::{ClientKeys, KeyStorage};
pub use people::{People, PeopleStorage};
pub use principal::{Kept, Key, Principal};
pub use settings::{IdentityConfig, Settings};
