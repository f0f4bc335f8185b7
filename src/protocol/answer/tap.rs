//! Reads an answer while it passes: its usage, its model, the tools it calls, why it stopped, and where it may
//! be cut.

use super::events::Event;
use crate::protocol::dialects::answer_rules::AnswerRules;
use crate::protocol::dialects::spec::Dialect;
use crate::protocol::facts::tools::ToolCounts;
use crate::protocol::facts::usage::Usage;
use crate::protocol::json::scan::Scanner;
use crate::protocol::wire::coding::{Coding, Decoder, Unread};
use crate::protocol::wire::framing::Framing;
use crate::protocol::wire::ndjson::{self, LineReader};
use crate::protocol::wire::sse::{self, SseReader};
use binary::BinaryEvents;
use found::{Found, Seldom};
use guess::Guess;

/// What OpenAI writes as the data of the event behind the last one.
const DONE: &[u8] = b"[DONE]";

/// Reads the body of one answer. Never buffers an event; cost is linear in bytes.
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
    Binary(Box<BinaryEvents>),
    Messages,
    Whole,
    /// A judged answer, at its beginning.
    Guess(Guess),
    /// Text without a form.
    Text,
    /// A picture, a sound, a file.
    Foreign,
    /// The rest cannot be decoded.
    Nothing,
}

/// What was read so far, and the JSON text under way.
struct Reading {
    rules: &'static AnswerRules,
    scanner: Scanner,
    found: Found,
    /// The first bytes of the event's data, to know [`DONE`].
    head: [u8; DONE.len()],
    head_len: usize,
    /// An event had data.
    has_data: bool,
    /// The last event was seen to its end.
    complete: bool,
}

impl ResponseTap {
    /// A tap at the beginning of an answer that is not compressed. One that cannot be read passes unread.
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
            Framing::BinaryEvents => Pieces::Binary(Box::default()),
            Framing::Messages => Pieces::Messages,
            Framing::Json => Pieces::Whole,
            Framing::Opaque => return Self { inner: None, unread: None },
        };
        Self::from(dialect, framing, coding, listening)
    }

    /// The same for an answer that is judged, which is read as what it is, not only as what its head says; `media` is its
    /// `Content-Type`.
    pub fn judged(dialect: Dialect, framing: Framing, media: Option<&str>, coding: Coding) -> Self {
        Self::from(dialect, Pieces::judged(framing, media), coding, true)
    }

    fn from(dialect: Dialect, framing: Pieces, coding: Coding, listening: bool) -> Self {
        let Some(rules) = dialect.answer_rules() else { return Self { inner: None, unread: None } };
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

    /// Reads the body's next bytes and reports what they say as soon as it is known.
    pub fn listen(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        let Some(inner) = &mut self.inner else { return };
        let Inner { decoder, framing, reading } = inner;
        let read = match decoder {
            None => framing.feed(reading, bytes, on),
            Some(coded) => {
                let mut read = Ok(());
                coded
                    .feed(bytes, |plain| read = read.and_then(|()| framing.feed(reading, plain, on)))
                    .and(read)
            }
        };
        if let Err(unread) = read {
            self.unread = Some(unread);
            *decoder = None;
            // What was read stays; nothing more is.
            *framing = Pieces::Nothing;
        }
    }

    /// A message of a socket has ended. When it was the last event of an answer, returns the answer's counts,
    /// if it had any, and begins the next answer.
    pub fn end_message(&mut self, on: &mut dyn FnMut(Event<'_>)) -> Option<Usage> {
        let reading = &mut self.inner.as_mut()?.reading;
        let is_last = reading.end_piece(on);
        let found = &mut reading.found;
        if std::mem::take(&mut found.has_failed) {
            let seldom = found.seldom.get_or_insert_default();
            seldom.failed_messages += 1;
            seldom.has_failed = true;
        } else if let Some(seldom) = found.seldom.as_mut().filter(|_| is_last) {
            seldom.has_failed = false;
        }
        if !is_last {
            return None;
        }
        let counts = std::mem::take(&mut reading.found.counts);
        std::mem::take(&mut reading.found.any_usage).then(|| (reading.rules.usage)(&counts))
    }

    /// The body has ended.
    pub fn end(&mut self) {
        if let Some(Inner { framing: Pieces::Ndjson(reader), reading, .. }) = &mut self.inner {
            reader.end(|piece| reading.line(piece, &mut |_| {}));
        }
    }

    /// The counts seen so far; `None` when the answer has not counted anything.
    pub fn usage(&self) -> Option<Usage> {
        let Reading { found, rules, .. } = &self.inner.as_ref()?.reading;
        found.any_usage.then(|| (rules.usage)(&found.counts))
    }

    /// The model that the answer names, the last one seen.
    pub fn model(&self) -> Option<&str> {
        self.text(|found| &found.model)
    }

    /// How many messages of a socket reported an error.
    pub fn failed_messages(&self) -> u64 {
        self.seldom().map_or(0, |seldom| seldom.failed_messages)
    }

    /// Whether a message of a socket reported an error, and no answer has ended well since.
    pub fn has_failed(&self) -> bool {
        self.seldom().is_some_and(|seldom| seldom.has_failed)
    }

    /// The provider's id of the answer, where stored answers can be read by it.
    pub fn id(&self) -> Option<&str> {
        self.seldom().map(|seldom| seldom.id.as_str()).filter(|id| !id.is_empty())
    }

    fn seldom(&self) -> Option<&Seldom> {
        self.inner.as_ref()?.reading.found.seldom.as_deref()
    }

    /// The error that the provider has reported in the answer, in its own word, which is empty when it has none.
    pub fn error(&self) -> Option<&str> {
        let has_failed = self.inner.as_ref()?.reading.found.has_failed;
        has_failed.then(|| self.seldom().map_or("", |seldom| seldom.error.as_str()))
    }

    /// True when what was read is no whole answer: to be asked after the body has ended. False where that cannot be
    /// known, because the body is not read or is not what its head says.
    pub fn is_cut_short(&self) -> bool {
        let Some(Inner { framing, reading, .. }) = &self.inner else { return false };
        let Reading { rules, scanner, found, complete, .. } = reading;
        match framing {
            Pieces::Sse(_) | Pieces::Ndjson(_) | Pieces::Binary(_) => {
                !complete && (found.stop.is_empty() || !rules.ends.stop_suffices)
            }
            Pieces::Whole => !complete && !scanner.is_broken(),
            Pieces::Messages | Pieces::Guess(_) | Pieces::Text | Pieces::Foreign | Pieces::Nothing => false,
        }
    }

    /// Why the model stopped, in the provider's word, the last one seen.
    pub fn stop_reason(&self) -> Option<&str> {
        self.text(|found| &found.stop)
    }

    /// The service tier that the answer was served in, in the provider's word, the last one seen; `None` for the
    /// standard one.
    pub fn service_tier(&self) -> Option<&str> {
        self.inner.as_ref()?.reading.found.service_tier()
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

    /// Whether the provider wrote a token count that cannot be true: negative, or above 10^9. It was left out.
    pub fn has_false_count(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.reading.found.false_count)
    }

    /// True between two events or lines, or behind an element of a streamed array: a native end may be written.
    /// Never true in a whole answer, a binary or compressed one, or one that is not read.
    pub fn at_boundary(&self) -> bool {
        let Some(Inner { decoder: None, framing, reading }) = &self.inner else { return false };
        match framing {
            Pieces::Sse(reader) => reader.at_boundary(),
            Pieces::Ndjson(reader) => reader.at_boundary(),
            Pieces::Whole => reading.scanner.is_after_element(),
            _ => false,
        }
    }

    /// True when the dialect's own last event was seen to its end, or the whole JSON value.
    pub fn is_complete(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.reading.complete)
    }
}

