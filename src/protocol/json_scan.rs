//! The one JSON reader: finds the values at given paths in a body that comes in chunks.
//!
//! No tree, no recursion: objects on the way to a wanted path are followed (at most
//! [`PathSet::MAX_DEPTH`] of them), everything else is skipped by counting brackets. It looks for
//! values, it does not judge: what is skipped may be bad JSON; where an object that is followed makes
//! no sense, the scanner stops and says so ([`Scanner::is_broken`]).

use std::sync::Arc;

use memchr::memchr2;

pub use super::json_paths::PathSet;
use super::json_paths::ROOT;
pub use super::json_text::Value;
use super::json_text::{is_bare, unescape, word};

/// Bytes as written of a key or value that is kept; longer ones are dropped and match nothing.
const KEPT_MAX: usize = 4096;

const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// Where the scanner stands. "Followed" are the objects on the way to a wanted path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the root value; that many bytes of a byte order mark are read.
    Root(u8),
    /// In a followed object, before a key.
    BeforeKey,
    /// In a key of a followed object.
    Key,
    /// Behind such a key.
    Colon,
    /// Before its value.
    BeforeValue,
    /// In a wanted string.
    Text,
    /// In a string that nobody wants.
    SkippedText,
    /// In a number or word.
    Bare,
    /// Behind a value of a followed object.
    AfterValue,
    /// In a container that is not followed.
    Nested,
    /// In a string there.
    NestedText,
    /// In a root array whose elements are followed, before an element.
    BeforeElement,
    /// Behind one.
    AfterElement,
    /// The root value has ended.
    Done,
    /// What was followed is not JSON.
    Broken,
}

/// Reads one JSON text in chunks and reports the scalars at the paths of its [`PathSet`].
///
/// A doubled key is reported each time. Objects inside arrays never match, but those of a root array when
/// the set says so ([`PathSet::in_elements`]).
#[derive(Debug)]
pub struct Scanner {
    paths: Arc<PathSet>,
    state: State,
    /// The followed objects that are open, outermost first.
    followed: [u32; PathSet::MAX_DEPTH],
    /// How many of them.
    level: usize,
    /// The path node of the key just read, when the set has one.
    target: Option<u32>,
    /// Open containers that are not followed.
    nested: u64,
    /// The root is an array whose elements are followed.
    in_array: bool,
    /// The last byte was a backslash in a string.
    escaped: bool,
    /// The string under way has a backslash.
    has_escapes: bool,
    /// The beginning of a key or value that a chunk's end cut off.
    kept: Vec<u8>,
    /// What was to be kept was longer than [`KEPT_MAX`].
    too_long: bool,
}

impl Scanner {
    /// A scanner at the beginning of a text.
    pub fn new(paths: Arc<PathSet>) -> Self {
        Self {
            paths,
            state: State::Root(0),
            followed: [ROOT; PathSet::MAX_DEPTH],
            level: 0,
            target: None,
            nested: 0,
            in_array: false,
            escaped: false,
            has_escapes: false,
            kept: Vec::new(),
            too_long: false,
        }
    }

    /// Ready for the next text; keeps its memory.
    pub fn reset(&mut self) {
        self.state = State::Root(0);
        self.level = 0;
        self.target = None;
        self.nested = 0;
        self.in_array = false;
        self.begin_text();
    }

    /// True behind an element of a root array that is followed: the array may be ended here.
    pub fn is_after_element(&self) -> bool {
        self.state == State::AfterElement
    }

