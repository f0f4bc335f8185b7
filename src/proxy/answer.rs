//! What is known of the response to the client, from its head to its last byte.

use std::time::Duration;

use super::compressing::Compressing;
use super::endpoints::Endpoint;
use super::judging::Judging;
use crate::protocol::answer::tap::ResponseTap;
use crate::protocol::wire::event_tail::EventTail;
use crate::protocol::wire::framing::Framing;

/// Bytes of text that make ten tokens, where a provider has not counted them.
pub(super) const BYTES_OF_TEN_TOKENS: u64 = 36;

/// The response so far.
#[derive(Default)]
pub(crate) struct Answer {
    /// Status sent to the client; `None` before the head.
    pub(crate) status: Option<u16>,
    /// From the end of the request's head to the head of the response.
    pub(crate) first_byte: Option<Duration>,
    /// Framing of the body as the client sees it.
    pub(crate) framing: Option<Framing>,
    /// Whether the body is a stream of events, compressed or not.
    pub(crate) is_stream: bool,
    /// Reads usage, tool calls and stop reason from the body.
    pub(crate) tap: Option<ResponseTap>,
    /// Judges it while it passes; `None` if no rule asks for what it says.
    pub(crate) judging: Option<Box<Judging>>,
    /// Compresses it for the client; `None` if it leaves as it came.
    pub(crate) compressing: Option<Box<Compressing>>,
    /// Tracks where the last event ends; `None` if no keep-alive comments may be written.
    pub(crate) tail: Option<EventTail>,
    /// The endpoint that an MCP server announces in the first event of the stream; `None` if it does not.
    pub(crate) endpoint: Option<Box<Endpoint>>,
    /// Body bytes sent to the client.
    pub(crate) sent: u64,
    /// Bytes of the text in the answer, as far as budgets have it read.
    pub(crate) text_bytes: u64,
    /// Whether the whole body was sent.
    pub(crate) whole: bool,
    /// Whether it comes from the cache, and no backend was asked or none has answered.
    pub(crate) is_cached: bool,
}

impl Answer {
    /// Tokens that its text is estimated at.
    pub(super) fn text_tokens(&self) -> u64 {
        self.text_bytes.saturating_mul(10).div_ceil(BYTES_OF_TEN_TOKENS)
    }
}