impl Pieces {
    /// Reads the next bytes.
    ///
    /// # Errors
    /// They are not what the head says.
    fn feed(
        &mut self,
        reading: &mut Reading,
        bytes: &[u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Unread> {
        match self {
            Self::Sse(reader) => reader.feed(bytes, |piece| match piece {
                sse::Piece::Data(part) => reading.data(part, on),
                sse::Piece::End { .. } => {
                    reading.end_piece(on);
                }
            }),
            Self::Ndjson(reader) => reader.feed(bytes, |piece| reading.line(piece, on)),
            Self::Binary(events) => return events.feed(reading, bytes, on),
            Self::Messages => reading.scan(bytes, on),
            Self::Whole => {
                reading.scan(bytes, on);
                reading.end_whole(on);
            }
            Self::Guess(guess) => {
                let (used, decided) = guess.look(bytes);
                let Some(pieces) = decided else { return Ok(()) };
                let guess = *guess;
                *self = pieces?;
                self.feed(reading, guess.held(), on)?;
                return self.feed(reading, &bytes[used..], on);
            }
            Self::Text if bytes.contains(&0) => return Err(Unread::Coding),
            Self::Text => on(Event::Text(bytes)),
            Self::Foreign | Self::Nothing => {}
        }
        Ok(())
    }
}

impl Reading {
    fn new(rules: &'static AnswerRules, listening: bool) -> Self {
        let paths = if listening { &rules.paths.all } else { &rules.paths.facts };
        Self {
            rules,
            scanner: Scanner::new(paths.clone()),
            found: Found::default(),
            head: [0; DONE.len()],
            head_len: 0,
            has_data: false,
            complete: false,
        }
    }

    fn data(&mut self, part: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        self.has_data = true;
        let room = &mut self.head[self.head_len..];
        let taken = room.len().min(part.len());
        room[..taken].copy_from_slice(&part[..taken]);
        self.head_len += taken;
        self.scan(part, on);
    }

    fn line(&mut self, piece: ndjson::Piece<'_>, on: &mut dyn FnMut(Event<'_>)) {
        match piece {
            ndjson::Piece::Data(part) => self.scan(part, on),
            ndjson::Piece::End => {
                self.end_piece(on);
            }
        }
    }

    fn scan(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) {
        let Self { rules, scanner, found, .. } = self;
        scanner.feed(bytes, &mut |path, value| found.take(rules, path, value, on));
        found.tell_ambiguous(scanner, on);
    }

    /// Tells the end of an answer that is one JSON text.
    fn end_whole(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        if !self.complete && self.scanner.is_done() {
            self.complete = true;
            self.found.is_last = true;
            self.found.end_text(self.rules, on);
        }
    }

    /// An event or line is complete: the next one is another JSON text. True when it said that it is the last.
    fn end_piece(&mut self, on: &mut dyn FnMut(Event<'_>)) -> bool {
        let marker = self.rules.ends.done_marker && self.head[..self.head_len] == *DONE;
        self.found.is_last &= !std::mem::take(&mut self.found.is_not_last) && self.scanner.is_done();
        let said_last = self.found.is_last;
        self.complete |= said_last || marker;
        self.found.end_text(self.rules, on);
        if said_last || marker {
            self.found.calls.finish(on);
        }
        self.found.end_ambiguous(on);
        self.head_len = 0;
        self.scanner.reset();
        said_last
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

mod binary;
mod found;
mod guess;
mod said;
mod units;

#[cfg(test)]
mod price_tests;
#[cfg(test)]
mod reading_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tool_call_tests;
