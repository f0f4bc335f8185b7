//! How a client spells field names. A header map has them in lower case, but its values are slices of the head that came from
//! the wire, so that the line of a field is found there without a second map.

/// Returns the line of a field in `head`, the bytes of a head of HTTP/1, from its name to its value. `None` if the value is
/// no slice of `head`: the field was not in it or has been changed.
pub fn line<'h>(head: &'h [u8], name: &[u8], value: &[u8]) -> Option<&'h [u8]> {
    if value.is_empty() {
        return empty_line(head, name);
    }
    let value_at = value.as_ptr().addr().checked_sub(head.as_ptr().addr())?;
    let before = head.get(..value_at)?;
    let names = match before {
        [names @ .., b':', b' '] => names,
        _ => before.trim_ascii_end().strip_suffix(b":")?,
    };
    let at = names.len().checked_sub(name.len())?;
    let is_whole = at == 0 || names[at - 1] == b'\n';
    let line = head.get(at..value_at + value.len())?;
    (is_whole && line[..name.len()].eq_ignore_ascii_case(name)).then_some(line)
}

/// Returns the first line with this name and no value, which has no place of its own.
fn empty_line<'h>(head: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    head.split(|byte| *byte == b'\n').find(|line| {
        let (spelled, rest) = line.split_at_checked(name.len()).unwrap_or_default();
        spelled.eq_ignore_ascii_case(name)
            && rest.strip_prefix(b":").is_some_and(|value| value.trim_ascii().is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhOST: a\r\nX-Two:\t b \r\nx-two:c\r\nX-Empty: \r\n\r\n";

    /// The bytes of the head from `at`.
    fn slice(at: &str, length: usize) -> &'static [u8] {
        let begin = HEAD.windows(at.len()).position(|part| part == at.as_bytes()).unwrap();
        &HEAD[begin..begin + length]
    }

    #[test]
    fn a_line_is_found_by_its_value() {
        for (name, value, expected) in [
            ("host", slice("a\r", 1), Some("hOST: a")),
            ("x-two", slice("b \r", 1), Some("X-Two:\t b")),
            ("x-two", slice("c\r", 1), Some("x-two:c")),
            ("x-empty", b"", Some("X-Empty: \r")),
            ("x-none", b"", None),
            // The value of another field, and of none.
            ("forwarded-host", slice("a\r", 1), None),
            ("st", slice("a\r", 1), None),
            ("host", slice("HTTP", 1), None),
            ("host", b"a", None),
        ] {
            assert_eq!(line(HEAD, name.as_bytes(), value), expected.map(str::as_bytes), "{name}");
        }
        assert_eq!(line(&HEAD[..20], b"host", slice("a\r", 1)), None, "the value is behind the head");
        assert_eq!(line(b"", b"host", slice("a\r", 1)), None);
    }
}
