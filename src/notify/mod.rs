//! Tells others what happens: signed webhooks, retried for a day, and events of OCSF in a file or syslog.
//!
//! - [`settings`]: the sections `webhooks:` and `ocsf:`.
//! - [`webhook`]: which events a webhook is sent, and how it is signed ([`signature`]).
//! - [`facts`]: what the `when` of a webhook may ask of an event.
//! - [`queue`]: what waits to be sent, and when it is tried again.
//! - [`notifier`]: the threads that send.
//! - [`ocsf`], [`output`]: the form of OCSF, and where it is written.
//! - [`addresses`]: which addresses are private.
//!
//! Neighbours: `app` passes events as JSON, in the form of the event feed. Invariants: whoever passes an event never waits;
//! each webhook has a bounded queue of its own, so that one that does not answer delays no other.

pub mod addresses;
mod facts;
pub mod notifier;
mod ocsf;
mod output;
mod queue;
pub mod settings;
mod signature;
mod webhook;

/// The name of what is told of changes by operators: a line of the audit log.
pub const AUDIT: &str = "audit.line";
