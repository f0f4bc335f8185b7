//! Reads judged answers as what their first bytes are, whatever the head calls them: programs do the same.

use super::Pieces;
use crate::protocol::wire::coding::Unread;
use crate::protocol::wire::framing::Framing;
use crate::protocol::wire::ndjson::LineReader;
use crate::protocol::wire::sse::SseReader;

/// How streams of events begin.
const MARKS: [&[u8]; 5] = [b":", b"data:", b"event:", b"id:", b"retry:"];
/// The byte order mark of UTF-8.
const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];
/// First bytes that are looked at.
const HELD: usize = 6;

/// What the head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    Events,
    /// JSON, some text, or nothing.
    Text,
    /// Pictures, sounds, files.
    Other,
}

/// An answer whose first bytes are not read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guess {
    label: Label,
    held: [u8; HELD],
    len: usize,
}

impl Guess {
    /// Begins with the framing and the media type of the head.
    pub(super) fn new(framing: Framing, media: Option<&str>) -> Self {
        let media = media.unwrap_or_default().trim_start();
        let is_text = media.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"));
        let label = match framing {
            Framing::Sse => Label::Events,
            Framing::Json => Label::Text,
            _ if media.is_empty() || is_text => Label::Text,
            _ => Label::Other,
        };
        Self { label, held: [0; HELD], len: 0 }
    }

    /// The bytes that were looked at, for whoever reads them.
    pub(super) fn held(&self) -> &[u8] {
        &self.held[..self.len]
    }

    /// Looks at the next bytes. Returns how many, and what the answer is once that is known.
    pub(super) fn look(&mut self, bytes: &[u8]) -> (usize, Option<Result<Pieces, Unread>>) {
        for (at, byte) in bytes.iter().enumerate() {
            if self.len == 0 && (byte.is_ascii_whitespace() || BOM.contains(byte)) {
                continue;
            }
            self.held[self.len] = *byte;
            self.len += 1;
            if let Some(pieces) = self.decide() {
                return (at + 1, Some(pieces));
            }
        }
        (bytes.len(), None)
    }

    fn decide(&self) -> Option<Result<Pieces, Unread>> {
        let held = self.held();
        let is_json = |byte: &u8| matches!(byte, b'{' | b'[');
        let events = || Some(Ok(Pieces::Sse(SseReader::default())));
        match (held[0], self.label) {
            (b'{' | b'[', _) => Some(Ok(Pieces::Whole)),
            // Each character has two bytes or four.
            (0 | 0xFE | 0xFF, Label::Events | Label::Text) => Some(Err(Unread::Coding)),
            (0 | 0xFE | 0xFF, Label::Other) if held.len() < 4 => None,
            (0 | 0xFE | 0xFF, Label::Other) if held[..4].iter().any(is_json) => Some(Err(Unread::Coding)),
            (b':' | b'd' | b'e' | b'i' | b'r', Label::Events) => events(),
            _ if MARKS.iter().any(|mark| held.starts_with(mark)) => events(),
            _ if MARKS.iter().any(|mark| mark.starts_with(held)) => None,
            (_, Label::Other) => Some(Ok(Pieces::Foreign)),
            (_, Label::Events | Label::Text) => Some(Ok(Pieces::Text)),
        }
    }
}

impl Pieces {
    /// How a judged answer is read.
    pub(super) fn judged(framing: Framing, media: Option<&str>) -> Self {
        match framing {
            Framing::Ndjson => Self::Ndjson(LineReader::default()),
            Framing::BinaryEvents => Self::Binary(Box::default()),
            Framing::Messages => Self::Messages,
            Framing::Sse | Framing::Json | Framing::Opaque => Self::Guess(Guess::new(framing, media)),
        }
    }
}
