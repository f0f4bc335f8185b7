//! The chunked transfer coding (RFC 9112, 7.1), decoded as it arrives.
//!
//! Strict, since a decoder that is more lenient than the next one in the chain lets a message end in two places: sizes have
//! hexadecimal digits only, every line ends with CRLF, and neither CR nor LF stands alone, not even in an extension.
//! Extensions and trailers are discarded.

use bytes::{Buf, Bytes, BytesMut};

/// Maximum digits of a size: more than 16 do not fit into 64 bits.
const MAX_DIGITS: u8 = 16;

/// Maximum bytes of the extensions of one chunk, and of all trailers.
const MAX_DISCARDED: usize = 16 << 10;

/// Why a body is not a chunked one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    /// A size has no digit, another character or too many digits.
    #[error("invalid chunk size")]
    Size,
    /// A line does not end with CRLF, or has CR or LF in it.
    #[error("a line of the chunked coding does not end with CRLF")]
    LineEnd,
    /// The data of a chunk is longer than its size.
    #[error("chunk data does not end with CRLF")]
    DataEnd,
    /// Extensions or trailers exceed [`MAX_DISCARDED`].
    #[error("chunk extensions or trailers are too long")]
    TooLong,
}

/// What [`Chunked::next`] has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The next bytes of the content; never empty.
    Data(Bytes),
    /// More input is needed.
    Partial,
    /// The last chunk and the trailers have ended; what is left of the input belongs to the next message.
    End,
}

/// Where in the coding the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In a size, after this many digits.
    Size(u8),
    /// In the extensions behind a size.
    Extension,
    /// At the LF behind a size or its extensions.
    SizeEnd,
    /// In data, of which `left` bytes are missing.
    Data,
    /// At the CR behind data.
    DataCr,
    /// At the LF behind data.
    DataLf,
    /// At the first byte of a trailer, or at the CR of the empty line.
    TrailerStart,
    /// In a trailer.
    Trailer,
    /// At the LF behind a trailer.
    TrailerEnd,
    /// At the LF of the empty line.
    EndLf,
    /// Behind the body.
    Done,
}

/// Decodes one body.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    /// The size that is read, then the bytes of data that are missing.
    left: u64,
    /// Bytes of the current extensions, or of the trailers.
    discarded: usize,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { state: State::Size(0), left: 0, discarded: 0 }
    }
}

impl Chunked {
    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Returns how many bytes of data the current chunk lacks at least; 0 between chunks.
    pub fn missing(&self) -> u64 {
        if self.state == State::Data { self.left } else { 0 }
    }

    /// Takes the next part of the body out of `input`. The data of one chunk may come in several parts.
    ///
    /// # Errors
    /// The input is not validly coded; nothing may be read after it.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Decoded, ChunkFault> {
        loop {
            if self.is_done() {
                return Ok(Decoded::End);
            }
            if input.is_empty() {
                return Ok(Decoded::Partial);
            }
            if self.state == State::Data {
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
                self.left -= taken as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                let data = take(input, taken);
                // Reads on to the next data or the end, so that `is_done` is known as early as possible. The next call meets
                // a fault again.
                let _ = self.skip(input);
                return Ok(Decoded::Data(data));
            }
            self.skip(input)?;
        }
    }

    /// Takes what is not data out of `input`: up to data, to the end of the body, to a faulty byte, or all of it.
    fn skip(&mut self, input: &mut BytesMut) -> Result<(), ChunkFault> {
        let mut used = 0;
        let mut fault = None;
        while let Some(&byte) = input.get(used)
            && !matches!(self.state, State::Data | State::Done)
        {
            match self.step(byte) {
                Ok(state) => self.state = state,
                Err(found) => {
                    fault = Some(found);
                    break;
                }
            }
            used += 1;
        }
        input.advance(used);
        fault.map_or(Ok(()), Err)
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkFault> {
        Ok(match (self.state, byte) {
            (State::Size(1..), b'\r') => State::SizeEnd,
            // RFC 9112, 7.1.1 allows bad white space before the semicolon.
            (State::Size(1..), b';' | b' ' | b'\t') => {
                self.discarded = 0;
                State::Extension
            }
            (State::Size(digits), _) => {
                let digit = char::from(byte).to_digit(16).filter(|_| digits < MAX_DIGITS);
                self.left = self.left << 4 | u64::from(digit.ok_or(ChunkFault::Size)?);
                State::Size(digits + 1)
            }
            (State::Extension, b'\r') => State::SizeEnd,
            (State::Trailer, b'\r') => State::TrailerEnd,
            (state @ (State::Extension | State::Trailer), byte) => {
                self.discard(byte)?;
                state
            }
            (State::SizeEnd, b'\n') if self.left == 0 => {
                self.discarded = 0;
                State::TrailerStart
            }
            (State::SizeEnd, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0),
            (State::DataCr | State::DataLf, _) => return Err(ChunkFault::DataEnd),
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart, byte) => {
                self.discard(byte)?;
                State::Trailer
            }
            (State::TrailerEnd, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            (State::SizeEnd | State::TrailerEnd | State::EndLf, _) => return Err(ChunkFault::LineEnd),
            (State::Data | State::Done, _) => self.state,
        })
    }

    fn discard(&mut self, byte: u8) -> Result<(), ChunkFault> {
        self.discarded += 1;
        if byte == b'\n' {
            return Err(ChunkFault::LineEnd);
        }
        if self.discarded > MAX_DISCARDED { Err(ChunkFault::TooLong) } else { Ok(()) }
    }
}

