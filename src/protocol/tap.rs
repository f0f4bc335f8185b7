//! Reads an answer that flows by: its usage, its model, the tools it calls, why it stopped, and where it may
//! be cut.

use super::calls::{Calls, Step};
use super::coding::{Coding, Decoder, Unread};
use super::dialect::Dialect;
use super::events::Event;
use super::framing::Framing;
use super::json_scan::{Scanner, Value};
use super::ndjson::{self, LineReader};
use super::sse::{self, SseReader};
use super::tools::ToolCounts;
use super::usage::{Field, Rules, Usage};

/// What OpenAI writes as the data of the event behind the last one.
const DONE: &[u8] = b"[DONE]";

/// Bytes that are kept of a stop reason.
const STOP_MAX: usize = 64;

/// States of a response that is not over.
const UNDER_WAY: [&str; 2] = ["in_progress", "queued"];

/// Listens to one answer's body. Never holds an event; cost is linear in bytes.
#[derive(Debug)]
pub struct ResponseTap {
    inner: Option<Inner>,
    unread: Option<Unread>,
}

#[derive(Debug)]
struct Inner {
    /// Of a compressed answer.
    decoder: Option<Box<Decoder>>,
    framing: Pieces,
    reading: Reading,
}

#[derive(Debug)]
enum Pieces {
    Sse(SseReader),
    Ndjson(LineReader),
    Whole,
    /// The rest cannot be decoded.
    Nothing,
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
    /// The event under way counted something.
    new_usage: bool,
    model: String,
    stop: String,
    /// How the answer of the event under way stands, and why.
    status: String,
    detail: String,
    calls: Calls,
    /// The event under way says that it is the last one.
    is_last: bool,
    /// And that it is not.
    is_not_last: bool,
    /// Its delta is text.
    is_text: bool,
    /// What it does to a call.
    step: Option<Step>,
}

impl ResponseTap {
    /// At the beginning of an answer that is not compressed. One that cannot be read is let by unread.
    pub fn new(dialect: Dialect, framing: Framing) -> Self {
        Self::of(dialect, framing, Coding::Identity)
    }

    /// At the beginning of an answer; `framing` is that of what was compressed.
    pub fn of(dialect: Dialect, framing: Framing, coding: Coding) -> Self {
        Self::reading(dialect, framing, coding, false)
    }

    /// The same, reading text and arguments of calls too, for [`ResponseTap::listen`].
    pub fn listening(dialect: Dialect, framing: Framing, coding: Coding) -> Self {
        Self::reading(dialect, framing, coding, true)
    }

    fn reading(dialect: Dialect, framing: Framing, coding: Coding, listening: bool) -> Self {
        let framing = match framing {
            Framing::Sse => Pieces::Sse(SseReader::default()),
            Framing::Ndjson => Pieces::Ndjson(LineReader::default()),
            Framing::Json => Pieces::Whole,
            Framing::Opaque => return Self { inner: None, unread: None },
        };
        let Some(rules) = Rules::of(dialect) else { return Self { inner: None, unread: None } };
        match Decoder::new(coding) {
            Ok(decoder) => {
                let reading = Reading::new(rules, listening);
                let inner = Inner { decoder: decoder.map(Box::new), framing, reading };
                Self { inner: Some(inner), unread: None }
            }
            Err(unread) => Self { inner: None, unread: Some(unread) },
        }
    }

