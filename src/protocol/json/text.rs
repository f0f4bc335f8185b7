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
    /// A part of a value that is wanted in parts. A character may be divided between two of them.
    Part(&'a [u8]),
    /// The same of an object or array, as written.
    Raw(&'a [u8]),
    /// The object or array at the path has ended.
    End,
}

/// True for a byte that may go on a number or word.
#[inline]
pub(super) fn is_bare(byte: u8) -> bool {
    !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' | b'"' | b'{' | b'[' | b':')
}

/// The text; what is not Unicode in it is replaced by U+FFFD.
#[inline]
pub(super) fn lossy(raw: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(raw).map_or_else(|_| String::from_utf8_lossy(raw), Cow::Borrowed)
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
/// an unknown escape means its letter.
pub(super) fn unescape(raw: &[u8]) -> String {
    let mut text = Vec::with_capacity(raw.len());
    unescape_into(&mut text, raw);
    String::from_utf8(text).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned())
}

/// Appends the same for a part of a text, which may begin or end within a character.
pub(super) fn unescape_into(text: &mut Vec<u8>, raw: &[u8]) {
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
}

/// Every byte of a word is one.
const ONES: u64 = u64::MAX / 255;

/// Returns a word whose lowest set bit is the highest one of the first byte of `word` that is `byte`; 0 if there is none.
#[inline]
fn places(word: u64, byte: u8) -> u64 {
    let zeros = word ^ (ONES * u64::from(byte));
    zeros.wrapping_sub(ONES) & !zeros & (ONES << 7)
}

/// The place of the first quote or backslash. Most keys and many texts are short, so the first bytes are
/// looked at eight at a time before the search that is made for long ones.
#[inline]
pub(super) fn quote_or_backslash(bytes: &[u8]) -> Option<usize> {
    let mut begun = 0;
    let mut rest = bytes;
    while begun < SHORT
        && let Some((eight, after)) = rest.split_first_chunk()
    {
        let word = u64::from_le_bytes(*eight);
        let hits = places(word, b'"') | places(word, b'\\');
        if hits != 0 {
            return Some(begun + hits.trailing_zeros() as usize / 8);
        }
        begun += 8;
        rest = after;
    }
    memchr::memchr2(b'"', b'\\', rest).map(|at| begun + at)
}

/// The place of the quote that closes a string which begins before `bytes`; `None` when it is not there.
#[inline]
pub(super) fn closing_quote(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += quote_or_backslash(bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// The number of bytes before the first quote or bracket.
#[inline]
pub(super) fn quote_or_bracket(bytes: &[u8]) -> usize {
    let (eights, rest) = bytes.as_chunks::<8>();
    for (number, eight) in eights.iter().enumerate() {
        let word = u64::from_le_bytes(*eight);
        // `[` and `{` differ in one bit, and so do `]` and `}`; no other bytes become them.
        let braced = word | ONES << 5;
        let hits = places(word, b'"') | places(braced, b'{') | places(braced, b'}');
        if hits != 0 {
            return 8 * number + hits.trailing_zeros() as usize / 8;
        }
    }
    let is_one = |byte: &u8| matches!(byte, b'"' | b'[' | b']' | b'{' | b'}');
    8 * eights.len() + rest.iter().position(is_one).unwrap_or(rest.len())
}

/// Bytes of a text that are looked at as if it were short.
const SHORT: usize = 24;

/// How many bytes of an unfinished string mean the same whatever follows them: neither an escape nor a
/// pair of surrogates is divided. The rest is shorter than [`PAIR`].
pub(super) fn settled(raw: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &raw[at..]) {
        at += found;
        let escape = &raw[at..];
        at += match escape.get(1) {
            None => return at,
            Some(b'u') => match escape.get(2..6).map(hex4) {
                None => return at,
                Some(Some((0xD800..=0xDBFF, _))) if escape.len() < PAIR => return at,
                Some(Some((0xD800..=0xDBFF, _))) if is_low_surrogate(&escape[6..]) => PAIR,
                Some(Some(_)) => 6,
                Some(None) => 2,
            },
            Some(_) => 2,
        };
    }
    raw.len()
}

/// Two escapes that make one character: `\ud83d\ude00`.
const PAIR: usize = 12;

fn is_low_surrogate(escape: &[u8]) -> bool {
    escape.strip_prefix(b"\\u").and_then(hex4).is_some_and(|(unit, _)| (0xDC00..=0xDFFF).contains(&unit))
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
