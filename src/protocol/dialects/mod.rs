//! One file per API. All that the crate knows about a provider is here.
//!
//! - [`spec`]: what a dialect is; [`registry`]: all of them, and which one a request speaks.
//! - [`answer_rules`]: how the answers of a dialect are read.
//! - [`request_shape`]: where the requests of a dialect have their texts.
//! - [`error_body`]: errors in a dialect's form.
//! - [`model_list`]: lists of models; [`model_name`]: where requests name a model beside their body.
//! - [`client_fields`]: header fields in which proxies name the client.
//! - [`own_paths`]: the first segment of the paths of some services, which a backend's name may equal.
//! - [`credentials`]: where a request carries its caller's credentials, and which fields hold none.
//! - [`mcp`]: the header fields of MCP; [`json_rpc`]: the envelope of MCP and A2A.

pub(in crate::protocol) mod answer_rules;
pub mod client_fields;
pub mod credentials;
pub mod error_body;
pub mod json_rpc;
pub mod mcp;
pub mod model_list;
pub mod model_name;
pub mod output_limit;
pub mod own_paths;
pub mod registry;
pub(in crate::protocol) mod request_shape;
pub mod spec;

mod a2a;
mod anthropic;
mod azure;
mod bedrock;
mod cohere;
mod gemini;
mod mistral;
mod no_model;
mod ollama;
mod openai;
mod path_method;
mod plain;
mod realtime;
mod responses;
mod vertex;

pub use spec::{BackendKind, Dialect};
