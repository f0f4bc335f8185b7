//! The languages agents and backends speak: what a path means, what a body says, how to refuse.
//!
//! Sans-IO and pure: bytes go in by chunks as they come, facts come out; nothing here waits, logs or
//! knows a status code. Neighbours: `proxy` feeds it, `routing` asks it for the model of a call,
//! `session` adds up its [`Usage`].
//!
//! - [`dialect`]: which API a request belongs to.
//! - [`json_scan`]: the one JSON reader: incremental, no tree, bounded memory.
//! - [`call`]: a request's body: model, stream, identity hints, and what it [offers](offer); [`json_rpc`]: its
//!   envelope in MCP and A2A.
//! - [`credentials`]: where a request carries its caller's credentials, and what holds none.
//! - [`mcp`]: what header fields of MCP must agree with.
//! - [`rename`]: a request's body with another model in it.
//! - [`framing`], [`sse`], [`ndjson`]: how an answer is cut into pieces; [`event_tail`]: whether one is whole.
//! - [`coding`]: compressed answers, decoded on the side.
//! - [`tap`]: reads usage, model, [`tools`] called and the stop reason off an answer that flows by, and tells
//!   them as [`events`] to whoever listens; one table of rules per dialect in `openai`, `responses`, `realtime`,
//!   `anthropic`, `mistral`, `ollama`, `gemini` and `json_rpc` (MCP, A2A).
//! - [`websocket`], [`socket`]: the frames of a WebSocket, and what the messages in them say.
//! - [`refusal`]: the words of a refusal, and the last event of a stream that is cut.
//!
//! Invariants: the same bytes give the same result however they are cut into chunks; cost is linear
//! in bytes; memory does not grow with the body; no input panics.

pub mod call;
pub mod coding;
pub mod credentials;
pub mod dialect;
pub mod event_tail;
pub mod events;
pub mod framing;
pub mod json_rpc;
pub mod json_scan;
pub mod mcp;
pub mod ndjson;
pub mod offer;
pub mod refusal;
pub mod rename;
pub mod socket;
pub mod sse;
pub mod tap;
pub mod tools;
pub mod usage;
pub mod websocket;

mod anthropic;
mod calls;
mod gemini;
mod json_paths;
mod json_text;
mod mistral;
mod ollama;
mod openai;
mod realtime;
mod responses;

#[cfg(test)]
mod chunks;

pub use call::{Call, CallPaths, CallScan};
pub use dialect::{BackendKind, Dialect};
pub use framing::Framing;
pub use refusal::{Notice, NoticeKind};
pub use tap::ResponseTap;
pub use usage::Usage;
