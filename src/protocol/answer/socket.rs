//! Reads the messages of a WebSocket: the models that the client asks for, the tokens of the answers.
//!
//! Frames of both directions go in as bytes; nothing is buffered or changed. It does not matter whether they
//! arrive over HTTP/1.1 or in a stream of HTTP/2 (RFC 8441).

use std::sync::{Arc, LazyLock};

use super::events::Event;
use super::tap::ResponseTap;
use crate::protocol::dialects::spec::Dialect;
use crate::protocol::facts::tools::ToolCounts;
use crate::protocol::facts::usage::Usage;
use crate::protocol::json::scan::{PathSet, Scanner, Value};
use crate::protocol::wire::coding::Coding;
use crate::protocol::wire::framing::Framing;
use crate::protocol::wire::websocket::{FramePosition, FrameReader, Piece};

/// Where a client's message names a model: `response.create` of the responses API, `session.update` of
/// Realtime. Behind [`BESIDE`] those that work beside it: they transcribe what is said, or belong to tools. Keys match whatever
/// their case, as in a request's body.
static MODELS: LazyLock<Arc<PathSet>> = LazyLock::new(|| {
    Arc::new(PathSet::ignoring_case([
        "model",
        "session.model",
        "response.model",
        "session.audio.input.transcription.model",
        "session.input_audio_transcription.model",
        "tools[].model",
        "session.tools[].model",
        "response.tools[].model",
    ]))
});
/// The first path of a model that works beside the one that answers.
const BESIDE: usize = 3;

