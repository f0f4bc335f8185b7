//! Reads a request's body, and writes another model into it.
//!
//! - [`reader`]: the body as it arrives, compressed or not.
//! - [`batch_file`]: the models in the file of a batch.
//! - [`body`]: model, streaming, tools, identity hints and JSON-RPC envelope of a JSON text, in one scan.
//! - [`turn_calls`]: the tool calls whose results a request brings.
//! - [`rewrite_model`]: the same body with another model.
//! - [`rpc_calls`]: the calls of tools in a body of JSON-RPC.
//! - [`segments`]: all texts of a JSON body.

pub mod batch_file;
pub mod body;
pub mod reader;
pub mod rewrite_model;
pub mod rpc_calls;
pub mod segments;
pub mod turn_calls;

mod form;
mod instructions;
mod tools_offered;

pub use body::{RequestPaths, RequestScan};
pub use instructions::instructions;
pub use reader::{BodyReader, decoded};
pub use rewrite_model::{rewrite_field, rewrite_model};

pub use crate::protocol::facts::model_request::{BatchModels, Instructions, ModelPlace, ModelRequest};
