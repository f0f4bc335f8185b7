//! Tells others what happens: signed webhooks, retried for a day.
//!
//! - [`settings`]: the section `webhooks:`.
//! - [`webhook`]: which events a webhook is sent, and how it is signed ([`signature`]).
//! - [`facts`]: what the `when` of a webhook may ask of an event.
//! - [`queue`]: what waits to be sent, and when it is tried again.
//! - [`notifier`]: the threads that send.
//! - [`addresses`]: which addresses are private.
//!
//! Neighbours: `app` passes events as JSON, in the form of the event feed. Invariants: whoever passes an event never waits;
//! each webhook has a bounded queue of its own, so that one that does not answer delays no other.

pub mod addresses;
mod facts;
pub mod notifier;
mod queue;
pub mod settings;
mod signature;
mod webhook;
