//! Finds the strings of a JSON document and their positions. Accepts any input: for a truncated or invalid document it
//! returns the strings that can be recognized.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use memchr::memchr2;

use super::rules::is_secret_name;

/// A number with at least this many digits may be a card number.
const LONG_NUMBER: usize = 13;

/// How a text is encoded in the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notation {
    /// A JSON string, with escapes.
    Quoted,
    /// A number.
    Number,
    /// Plain text.
    Raw,
}

/// A string or long number of a document.
#[derive(Clone, Debug)]
pub(super) struct JsonText {
    /// Its byte range, without quotation marks.
    pub(super) range: Range<usize>,
    pub(super) notation: Notation,
    /// A hash of its location in the document. In a stream, texts at the same location continue each other. 0 for a key.
    pub(super) location: u64,
    /// Its key is a secret name.
    pub(super) is_secret: bool,
}

/// An open object or array.
struct Frame {
    is_object: bool,
    /// The next string is a key.
    at_key: bool,
    /// The location of the current member.
    place: u64,
    /// The location of the object or array itself.
    own: u64,
    index: usize,
    is_secret: bool,
    /// Everything in it is secret, since its key, or that of an outer object, is a secret name.
    holds_secrets: bool,
    /// The current member is `type`, as in a tool's JSON Schema.
    is_type: bool,
    /// The current member is `name` or `key`, as in lists of header fields, variables and form fields.
    is_name: bool,
    /// What that member named is secret, so the member `value` is.
    names_secret: bool,
    /// The current member is an index such as `index` or `output_index`, which says what its event is about.
    is_index: bool,
}

/// The types of JSON Schema. A schema describes a secret but does not contain it.
const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "object", "array", "null"];

/// The location of `part` inside `place`.
pub(super) fn inside(place: u64, part: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (place, part).hash(&mut hasher);
    hasher.finish()
}

/// Finds the texts of a document that starts at byte `base` of a larger text.
pub(super) fn json_texts(document: &str, base: usize, found: &mut Vec<JsonText>) {
    read(document, base, false, found);
}

/// Finds the texts of a document that a server-sent event splits into several `data:` lines. There may be other fields
/// between the lines.
pub(super) fn json_texts_of_event(document: &str, base: usize, found: &mut Vec<JsonText>) {
    read(document, base, true, found);
}

fn read(document: &str, base: usize, is_event: bool, found: &mut Vec<JsonText>) {
    let first = found.len();
    let mut reading = Reading { document, base, found, frames: Vec::new(), which: 0 };
    let mut at = 0;
    while let Some(&byte) = document.as_bytes().get(at) {
        at = match byte {
            b'"' => reading.text(at),
            b'-' | b'0'..=b'9' => reading.number(at),
            b'\n' | b'\r' if is_event => behind_field(document, at + 1),
            _ => {
                reading.structure(byte);
                at + 1
            }
        };
    }
    let which = reading.which;
    for leaf in &mut found[first..] {
        if leaf.location != 0 {
            leaf.location = inside(leaf.location, which);
        }
    }
}

/// Returns the start of the data of a `data:` line, or the end of a line with another field.
fn behind_field(document: &str, at: usize) -> usize {
    let rest = &document.as_bytes()[at..];
    match rest.strip_prefix(b"data:") {
        Some(_) => at + 5,
        None => at + memchr2(b'\n', b'\r', rest).unwrap_or(rest.len()),
    }
}

struct Reading<'a> {
    document: &'a str,
    base: usize,
    found: &'a mut Vec<JsonText>,
    frames: Vec<Frame>,
    /// A hash of all indices in the document.
    which: u64,
}

impl Reading<'_> {
    fn structure(&mut self, byte: u8) {
        match byte {
            b'{' | b'[' => {
                let is_object = byte == b'{';
                let (own, is_secret) =
                    self.frames.last().map_or((0, false), |frame| (frame.place, frame.is_secret));
                let mut frame = Frame {
                    is_object,
                    at_key: is_object,
                    place: own,
                    own,
                    index: 0,
                    is_secret,
                    holds_secrets: is_secret,
                    is_type: false,
                    is_name: false,
                    names_secret: false,
                    is_index: false,
                };
                frame.place_element(self.frames.len());
                self.frames.push(frame);
            }
            b'}' | b']' => {
                self.frames.pop();
            }
            b',' => {
                let depth = self.frames.len();
                if let Some(frame) = self.frames.last_mut() {
                    frame.at_key = frame.is_object;
                    frame.index += 1;
                    frame.place_element(depth - 1);
                }
            }
            b':' => {
                if let Some(frame) = self.frames.last_mut() {
                    frame.at_key = false;
                }
            }
            _ => {}
        }
    }

    /// Reads the string that starts with the quotation mark at `quote`. Returns the position after it.
    fn text(&mut self, quote: usize) -> usize {
        let bytes = self.document.as_bytes();
        let begin = quote + 1;
        let mut end = begin;
        let after = loop {
            match memchr2(b'"', b'\\', &bytes[end.min(bytes.len())..]) {
                Some(next) if bytes[end + next] == b'"' => {
                    end += next;
                    break end + 1;
                }
                Some(next) => end += next + 2,
                None => {
                    end = bytes.len();
                    break end;
                }
            }
        };
        let notation = if after > end { Notation::Quoted } else { Notation::Raw };
        let mut leaf =
            JsonText { range: self.base + begin..self.base + end, notation, location: 0, is_secret: false };
        match self.frames.last_mut() {
            Some(frame) if frame.at_key => {
                let key = as_it_reads(&self.document[begin..end]);
                let key = &*key;
                frame.place = inside(frame.own, key);
                frame.is_secret =
                    frame.holds_secrets || is_secret_name(key) || (frame.names_secret && key == "value");
                frame.is_type = key == "type";
                frame.is_name = matches!(key, "name" | "key");
                frame.is_index = key.ends_with("index");
            }
            Some(frame) => {
                let is_type = frame.is_type && TYPES.contains(&&self.document[begin..end]);
                if frame.is_name {
                    frame.names_secret = is_secret_name(&as_it_reads(&self.document[begin..end]));
                }
                leaf.is_secret = frame.is_secret && !(frame.holds_secrets && is_type);
                leaf.location = inside(frame.place, 1);
            }
            None => leaf.location = inside(0, 1),
        }
        self.found.push(leaf);
        after
    }

    fn number(&mut self, begin: usize) -> usize {
        let rest = &self.document.as_bytes()[begin..];
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let end = begin + rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        let number = &self.document[begin..end];
        let is_secret = match self.frames.last() {
            Some(frame) => {
                if frame.is_index {
                    self.which = inside(self.which, number);
                }
                frame.is_secret
            }
            // A number that is the whole document; in other texts it is no number of JSON.
            None if self.document.trim() == number => false,
            None => return end,
        };
        if number.len() >= LONG_NUMBER || is_secret {
            let range = self.base + begin..self.base + end;
            self.found.push(JsonText { range, notation: Notation::Number, location: 0, is_secret });
        }
        end
    }
}