    /// The body's next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.listen(bytes, &mut |_| {});
    }

    /// The body's next bytes; what they say is told as it is known.
    pub fn listen(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        let Some(inner) = &mut self.inner else { return };
        let Inner { decoder, framing, reading } = inner;
        let Some(coded) = decoder else { return framing.feed(reading, bytes, on) };
        if let Err(unread) = coded.feed(bytes, |plain| framing.feed(reading, plain, on)) {
            self.unread = Some(unread);
            *decoder = None;
            // What was read stays; nothing more is.
            *framing = Pieces::Nothing;
        }
    }

    /// The body has ended.
    pub fn end(&mut self) {
        if let Some(Inner { framing: Pieces::Ndjson(reader), reading, .. }) = &mut self.inner {
            reader.end(|piece| reading.line(piece, &mut |_| {}));
        }
    }

    /// The counts seen so far; `None` when the answer has not counted anything.
    pub fn usage(&self) -> Option<Usage> {
        let found = &self.inner.as_ref()?.reading.found;
        found.any_usage.then_some(found.usage)
    }

    /// The model that the answer names, the last one seen.
    pub fn model(&self) -> Option<&str> {
        self.text(|found| &found.model)
    }

    /// Why the model stopped, in the provider's word, the last one seen.
    pub fn stop_reason(&self) -> Option<&str> {
        self.text(|found| &found.stop)
    }

    fn text(&self, which: impl FnOnce(&Found) -> &String) -> Option<&str> {
        let text = which(&self.inner.as_ref()?.reading.found).as_str();
        (!text.is_empty()).then_some(text)
    }

    /// The tools called so far. A call that was cut off is none: no client runs it.
    pub fn tools(&self) -> Option<&ToolCounts> {
        let tools = self.inner.as_ref()?.reading.found.calls.counts();
        (!tools.is_empty()).then_some(tools)
    }

    /// Why the answer is not read, or not to its end.
    pub fn unread(&self) -> Option<Unread> {
        self.unread
    }

    /// True between two events or lines, or behind an element of a streamed array: a native end may be written.
    /// Never true in a whole answer, a compressed one, or one that is not read.
    pub fn at_boundary(&self) -> bool {
        let Some(Inner { decoder: None, framing, reading }) = &self.inner else { return false };
        match framing {
            Pieces::Sse(reader) => reader.at_boundary(),
            Pieces::Ndjson(reader) => reader.at_boundary(),
            Pieces::Whole => reading.scanner.is_after_element(),
            Pieces::Nothing => false,
        }
    }

    /// True when the dialect's own last event was seen to its end, or the whole JSON value.
    pub fn is_complete(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.reading.complete)
    }
}

impl Pieces {
    fn feed(&mut self, reading: &mut Reading, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        match self {
            Self::Sse(reader) => reader.feed(bytes, |piece| match piece {
                sse::Piece::Data(part) => reading.data(part, on),
                sse::Piece::End { .. } => reading.end_piece(on),
            }),
            Self::Ndjson(reader) => reader.feed(bytes, |piece| reading.line(piece, on)),
            Self::Whole => {
                reading.scan(bytes, on);
                if !reading.complete && reading.scanner.is_done() {
                    reading.complete = true;
                    reading.found.is_last = true;
                    reading.found.end_text(reading.rules, on);
                }
            }
            Self::Nothing => {}
        }
    }
}

impl Reading {
    fn new(rules: &'static Rules, listening: bool) -> Self {
        let paths = if listening { &rules.paths.all } else { &rules.paths.facts };
        Self {
            rules,
            scanner: Scanner::new(paths.clone()),
            found: Found::default(),
            head: [0; DONE.len()],
            head_len: 0,
            complete: false,
        }
    }

    fn data(&mut self, part: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        let room = &mut self.head[self.head_len..];
        let taken = room.len().min(part.len());
        room[..taken].copy_from_slice(&part[..taken]);
        self.head_len += taken;
        self.scan(part, on);
    }

