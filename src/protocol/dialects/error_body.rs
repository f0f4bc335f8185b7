//! The words in which a caller is refused, and the last event of a stream that is cut.
//!
//! One JSON body serves both vendors' clients: `error.type` and `error.message` are read by
//! Anthropic's, `error.code` and `error.param` beside them by OpenAI's. The end of a stream never
//! looks like a whole answer: no `[DONE]`, no `message_stop`, no `response.completed`. Gemini, MCP, A2A and
//! Ollama have shapes of their own.

use serde::Serialize;

use super::spec::Dialect;
use super::{gemini, json_rpc};
use crate::protocol::facts::error_body::ErrorBody;
use crate::protocol::wire::framing::Framing;

#[derive(Serialize)]
struct Detail<'a> {
    r#type: &'static str,
    code: &'a str,
    message: &'a str,
    param: Option<()>,
}

#[derive(Serialize)]
struct Both<'a> {
    r#type: &'static str,
    error: Detail<'a>,
    session_id: Option<&'a str>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct OllamaForm<'a> {
    error: &'a str,
    r#type: &'static str,
    code: &'a str,
    session_id: Option<&'a str>,
    request_id: &'a str,
}

/// `error` event of the responses API. The `error` member beside its own fields is what makes the
/// Python SDK raise.
#[derive(Serialize)]
struct ResponsesEvent<'a> {
    r#type: &'static str,
    code: &'a str,
    message: &'a str,
    param: Option<()>,
    /// Clients with a schema want a number; where the stream stood is not known here.
    sequence_number: u64,
    error: Detail<'a>,
    session_id: Option<&'a str>,
    request_id: &'a str,
}

/// `error` event of a Realtime socket.
#[derive(Serialize)]
struct RealtimeEvent<'a> {
    r#type: &'static str,
    /// Of ours; SDKs want one.
    event_id: &'a str,
    error: Detail<'a>,
    session_id: Option<&'a str>,
}

/// `error` event of the responses API over a socket: the same, with the status that an answer would have.
#[derive(Serialize)]
struct ResponsesSocketEvent<'a> {
    status: u16,
    #[serde(flatten)]
    event: ResponsesEvent<'a>,
}

impl<'a> ErrorBody<'a> {
    fn detail(&self) -> Detail<'a> {
        Detail { r#type: self.kind.word(), code: self.code, message: self.message, param: None }
    }

    fn both(&self) -> Both<'a> {
        Both {
            r#type: "error",
            error: self.detail(),
            session_id: self.session_id,
            request_id: self.request_id,
        }
    }

    fn ollama(&self) -> OllamaForm<'a> {
        OllamaForm {
            error: self.message,
            r#type: self.kind.word(),
            code: self.code,
            session_id: self.session_id,
            request_id: self.request_id,
        }
    }

    fn responses(&self) -> ResponsesEvent<'a> {
        ResponsesEvent {
            r#type: "error",
            code: self.code,
            message: self.message,
            param: None,
            sequence_number: 0,
            error: self.detail(),
            session_id: self.session_id,
            request_id: self.request_id,
        }
    }
}

impl Dialect {
    /// The JSON body of a refusal before the answer's head is sent.
    pub fn error_body(self, notice: &ErrorBody<'_>) -> Vec<u8> {
        match self {
            Self::Ollama => json(&notice.ollama()),
            Self::Gemini => json(&gemini::refusal(notice)),
            Self::Mcp | Self::A2a => json(&json_rpc::refusal(notice)),
            _ => json(&notice.both()),
        }
    }

    /// The native last event of a stream that is cut; `None` when dialect and framing have none, and the
    /// connection must be cut instead. `at_boundary` is [`crate::protocol::answer::tap::ResponseTap::at_boundary`]: when it is
    /// false, the piece that is under way is ended first, so that the client reads ours by itself.
    pub fn stream_end(self, framing: Framing, at_boundary: bool, notice: &ErrorBody<'_>) -> Option<Vec<u8>> {
        let (line_end, head, data) = match (self, framing) {
            (Self::Anthropic, Framing::Sse) => ("\n\n", "event: error\ndata: ", json(&notice.both())),
            (Self::OpenAiResponses, Framing::Sse) => {
                ("\n\n", "event: error\ndata: ", json(&notice.responses()))
            }
            (Self::OpenAiChat | Self::OpenAiOther | Self::Mistral, Framing::Sse) => {
                ("\n\n", "data: ", json(&notice.both()))
            }
            (Self::Ollama, Framing::Ndjson) => ("\n", "", json(&notice.ollama())),
            (Self::Gemini, Framing::Sse) => ("\n\n", "data: ", json(&gemini::refusal(notice))),
            (Self::Mcp | Self::A2a, Framing::Sse) => ("\n\n", "data: ", json(&json_rpc::refusal(notice))),
            // The last element of the streamed array. Inside another one nothing can be said.
            (Self::Gemini, Framing::Json) if at_boundary => ("]", ",\n", json(&gemini::refusal(notice))),
            _ => return None,
        };
        let mut end = Vec::with_capacity(data.len() + head.len() + 2 * line_end.len());
        if !at_boundary {
            end.extend_from_slice(line_end.as_bytes());
        }
        end.extend_from_slice(head.as_bytes());
        end.extend_from_slice(&data);
        end.extend_from_slice(line_end.as_bytes());
        Some(end)
    }

    /// The error event with which a socket of this dialect is ended, as the text of its message; `None` when the
    /// dialect has none. `status` is what an answer would have had.
    pub fn socket_event(self, status: u16, notice: &ErrorBody<'_>) -> Option<Vec<u8>> {
        match self {
            Self::OpenAiRealtime => Some(json(&RealtimeEvent {
                r#type: "error",
                event_id: notice.request_id,
                error: notice.detail(),
                session_id: notice.session_id,
            })),
            Self::OpenAiResponses => Some(json(&ResponsesSocketEvent { status, event: notice.responses() })),
            _ => None,
        }
    }
}

/// Writing plain structs of texts to memory cannot fail.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