/// Unescapes a JSON string; returns it unchanged if the escapes are invalid.
pub(super) fn as_it_reads(raw: &str) -> Cow<'_, str> {
    match raw.contains('\\').then(|| serde_json::from_str(&format!("\"{raw}\""))) {
        Some(Ok(text)) => Cow::Owned(text),
        _ => Cow::Borrowed(raw),
    }
}

impl Frame {
    /// Updates the location of the current array element. All elements of the outermost array (depth 0) have the same
    /// location, since a stream may be one array.
    fn place_element(&mut self, depth: usize) {
        if !self.is_object {
            self.place = inside(self.own, if depth == 0 { 0 } else { self.index });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(document: &str) -> Vec<(&str, Notation, bool)> {
        let mut found = Vec::new();
        json_texts(document, 0, &mut found);
        found.into_iter().map(|leaf| (&document[leaf.range], leaf.notation, leaf.is_secret)).collect()
    }

    fn location(document: &str, text: &str) -> u64 {
        let mut found = Vec::new();
        json_texts(document, 0, &mut found);
        found.into_iter().find(|leaf| &document[leaf.range.clone()] == text).unwrap().location
    }

    #[test]
    fn texts_are_found_with_what_their_key_says() {
        let document = r#"{"a":["x\"y",1],"api_key":["k",7],"pass\u0077ord":{"n":{"m":"v"},"type":"string"},"c":4111111111111111,"cut":"en"#;
        let quoted = |text, is_secret| (text, Notation::Quoted, is_secret);
        let expected = [
            quoted("a", false),
            quoted("x\\\"y", false),
            quoted("api_key", false),
            quoted("k", true),
            ("7", Notation::Number, true),
            quoted("pass\\u0077ord", false),
            quoted("n", false),
            quoted("m", false),
            quoted("v", true),
            quoted("type", false),
            quoted("string", false),
            quoted("c", false),
            ("4111111111111111", Notation::Number, false),
            quoted("cut", false),
            ("en", Notation::Raw, false),
        ];
        assert_eq!(texts(document), expected);
    }

    #[test]
    fn texts_of_one_place_continue_each_other_and_no_others_do() {
        let chunk = |index: u8, text: &str| {
            format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}},"index":{index}}}],"id":"i"}}"#)
        };
        assert_eq!(location(&chunk(0, "a"), "a"), location(&chunk(0, "b"), "b"));
        assert_ne!(location(&chunk(0, "a"), "a"), location(&chunk(1, "b"), "b"));
        assert_ne!(location(&chunk(0, "a"), "a"), location(&chunk(0, "a"), "i"));
        assert_ne!(location(r#"[["a","b"]]"#, "a"), location(r#"[["a","b"]]"#, "b"));
        assert_eq!(location(r#"[{"t":"a"},{"t":"b"}]"#, "a"), location(r#"[{"t":"a"},{"t":"b"}]"#, "b"));
    }

    #[test]
    fn a_document_that_an_event_divides_is_one() {
        let document = "{\n: comment\ndata: \"password\":\r\nid: 5\ndata:12345}";
        let mut found = Vec::new();
        json_texts_of_event(document, 0, &mut found);
        let found: Vec<_> = found.into_iter().map(|leaf| (&document[leaf.range], leaf.is_secret)).collect();
        assert_eq!(found, [("password", false), ("12345", true)]);
    }

    proptest! {
        #[test]
        fn anything_is_taken_and_ranges_are_in_order(document in r#"[\[\]{}":,\\a0é.\r\n -]{0,60}"#, is_event: bool) {
            let mut found = Vec::new();
            if is_event {
                json_texts_of_event(&document, 0, &mut found);
            } else {
                json_texts(&document, 0, &mut found);
            }
            let mut last = 0;
            for leaf in found {
                prop_assert!(last <= leaf.range.start && document.get(leaf.range.clone()).is_some());
                last = leaf.range.end;
            }
        }
    }
}
