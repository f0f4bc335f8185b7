//! Reads `application/vnd.amazon.eventstream`, a stream of binary messages, without holding their payload
//! (smithy.io/2.0/aws/amazon-eventstream.html).
//!
//! A message is a prelude of 12 bytes (its length, the length of its headers, a CRC of both), headers, a payload, and a CRC
//! of all that; numbers are big-endian.

use crc32fast::Hasher;

use super::coding::Unread;

/// The length of a prelude in bytes.
const PRELUDE: usize = 12;
/// The length of a CRC in bytes.
const CHECKSUM: usize = 4;
/// The longest headers that are read, in bytes. The format allows 128 KiB; real ones have a hundred bytes.
const HEADERS_MAX: usize = 8 << 10;

/// A part of a stream of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A message begins.
    Begin {
        /// It reports an error, and nothing follows it.
        is_error: bool,
        /// Its type: of an event, of an exception, or the code of an error; empty when it has none.
        name: &'a str,
    },
    /// Bytes of its payload.
    Data(&'a [u8]),
    /// It is complete.
    End,
}

/// What is read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Prelude,
    Headers {
        length: usize,
    },
    Payload,
    Checksum,
    /// What came is no such stream.
    Broken,
}

/// Reads a stream of messages, chunk by chunk.
#[derive(Debug)]
pub struct EventStreamReader {
    state: State,
    /// The prelude, headers or CRC under way.
    kept: Vec<u8>,
    /// Bytes of the payload that are still to come.
    payload: usize,
    /// The CRC of the message so far.
    crc: Hasher,
}

impl Default for EventStreamReader {
    fn default() -> Self {
        Self { state: State::Prelude, kept: Vec::new(), payload: 0, crc: Hasher::new() }
    }
}

impl EventStreamReader {
    /// True between two messages.
    pub fn at_boundary(&self) -> bool {
        self.state == State::Prelude && self.kept.is_empty()
    }

    /// Reads the next bytes and passes on their pieces.
    ///
    /// # Errors
    /// They are no message, or one whose headers are too long to be read. Nothing more is read then.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(Piece<'_>)) -> Result<(), Unread> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.feed_message(rest, &mut on)?;
        }
        Ok(())
    }

    /// Reads to the end of the message under way, or all bytes when it is not in them, and returns those behind it.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn feed_message<'b>(
        &mut self,
        bytes: &'b [u8],
        mut on: impl FnMut(Piece<'_>),
    ) -> Result<&'b [u8], Unread> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(after) = self.step(rest, &mut on) else {
                self.state = State::Broken;
                return Err(Unread::Corrupt);
            };
            rest = after;
            if self.at_boundary() {
                break;
            }
        }
        Ok(rest)
    }

    /// Reads some of these bytes, and returns the others; `None` when they are no message.
    fn step<'b>(&mut self, bytes: &'b [u8], on: &mut impl FnMut(Piece<'_>)) -> Option<&'b [u8]> {
        let (is_whole, rest) = match self.state {
            State::Prelude => self.keep(PRELUDE, bytes),
            State::Headers { length } => self.keep(length, bytes),
            State::Checksum => self.keep(CHECKSUM, bytes),
            State::Payload => {
                let (part, rest) = bytes.split_at(self.payload.min(bytes.len()));
                self.payload -= part.len();
                self.crc.update(part);
                if !part.is_empty() {
                    on(Piece::Data(part));
                }
                (self.payload == 0, rest)
            }
            State::Broken => return None,
        };
        if is_whole {
            self.state = self.next(on)?;
            self.kept.clear();
        }
        Some(rest)
    }

    /// Keeps bytes until there are `length`; returns whether there are, and the others.
    fn keep<'b>(&mut self, length: usize, bytes: &'b [u8]) -> (bool, &'b [u8]) {
        let (part, rest) = bytes.split_at((length - self.kept.len()).min(bytes.len()));
        self.kept.extend_from_slice(part);
        (self.kept.len() == length, rest)
    }

    /// Returns what follows the part that is complete now; `None` when that is no part of a message.
    fn next(&mut self, on: &mut impl FnMut(Piece<'_>)) -> Option<State> {
        match self.state {
            State::Prelude => {
                let (lengths, crc) = self.kept.split_at(PRELUDE - CHECKSUM);
                let [total, headers] = [number(&lengths[..4])?, number(&lengths[4..])?];
                if crc32fast::hash(lengths) != u32::from_be_bytes(crc.try_into().ok()?)
                    || headers > HEADERS_MAX
                {
                    return None;
                }
                self.payload = total.checked_sub(PRELUDE + headers + CHECKSUM)?;
                self.crc = Hasher::new();
                self.crc.update(&self.kept);
                Some(State::Headers { length: headers })
            }
            State::Headers { .. } => {
                self.crc.update(&self.kept);
                let (is_error, name) = kind(&self.kept)?;
                on(Piece::Begin { is_error, name });
                Some(State::Payload)
            }
            State::Payload => Some(State::Checksum),
            State::Checksum => {
                let is_intact =
                    self.crc.clone().finalize() == u32::from_be_bytes((*self.kept).try_into().ok()?);
                on(Piece::End);
                is_intact.then_some(State::Prelude)
            }
            State::Broken => None,
        }
    }
}

fn number(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok()
}

