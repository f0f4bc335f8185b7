//! What a request's body says: its model, whether it streams, the tools it offers, who may be calling.

use super::rpc::Rpc;
use super::tools_offered::ToolsOffered;
use crate::protocol::wire::coding::Unread;

/// What a body said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelRequest {
    /// The model; of a doubled one the last, as most servers read it.
    pub model: Option<String>,
    /// Whether a streamed answer is asked for.
    pub stream: Option<bool>,
    /// The body names two different models, so servers may differ in which they obey.
    pub model_doubled: bool,
    /// The body is not a JSON value, as far as it was followed: cut short, another encoding, a form.
    pub malformed: bool,
    /// Why the body was not read, or not to its end; `None` when it was.
    pub unread: Option<Unread>,
    /// The tools it offers, and its length.
    pub tools_offered: ToolsOffered,
    /// What a JSON-RPC request asks for.
    pub rpc: Option<Box<Rpc>>,
    /// The values at the configured paths of identity hints.
    pub(in crate::protocol) hints: Vec<Option<Box<str>>>,
}

impl ModelRequest {
    /// The text at the caller's path number `index`; numbers as written.
    pub fn hint(&self, index: usize) -> Option<&str> {
        self.hints.get(index)?.as_deref()
    }
}
