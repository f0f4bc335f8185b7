//! Whether an event stream is between two events, judged by its last bytes alone.

/// A blank line with the end of the line before it is no longer.
const LONGEST: usize = 4;

/// The last bytes of an event stream. Cheaper than [`super::sse::SseReader`], which also reads the events: each
/// chunk costs the same, however long it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventTail {
    bytes: [u8; LONGEST],
    length: usize,
}

impl EventTail {
    /// The stream's next bytes.
    pub fn feed(&mut self, chunk: &[u8]) {
        let chunk = &chunk[chunk.len().saturating_sub(LONGEST)..];
        let kept = self.length.min(LONGEST - chunk.len());
        self.bytes.copy_within(self.length - kept..self.length, 0);
        self.bytes[kept..kept + chunk.len()].copy_from_slice(chunk);
        self.length = kept + chunk.len();
    }

    /// True before the first byte and after a blank line: what is written now is parsed by itself. False after a CR,
    /// since its LF may follow. A comment that ends no event is not looked for.
    pub fn at_boundary(&self) -> bool {
        let tail = &self.bytes[..self.length];
        let line = [&b"\r\n"[..], b"\n"].into_iter().find_map(|end| tail.strip_suffix(end));
        tail.is_empty()
            || line.is_some_and(|line| line.is_empty() || line.ends_with(b"\n") || line.ends_with(b"\r"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::wire::sse::SseReader;

    fn at_boundary(stream: &str) -> bool {
        let mut tail = EventTail::default();
        tail.feed(stream.as_bytes());
        tail.at_boundary()
    }

    #[test]
    fn a_blank_line_is_a_boundary_whatever_ends_it() {
        for whole in ["", "\n", "a: b\n\n", "data: x\r\n\r\n", "data: x\r\r\n", ":c\n\r\n", "\n\n\n\n\n"] {
            assert!(at_boundary(whole), "{whole:?}");
        }
        for part in ["d", "data: x", "data: x\n", "data: x\r\n", "data: x\r", "data: x\n\nd", "\u{feff}"] {
            assert!(!at_boundary(part), "{part:?}");
        }
    }

    #[test]
    fn what_is_written_never_stands_between_a_cr_and_its_lf() {
        for part in ["data: x\r\n\r", "data: x\n\r", "data: x\r\r", "\r"] {
            assert!(!at_boundary(part), "{part:?}");
            assert!(at_boundary(&format!("{part}\n")), "{part:?}");
        }
    }

    proptest! {
        #[test]
        fn a_boundary_is_one_for_a_reader_too(text in "(data: x|[dx:]|\r|\n|\r\n){0,20}", cuts in prop::collection::vec(0usize..9, 0..20)) {
            let (mut tail, mut reader, mut rest) = (EventTail::default(), SseReader::default(), text.as_bytes());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                tail.feed(chunk);
                reader.feed(chunk, |_| {});
                prop_assert!(!tail.at_boundary() || reader.at_boundary(), "{text:?} before {rest:?}");
            }
            prop_assert_eq!(tail.at_boundary(), at_boundary(&text));
        }
    }
}
