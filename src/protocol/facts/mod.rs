//! Plain data: facts read from requests and responses, and the content of errors.
//!
//! - [`model_request`]: what a request asks for; [`tools_offered`]: the tools it offers; [`rpc`]: its JSON-RPC envelope.
//! - [`usage`]: token counts and cost; [`tools`]: tool calls.
//! - [`error_body`]: an error, before a dialect words it.

pub mod error_body;
pub mod messages;
pub mod model_request;
pub mod rpc;
pub mod tools;
pub mod tools_offered;
pub mod usage;
