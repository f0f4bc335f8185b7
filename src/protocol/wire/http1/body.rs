//! Decodes the body of a message (RFC 9112, 6 and 7): by length, in chunks, or all bytes up to the end of the connection.
//!
//! Trailers and chunk extensions are read and dropped. A chunk is strict, since a proxy in front that reads it
//! differently would find another request in it: each line ends in CR LF, also inside extensions, sizes have digits and
//! at most 63 bits, and nothing follows a size but an extension.

use bytes::{Buf, Bytes, BytesMut};

/// The most bytes of the line of a chunk's size, with its extensions (RFC 9112, 7.1.1).
const MAX_SIZE_LINE: usize = 8 << 10;

/// The most bytes of all trailers.
const MAX_TRAILERS: usize = 64 << 10;

/// How the body of a request is delimited (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes; 0 without `Content-Length`.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Takes the first bytes from a buffer, without a copy.
pub fn split(buffer: &mut BytesMut, length: usize) -> Bytes {
    match length == buffer.len() {
        // Not shared with the rest, so the memory needs no counter.
        true => std::mem::take(buffer).freeze(),
        false => buffer.split_to(length).freeze(),
    }
}

/// Why a body is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ended before the body did.
    CutShort,
    /// A chunk is not valid.
    Chunk(&'static str),
}

/// The body of a message, as far as it has been read.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// This many bytes are still to come.
    Length(u64),
    /// It comes in chunks.
    Chunked(Chunk),
    /// All that comes until the connection ends: after a `101 Switching Protocols`, or of a response without a length.
    Raw,
    /// It was read to its end.
    Done,
    /// It has no valid end.
    Failed(Fault),
}

/// What comes next in a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// The line of a size.
    Size,
    /// This many bytes of a chunk.
    Data(u64),
    /// The CR LF at the end of a chunk.
    DataEnd,
    /// A trailer or the empty line after the last one; the bytes of trailers so far.
    Trailer(usize),
}

impl Body {
    /// The body of a request that is delimited in this way.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunk::Size),
        }
    }

    /// Whether the body was read to its end.
    pub fn is_done(&self) -> bool {
        *self == Self::Done
    }

    /// Returns how many bytes can be read without reading beyond the body; `None` when that is not known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            _ => None,
        }
    }

    /// Takes the next bytes of the body from `buffer`, never an empty piece. Returns `None` when the body has ended, and
    /// when more bytes are needed. With the last bytes of the body its end is taken, too, if it is there already.
    ///
    /// # Errors
    /// The body is not valid; each further call fails, too.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Fault> {
        if let Self::Failed(fault) = self {
            return Err(*fault);
        }
        self.pass_framing(buffer)?;
        let data = match self {
            _ if buffer.is_empty() => return Ok(None),
            Self::Raw => return Ok(Some(split(buffer, buffer.len()))),
            Self::Length(left) | Self::Chunked(Chunk::Data(left)) => {
                let length = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                *left -= length as u64;
                split(buffer, length)
            }
            _ => return Ok(None),
        };
        match self {
            Self::Length(0) => *self = Self::Done,
            Self::Chunked(chunk @ Chunk::Data(0)) => *chunk = Chunk::DataEnd,
            _ => {}
        }
        // A fault behind the data is returned by the next call.
        let _ = self.pass_framing(buffer);
        Ok(Some(data))
    }

    /// Tells the body that the connection has ended.
    ///
    /// # Errors
    /// The body is not complete.
    pub fn close(&mut self) -> Result<(), Fault> {
        match self {
            Self::Raw | Self::Done => *self = Self::Done,
            Self::Failed(fault) => return Err(*fault),
            Self::Length(_) | Self::Chunked(_) => return self.fail(Fault::CutShort),
        }
        Ok(())
    }

    fn fail<T>(&mut self, fault: Fault) -> Result<T, Fault> {
        *self = Self::Failed(fault);
        Err(fault)
    }

    /// Removes what frames chunks from the front of `buffer`.
    fn pass_framing(&mut self, buffer: &mut BytesMut) -> Result<(), Fault> {
        while let Self::Chunked(chunk) = self {
            match chunk.pass(buffer) {
                Ok(Step::Next(next)) => *chunk = next,
                Ok(Step::Wait) => break,
                Ok(Step::End) => *self = Self::Done,
                Err(fault) => return self.fail(fault),
            }
        }
        Ok(())
    }
}

/// How reading the framing of chunks goes on.
enum Step {
    /// With this.
    Next(Chunk),
    /// With more bytes, or with the data that comes next.
    Wait,
    /// The body has ended.
    End,
}

