//! Newline-delimited JSON: splits a stream into lines without holding them.

use memchr::memchr;

/// A part of a stream of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of the line under way, without its end.
    Data(&'a [u8]),
    /// The line has ended. Blank lines have no end piece.
    End,
}

/// Splits lines, chunk by chunk.
#[derive(Debug, Default)]
pub struct LineReader {
    /// A byte of the line under way was seen.
    in_line: bool,
    /// One that is not whitespace.
    has_text: bool,
}

impl LineReader {
    /// Reads the next bytes and passes on their pieces.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(Piece<'_>)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.feed_line(rest, &mut on);
        }
    }

    /// Reads to the end of the line under way, or all bytes when it is not in them, and returns those behind it.
    pub fn feed_line<'b>(&mut self, bytes: &'b [u8], mut on: impl FnMut(Piece<'_>)) -> &'b [u8] {
        let end = memchr(b'\n', bytes);
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if !part.is_empty() {
            self.in_line = true;
            self.has_text = self.has_text || part.iter().any(|byte| !byte.is_ascii_whitespace());
            on(Piece::Data(part));
        }
        let Some(end) = end else { return &[] };
        self.end(&mut on);
        &bytes[end + 1..]
    }

    /// The stream is over: a last line needs no line feed.
    pub fn end(&mut self, mut on: impl FnMut(Piece<'_>)) {
        if std::mem::take(&mut self.has_text) {
            on(Piece::End);
        }
        self.in_line = false;
    }

    /// True between two lines.
    pub fn at_boundary(&self) -> bool {
        !self.in_line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines of a text cut at every `step` bytes.
    fn lines(bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        let mut take = |piece: Piece<'_>| match piece {
            Piece::Data(part) => line.extend_from_slice(part),
            Piece::End => lines.push(std::mem::take(&mut line)),
        };
        let mut reader = LineReader::default();
        for chunk in bytes.chunks(step) {
            reader.feed(chunk, &mut take);
        }
        reader.end(&mut take);
        lines
    }

    #[test]
    fn lines_end_at_a_line_feed_or_at_the_end() {
        assert_eq!(lines(b"{}\r\n[1]\n2", 64), [b"{}\r".to_vec(), b"[1]".to_vec(), b"2".to_vec()]);
        assert_eq!(lines(b"a\n\nb\n", 64), [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(lines(b"", 1), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_boundary_is_only_behind_a_line_feed() {
        let mut reader = LineReader::default();
        assert!(reader.at_boundary());
        reader.feed(b"{\"a\":1}", |_| {});
        assert!(!reader.at_boundary());
        reader.feed(b"\n", |_| {});
        assert!(reader.at_boundary());
    }

    proptest! {
        #[test]
        fn chunking_does_not_matter(
            parts in prop::collection::vec(prop::sample::select(&["a", " ", "\n", "\r", "{}"][..]), 0..40),
            step in 1usize..9,
        ) {
            let text = parts.concat();
            prop_assert_eq!(lines(text.as_bytes(), step), lines(text.as_bytes(), 1 << 20));
        }
    }
}
