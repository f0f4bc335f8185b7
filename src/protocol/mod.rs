//! The APIs that agents and backends speak: what a request asks for, what an answer says, how an error is worded.
//!
//! Sans-IO and pure: bytes go in by chunks as they arrive, facts come out; nothing here waits, logs or
//! knows where a request goes. Neighbours: `proxy` feeds it, `routing` asks it for the model of a request,
//! `session` adds up its [`Usage`](facts::usage::Usage).
//!
//! - [`json`]: the one JSON reader: incremental, no tree, bounded memory.
//! - [`wire`]: how bodies and sockets are framed: server-sent events, NDJSON, WebSocket frames, content codings.
//! - [`facts`]: what is read off requests and answers, as plain data.
//! - [`dialects`]: one file per API: how it is detected, where its answers hold what, how its errors look.
//! - [`request`]: reads a request's body, and writes another model into it.
//! - [`answer`]: reads usage, model, tool calls and stop reason off an answer while it passes.
//!
//! Folders use those above them in this list only.
//!
//! Invariants: the same bytes give the same result however they are cut into chunks; cost is linear
//! in bytes; memory does not grow with the body; no input panics.

pub mod answer;
pub mod dialects;
pub mod facts;
pub mod json;
pub mod request;
pub mod wire;

#[cfg(test)]
mod chunks;

pub use dialects::{BackendKind, Dialect};