/// Something a client's message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// It names this model.
    Model(&'a str),
    /// It names this model, which works beside the one that answers.
    Beside(&'a str),
    /// It cannot be read: it is compressed, or no frames are.
    Unreadable,
}

/// Is told the counts of an answer, its model and its service tier.
pub type Count<'a> = &'a mut dyn FnMut(Usage, Option<&str>, Option<&str>);

/// Listens to both directions of one socket.
#[derive(Debug)]
pub struct SocketTap {
    client: FrameReader,
    backend: FrameReader,
    /// Reads the messages, where their language is known.
    messages: Option<Messages>,
    /// A message of the backend could not be read.
    has_sealed: bool,
}

#[derive(Debug)]
struct Messages {
    asked: Scanner,
    answers: ResponseTap,
}

impl SocketTap {
    /// At the beginning of a socket. Without a known language its frames are only counted.
    pub fn new(dialect: Dialect) -> Self {
        Self::reading(dialect, ResponseTap::new)
    }

    /// The same, reading text and arguments of calls too, for [`SocketTap::listen_message`].
    pub fn listening(dialect: Dialect) -> Self {
        Self::reading(dialect, |dialect, framing| ResponseTap::listening(dialect, framing, Coding::Identity))
    }

    fn reading(dialect: Dialect, answers: impl FnOnce(Dialect, Framing) -> ResponseTap) -> Self {
        let messages = dialect.is_llm().then(|| Messages {
            asked: Scanner::new(Arc::clone(&MODELS)),
            answers: answers(dialect, Framing::Messages),
        });
        let reader = || if messages.is_some() { FrameReader::default() } else { FrameReader::counting() };
        Self { client: reader(), backend: reader(), messages, has_sealed: false }
    }

    /// Reads the client's next bytes. A model is reported before the message that names it ends.
    pub fn feed_client(&mut self, bytes: &[u8], mut on: impl FnMut(ClientMessage<'_>)) {
        let Some(Messages { asked, .. }) = &mut self.messages else {
            return self.client.feed(bytes, |_| {});
        };
        self.client.feed(bytes, |piece| match piece {
            Piece::Data(part) => asked.feed(part, &mut |path, value| match value {
                Value::Str(model) if path < BESIDE => on(ClientMessage::Model(&model)),
                Value::Str(model) => on(ClientMessage::Beside(&model)),
                _ => {}
            }),
            Piece::Sealed => on(ClientMessage::Unreadable),
            Piece::End => asked.reset(),
        });
        if self.client.is_lost() {
            on(ClientMessage::Unreadable);
        }
    }

    /// Reads the backend's next bytes; reports the counts of each answer that ends in them, its model
    /// and its service tier.
    pub fn feed_backend(&mut self, bytes: &[u8], mut on: impl FnMut(Usage, Option<&str>, Option<&str>)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let read = self.listen_message(rest, &mut |_| {}, &mut on);
            rest = &rest[read..];
        }
    }

    /// Reads up to the end of the backend's message under way and reports what it says, and what [`Self::feed_backend`] does.
    /// Returns how many bytes it has read.
    pub fn listen_message(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>), count: Count<'_>) -> usize {
        let Some(Messages { answers, .. }) = &mut self.messages else {
            self.backend.feed(bytes, |_| {});
            return bytes.len();
        };
        let has_sealed = &mut self.has_sealed;
        let rest = self.backend.feed_message(bytes, |piece| match piece {
            Piece::Data(part) => answers.listen(part, on),
            Piece::Sealed => *has_sealed = true,
            Piece::End => {
                if let Some(usage) = answers.end_message(on) {
                    count(usage, answers.model(), answers.service_tier());
                }
            }
        });
        bytes.len() - rest.len()
    }

    /// Whether a message of the backend could not be read, or what it sends is no WebSocket.
    pub fn has_unread(&self) -> bool {
        self.has_sealed || self.backend.is_lost()
    }

    /// The tools that the answers so far have called.
    pub fn tools(&self) -> Option<&ToolCounts> {
        self.messages.as_ref()?.answers.tools()
    }

    /// Why the model stopped in the last answer.
    pub fn stop_reason(&self) -> Option<&str> {
        self.messages.as_ref()?.answers.stop_reason()
    }

    /// How many messages reported an error, or ended an answer that failed.
    pub fn failed_answers(&self) -> u64 {
        self.messages.as_ref().map_or(0, |messages| messages.answers.failed_messages())
    }

    /// Whether the last answer failed.
    pub fn has_failed(&self) -> bool {
        self.messages.as_ref().is_some_and(|messages| messages.answers.has_failed())
    }

    /// Whether an answer had a token count that is none ([`ResponseTap::has_false_count`]).
    pub fn has_false_count(&self) -> bool {
        self.messages.as_ref().is_some_and(|messages| messages.answers.has_false_count())
    }

    /// The frames of the client.
    pub fn client(&self) -> &FrameReader {
        &self.client
    }

    /// The frames of the backend.
    pub fn backend(&self) -> &FrameReader {
        &self.backend
    }

    /// Returns the position of the stream to the client.
    pub fn position(&self) -> FramePosition {
        self.backend.position()
    }

    /// The code of the Close frame that came last; the other side's mostly repeats it.
    pub fn close_code(&self) -> Option<u16> {
        self.backend.close_code().or_else(|| self.client.close_code())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::chunks::{cut, sizes};
    use crate::protocol::wire::websocket::text_frame;

    const CODEX: &str = r#"{"type":"response.create","model":"gpt-5-codex","input":[{"model":"not this"}]}"#;
    const DONE: &str = r#"{"type":"response.completed","response":{"model":"gpt-5-codex-1","usage":{"input_tokens":7,"output_tokens":3,"output_tokens_details":{"reasoning_tokens":2}}}}"#;
    const BEGUN: &str = r#"{"type":"response.created","response":{"model":"gpt-5-codex-1","usage":null}}"#;

    fn asked(tap: &mut SocketTap, bytes: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        tap.feed_client(bytes, |asked| {
            seen.push(match asked {
                ClientMessage::Model(model) => model.to_owned(),
                ClientMessage::Beside(model) => format!("+{model}"),
                ClientMessage::Unreadable => "?".to_owned(),
            });
        });
        seen
    }

    proptest! {
        #[test]
        fn every_answer_is_counted_once_in_any_chunks(sizes in sizes()) {
            let bytes: Vec<u8> =
                [BEGUN, DONE, BEGUN, "no json", DONE].iter().flat_map(|text| text_frame(text.as_bytes())).collect();
            let mut tap = SocketTap::new(Dialect::OPENAI_RESPONSES);
            let mut sum = Vec::new();
            for chunk in cut(&bytes, &sizes) {
                tap.feed_backend(chunk, |usage, model, _| {
                    sum.push((usage.input_tokens, usage.output_tokens, usage.reasoning_tokens, model.map(str::to_owned)));
                });
            }
            let one = (7, 3, 2, Some("gpt-5-codex-1".to_owned()));
            prop_assert_eq!(sum, vec![one.clone(), one]);
            prop_assert_eq!(tap.backend().traffic().messages, 5);
        }

        #[test]
        fn the_model_is_told_before_its_message_is_whole(sizes in sizes()) {
            let bytes = text_frame(CODEX.as_bytes());
            let mut tap = SocketTap::new(Dialect::OPENAI_RESPONSES);
            let (mut seen, mut before_the_end) = (Vec::new(), false);
            for chunk in cut(&bytes, &sizes) {
                seen.extend(asked(&mut tap, chunk));
                before_the_end |= !seen.is_empty() && (tap.client().traffic().messages == 0 || chunk.len() > 24);
            }
            prop_assert_eq!(seen, ["gpt-5-codex"]);
            prop_assert!(before_the_end);
        }
    }

    #[test]
    fn realtime_counts_each_response() {
        let mut tap = SocketTap::new(Dialect::OPENAI_REALTIME);
        let session = r#"{"type":"session.created","session":{"model":"gpt-realtime"}}"#;
        let done = r#"{"type":"response.done","response":{"usage":{"total_tokens":9,"input_tokens":5,"output_tokens":4,"input_token_details":{"cached_tokens":2}}}}"#;
        let heard = r#"{"type":"conversation.item.input_audio_transcription.completed","usage":{"type":"tokens","input_tokens":1,"output_tokens":1}}"#;
        let mut seen = Vec::new();
        for text in [session, done, heard, done] {
            tap.feed_backend(&text_frame(text.as_bytes()), |usage, model, _| {
                seen.push((usage.input_tokens, usage.cache_read_tokens, model.map(str::to_owned)));
            });
        }
        let model = Some("gpt-realtime".to_owned());
        assert_eq!(seen, [(3, 2, model.clone()), (1, 0, model.clone()), (3, 2, model)]);
        let update = text_frame(br#"{"type":"session.update","Session":{"Model":"gpt-other"}}"#);
        assert_eq!(asked(&mut tap, &update), ["gpt-other"]);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let mut tap = SocketTap::new(Dialect::OPENAI_RESPONSES);
        let mut sealed = text_frame(CODEX.as_bytes());
        sealed[0] |= 0x40;
        assert_eq!(asked(&mut tap, &sealed), ["?"]);
        // A server may take a binary message for JSON.
        let mut binary = text_frame(CODEX.as_bytes());
        binary[0] = 0x82;
        assert_eq!(asked(&mut tap, &binary), ["gpt-5-codex"]);
        assert_eq!(asked(&mut tap, b"GET / HTTP/1.1"), ["?"]);
        let mut plain = SocketTap::new(Dialect::PLAIN);
        assert_eq!(asked(&mut plain, &binary), Vec::<String>::new());
        assert_eq!(plain.client().traffic().binary_bytes, CODEX.len() as u64);
    }
}
