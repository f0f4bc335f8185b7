//! Errors in a dialect's form: the body of a refusal, and the last event of a stream that is cut.
//!
//! The common form serves the clients of two vendors: `error.type` and `error.message` are read by
//! Anthropic's, `error.code` and `error.param` beside them by OpenAI's. The end of a stream never
//! looks like a whole answer: no `[DONE]`, no `message_stop`, no `response.completed`. Dialects with forms of their
//! own have them in their files.

use serde::Serialize;

use super::spec::Dialect;
use crate::error::RefusalMetadata;
use crate::protocol::facts::error_body::ErrorBody;
use crate::protocol::wire::framing::Framing;

/// How a dialect writes errors.
pub(super) struct ErrorForm {
    /// The JSON body of an error before the answer's head is sent.
    pub(super) body: fn(&ErrorBody<'_>) -> Vec<u8>,
    /// How its streams are ended, for each framing that has a native end.
    pub(super) stream_ends: &'static [StreamEnd],
    /// The message that ends one of its WebSockets.
    pub(super) socket_event: Option<fn(u16, &ErrorBody<'_>) -> Vec<u8>>,
}

/// The native end of a stream.
pub(super) struct StreamEnd {
    pub(super) framing: Framing,
    /// What ends an event, a line or the array: the piece under way, if there is one, and this one.
    pub(super) terminator: &'static str,
    /// What precedes the data.
    pub(super) head: &'static str,
    pub(super) data: fn(&ErrorBody<'_>) -> Vec<u8>,
    /// Nothing can be written inside a piece.
    pub(super) only_at_boundary: bool,
}

impl StreamEnd {
    /// An event without a name whose data is `data`.
    pub(super) const fn event(data: fn(&ErrorBody<'_>) -> Vec<u8>) -> Self {
        Self::named_event("data: ", data)
    }

    /// An event whose lines before the data are `head`, with `data: ` at its end.
    pub(super) const fn named_event(head: &'static str, data: fn(&ErrorBody<'_>) -> Vec<u8>) -> Self {
        Self { framing: Framing::Sse, terminator: "\n\n", head, data, only_at_boundary: false }
    }
}

impl ErrorForm {
    /// The common body, and no native end.
    pub(super) const COMMON: Self = Self { body: common, stream_ends: &[], socket_event: None };
}

/// The `error` member of the common form.
#[derive(Serialize)]
pub(super) struct Detail<'a> {
    r#type: &'static str,
    code: &'a str,
    message: &'a str,
    param: Option<()>,
}

/// The common form.
#[derive(Serialize)]
struct Common<'a> {
    r#type: &'static str,
    error: Detail<'a>,
    session_id: Option<&'a str>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RefusalMetadata>,
}

impl<'a> Detail<'a> {
    pub(super) fn of(error: &ErrorBody<'a>) -> Self {
        Self { r#type: error.kind.word(), code: error.code, message: error.message, param: None }
    }
}

/// An error in the common form.
pub(super) fn common(error: &ErrorBody<'_>) -> Vec<u8> {
    json(&Common {
        r#type: "error",
        error: Detail::of(error),
        session_id: error.session_id,
        request_id: error.request_id,
        metadata: error.metadata,
    })
}

impl Dialect {
    /// The JSON body of an error before the answer's head is sent.
    pub fn error_body(self, error: &ErrorBody<'_>) -> Vec<u8> {
        (self.0.errors.body)(error)
    }

    /// The native last event of a stream that is cut; `None` when dialect and framing have none, and the
    /// connection must be cut instead. `at_boundary` is [`crate::protocol::answer::tap::ResponseTap::at_boundary`]:
    /// when it is false, the piece that is under way is ended first, so that the client reads the error by itself.
    pub fn stream_end(self, framing: Framing, at_boundary: bool, error: &ErrorBody<'_>) -> Option<Vec<u8>> {
        let end = self.0.errors.stream_ends.iter().find(|end| end.framing == framing)?;
        if end.only_at_boundary && !at_boundary {
            return None;
        }
        let data = (end.data)(error);
        let mut bytes = Vec::with_capacity(data.len() + end.head.len() + 2 * end.terminator.len());
        if !at_boundary {
            bytes.extend_from_slice(end.terminator.as_bytes());
        }
        bytes.extend_from_slice(end.head.as_bytes());
        bytes.extend_from_slice(&data);
        bytes.extend_from_slice(end.terminator.as_bytes());
        Some(bytes)
    }

    /// The error event that ends a socket of this dialect, as the text of its message; `None` when the
    /// dialect has none. `status` is what an HTTP answer would have had.
    pub fn socket_event(self, status: u16, error: &ErrorBody<'_>) -> Option<Vec<u8>> {
        self.0.errors.socket_event.map(|write| write(status, error))
    }
}

/// Serializing plain structs of texts to memory cannot fail.
pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