impl Chunk {
    /// Removes the next line from the front of `buffer`.
    fn pass(&self, buffer: &mut BytesMut) -> Result<Step, Fault> {
        match self {
            Self::Data(_) => Ok(Step::Wait),
            Self::Size => Ok(match size_line(buffer)? {
                Some((length, size)) => {
                    buffer.advance(length);
                    Step::Next(if size == 0 { Self::Trailer(0) } else { Self::Data(size) })
                }
                None => Step::Wait,
            }),
            Self::DataEnd => match &buffer[..buffer.len().min(2)] {
                b"\r\n" => {
                    buffer.advance(2);
                    Ok(Step::Next(Self::Size))
                }
                b"" | b"\r" => Ok(Step::Wait),
                _ => Err(Fault::Chunk("a chunk is longer than its size")),
            },
            Self::Trailer(before) => {
                let Some(length) = trailer_line(buffer, MAX_TRAILERS.saturating_sub(*before))? else {
                    return Ok(Step::Wait);
                };
                buffer.advance(length);
                Ok(match length {
                    2 => Step::End,
                    _ => Step::Next(Self::Trailer(before + length)),
                })
            }
        }
    }
}

/// The part of a size's line that the next byte belongs to.
#[derive(Clone, Copy)]
enum Part {
    Size,
    /// White space, which only an extension may follow.
    Space,
    Extension,
    LineFeed,
}

