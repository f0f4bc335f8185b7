//! Reads a request's body, and writes another model into it.
//!
//! - [`body`]: model, streaming, tools, identity hints and JSON-RPC envelope, in one scan.
//! - [`rewrite_model`]: the same body with another model.

pub mod body;
pub mod rewrite_model;

mod tools_offered;

pub use body::{RequestPaths, RequestScan};
pub use rewrite_model::rewrite_model;

pub use crate::protocol::facts::model_request::ModelRequest;
