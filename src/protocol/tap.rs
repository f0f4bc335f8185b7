//! Reads an answer that flows by: its usage, its model, and where it may be cut.

use super::dialect::Dialect;
use super::framing::Framing;
use super::json_scan::{Scanner, Value};
use super::ndjson::{self, LineReader};
use super::sse::{self, SseReader};
use super::usage::{Field, Rules, Usage};

/// What OpenAI writes as the data of the event behind the last one.
const DONE: &[u8] = b"[DONE]";

/// Listens to one answer's body. Never holds an event; cost is linear in bytes.
#[derive(Debug)]
pub struct ResponseTap(Option<Inner>);

#[derive(Debug)]
struct Inner {
    framing: Pieces,
    reading: Reading,
}

#[derive(Debug)]
enum Pieces {
    Sse(SseReader),
    Ndjson(LineReader),
    Whole,
}

/// What was read so far, and the JSON text under way.
struct Reading {
    rules: &'static Rules,
    scanner: Scanner,
    found: Found,
    /// The first bytes of the event's data, to know [`DONE`].
    head: [u8; DONE.len()],
    head_len: usize,
    /// The last event was seen to its end.
    complete: bool,
}

#[derive(Debug, Default)]
struct Found {
    usage: Usage,
    any_usage: bool,
    model: String,
    /// The event under way says that it is the last one.
    is_last: bool,
    /// And that it is not.
    is_not_last: bool,
}

impl ResponseTap {
    /// At the beginning of an answer. An answer that cannot be read is let by unread.
    pub fn new(dialect: Dialect, framing: Framing) -> Self {
        let framing = match framing {
            Framing::Sse => Pieces::Sse(SseReader::default()),
            Framing::Ndjson => Pieces::Ndjson(LineReader::default()),
            Framing::Json => Pieces::Whole,
            Framing::Opaque => return Self(None),
        };
        let Some(rules) = Rules::of(dialect) else { return Self(None) };
        Self(Some(Inner { framing, reading: Reading::new(rules) }))
    }

    /// The body's next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Some(Inner { framing, reading }) = &mut self.0 else { return };
        match framing {
            Pieces::Sse(reader) => reader.feed(bytes, |piece| match piece {
                sse::Piece::Data(part) => reading.data(part),
                sse::Piece::End { .. } => reading.end_piece(),
            }),
            Pieces::Ndjson(reader) => reader.feed(bytes, |piece| reading.line(piece)),
            Pieces::Whole => {
                reading.scan(bytes);
                reading.complete = reading.scanner.is_done();
            }
        }
    }

    /// The body has ended.
    pub fn end(&mut self) {
        if let Some(Inner { framing: Pieces::Ndjson(reader), reading }) = &mut self.0 {
            reader.end(|piece| reading.line(piece));
        }
    }

    /// The counts seen so far; `None` when the answer has not counted anything.
    pub fn usage(&self) -> Option<Usage> {
        let found = &self.0.as_ref()?.reading.found;
        found.any_usage.then_some(found.usage)
    }

    /// The model that the answer names, the last one seen.
    pub fn model(&self) -> Option<&str> {
        let model = self.0.as_ref()?.reading.found.model.as_str();
        (!model.is_empty()).then_some(model)
    }

    /// True between two events or lines, or behind an element of a streamed array: a native end may be
    /// written. Never true in a whole answer or one that is not read.
    pub fn at_boundary(&self) -> bool {
        match self.0.as_ref().map(|inner| &inner.framing) {
            Some(Pieces::Sse(reader)) => reader.at_boundary(),
            Some(Pieces::Ndjson(reader)) => reader.at_boundary(),
            Some(Pieces::Whole) => {
                self.0.as_ref().is_some_and(|inner| inner.reading.scanner.is_after_element())
            }
            None => false,
        }
    }

    /// True when the dialect's own last event was seen to its end, or the whole JSON value.
    pub fn is_complete(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.reading.complete)
    }
}

impl Reading {
    fn new(rules: &'static Rules) -> Self {
        Self {
            rules,
            scanner: Scanner::new(rules.paths.clone()),
            found: Found::default(),
            head: [0; DONE.len()],
            head_len: 0,
            complete: false,
        }
    }

    fn data(&mut self, part: &[u8]) {
        let room = &mut self.head[self.head_len..];
        let taken = room.len().min(part.len());
        room[..taken].copy_from_slice(&part[..taken]);
        self.head_len += taken;
        self.scan(part);
    }

    fn line(&mut self, piece: ndjson::Piece<'_>) {
        match piece {
            ndjson::Piece::Data(part) => self.scan(part),
            ndjson::Piece::End => self.end_piece(),
        }
    }

    fn scan(&mut self, bytes: &[u8]) {
        let Self { rules, scanner, found, .. } = self;
        scanner.feed(bytes, &mut |path, value| found.take(rules, path, value));
    }

    /// An event or line is complete: the next one is another JSON text.
    fn end_piece(&mut self) {
        let is_not_last = std::mem::take(&mut self.found.is_not_last);
        let said_last = std::mem::take(&mut self.found.is_last) && !is_not_last && self.scanner.is_done();
        let marker = self.rules.done_marker && self.head[..self.head_len] == *DONE;
        self.complete |= said_last || marker;
        self.head_len = 0;
        self.scanner.reset();
    }
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading")
            .field("found", &self.found)
            .field("complete", &self.complete)
            .finish_non_exhaustive()
    }
}

impl Found {
    fn take(&mut self, rules: &Rules, path: usize, value: Value<'_>) {
        let Some((_, field)) = rules.fields.get(path) else { return };
        let count = match field {
            Field::Input => &mut self.usage.input_tokens,
            Field::Output => &mut self.usage.output_tokens,
            Field::CacheRead => &mut self.usage.cache_read_tokens,
            Field::CacheWrite => &mut self.usage.cache_write_tokens,
            Field::Reasoning => &mut self.usage.reasoning_tokens,
            Field::Model => {
                if let Value::Str(name) = value
                    && !name.is_empty()
                    && *name != *self.model
                {
                    self.model.clear();
                    self.model.push_str(&name);
                }
                return;
            }
            Field::Kind => {
                if let Value::Str(kind) = value {
                    self.is_last = rules.last_kinds.contains(&&*kind);
                }
                return;
            }
            Field::Done => {
                self.is_last = value == Value::Bool(true);
                return;
            }
            Field::Reply => {
                self.is_last = true;
                return;
            }
            Field::NotLast => {
                self.is_not_last = true;
                return;
            }
        };
        if let Value::Number(number) = value
            && let Some(tokens) = tokens(number)
        {
            *count = tokens;
            self.any_usage = true;
        }
    }
}

/// A count; some servers write `12.0`.
fn tokens(number: &str) -> Option<u64> {
    number.parse().ok().or_else(|| {
        let float: f64 = number.parse().ok()?;
        // A float becomes the nearest integer in range; a negative count is none.
        (float.is_finite() && float >= 0.0).then_some(float as u64)
    })
}

#[cfg(test)]
mod tests;
