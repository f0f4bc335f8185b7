//! The one JSON reader: finds the values at given paths in a body that comes in chunks.
//!
//! No tree, no recursion: objects and arrays on the way to a wanted path are followed (at most
//! [`PathSet::MAX_DEPTH`] of them), everything else is skipped by counting brackets. It looks for
//! values and does not validate: what is skipped may be bad JSON. Where a container that is followed is
//! malformed, the scanner stops and [`Scanner::is_broken`] is true.

use std::ops::Range;
use std::sync::Arc;

use super::paths::ROOT;
pub use super::paths::{PathSet, Want};
pub use super::text::Value;
use repeat::Repeat;

/// Bytes as written of a key or value that is kept; longer ones are dropped and match nothing.
const KEPT_MAX: usize = 4096;

const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// Bits of members, by the level of their object.
type Seen = [u64; PathSet::MAX_DEPTH];

/// The position of the scanner. "Followed" are the objects and arrays on the way to a wanted path.
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
    /// Before its value, or behind a comma in a followed array.
    BeforeValue,
    /// In a followed array, before its first value or its end.
    BeforeItem,
    /// In a wanted string.
    Text,
    /// In a string that is wanted in parts.
    Parts,
    /// In a string that no path wants.
    SkippedText,
    /// In a number or word.
    Bare,
    /// Behind a value of a followed container.
    AfterValue,
    /// In a container that is not followed.
    Nested,
    /// In a string there.
    NestedText,
    /// The root value has ended.
    Done,
    /// What was followed is not JSON.
    Broken,
}

/// Reads one JSON text in chunks and reports the values at the paths of its [`PathSet`].
///
/// A doubled key is reported each time.
#[derive(Debug)]
pub struct Scanner {
    paths: Arc<PathSet>,
    state: State,
    /// The followed containers that are open, outermost first.
    followed: [u32; PathSet::MAX_DEPTH],
    /// Which of them are arrays, the outermost in the lowest bit.
    arrays: u8,
    /// How many of them.
    level: usize,
    /// The path node of the value under way, when the set has one.
    target: Option<u32>,
    /// Open containers that are not followed.
    nested: u64,
    /// The path that wants the outermost of these in parts.
    raw: Option<usize>,
    /// The last byte was a backslash in a string.
    escaped: bool,
    /// The string under way has a backslash.
    has_escapes: bool,
    /// The beginning of a key or value that a chunk's end cut off.
    kept: Vec<u8>,
    /// A part of a string without its escapes; kept for its memory.
    plain: Vec<u8>,
    /// What was to be kept was longer than [`KEPT_MAX`].
    too_long: bool,
    /// A step reads one value at most.
    one_by_one: bool,
    /// There is more than whitespace behind the root value.
    has_more: bool,
    /// See [`Scanner::is_irregular`].
    is_irregular: bool,
    /// The wanted members that each followed object has had, where the set tells doubled ones.
    seen: Option<Box<Seen>>,
    /// One was there twice.
    is_doubled: bool,
    /// What is known of the texts before.
    repeat: Repeat,
}

impl Scanner {
    /// A scanner at the beginning of a text.
    pub fn new(paths: Arc<PathSet>) -> Self {
        let seen = paths.tells_doubled().then(Box::default);
        Self {
            paths,
            state: State::Root(0),
            followed: [ROOT; PathSet::MAX_DEPTH],
            arrays: 0,
            level: 0,
            target: None,
            nested: 0,
            raw: None,
            escaped: false,
            has_escapes: false,
            kept: Vec::new(),
            plain: Vec::new(),
            too_long: false,
            one_by_one: false,
            has_more: false,
            is_irregular: false,
            seen,
            is_doubled: false,
            repeat: Repeat::default(),
        }
    }

    /// Ready for the next text; keeps its memory.
    pub fn reset(&mut self) {
        self.state = State::Root(0);
        self.level = 0;
        self.target = None;
        self.nested = 0;
        self.raw = None;
        self.has_more = false;
        self.is_irregular = false;
        self.is_doubled = false;
        self.begin_text();
        self.expect_repetition();
    }

    /// True behind an element of a root array that is followed: the array may be ended here.
    pub fn is_after_element(&self) -> bool {
        self.state == State::AfterValue && self.level == 1 && self.in_array()
    }

