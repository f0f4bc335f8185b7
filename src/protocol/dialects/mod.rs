//! One file per API. All that the crate knows about a provider is here.
//!
//! - [`spec`]: what a dialect is; [`registry`]: all of them, and which one a request speaks.
//! - [`error_body`]: errors in a dialect's form.
//! - [`credentials`]: where a request carries its caller's credentials, and which fields hold none.
//! - [`mcp`]: the header fields of MCP; [`json_rpc`]: the envelope of MCP and A2A.

pub mod credentials;
pub mod error_body;
pub mod json_rpc;
pub mod mcp;
pub mod registry;
pub mod spec;

mod anthropic;
mod gemini;
mod mistral;
mod ollama;
mod openai;
mod realtime;
mod responses;

pub use spec::{BackendKind, Dialect};
