//! The JSON texts of binary events: each message is one, or has one in Base64 in its member `bytes`, where the API only
//! passes on what another one says.

use std::sync::{Arc, LazyLock};

use data_encoding::BASE64;

use super::Reading;
use crate::protocol::answer::events::Event;
use crate::protocol::json::scan::{PathSet, Scanner, Value, Want};
use crate::protocol::wire::coding::Unread;
use crate::protocol::wire::event_stream::{EventStreamReader, Piece};

/// The type of events that have another text inside.
const PACKED: &str = "chunk";

static BYTES: LazyLock<Arc<PathSet>> =
    LazyLock::new(|| Arc::new(PathSet::wanting([("bytes", Some(Want::Parts))])));

/// Bytes of Base64 that are decoded at a time: a multiple of [`GROUP`].
const PIECE: usize = 1024;
/// Bytes of Base64 that are decoded together (RFC 4648, 4).
const GROUP: usize = 4;

/// What the message under way has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payload {
    Plain,
    Packed,
    Error,
}

/// Reads binary events.
#[derive(Debug)]
pub(super) struct BinaryEvents {
    reader: EventStreamReader,
    payload: Payload,
    /// Finds the packed text.
    packed: Scanner,
    base64: Base64,
}

impl Default for BinaryEvents {
    fn default() -> Self {
        Self {
            reader: EventStreamReader::default(),
            payload: Payload::Plain,
            packed: Scanner::new(Arc::clone(&BYTES)),
            base64: Base64::default(),
        }
    }
}

impl BinaryEvents {
    /// Reads the next bytes.
    ///
    /// # Errors
    /// They are no such messages.
    pub(super) fn feed(
        &mut self,
        reading: &mut Reading,
        bytes: &[u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Unread> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.feed_message(reading, rest, on)?;
        }
        Ok(())
    }

    /// True between two messages.
    pub(super) fn at_boundary(&self) -> bool {
        self.reader.at_boundary()
    }

    /// Reads to the end of the message under way, or all bytes when it is not in them, and returns those behind it.
    ///
    /// # Errors
    /// They are no such messages.
    pub(super) fn feed_message<'b>(
        &mut self,
        reading: &mut Reading,
        bytes: &'b [u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<&'b [u8], Unread> {
        let Self { reader, payload, packed, base64 } = self;
        let mut is_valid = true;
        let rest = reader.feed_message(bytes, |piece| match (piece, *payload) {
            (Piece::Begin { is_error: true, name }, _) => {
                *payload = Payload::Error;
                reading.found.reports(name);
            }
            (Piece::Begin { name: PACKED, .. }, _) => *payload = Payload::Packed,
            (Piece::Begin { name, .. }, _) => {
                *payload = Payload::Plain;
                reading.found.is_of(name, reading.rules);
            }
            (Piece::Data(part), Payload::Plain) => reading.scan(part, on),
            (Piece::Data(part), Payload::Packed) => packed.feed(part, &mut |_, value| {
                if let Value::Part(text) = value {
                    is_valid &= base64.feed(text, &mut |plain| reading.scan(plain, on));
                }
            }),
            (Piece::Data(_), Payload::Error) => {}
            (Piece::End, _) => {
                packed.reset();
                base64.kept = 0;
                reading.end_piece(on);
            }
        })?;
        if is_valid { Ok(rest) } else { Err(Unread::Corrupt) }
    }
}

/// Decodes Base64, part by part.
#[derive(Debug, Default)]
struct Base64 {
    /// The beginning of a group that a part has divided.
    group: [u8; GROUP],
    /// How many bytes of it there are.
    kept: usize,
}

