//! Timing of one request: idle limits, keep-alive comments, backpressure.
//!
//! `idle` holds the times of a request and the timer over them · `tunnel` watches a request after its `101` ·
//! `keep_alive` tells when a comment is due in a quiet event stream · `backpressure` stops reading from the backend
//! while a write to the client waits.
//! Invariant: nothing here reads or writes; this folder knows no session.

mod backpressure;
mod idle;
mod keep_alive;
mod tunnel;

pub(super) use backpressure::Backpressure;
pub(super) use idle::{Activity, IdleTimer};
pub(super) use keep_alive::KeepAlive;
pub(super) use tunnel::Tunnel;