/// Returns whether the message with these headers reports an error, and its type; `None` when they cannot be read.
fn kind(headers: &[u8]) -> Option<(bool, &str)> {
    let (mut is_error, mut event, mut error) = (false, "", "");
    let mut rest = headers;
    while let Some((&length, after)) = rest.split_first() {
        let (name, after) = after.split_at_checked(usize::from(length))?;
        let (&form, after) = after.split_first()?;
        let (value, after) = value(form, after)?;
        rest = after;
        let Ok(value) = std::str::from_utf8(value) else { continue };
        match name {
            b":message-type" => is_error = matches!(value, "exception" | "error"),
            b":event-type" => event = value,
            b":exception-type" | b":error-code" => error = value,
            _ => {}
        }
    }
    Some((is_error, if is_error { error } else { event }))
}

/// Returns the bytes of a header's value of this form, and what follows it.
fn value(form: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, bytes) = match form {
        // true and false
        0 | 1 => (0, bytes),
        2 => (1, bytes),
        3 => (2, bytes),
        4 => (4, bytes),
        // A long integer, and a time in milliseconds.
        5 | 8 => (8, bytes),
        // Bytes and text.
        6 | 7 => {
            let (length, after) = bytes.split_at_checked(2)?;
            (usize::from(u16::from_be_bytes(length.try_into().ok()?)), after)
        }
        // A UUID.
        9 => (16, bytes),
        _ => return None,
    };
    bytes.split_at_checked(length)
}

/// A message with this type and payload.
#[cfg(test)]
pub(in crate::protocol) fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut fields = Vec::new();
    for (name, value) in headers {
        fields.push(u8::try_from(name.len()).unwrap());
        fields.extend_from_slice(name.as_bytes());
        fields.push(7);
        fields.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        fields.extend_from_slice(value.as_bytes());
    }
    let total = u32::try_from(PRELUDE + fields.len() + payload.len() + CHECKSUM).unwrap();
    let mut bytes = [total.to_be_bytes(), u32::try_from(fields.len()).unwrap().to_be_bytes()].concat();
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    bytes.extend_from_slice(&fields);
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message: whether it is an error, its type, its payload.
    type Message = (bool, String, Vec<u8>);

    fn written(messages: &[Message]) -> Vec<u8> {
        let one = |(is_error, name, payload): &Message| {
            let headers = match is_error {
                false => [(":message-type", "event"), (":event-type", name.as_str())],
                true => [(":message-type", "exception"), (":exception-type", name.as_str())],
            };
            message(&[&headers[..], &[(":content-type", "application/json")]].concat(), payload)
        };
        messages.iter().flat_map(one).collect()
    }

    /// The messages of a body that comes in chunks of this size, and how it ended.
    fn read(body: &[u8], size: usize) -> (Vec<Message>, Result<(), Unread>, bool) {
        let mut reader = EventStreamReader::default();
        let (mut whole, mut current) = (Vec::new(), None);
        let mut end = Ok(());
        for chunk in body.chunks(size) {
            let fed = reader.feed(chunk, |piece| match piece {
                Piece::Begin { is_error, name } => current = Some((is_error, name.to_owned(), Vec::new())),
                Piece::Data(part) => current.as_mut().unwrap().2.extend_from_slice(part),
                Piece::End => whole.extend(current.take()),
            });
            end = end.and(fed);
        }
        (whole, end, reader.at_boundary())
    }

    #[test]
    fn every_form_of_header_is_passed_over() {
        let mut fields = Vec::new();
        let forms: [(u8, &[u8]); 10] = [
            (0, b""),
            (1, b""),
            (2, b"a"),
            (3, b"ab"),
            (4, b"abcd"),
            (5, b"abcdefgh"),
            (6, b"\0\x02ab"),
            (7, b"\0\x01a"),
            (8, b"abcdefgh"),
            (9, b"0123456789abcdef"),
        ];
        for (form, value) in forms {
            fields.extend_from_slice(&[1, b'x', form]);
            fields.extend_from_slice(value);
        }
        assert_eq!(kind(&fields), Some((false, "")));
        fields.extend_from_slice(b"\x0d:message-type\x07\0\x05error\x0b:error-code\x07\0\x03500");
        assert_eq!(kind(&fields), Some((true, "500")));
        for broken in
            [&b"\x05ab"[..], b"\x01a", b"\x01a\x0a", b"\x01a\x07\0", b"\x01a\x07\0\x02a", b"\x01a\x09abc"]
        {
            assert_eq!(kind(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn what_is_no_message_breaks_it() {
        let good = written(&[(false, "chunk".to_owned(), b"{}".to_vec())]);
        assert_eq!(read(&good, 3), (vec![(false, "chunk".to_owned(), b"{}".to_vec())], Ok(()), true));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            bad.extend_from_slice(&good);
            let (seen, end, _) = read(&bad, 5);
            assert_eq!(end, Err(Unread::Corrupt), "byte {at}");
            assert!(seen.len() <= 1, "nothing is read behind it");
        }
        let long = message(&[(":event-type", &"x".repeat(9 << 10))], b"");
        assert_eq!(read(&long, 100).1, Err(Unread::Corrupt));
        assert_eq!(read(b"data: {}\n\ndata: {}\n\n", 100).1, Err(Unread::Corrupt));
    }

    proptest! {
        #[test]
        fn any_messages_come_back_at_any_chunking(
            messages in prop::collection::vec((any::<bool>(), "[a-zA-Z]{0,12}", prop::collection::vec(any::<u8>(), 0..60)), 0..5),
            size in 1usize..40,
            cut in 0usize..16,
        ) {
            let body = written(&messages);
            prop_assert_eq!(read(&body, size), (messages.clone(), Ok(()), true));
            let short = &body[..body.len().saturating_sub(cut)];
            let (seen, end, is_whole) = read(short, size);
            prop_assert!(end.is_ok() && messages.starts_with(&seen));
            prop_assert_eq!(is_whole, short.len() == body.len() || short.is_empty());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..40) {
            let _ = read(&bytes, size);
        }
    }
}