impl Base64 {
    /// Decodes the next part; returns false when it is no Base64.
    fn feed(&mut self, text: &[u8], on: &mut dyn FnMut(&[u8])) -> bool {
        let mut rest = text;
        if self.kept > 0 {
            let (part, after) = rest.split_at((GROUP - self.kept).min(rest.len()));
            self.group[self.kept..self.kept + part.len()].copy_from_slice(part);
            self.kept += part.len();
            rest = after;
            if self.kept < GROUP {
                return true;
            }
            self.kept = 0;
            if !decode(&self.group, on) {
                return false;
            }
        }
        let (groups, after) = rest.split_at(rest.len() / GROUP * GROUP);
        self.group[..after.len()].copy_from_slice(after);
        self.kept = after.len();
        groups.chunks(PIECE).all(|piece| decode(piece, on))
    }
}

/// Decodes whole groups, at most [`PIECE`] bytes.
fn decode(groups: &[u8], on: &mut dyn FnMut(&[u8])) -> bool {
    let mut plain = [0; PIECE / GROUP * 3];
    let decoded = BASE64.decode_mut(groups, &mut plain[..groups.len() / GROUP * 3]);
    decoded.is_ok_and(|length| {
        on(&plain[..length]);
        true
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::answer::tap::ResponseTap;
    use crate::protocol::dialects::spec::Dialect;
    use crate::protocol::wire::event_stream::message;
    use crate::protocol::wire::framing::Framing;

    fn event(kind: &str, payload: &str) -> Vec<u8> {
        message(&[(":event-type", kind), (":message-type", "event")], payload.as_bytes())
    }

    fn chunk(inside: &str) -> Vec<u8> {
        event(PACKED, &format!("{{\"bytes\":\"{}\",\"p\":\"abcd\"}}", BASE64.encode(inside.as_bytes())))
    }

    fn converse() -> Vec<u8> {
        [
            event("messageStart", r#"{"p":"ab","role":"assistant"}"#),
            event("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":"I look"}}"#),
            event("contentBlockStop", r#"{"contentBlockIndex":0}"#),
            event("contentBlockStart", r#"{"contentBlockIndex":1,"start":{"toolUse":{"name":"clock","toolUseId":"t1"}}}"#),
            event("contentBlockDelta", r#"{"contentBlockIndex":1,"delta":{"toolUse":{"input":"{\"zone\":"}}}"#),
            event("contentBlockDelta", r#"{"contentBlockIndex":1,"delta":{"toolUse":{"input":"1}"}}}"#),
            event("contentBlockStop", r#"{"contentBlockIndex":1}"#),
            event("messageStop", r#"{"stopReason":"tool_use"}"#),
            event("metadata", r#"{"metrics":{"latencyMs":9},"usage":{"cacheReadInputTokens":3,"inputTokens":7,"outputTokens":5,"totalTokens":15}}"#),
        ]
        .concat()
    }

    fn claude() -> Vec<u8> {
        [
            chunk(r#"{"type":"message_start","message":{"model":"claude-x","usage":{"input_tokens":7,"output_tokens":1}}}"#),
            chunk(r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t1","name":"clock","input":{}}}"#),
            chunk(r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#),
            chunk(r#"{"type":"content_block_stop","index":0}"#),
            chunk(r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":5}}"#),
            chunk(r#"{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":7,"outputTokenCount":5}}"#),
        ]
        .concat()
    }

    fn nova() -> Vec<u8> {
        [
            chunk(r#"{"contentBlockDelta":{"delta":{"text":"Hello"},"contentBlockIndex":0}}"#),
            chunk(r#"{"amazon-bedrock-invocationMetrics":{"inputTokenCount":7,"outputTokenCount":5,"invocationLatency":9,"firstByteLatency":2}}"#),
        ]
        .concat()
    }

    /// Model, tokens of input and output, calls, why it stopped, whether it is complete, its error.
    type Seen = (Option<String>, Option<(u64, u64)>, u64, Option<String>, bool, Option<String>);

    fn dialect(path: &str) -> Dialect {
        Dialect::detect(path, &http::HeaderMap::new())
    }

    fn seen(dialect: Dialect, body: &[u8], size: usize) -> (Seen, Option<Unread>) {
        let mut tap = ResponseTap::new(dialect, Framing::BinaryEvents);
        body.chunks(size).for_each(|chunk| tap.feed(chunk));
        tap.end();
        let own = |text: Option<&str>| text.map(str::to_owned);
        let usage = tap.usage().map(|usage| (usage.input_tokens, usage.output_tokens));
        let calls = tap.tools().map_or(0, |tools| tools.iter().map(|(_, count)| count).sum());
        let seen =
            (own(tap.model()), usage, calls, own(tap.stop_reason()), !tap.is_cut_short(), own(tap.error()));
        assert!(!tap.at_boundary(), "no text can be written into it");
        (seen, tap.unread())
    }

    const CONVERSE: &str = "/model/amazon.nova-pro-v1:0/converse-stream";
    const CLAUDE: &str = "/model/anthropic.claude-v1:0/invoke-with-response-stream";
    const NOVA: &str = "/model/amazon.nova-pro-v1:0/invoke-with-response-stream";

    #[test]
    fn an_error_and_a_missing_end_are_seen() {
        let cut = |path: &str, body: &[u8]| seen(dialect(path), body, 7).0;
        for (path, body, last) in [(CONVERSE, converse(), 2), (CLAUDE, claude(), 1), (NOVA, nova(), 1)] {
            let mut ends = Vec::new();
            let mut at = 0;
            while at < body.len() {
                at += u32::from_be_bytes(body[at..at + 4].try_into().unwrap()) as usize;
                ends.push(at);
            }
            let short = ends[ends.len() - 1 - last];
            assert!(cut(path, &body).4 && !cut(path, &body[..short]).4, "{path}");
            assert!(!cut(path, &body[..short + 9]).4, "{path}: within a message");
            let exception = message(
                &[(":exception-type", "modelStreamErrorException"), (":message-type", "exception")],
                br#"{"message":"no"}"#,
            );
            let failed = cut(path, &[&body[..short], &exception].concat());
            assert_eq!(failed.5.as_deref(), Some("modelStreamErrorException"), "{path}");
        }
    }

    #[test]
    fn what_is_damaged_is_read_no_further() {
        let mut body = converse();
        let at = body.len() - 9;
        body[at] ^= 1;
        assert_eq!(seen(dialect(CONVERSE), &body, 50).1, Some(Unread::Corrupt));
        let bad = [event(PACKED, r#"{"bytes":"*"}"#), event(PACKED, r#"{"bytes":"*AAA"}"#)];
        assert_eq!(seen(dialect(NOVA), &bad.concat(), 50).1, Some(Unread::Corrupt));
        assert_eq!(seen(dialect(NOVA), b"data: {}\n\ndata: {}\n\n", 50).1, Some(Unread::Corrupt));
    }

    proptest! {
        #[test]
        fn every_event_is_read_at_any_chunking(size in 1usize..200) {
            let whole = |model: Option<&str>, calls: u64, stop: Option<&str>| {
                ((model.map(str::to_owned), Some((7, 5)), calls, stop.map(str::to_owned), true, None), None)
            };
            prop_assert_eq!(seen(dialect(CONVERSE), &converse(), size), whole(None, 1, Some("tool_use")));
            prop_assert_eq!(seen(dialect(CLAUDE), &claude(), size), whole(Some("claude-x"), 1, Some("tool_use")));
            prop_assert_eq!(seen(dialect(NOVA), &nova(), size), whole(None, 0, None));
        }

        #[test]
        fn any_text_comes_back_from_base64(text in prop::collection::vec(any::<u8>(), 0..4000), size in 1usize..3000) {
            let (mut base64, mut plain) = (Base64::default(), Vec::new());
            for part in BASE64.encode(&text).as_bytes().chunks(size) {
                prop_assert!(base64.feed(part, &mut |more| plain.extend_from_slice(more)));
            }
            prop_assert_eq!((plain, base64.kept), (text, 0));
        }
    }
}
