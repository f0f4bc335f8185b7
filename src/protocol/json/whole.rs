//! Reads a JSON text that is there as a whole, without checking it: where a value ends, and what the next token is.

use super::text::{is_bare, quote_or_bracket, unescape_into};

/// A token. Colons, commas and white space between tokens are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// `{` or `[`.
    Open {
        /// `{`.
        is_object: bool,
    },
    /// `}` or `]`.
    Close,
    /// A string.
    Text {
        /// What is between the quotes, as written.
        raw: &'a [u8],
        /// A colon follows.
        is_key: bool,
    },
    /// A number or word, as written.
    Bare(&'a [u8]),
    /// A string that does not end, as written.
    Cut(&'a [u8]),
}

/// Reads the tokens of a text from a position on.
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    /// At the beginning of a text.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The position behind the last token.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Passes over colons, commas and white space, and returns the position of the next token.
    pub fn next_position(&mut self) -> usize {
        let is_between = |byte: &u8| matches!(byte, b',' | b':' | b' ' | b'\t' | b'\r' | b'\n');
        self.at += self.text[self.at..].iter().take_while(|byte| is_between(byte)).count();
        self.at
    }

    /// Passes over the value that begins with the next token, and returns it as written. A container that does not end goes to
    /// the end of the text.
    pub fn skip_value(&mut self) -> &'a [u8] {
        let begin = self.next_position();
        self.at += value_len(&self.text[begin..]);
        &self.text[begin..self.at]
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let begin = self.next_position();
        let rest = &self.text[begin..];
        let token = match *rest.first()? {
            open @ (b'{' | b'[') => {
                self.at += 1;
                Token::Open { is_object: open == b'{' }
            }
            b'}' | b']' => {
                self.at += 1;
                Token::Close
            }
            b'"' => match closing_quote(rest, 1) {
                Some(end) => {
                    self.at += end + 1;
                    let after = self.text[self.at..].iter().find(|byte| !byte.is_ascii_whitespace());
                    Token::Text { raw: &rest[1..end], is_key: after == Some(&b':') }
                }
                None => {
                    self.at = self.text.len();
                    Token::Cut(&rest[1..])
                }
            },
            _ => {
                let len = rest.iter().position(|byte| !is_bare(*byte)).unwrap_or(rest.len());
                self.at += len;
                Token::Bare(&rest[..len])
            }
        };
        Some(token)
    }
}

/// Returns the length of the value at the beginning of `text`, at least one byte unless there is none.
fn value_len(text: &[u8]) -> usize {
    match text.first() {
        None => 0,
        Some(b'"') => closing_quote(text, 1).map_or(text.len(), |end| end + 1),
        Some(b'{' | b'[') => container_len(text),
        Some(b'}' | b']') => 1,
        Some(_) => text.iter().position(|byte| !is_bare(*byte)).unwrap_or(text.len()),
    }
}

fn container_len(text: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        at += quote_or_bracket(&text[at..]);
        match text.get(at) {
            None => return text.len(),
            Some(b'"') => match closing_quote(text, at + 1) {
                Some(end) => at = end + 1,
                None => return text.len(),
            },
            Some(b'{' | b'[') => {
                depth += 1;
                at += 1;
            }
            Some(_) => {
                depth -= 1;
                at += 1;
                if depth == 0 {
                    return at;
                }
            }
        }
    }
}

/// Returns the place of the quote that closes the string whose text begins at `begin`. Only quotes are looked for, since long texts
/// have many other escapes.
fn closing_quote(text: &[u8], begin: usize) -> Option<usize> {
    let mut at = begin;
    loop {
        let quote = at + memchr::memchr(b'"', &text[at..])?;
        let backslashes = text[begin..quote].iter().rev().take_while(|byte| **byte == b'\\').count();
        if backslashes % 2 == 0 {
            return Some(quote);
        }
        at = quote + 1;
    }
}

/// Whether a bare word is one of JSON's.
pub fn is_word(raw: &[u8]) -> bool {
    super::text::word(raw).is_some()
}

/// Appends the text that a string means, as written between its quotes.
pub fn unescape(text: &mut Vec<u8>, raw: &[u8]) {
    unescape_into(text, raw);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_come_as_they_are_written() {
        let text = br#" {"a\"": ["b", -1.5, true], "c" : {}} x "cut"#;
        let tokens: Vec<_> = Tokens::new(text).collect();
        let key = |raw| Token::Text { raw, is_key: true };
        assert_eq!(
            tokens,
            [
                Token::Open { is_object: true },
                key(br#"a\""#),
                Token::Open { is_object: false },
                Token::Text { raw: b"b", is_key: false },
                Token::Bare(b"-1.5"),
                Token::Bare(b"true"),
                Token::Close,
                key(b"c"),
                Token::Open { is_object: true },
                Token::Close,
                Token::Close,
                Token::Bare(b"x"),
                Token::Cut(b"cut"),
            ]
        );
    }

    #[test]
    fn a_value_is_passed_over_as_a_whole() {
        let mut tokens = Tokens::new(br#" {"a":[1,"]}"]} , "b" : 2, [ [] "#);
        assert_eq!(tokens.skip_value(), br#"{"a":[1,"]}"]}"#);
        assert_eq!(tokens.skip_value(), br#""b""#);
        assert_eq!(tokens.skip_value(), b"2");
        assert_eq!(tokens.skip_value(), b"[ [] ");
        assert_eq!(tokens.skip_value(), b"");
    }

    proptest! {
        #[test]
        fn every_text_has_an_end(text in r#"[\[\]{}":,\\a0 \n]{0,60}"#) {
            let mut tokens = Tokens::new(text.as_bytes());
            let mut last = 0;
            while tokens.next().is_some() {
                prop_assert!(tokens.position() > last);
                last = tokens.position();
            }
            let mut values = Tokens::new(text.as_bytes());
            while !values.skip_value().is_empty() {}
            prop_assert_eq!(values.position(), text.len());
        }
    }
}