/// Takes bytes out of `input`; all of them without an allocation.
pub fn take(input: &mut BytesMut, length: usize) -> Bytes {
    if length == input.len() { std::mem::take(input).freeze() } else { input.split_to(length).freeze() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes input that arrives in pieces of these sizes, in turn. Returns the content, and what follows the body; `None`
    /// if it does not end.
    fn decode(input: &[u8], sizes: &[usize]) -> Result<(Vec<u8>, Option<Vec<u8>>), ChunkFault> {
        let (mut chunked, mut buffer, mut content) = (Chunked::default(), BytesMut::new(), Vec::new());
        let mut rest = input;
        for size in sizes.iter().cycle() {
            let (piece, left) = rest.split_at((*size).min(rest.len()));
            rest = left;
            buffer.extend_from_slice(piece);
            loop {
                match chunked.next(&mut buffer)? {
                    Decoded::Data(data) => content.extend_from_slice(&data),
                    Decoded::Partial => break,
                    Decoded::End => {
                        assert!(chunked.is_done());
                        buffer.extend_from_slice(rest);
                        return Ok((content, Some(buffer.to_vec())));
                    }
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        Ok((content, None))
    }

    #[test]
    fn chunks_extensions_and_trailers_are_read() {
        let coded = b"5\r\nhello\r\n00a ;x=\"y\"\r\n, world...\r\n0;last\r\nX-Sum: 1\r\nY:\r\n\r\nHTTP/1.1";
        assert_eq!(decode(coded, &[4]).unwrap(), (b"hello, world...".to_vec(), Some(b"HTTP/1.1".to_vec())));
        assert_eq!(decode(b"5\r\nhel", &[100]).unwrap(), (b"hel".to_vec(), None));
        assert_eq!(decode(b"0\r\n\r", &[100]).unwrap(), (Vec::new(), None));
    }

    #[test]
    fn what_two_decoders_could_read_differently_is_a_fault() {
        for (coded, fault) in [
            (&b"\r\n"[..], ChunkFault::Size),
            (b"g\r\n", ChunkFault::Size),
            (b"0x5\r\n", ChunkFault::Size),
            (b"+5\r\n", ChunkFault::Size),
            (b"-1\r\n", ChunkFault::Size),
            (b" 5\r\nhello", ChunkFault::Size),
            (b"5\nhello", ChunkFault::Size),
            (b"10000000000000000\r\n", ChunkFault::Size),
            (b"00000000000000005\r\nhello", ChunkFault::Size),
            (b";x\r\n", ChunkFault::Size),
            (b"5\rhello", ChunkFault::LineEnd),
            (b"5;x\nhello", ChunkFault::LineEnd),
            (b"5;a\rb\r\nhello", ChunkFault::LineEnd),
            (b"5 \nhello", ChunkFault::LineEnd),
            (b"5\r\nhello0\r\n\r\n", ChunkFault::DataEnd),
            (b"5\r\nhello\n0\r\n\r\n", ChunkFault::DataEnd),
            (b"5\r\nhello\r0\r\n\r\n", ChunkFault::DataEnd),
            (b"0\r\nA: b\n\r\n", ChunkFault::LineEnd),
            (b"0\r\n\n", ChunkFault::LineEnd),
            (b"0\r\n\rX", ChunkFault::LineEnd),
        ] {
            for sizes in [&[1][..], &[100]] {
                assert_eq!(decode(coded, sizes), Err(fault), "{}", coded.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_discarded_is_bounded() {
        let long = [b"1;".as_slice(), &b"x".repeat(MAX_DISCARDED + 1), b"\r\n"].concat();
        assert_eq!(decode(&long, &[1000]), Err(ChunkFault::TooLong));
        let trailers = [b"0\r\n".as_slice(), &b"A: b\r\n".repeat(MAX_DISCARDED / 4 + 1)].concat();
        assert_eq!(decode(&trailers, &[1000]), Err(ChunkFault::TooLong));
        let short = b"1;abcdefgh\r\nx\r\n".repeat(MAX_DISCARDED);
        assert_eq!(
            decode(&short, &[1000]).unwrap().0.len(),
            MAX_DISCARDED,
            "each chunk has its own extensions"
        );
    }

    proptest! {
        #[test]
        fn any_division_gives_the_same_content(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            sizes in prop::collection::vec(1_usize..30, 1..6),
        ) {
            let mut coded = Vec::new();
            for chunk in &chunks {
                coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                coded.extend_from_slice(chunk);
                coded.extend_from_slice(b"\r\n");
            }
            coded.extend_from_slice(b"0\r\n\r\nnext");
            prop_assert_eq!(decode(&coded, &sizes), Ok((chunks.concat(), Some(b"next".to_vec()))));
        }

        #[test]
        fn any_bytes_give_the_same_in_any_division(
            coded in prop::collection::vec(prop::sample::select(&b"01aF;\r\n xX"[..]), 0..40),
            sizes in prop::collection::vec(1_usize..9, 1..6),
        ) {
            prop_assert_eq!(decode(&coded, &sizes), decode(&coded, &[1000]));
        }
    }
}
