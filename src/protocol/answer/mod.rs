//! Reads an answer while it passes, by the rules of its dialect.
//!
//! - [`tap`]: usage, model, stop reason and tool calls of an answer.
//! - [`events`]: what a listener receives.
//! - [`socket`]: the same for the messages of a WebSocket.
//! - [`tool_lists`]: the tools that an MCP server lists.

pub mod events;
pub mod raw_json;
mod repeats;
pub mod socket;
pub mod tap;
pub mod tool_lists;

mod tool_calls;
mod whole_value;
