//! What the raw bytes of a JSON scalar mean.

use std::borrow::Cow;

/// A scalar found at a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// A string, unescaped; what is not Unicode in it is replaced by U+FFFD.
    Str(Cow<'a, str>),
    /// A number as written.
    Number(&'a str),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

/// True for a byte that may go on a number or word.
pub(super) fn is_bare(byte: u8) -> bool {
    !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' | b'"' | b'{' | b'[' | b':')
}

/// The scalar that a bare word is; `None` when it is none of JSON's.
pub(super) fn word(raw: &[u8]) -> Option<Value<'_>> {
    match raw {
        b"true" => Some(Value::Bool(true)),
        b"false" => Some(Value::Bool(false)),
        b"null" => Some(Value::Null),
        [b'-' | b'0'..=b'9', tail @ ..] if tail.iter().all(is_number) => {
            std::str::from_utf8(raw).ok().map(Value::Number)
        }
        _ => None,
    }
}

fn is_number(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')
}

/// The text that an escaped string means (RFC 8259 section 7). Half a surrogate pair becomes U+FFFD;
/// an escape that does not exist stands for its letter.
pub(super) fn unescape(raw: &[u8]) -> String {
    let mut text = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        text.extend_from_slice(&rest[..at]);
        let escape = rest.get(at + 1).copied();
        rest = rest.get(at + 2..).unwrap_or_default();
        match escape {
            Some(b'u') => {
                let (letter, after) = unicode(rest);
                text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
            Some(b'b') => text.push(8),
            Some(b'f') => text.push(12),
            Some(b'n') => text.push(b'\n'),
            Some(b'r') => text.push(b'\r'),
            Some(b't') => text.push(b'\t'),
            Some(other) => text.push(other),
            None => {}
        }
    }
    text.extend_from_slice(rest);
    String::from_utf8(text).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned())
}

/// The character behind a `\u`, and what comes after it.
fn unicode(rest: &[u8]) -> (char, &[u8]) {
    let Some((first, after)) = hex4(rest) else { return (char::REPLACEMENT_CHARACTER, rest) };
    if let Some(letter) = char::from_u32(first) {
        return (letter, after);
    }
    if let 0xD800..=0xDBFF = first
        && let Some(low) = after.strip_prefix(b"\\u")
        && let Some((second @ 0xDC00..=0xDFFF, end)) = hex4(low)
        && let Some(letter) = char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00))
    {
        return (letter, end);
    }
    (char::REPLACEMENT_CHARACTER, after)
}

fn hex4(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(4)?;
    let value = digits.iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))?;
    Some((value, rest))
}
