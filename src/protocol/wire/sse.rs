//! Server-sent events, read as the WHATWG standard says (HTML, section 9.2), without holding them.
//!
//! Lines end with CR, LF or CRLF; a byte order mark may come first; lines that begin with a colon are
//! comments; several `data` lines make one text with line feeds between them.

use memchr::memchr2;

/// Bytes of an event's name that are kept; a longer one is cut there.
const NAME_MAX: usize = 128;

const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// A comment, which clients ignore; the blank line ends no event.
pub const COMMENT: &[u8] = b": keep-alive\n\n";

/// A part of an event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of the event's data.
    Data(&'a [u8]),
    /// The event is complete; events without data have no end piece.
    End {
        /// What `event:` said; empty when it said nothing.
        name: &'a [u8],
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte that is not of the byte order mark, of which that many are read.
    Bom(usize),
    LineStart,
    /// In a field's name.
    Field,
    /// Behind the colon, where one space is not part of the value.
    Space(Kind),
    Value(Kind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Name,
    /// Comments, `id`, `retry` and unknown fields.
    Other,
}

/// Reads an event stream, chunk by chunk.
#[derive(Debug)]
pub struct SseReader {
    state: State,
    /// The last byte was a CR: an LF now is the same line end.
    after_cr: bool,
    /// The field's name as far as it fits.
    field: [u8; 6],
    field_len: usize,
    /// The event's name so far.
    name: Vec<u8>,
    /// The event under way has a `data` line.
    has_data: bool,
    /// The event under way has a line that is no comment.
    has_lines: bool,
}

impl Default for SseReader {
    fn default() -> Self {
        Self {
            state: State::Bom(0),
            after_cr: false,
            field: [0; 6],
            field_len: 0,
            name: Vec::new(),
            has_data: false,
            has_lines: false,
        }
    }
}

impl SseReader {
    /// True between two events: what is written now is parsed as an event by itself.
    pub fn at_boundary(&self) -> bool {
        matches!(self.state, State::Bom(0 | 3) | State::LineStart) && !self.has_lines
    }

    /// Reads the next bytes and passes on their pieces.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(Piece<'_>)) {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            rest = self.step(byte, rest, &mut on);
        }
    }

    /// Reads up to the next boundary ([`Self::at_boundary`]), or all bytes when none is in them, and returns those behind it.
    pub fn feed_event<'b>(&mut self, bytes: &'b [u8], mut on: impl FnMut(Piece<'_>)) -> &'b [u8] {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            let before = rest.len();
            rest = self.step(byte, rest, &mut on);
            // The LF of a CRLF belongs to the line before it.
            if rest.len() < before && self.at_boundary() && !(self.after_cr && rest.first() == Some(&b'\n')) {
                return rest;
            }
        }
        rest
    }

    /// Reads on from `rest`, which begins with `byte`; returns what is left.
    #[inline]
    fn step<'b>(&mut self, byte: u8, rest: &'b [u8], on: &mut impl FnMut(Piece<'_>)) -> &'b [u8] {
        if std::mem::take(&mut self.after_cr) && byte == b'\n' {
            return &rest[1..];
        }
        match self.state {
            State::Bom(read) => self.bom(read, byte, rest),
            State::LineStart => self.line(rest, on),
            State::Field => {
                self.in_field(byte, on);
                &rest[1..]
            }
            State::Space(kind) => {
                self.state = State::Value(kind);
                if byte == b' ' { &rest[1..] } else { rest }
            }
            State::Value(kind) => self.in_value(kind, rest, on),
        }
    }

    /// A line begins, mostly one of data.
    fn line<'b>(&mut self, rest: &'b [u8], on: &mut impl FnMut(Piece<'_>)) -> &'b [u8] {
        if let Some(value) = rest.strip_prefix(b"data: ") {
            self.has_lines = true;
            self.begin_data(on);
            self.state = State::Value(Kind::Data);
            return value;
        }
        self.field_len = 0;
        self.state = State::Field;
        rest
    }

    fn begin_data(&mut self, on: &mut impl FnMut(Piece<'_>)) {
        if std::mem::replace(&mut self.has_data, true) {
            on(Piece::Data(b"\n"));
        }
    }

    fn bom<'b>(&mut self, read: usize, byte: u8, rest: &'b [u8]) -> &'b [u8] {
        if BOM.get(read) == Some(&byte) {
            self.state = State::Bom(read + 1);
            return &rest[1..];
        }
        if matches!(read, 1 | 2) {
            // Not a mark: these bytes begin an unknown field.
            self.has_lines = true;
            self.state = State::Value(Kind::Other);
        } else {
            self.state = State::LineStart;
        }
        rest
    }

    fn in_field(&mut self, byte: u8, on: &mut impl FnMut(Piece<'_>)) {
        match byte {
            b':' if self.field_len == 0 => self.state = State::Value(Kind::Other),
            b':' => {
                let kind = self.begin_field(on);
                self.state = State::Space(kind);
            }
            b'\n' | b'\r' => {
                if self.field_len == 0 {
                    self.dispatch(on);
                } else {
                    self.begin_field(on);
                }
                self.end_line(byte);
            }
            _ => {
                if let Some(place) = self.field.get_mut(self.field_len) {
                    *place = byte;
                    self.field_len += 1;
                }
                self.has_lines = true;
            }
        }
    }

    /// The field's name is read.
    fn begin_field(&mut self, on: &mut impl FnMut(Piece<'_>)) -> Kind {
        match &self.field[..self.field_len] {
            b"data" => {
                self.begin_data(on);
                Kind::Data
            }
            b"event" => {
                self.name.clear();
                Kind::Name
            }
            _ => Kind::Other,
        }
    }

    fn in_value<'b>(&mut self, kind: Kind, rest: &'b [u8], on: &mut impl FnMut(Piece<'_>)) -> &'b [u8] {
        let end = memchr2(b'\n', b'\r', rest);
        let part = &rest[..end.unwrap_or(rest.len())];
        match kind {
            Kind::Data if !part.is_empty() => on(Piece::Data(part)),
            Kind::Name => {
                let room = NAME_MAX - self.name.len();
                self.name.extend_from_slice(&part[..part.len().min(room)]);
            }
            Kind::Data | Kind::Other => {}
        }
        match end {
            Some(end) => {
                self.end_line(rest[end]);
                &rest[end + 1..]
            }
            None => &[],
        }
    }

    fn end_line(&mut self, byte: u8) {
        self.after_cr = byte == b'\r';
        self.state = State::LineStart;
    }

    fn dispatch(&mut self, on: &mut impl FnMut(Piece<'_>)) {
        if std::mem::take(&mut self.has_data) {
            on(Piece::End { name: &self.name });
        }
        self.has_lines = false;
        self.name.clear();
    }
}

#[cfg(test)]
mod tests;
