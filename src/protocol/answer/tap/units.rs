//! Reads an answer unit by unit: each is an event, a line, a binary message or an element of a streamed array, which a client
//! reads by itself.

use super::{Inner, Pieces, Reading, ResponseTap};
use crate::protocol::answer::events::Event;
use crate::protocol::wire::coding::Unread;
use crate::protocol::wire::sse;

impl ResponseTap {
    /// Reads up to the end of the unit under way: an event, a line, a message, an element of a streamed array. Returns how many
    /// bytes it has read; all, when the unit does not end in them, or the answer is compressed or not read.
    pub fn listen_unit(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) -> usize {
        let Some(Inner { decoder: None, framing, reading }) = &mut self.inner else {
            self.listen(bytes, on);
            self.give_up_broken();
            return bytes.len();
        };
        let read = match framing.feed_unit(reading, bytes, on) {
            Ok(rest) => bytes.len() - rest.len(),
            Err(unread) => {
                self.unread = Some(unread);
                *framing = Pieces::Nothing;
                bytes.len()
            }
        };
        self.give_up_broken();
        read
    }

    /// What looks like JSON and is none cannot be read.
    fn give_up_broken(&mut self) {
        if let Some(Inner { framing: framing @ Pieces::Whole, reading, .. }) = &mut self.inner
            && reading.scanner.is_broken()
        {
            self.unread = Some(Unread::Corrupt);
            *framing = Pieces::Nothing;
        }
    }

    /// True when what was read, decoded if it is compressed, ends between two units, or with the whole answer.
    pub fn is_between_units(&self) -> bool {
        let Some(Inner { framing, reading, .. }) = &self.inner else { return false };
        match framing {
            Pieces::Sse(reader) => reader.at_boundary(),
            Pieces::Ndjson(reader) => reader.at_boundary(),
            Pieces::Binary(events) => events.at_boundary(),
            Pieces::Whole => reading.scanner.is_after_element() || reading.scanner.is_done(),
            Pieces::Foreign => true,
            Pieces::Messages | Pieces::Guess(_) | Pieces::Text | Pieces::Nothing => false,
        }
    }

    /// True when the answer comes in units, each of which a client reads by itself. A JSON text does when it is an array whose
    /// elements are events; `None` before its first byte.
    pub fn has_units(&self) -> Option<bool> {
        let Some(Inner { framing, reading, .. }) = &self.inner else { return Some(false) };
        match framing {
            Pieces::Sse(_) | Pieces::Ndjson(_) | Pieces::Binary(_) | Pieces::Messages => Some(true),
            Pieces::Whole if reading.scanner.is_at_root() => None,
            Pieces::Whole => Some(reading.scanner.is_in_elements()),
            Pieces::Guess(_) => None,
            Pieces::Text | Pieces::Foreign | Pieces::Nothing => Some(false),
        }
    }

    /// True while a call has begun that programs make as it is if the answer ends here.
    pub fn has_open_call(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.reading.found.calls.has_open())
    }

    /// Whether it is an answer that should be read, which may fail.
    pub fn is_of_text(&self) -> bool {
        self.inner.is_some() || self.unread.is_some()
    }

    /// The body has ended without an error: reports what came after the last unit, and the calls of which only the end is
    /// missing.
    pub fn end_listening(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        let Some(Inner { framing, reading, .. }) = &mut self.inner else { return };
        if let Pieces::Ndjson(reader) = framing {
            reader.end(|piece| reading.line(piece, on));
        }
        reading.found.end_element(on);
        reading.found.calls.finish(on);
        // It has bytes, and no event.
        if let Pieces::Sse(reader) = framing
            && !reading.has_data
            && !reader.at_boundary()
        {
            self.unread = Some(Unread::Corrupt);
        }
    }
}

impl Pieces {
    /// Reads up to the end of the unit under way, and returns the bytes behind it.
    ///
    /// # Errors
    /// They are not what the head says.
    fn feed_unit<'b>(
        &mut self,
        reading: &mut Reading,
        bytes: &'b [u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<&'b [u8], Unread> {
        match self {
            Self::Sse(reader) => Ok(reader.feed_event(bytes, |piece| match piece {
                sse::Piece::Data(part) => reading.data(part, on),
                sse::Piece::End { .. } => {
                    reading.end_piece(on);
                }
            })),
            Self::Ndjson(reader) => Ok(reader.feed_line(bytes, |piece| reading.line(piece, on))),
            Self::Binary(events) => events.feed_message(reading, bytes, on),
            Self::Whole if reading.scanner.is_at_root() || reading.scanner.is_in_elements() => {
                let Reading { rules, scanner, found, .. } = reading;
                let rest = scanner.feed_element(bytes, &mut |path, value| found.take(rules, path, value, on));
                reading.found.tell_ambiguous(&reading.scanner, on);
                if reading.scanner.is_after_element() {
                    reading.found.end_element(on);
                }
                reading.end_whole(on);
                Ok(rest)
            }
            Self::Guess(guess) => {
                let (used, decided) = guess.look(bytes);
                let Some(pieces) = decided else { return Ok(&bytes[..0]) };
                let guess = *guess;
                *self = pieces?;
                self.feed_unit(reading, guess.held(), on)?;
                self.feed_unit(reading, &bytes[used..], on)
            }
            Self::Messages | Self::Whole | Self::Text | Self::Foreign | Self::Nothing => {
                self.feed(reading, bytes, on).map(|()| &bytes[..0])
            }
        }
    }
}