    fn line(&mut self, piece: ndjson::Piece<'_>, on: &mut dyn FnMut(Event<'_>)) {
        match piece {
            ndjson::Piece::Data(part) => self.scan(part, on),
            ndjson::Piece::End => self.end_piece(on),
        }
    }

    fn scan(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        let Self { rules, scanner, found, .. } = self;
        scanner.feed(bytes, &mut |path, value| found.take(rules, path, value, on));
    }

    /// An event or line is complete: the next one is another JSON text.
    fn end_piece(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        let marker = self.rules.done_marker && self.head[..self.head_len] == *DONE;
        if marker {
            self.found.calls.finish(on);
        }
        self.found.is_last &= !std::mem::take(&mut self.found.is_not_last) && self.scanner.is_done();
        self.complete |= self.found.is_last || marker;
        self.found.end_text(self.rules, on);
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
    fn take(&mut self, rules: &Rules, path: usize, value: Value<'_>, on: &mut dyn FnMut(Event<'_>)) {
        let Some((_, field)) = rules.fields.get(path) else { return };
        match field {
            Field::Reply => return self.is_last = true,
            Field::NotLast => return self.is_not_last = true,
            _ => {}
        }
        match value {
            Value::Str(text) => self.take_text(rules, *field, &text, on),
            Value::Number(number) => self.take_number(*field, number),
            Value::Bool(value) if *field == Field::Done => self.is_last = value,
            Value::Bool(_) | Value::Null => {}
            Value::Part(part) => match field {
                Field::Text => on(Event::Text(part)),
                Field::Delta if self.is_text => on(Event::Text(part)),
                _ => self.calls.arguments(part),
            },
            Value::End => match field {
                Field::CallPieceEnd => self.calls.piece(on),
                Field::CallAgainEnd if self.calls.has_known() => self.calls.clear(),
                Field::ChoiceEnd => self.calls.choice_ends(on),
                _ => self.calls.whole(rules.calls.suffix, on),
            },
        }
    }

    fn take_text(&mut self, rules: &Rules, field: Field, text: &str, on: &mut dyn FnMut(Event<'_>)) {
        match field {
            Field::Model if !text.is_empty() && *text != *self.model => {
                self.model.clear();
                self.model.push_str(text);
            }
            Field::Kind => {
                self.is_last = rules.last_kinds.contains(&text);
                self.is_text = rules.calls.text_kinds.contains(&text);
                self.step = rules.calls.steps.iter().find(|(kind, _)| *kind == text).map(|(_, step)| *step);
            }
            Field::Stop => self.stops(text, on),
            Field::ChoiceStop => {
                self.stops(text, on);
                self.calls.choice_stops();
            }
            Field::Status => keep(&mut self.status, text),
            Field::StopDetail => keep(&mut self.detail, text),
            Field::CallKind => self.calls.kind(text),
            Field::CallId => self.calls.id(text),
            Field::CallName => self.calls.name(text),
            _ => {}
        }
    }

    fn take_number(&mut self, field: Field, number: &str) {
        let count = match field {
            Field::Input => &mut self.usage.input_tokens,
            Field::Output => &mut self.usage.output_tokens,
            Field::CacheRead => &mut self.usage.cache_read_tokens,
            Field::CacheWrite => &mut self.usage.cache_write_tokens,
            Field::CacheWriteHour => &mut self.usage.cache_write_1h_tokens,
            Field::Reasoning => &mut self.usage.reasoning_tokens,
            Field::WebSearches => &mut self.usage.web_search_requests,
            Field::CallIndex => return self.calls.index(number.parse().ok()),
            Field::ChoiceIndex => return self.calls.choice(number.parse().unwrap_or_default()),
            _ => return,
        };
        if let Some(tokens) = tokens(number) {
            *count = tokens;
            self.any_usage = true;
            self.new_usage = true;
        }
    }

    fn stops(&mut self, why: &str, on: &mut dyn FnMut(Event<'_>)) {
        if !why.is_empty() {
            keep(&mut self.stop, why);
            on(Event::Stop(&self.stop));
        }
    }

    /// An event, a line or the whole answer was read: what its parts mean together.
    fn end_text(&mut self, rules: &Rules, on: &mut dyn FnMut(Event<'_>)) {
        if std::mem::take(&mut self.is_text) && !self.calls.pending().is_empty() {
            // Its delta came before its kind.
            on(Event::Text(self.calls.pending()));
        }
        if let Some(step) = self.step.take() {
            self.calls.step(step, rules.calls.suffix, on);
        }
        self.calls.clear();
        if std::mem::take(&mut self.is_last) && !self.status.is_empty() {
            let why = if self.detail.is_empty() { &self.status } else { &self.detail };
            if !UNDER_WAY.contains(&why.as_str()) {
                let why = why.clone();
                self.stops(&why, on);
            }
        }
        self.status.clear();
        self.detail.clear();
        if std::mem::take(&mut self.new_usage) {
            on(Event::Usage(self.usage));
        }
    }
}

/// Sets a short word, its first [`STOP_MAX`] bytes.
fn keep(place: &mut String, text: &str) {
    place.clear();
    place.push_str(&text[..text.floor_char_boundary(STOP_MAX)]);
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
mod calls_tests;
#[cfg(test)]
mod tests;
