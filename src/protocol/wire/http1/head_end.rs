//! The end of a head that arrives in pieces. A parser of heads begins from the start each time, so that a head in many pieces
//! would cost the square of its length; this says when parsing is worth it.

use memchr::memchr_iter;

/// Heads up to this many bytes are parsed with each piece, so that what is no head is noticed at once.
const SHORT: usize = 4 << 10;

/// What is known of the bytes of a head so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadEnd {
    /// Bytes in which no head ends.
    searched: usize,
    /// Bytes that were parsed without success.
    parsed: usize,
}

impl HeadEnd {
    /// Returns whether a head in front of `input` should be parsed: it is short, its end is there, or twice as much as was
    /// parsed before.
    pub fn is_worth_parsing(&mut self, input: &[u8]) -> bool {
        if input.len() < SHORT {
            return true;
        }
        let has_end = find(input, self.searched.saturating_sub(2)).is_some();
        self.searched = input.len();
        let is_worth = has_end || input.len() >= 2 * self.parsed;
        if is_worth {
            self.parsed = input.len();
        }
        is_worth
    }
}

/// Returns where the first empty line ends, if the line before it ends at or after `from`.
pub fn find(input: &[u8], from: usize) -> Option<usize> {
    let tail = input.get(from..)?;
    memchr_iter(b'\n', tail).find_map(|at| match tail.get(at + 1..) {
        Some([b'\n', ..]) => Some(from + at + 2),
        Some([b'\r', b'\n', ..]) => Some(from + at + 3),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_in_any_division() {
        for (head, end) in [
            ("A\r\n\r\nx", Some(5)),
            ("A\n\nx", Some(3)),
            ("A\n\r\n", Some(4)),
            ("A\r\n\r", None),
            ("", None),
        ] {
            assert_eq!(find(head.as_bytes(), 0), end, "{head:?}");
            for step in 1..4 {
                let (mut known, before) = (HeadEnd { searched: 0, parsed: 1 << 20 }, b"x".repeat(SHORT));
                let mut seen = before.clone();
                let worth = head.as_bytes().chunks(step).any(|piece| {
                    seen.extend_from_slice(piece);
                    known.is_worth_parsing(&seen)
                });
                assert_eq!(worth, end.is_some(), "{head:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn a_head_that_comes_byte_by_byte_is_parsed_seldom() {
        let head = b"x".repeat(1 << 16);
        let mut known = HeadEnd::default();
        let parsed = (SHORT..=head.len()).filter(|to| known.is_worth_parsing(&head[..*to])).count();
        assert_eq!(parsed, 5);
    }
}