    /// True before the root value.
    pub fn is_at_root(&self) -> bool {
        matches!(self.state, State::Root(_))
    }

    /// True in an array at the root whose elements are followed.
    pub fn is_in_elements(&self) -> bool {
        self.level > 0 && self.arrays & 1 == 1
    }

    /// True when the root value was read to its end. What follows it is not read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// True when something follows the root value.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// True when programs may read something else than what was reported: a wanted member is there twice, in whatever case, or
    /// another text follows. Known of sets that tell it only ([`PathSet::telling_doubled`]).
    pub fn is_ambiguous(&self) -> bool {
        self.is_doubled || self.has_more && self.seen.is_some()
    }

    /// True when a wanted scalar is an object or array , no word of JSON or, in the root or an object in it, too long to be kept,
    /// or an element of a root array that is followed is an array: some reader may find there what this one does not.
    pub fn is_irregular(&self) -> bool {
        self.is_irregular
    }

    /// True when the text is not JSON, as far as it was followed, or its root is a scalar.
    pub fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Reads the next bytes and reports the values found, with the index of their path.
    /// There is nothing to report at the end of the input: a wanted scalar is in an object, and
    /// one that the object's end does not follow may be cut short.
    pub fn feed(&mut self, bytes: &[u8], on: &mut dyn FnMut(usize, Value<'_>)) {
        let mut rest = if self.state == State::Root(0) { self.skip_repeated(bytes, on) } else { bytes };
        while let Some(&first) = rest.first() {
            rest = self.step(first, rest, on);
        }
    }

    /// Reads up to the end of the next element of an array that is followed at the root ([`Self::is_after_element`]), or all
    /// bytes when none is in them, and returns those behind it.
    pub fn feed_element<'b>(&mut self, bytes: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            let was_after = self.is_after_element();
            rest = self.step(first, rest, on);
            if !was_after && self.is_after_element() {
                break;
            }
        }
        rest
    }

    /// The places of the wanted texts in a whole JSON text, each from quote to quote.
    pub fn places(paths: Arc<PathSet>, text: &[u8]) -> Vec<Range<usize>> {
        let mut scanner = Self { one_by_one: true, ..Self::new(paths) };
        let mut places = Vec::new();
        let mut rest = text;
        while let Some(&first) = rest.first() {
            // A whole text is read in one step that begins behind its first quote.
            let begin = text.len() - rest.len() - usize::from(scanner.state == State::Text);
            let mut is_text = false;
            rest = scanner.step(first, rest, &mut |_, value| is_text = matches!(value, Value::Str(_)));
            if is_text {
                places.push(begin..text.len() - rest.len());
            }
        }
        places
    }

    /// Reads on from `rest`, which begins with `first`; returns what is left.
    #[inline]
    fn step<'b>(&mut self, first: u8, rest: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        match self.state {
            State::Root(_)
            | State::BeforeKey
            | State::Colon
            | State::BeforeValue
            | State::BeforeItem
            | State::AfterValue => self.structure(first, rest, on),
            State::Key => self.key(rest),
            State::Text => self.text(rest, on),
            State::Parts => self.parts(rest, on),
            State::SkippedText => self.skip_text(rest, State::AfterValue),
            State::Bare => self.bare(rest, on),
            State::Nested | State::NestedText => self.nested(rest, on),
            State::Done => {
                self.has_more |= !rest.trim_ascii().is_empty();
                &[]
            }
            State::Broken => &[],
        }
    }

    /// One byte between keys and values.
    fn structure<'b>(&mut self, byte: u8, rest: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        let after = &rest[1..];
        if let State::Root(read) = self.state {
            self.root(read, byte);
            return after;
        }
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            return after;
        }
        match (self.state, byte) {
            (State::BeforeKey, b'"') => return self.members(after, on),
            (State::BeforeKey, b'}') | (State::BeforeItem, b']') => self.close(on),
            (State::AfterValue, b'}') if !self.in_array() => self.close(on),
            (State::AfterValue, b']') if self.in_array() => self.close(on),
            (State::Colon, b':') => self.state = State::BeforeValue,
            (State::AfterValue, b',') if self.in_array() => {
                self.target = self.paths.items(self.followed[self.level - 1]);
                self.state = State::BeforeValue;
            }
            (State::AfterValue, b',') => {
                self.state = State::BeforeKey;
                // Usually nothing is between.
                if let Some(after) = after.strip_prefix(b"\"") {
                    return self.members(after, on);
                }
            }
            (State::BeforeValue | State::BeforeItem, _) => return self.value(byte, rest, on),
            _ => self.state = State::Broken,
        }
        after
    }

    /// A byte before the root value; a byte order mark may precede it.
    fn root(&mut self, bom_read: u8, byte: u8) {
        self.state = match byte {
            _ if BOM.get(usize::from(bom_read)) == Some(&byte) => State::Root(bom_read + 1),
            _ if matches!(bom_read, 1 | 2) => State::Broken,
            // Whitespace; behind it a byte order mark is no longer one.
            b' ' | b'\t' | b'\r' | b'\n' => State::Root(3),
            b'{' => return self.open(ROOT, false),
            b'[' if self.paths.items(ROOT).is_some() => return self.open(ROOT, true),
            b'[' => {
                self.nested = 1;
                State::Nested
            }
            _ => State::Broken,
        };
    }

    fn open(&mut self, node: u32, is_array: bool) {
        self.followed[self.level] = node;
        if let Some(seen) = &mut self.seen {
            seen[self.level] = 0;
        }
        let bit = 1 << self.level;
        self.level += 1;
        if is_array {
            self.arrays |= bit;
            self.target = self.paths.items(node);
            self.state = State::BeforeItem;
        } else {
            self.arrays &= !bit;
            self.state = State::BeforeKey;
        }
    }

    /// Opens an object. One in the place of a list whose end is wanted is told as it begins, by its bracket.
    fn open_object(&mut self, node: u32, on: &mut dyn FnMut(usize, Value<'_>)) {
        if let Some(id) = self.paths.end_of_list(node) {
            on(id, Value::Raw(b"{"));
        }
        self.open(node, false);
    }

    fn close(&mut self, on: &mut dyn FnMut(usize, Value<'_>)) {
        self.level -= 1;
        self.state = self.outside();
        if let Some(id) = self.paths.end(self.followed[self.level]) {
            on(id, Value::End);
        }
    }

    /// A member of the innermost object leads to this node.
    #[inline]
    fn note_member(&mut self, node: Option<u32>) {
        if let (Some(seen), Some(node)) = (&mut self.seen, node) {
            let (seen, bit) = (&mut seen[self.level - 1], self.paths.bit(node));
            self.is_doubled |= *seen & bit != 0;
            *seen |= bit;
        }
    }

    /// True when the innermost followed container is an array.
    fn in_array(&self) -> bool {
        self.arrays >> (self.level - 1) & 1 == 1
    }

    /// The state behind a value, by whether anything is still open.
    fn outside(&self) -> State {
        if self.level == 0 { State::Done } else { State::AfterValue }
    }

    fn value<'b>(&mut self, byte: u8, rest: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        self.begin_text();
        let is_wanted = |node: u32| !self.paths.scalars(node).is_empty();
        let parts = self.target.and_then(|node| self.paths.parts(node));
        match (byte, self.target) {
            (b'"', _) if parts.is_some() => self.state = State::Parts,
            (b'"', Some(node)) if is_wanted(node) => self.state = State::Text,
            (b'"', _) => self.state = State::SkippedText,
            (b'{', Some(node)) if self.paths.follows_object(node) => self.open_object(node, on),
            (b'[', Some(node)) if self.paths.follows_array(node) => self.open(node, true),
            (b'{' | b'[', target) => {
                let is_element = self.level == 1 && self.in_array();
                self.is_irregular |= (is_element && byte == b'[') || target.is_some_and(is_wanted);
                self.nested = 0;
                self.raw = parts;
                self.state = State::Nested;
                // The bracket belongs to the container.
                return rest;
            }
            (b'}' | b']' | b',' | b':', _) => self.state = State::Broken,
            _ => {
                self.too_long = parts.is_none() && !self.target.is_some_and(is_wanted);
                self.state = State::Bare;
                // The byte belongs to the word.
                return rest;
            }
        }
        &rest[1..]
    }
}

mod repeat;
mod values;

#[cfg(test)]
mod tests;
