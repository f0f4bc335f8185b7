//! The events that a listener receives while an answer passes.

use crate::protocol::facts::tools::ToolCall;
use crate::protocol::facts::usage::Usage;

/// One thing an answer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// More of the text that the user will see, in UTF-8. A character may be divided between two.
    Text(&'a [u8]),
    /// More of the reasoning, or of its summary, where the provider sends it.
    Reasoning(&'a [u8]),
    /// More of what the model has not written: what came of a call that the provider made itself.
    Result(&'a [u8]),
    /// More of the definitions of tools, which an MCP server lists.
    Definition(&'a [u8]),
    /// Programs may read something else than what is reported: a member is there twice, or another JSON text follows.
    Ambiguous,
    /// A tool call whose arguments are complete.
    Call(&'a ToolCall),
    /// Why the model stopped, in the provider's word.
    Stop(&'a str),
    /// The token counts so far.
    Usage(Usage),
    /// The text and reasoning since the last one of these belong to this choice.
    Choice(u64),
    /// An event, a line or the whole answer is complete. What text it has outside of choices belongs to the block or item
    /// with this index.
    Piece(Option<u64>),
    /// This block or item of this choice has ended, or the choice if it has no blocks.
    End {
        /// The choice.
        choice: u64,
        /// The index of the block.
        index: Option<u64>,
    },
}

impl Event<'_> {
    /// Bytes of what the model wrote.
    pub fn text_bytes(&self) -> u64 {
        match self {
            Self::Text(text) | Self::Reasoning(text) | Self::Definition(text) => text.len() as u64,
            Self::Call(call) => call.arguments.len() as u64,
            // It is no part of what the model writes.
            Self::Result(_)
            | Self::Ambiguous
            | Self::Stop(_)
            | Self::Usage(_)
            | Self::Choice(_)
            | Self::Piece(_)
            | Self::End { .. } => 0,
        }
    }
}
