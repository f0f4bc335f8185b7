//! What is read off requests and answers, and what is said in errors: plain data.
//!
//! - [`model_request`]: what a request asks for; [`tools_offered`]: the tools it offers; [`rpc`]: its JSON-RPC envelope.
//! - [`usage`]: token counts and cost; [`tools`]: tool calls.
//! - [`error_body`]: an error, before a dialect words it.

pub mod error_body;
pub mod model_request;
pub mod rpc;
pub mod tools;
pub mod tools_offered;
pub mod usage;