    /// True when the root value was read to its end. What follows it is not looked at.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// True when the text is not JSON, as far as it was followed, or its root is a scalar.
    pub fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Reads the next bytes and reports each wanted scalar that ends in them, with its path's index.
    /// There is nothing to report at the end of the input: a wanted scalar stands in an object, and
    /// one that the object's end does not follow may be cut short.
    pub fn feed(&mut self, bytes: &[u8], on: &mut dyn FnMut(usize, Value<'_>)) {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            rest = match self.state {
                State::Root(_)
                | State::BeforeKey
                | State::Colon
                | State::BeforeValue
                | State::AfterValue
                | State::BeforeElement
                | State::AfterElement => self.structure(first, rest),
                State::Key => self.key(rest),
                State::Text => self.text(rest, on),
                State::SkippedText => self.skip_text(rest, self.outside()),
                State::Bare => self.bare(rest, on),
                State::Nested => self.skip_nested(rest),
                State::NestedText => self.skip_text(rest, State::Nested),
                State::Done | State::Broken => return,
            };
        }
    }

    /// One byte between keys and values.
    fn structure<'b>(&mut self, byte: u8, rest: &'b [u8]) -> &'b [u8] {
        let after = &rest[1..];
        if let State::Root(read) = self.state {
            self.root(read, byte);
            return after;
        }
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            return after;
        }
        match (self.state, byte) {
            (State::BeforeKey, b'"') => {
                self.begin_text();
                self.state = State::Key;
            }
            (State::BeforeKey | State::AfterValue, b'}') => self.close(),
            (State::Colon, b':') => self.state = State::BeforeValue,
            (State::AfterValue, b',') => self.state = State::BeforeKey,
            (State::BeforeValue, _) => return self.value(byte, rest),
            (State::AfterElement, b',') => self.state = State::BeforeElement,
            (State::BeforeElement | State::AfterElement, b']') => self.state = State::Done,
            (State::BeforeElement, b'{') => self.open(ROOT),
            (State::BeforeElement, _) => {
                self.target = None;
                return self.value(byte, rest);
            }
            _ => self.state = State::Broken,
        }
        after
    }

    /// A byte before the root value; a byte order mark may stand there.
    fn root(&mut self, bom_read: u8, byte: u8) {
        self.state = match byte {
            _ if BOM.get(usize::from(bom_read)) == Some(&byte) => State::Root(bom_read + 1),
            _ if matches!(bom_read, 1 | 2) => State::Broken,
            // Whitespace; behind it a byte order mark is no longer one.
            b' ' | b'\t' | b'\r' | b'\n' => State::Root(3),
            b'{' => return self.open(ROOT),
            b'[' if self.paths.follows_elements() => {
                self.in_array = true;
                State::BeforeElement
            }
            b'[' => {
                self.nested = 1;
                State::Nested
            }
            _ => State::Broken,
        };
    }

    fn open(&mut self, node: u32) {
        self.followed[self.level] = node;
        self.level += 1;
        self.state = State::BeforeKey;
    }

    fn close(&mut self) {
        self.level -= 1;
        self.state = self.outside();
    }

    /// The state behind a value, by whether anything is still open.
    fn outside(&self) -> State {
        match (self.level, self.in_array) {
            (0, true) => State::AfterElement,
            (0, false) => State::Done,
            _ => State::AfterValue,
        }
    }

    fn value<'b>(&mut self, byte: u8, rest: &'b [u8]) -> &'b [u8] {
        self.begin_text();
        let wanted = self.target.is_some_and(|node| !self.paths.ids(node).is_empty());
        match (byte, self.target) {
            (b'"', _) => self.state = if wanted { State::Text } else { State::SkippedText },
            (b'{', Some(node)) if self.paths.has_children(node) => self.open(node),
            (b'{' | b'[', _) => {
                self.nested = 1;
                self.state = State::Nested;
            }
            (b'}' | b']' | b',' | b':', _) => self.state = State::Broken,
            _ => {
                self.too_long = !wanted;
                self.state = State::Bare;
                // The byte belongs to the word.
                return rest;
            }
        }
        &rest[1..]
    }

    fn begin_text(&mut self) {
        self.kept.clear();
        self.too_long = false;
        self.escaped = false;
        self.has_escapes = false;
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.kept.len() + bytes.len() > KEPT_MAX {
            self.too_long = true;
        }
        if !self.too_long {
            self.kept.extend_from_slice(bytes);
        }
    }

    /// The place of the quote that closes the string under way; `None` when it is not in `bytes`.
    fn closing_quote(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = usize::from(std::mem::take(&mut self.escaped));
        while let Some(found) = memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
            at += found;
            if bytes[at] == b'"' {
                return Some(at);
            }
            self.has_escapes = true;
            at += 2;
        }
        // The escaped byte itself comes with the next chunk.
        self.escaped = at > bytes.len();
        None
    }

    fn skip_text<'b>(&mut self, bytes: &'b [u8], next: State) -> &'b [u8] {
        match self.closing_quote(bytes) {
            Some(end) => {
                self.state = next;
                &bytes[end + 1..]
            }
            None => &[],
        }
    }

    /// Reads on in a wanted key or string: its last part, and what comes behind it.
    fn finish_text<'b>(&mut self, bytes: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
        let Some(end) = self.closing_quote(bytes) else {
            self.keep(bytes);
            return None;
        };
        let part = &bytes[..end];
        if self.kept.len() + part.len() > KEPT_MAX {
            self.too_long = true;
        } else if !self.kept.is_empty() {
            self.kept.extend_from_slice(part);
        }
        Some((part, &bytes[end + 1..]))
    }

    fn key<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some((part, rest)) = self.finish_text(bytes) else { return &[] };
        self.state = State::Colon;
        self.target = None;
        if !self.too_long {
            let key = if self.kept.is_empty() { part } else { &self.kept };
            let node = self.followed[self.level - 1];
            self.target = if self.has_escapes {
                self.paths.child(node, unescape(key).as_bytes())
            } else {
                self.paths.child(node, key)
            };
        }
        rest
    }

    fn text<'b>(&mut self, bytes: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        let Some((part, rest)) = self.finish_text(bytes) else { return &[] };
        self.state = State::AfterValue;
        if !self.too_long {
            let raw = if self.kept.is_empty() { part } else { &self.kept };
            let text = if self.has_escapes { unescape(raw).into() } else { String::from_utf8_lossy(raw) };
            self.report(&Value::Str(text), on);
        }
        rest
    }

    fn bare<'b>(&mut self, bytes: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        let Some(end) = bytes.iter().position(|byte| !is_bare(*byte)) else {
            self.keep(bytes);
            return &[];
        };
        self.keep(&bytes[..end]);
        self.state = self.outside();
        if !self.too_long
            && let Some(value) = word(&self.kept)
        {
            self.report(&value, on);
        }
        &bytes[end..]
    }

    fn report(&self, value: &Value<'_>, on: &mut dyn FnMut(usize, Value<'_>)) {
        let Some(node) = self.target else { return };
        for id in self.paths.ids(node) {
            on(*id, value.clone());
        }
    }

    /// Skips to the end of the outermost container that is not followed.
    fn skip_nested<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'"' => match self.closing_quote(&bytes[at..]) {
                    Some(end) => at += end + 1,
                    None => {
                        self.state = State::NestedText;
                        return &[];
                    }
                },
                b'{' | b'[' => self.nested += 1,
                b'}' | b']' => {
                    self.nested -= 1;
                    if self.nested == 0 {
                        self.state = self.outside();
                        return &bytes[at..];
                    }
                }
                _ => {}
            }
        }
        &[]
    }
}

#[cfg(test)]
mod tests;
