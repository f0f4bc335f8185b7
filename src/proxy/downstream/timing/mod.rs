//! Timing of one request: idle limits, keep-alive comments, backpressure, what waits before it leaves.
//!
//! `idle` holds the times of a request and the timer over them · `tunnel` watches a request after its `101` ·
//! `wait` has the limits of a wait for the client · `backpressure` stops reading from the backend while a write to the
//! client waits · `gate` holds back what of an answer may not leave yet.
//! Invariant: nothing here reads or writes; this folder knows no session.

mod backpressure;
mod gate;
mod idle;
mod tunnel;
mod wait;

pub(super) use backpressure::Backpressure;
pub(crate) use gate::{Gate, GateWait, KeepAlive, Next};
pub(super) use idle::{Activity, IdleTimer};
pub(super) use tunnel::Tunnel;
pub(super) use wait::{Due, WaitLimits};