/// Reads the line of a size. Returns its length and the size; `None` when it is not complete.
fn size_line(bytes: &[u8]) -> Result<Option<(usize, u64)>, Fault> {
    let (mut part, mut size, mut digits) = (Part::Size, 0_u64, 0);
    for (at, byte) in bytes.iter().take(MAX_SIZE_LINE).enumerate() {
        part = match (part, byte) {
            (Part::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 16 => {
                let digit = char::from(*byte).to_digit(16).unwrap_or_default();
                size = size << 4 | u64::from(digit);
                digits += 1;
                Part::Size
            }
            (Part::Size, b'\r') if digits > 0 => Part::LineFeed,
            (Part::Size, b' ' | b'\t') if digits > 0 => Part::Space,
            (Part::Space, b' ' | b'\t') => Part::Space,
            (Part::Size, b';') if digits > 0 => Part::Extension,
            (Part::Space, b';') => Part::Extension,
            (Part::Extension, b'\t' | b' '..=b'~' | 0x80..) => Part::Extension,
            (Part::Extension, b'\r') => Part::LineFeed,
            (Part::LineFeed, b'\n') if i64::try_from(size).is_ok() => return Ok(Some((at + 1, size))),
            _ => return Err(Fault::Chunk("the size of a chunk is not valid")),
        };
    }
    match bytes.len() < MAX_SIZE_LINE {
        true => Ok(None),
        false => Err(Fault::Chunk("the extension of a chunk is too long")),
    }
}

/// Returns the length of the first line with its CR LF; `None` when it is not complete.
fn trailer_line(bytes: &[u8], most: usize) -> Result<Option<usize>, Fault> {
    let end = memchr::memchr2(b'\r', b'\n', bytes);
    if end.unwrap_or(bytes.len()) > most {
        return Err(Fault::Chunk("the trailers are too long"));
    }
    let Some(end) = end else { return Ok(None) };
    match &bytes[end..bytes.len().min(end + 2)] {
        b"\r\n" => Ok(Some(end + 2)),
        b"\r" => Ok(None),
        _ => Err(Fault::Chunk("a trailer ends in a bare CR or LF")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of a body, whether it ended, and the bytes behind it; or why it is rejected.
    fn read<'a>(framing: Framing, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Body, Vec<u8>) {
        let (mut body, mut buffer, mut data) = (Body::new(framing), BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Ok(Some(part)) = body.take(&mut buffer) {
                assert!(!part.is_empty());
                data.extend_from_slice(&part);
            }
        }
        (data, body, buffer.to_vec())
    }

    fn chunked(stream: &str) -> (Vec<u8>, Body, Vec<u8>) {
        read(Framing::Chunked, std::iter::once(stream.as_bytes()))
    }

    #[test]
    fn chunks_end_where_they_say() {
        for (stream, data, rest) in [
            ("0\r\n\r\n", "", ""),
            ("2\r\n{}\r\n0\r\n\r\nGET", "{}", "GET"),
            ("1\r\na\r\n00A\r\n0123456789\r\n0\r\n\r\n", "a0123456789", ""),
            ("2;name=\"va;l\tue\"\r\n{}\r\n0 ;x\r\n\r\n", "{}", ""),
            ("2 \t;x\r\n\r\n\r\n0\r\nContent-Length: 9\r\nno colon\r\n\r\n\r\n", "\r\n", "\r\n"),
        ] {
            let (read, body, left) = chunked(stream);
            assert_eq!((read.as_slice(), left.as_slice()), (data.as_bytes(), rest.as_bytes()), "{stream:?}");
            assert!(body.is_done(), "{stream:?}: {body:?}");
        }
    }

    #[test]
    fn what_another_parser_could_read_differently_is_rejected() {
        for stream in [
            "\r\n",
            ";x\r\n",
            "g\r\n",
            "-2\r\n",
            "+2\r\n",
            "0x2\r\n",
            "2 2\r\n",
            "2 \r\n",
            " 2\r\n",
            "2\n{}\r\n",
            "2\rx",
            "2;\nx\r\n",
            "2;a\rb\r\n",
            "2;a\0b\r\n",
            "8000000000000000\r\n",
            "ffffffffffffffff\r\n",
            "00000000000000002\r\n",
            "2\r\n{}0\r\n",
            "2\r\n{}\n0\r\n",
            "2\r\n{}X",
            "0\r\nA: b\n\r\n",
            "0\r\n\n",
            "0\r\nA: b\rc\r\n\r\n",
        ] {
            let (_, body, _) = chunked(stream);
            assert!(matches!(body, Body::Failed(Fault::Chunk(_))), "{stream:?}: {body:?}");
        }
        let long =
            [format!("2;{}", "x".repeat(MAX_SIZE_LINE)), format!("0\r\n{}", "x".repeat(MAX_TRAILERS + 1))];
        let lines = format!("0\r\n{}", "a: b\r\n".repeat(MAX_TRAILERS / 6 + 2));
        for stream in long.iter().chain([&lines]) {
            assert!(matches!(chunked(stream).1, Body::Failed(_)), "{}", &stream[..20]);
        }
    }

    #[test]
    fn data_in_front_of_a_fault_comes_first() {
        let (mut body, mut buffer) = (Body::new(Framing::Chunked), BytesMut::from(&b"2\r\n{}X"[..]));
        assert_eq!(body.take(&mut buffer), Ok(Some(Bytes::from_static(b"{}"))));
        assert!(!body.is_done());
        let fault = body.take(&mut buffer).unwrap_err();
        assert_eq!((body.take(&mut buffer), body.close()), (Err(fault), Err(fault)));
    }

    #[test]
    fn a_connection_that_ends_too_early_cuts_the_body_short() {
        for (framing, stream) in [
            (Framing::Length(3), "ab"),
            (Framing::Chunked, ""),
            (Framing::Chunked, "2\r\n{}\r\n"),
            (Framing::Chunked, "0\r\n"),
        ] {
            let (_, mut body, _) = read(framing, std::iter::once(stream.as_bytes()));
            assert_eq!(body.close(), Err(Fault::CutShort), "{stream:?}");
            assert!(!body.is_done());
        }
        let mut raw = Body::Raw;
        assert_eq!((raw.close(), raw.is_done()), (Ok(()), true));
    }

    proptest! {
        #[test]
        fn pieces_do_not_change_a_body(
            stream in prop::collection::vec(prop::sample::select(b"02;a\r\n\r\nx ".as_slice()), 0..80),
            cuts in prop::collection::vec(1..9_usize, 1..6),
            length in prop::option::of(0..90_u64),
        ) {
            let framing = length.map_or(Framing::Chunked, Framing::Length);
            let whole = read(framing, std::iter::once(stream.as_slice()));
            for size in cuts {
                let parts = read(framing, stream.chunks(size));
                prop_assert_eq!(&parts.0, &whole.0);
                prop_assert_eq!(parts.1.is_done(), whole.1.is_done());
                if whole.1.is_done() {
                    prop_assert_eq!(&parts.2, &whole.2);
                }
                prop_assert_eq!(matches!(parts.1, Body::Failed(_)), matches!(whole.1, Body::Failed(_)));
            }
        }

        #[test]
        fn any_data_comes_out_of_chunks(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8), size in 1..50_usize) {
            let mut stream = Vec::new();
            for chunk in &chunks {
                stream.extend(format!("{:x};e=1\r\n", chunk.len()).bytes());
                stream.extend(chunk);
                stream.extend(b"\r\n");
            }
            stream.extend(b"0\r\nTrailer: dropped\r\n\r\nnext");
            let (data, body, rest) = read(Framing::Chunked, stream.chunks(size));
            prop_assert!(body.is_done());
            prop_assert_eq!((data, rest), (chunks.concat(), b"next".to_vec()));
        }
    }
}
