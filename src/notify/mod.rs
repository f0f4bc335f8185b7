//! Tells others what happens: signed webhooks, retried for a day, and events of OCSF in a file or syslog.
//!
//! - [`settings`]: the sections `webhooks:` and `ocsf:`.
//! - [`webhook`]: which events a webhook is sent, and how it is signed ([`signature`]).
//! - [`facts`]: what the `when` of a webhook may ask of an event.
//! - [`queue`]: what waits to be sent, and when it is tried again.
//! - [`notifier`]: the threads that send.
//! - [`ocsf`], [`output`]: the form of OCSF, and where it is written.
//! - [`services`]: asks the services that decide besides the rules of `policy`, also over a [`unix_socket`]; [`client`] is the
//!   HTTP client of them and of webhooks.
//! - [`addresses`]: which addresses are private.
//!
//! Neighbours: `app` passes events as JSON, in the form of the event feed. Invariants: whoever passes an event never waits;
//! each webhook has a bounded queue of its own, so that one that does not answer delays no other.

pub mod addresses;
mod client;
mod facts;
pub mod notifier;
mod ocsf;
mod output;
mod queue;
pub mod services;
pub mod settings;
mod signature;
mod unix_socket;
mod webhook;

/// The name of what is told of changes by operators: a line of the audit log.
pub const AUDIT: &str = "audit.line";
