//! The texts of a JSON body: each string in it, who says it and what it is.
//!
//! The body is read element by element: each turn, tool and instruction is one, and so is every other member. A reader that knows
//! the bytes of an element can leave it out, so that a conversation costs what is new in it. Nothing is hidden: unknown and
//! doubled members, names of members, long numbers, JSON in a string, and whatever is no JSON are texts, too.
//!
//! - [`element`]: the strings of one element.
//! - [`calls`]: the names of the tools whose results come later.
//! - [`text`]: strings as they read, and the JSON in them.

mod calls;
mod element;
mod text;

#[cfg(test)]
mod tests;

use self::calls::Calls;
use self::element::Strings;
use self::text::Texts;
use crate::policy::rule::{Place, Role};
use crate::protocol::dialects::request_shape::{Part, RequestShape};
use crate::protocol::dialects::spec::Dialect;
use crate::protocol::json::whole::{Token, Tokens, is_word};

/// How deep envelopes may lie in each other; what is deeper is one element.
const MAX_DEPTH: usize = 6;
/// A number of at least so many bytes may be the number of a card.
const LONG_NUMBER: usize = 9;
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// A part of a body that is digested and judged by itself.
#[derive(Clone, Copy, Debug)]
pub struct Element<'b> {
    /// Its position among all elements of the body.
    pub index: usize,
    /// Who says it, unless its texts say more.
    pub role: Role,
    /// What it is, likewise.
    pub kind: Place,
    /// It is a part of the conversation: a turn, an instruction, a tool, a result. Programs write other members differently
    /// when they repeat a request: Codex in another order, Claude Code with another `stream`.
    pub is_conversation: bool,
    /// Its bytes.
    pub raw: &'b [u8],
}

/// The result of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallResult<'a> {
    /// Tells the results in one element apart.
    pub number: u32,
    /// The id of the call.
    pub call_id: Option<&'a str>,
    /// The tool; `None` when neither the result nor a turn before it names it.
    pub tool: Option<&'a str>,
    /// The call has failed.
    pub is_error: bool,
    /// Bytes of the result, as written.
    pub bytes: usize,
}

/// A text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Who says it.
    pub role: Role,
    /// What it is.
    pub kind: Place,
    /// As it reads, without escapes.
    pub text: &'a [u8],
    /// The result that it is part of.
    pub result: Option<CallResult<'a>>,
}

/// Reads the texts of a body.
pub trait Reader {
    /// Called at the beginning of each element. Returns whether its texts are wanted.
    fn begin(&mut self, element: &Element<'_>) -> bool;

    /// Called for each text of an element that is wanted.
    fn segment(&mut self, segment: &Segment<'_>);

    /// Called at the end of an element that is wanted.
    fn end(&mut self, element: &Element<'_>);
}

/// Reads a body of this dialect, decoded.
pub fn read(body: &[u8], dialect: Dialect, reader: &mut dyn Reader) {
    let body = body.strip_prefix(BOM).unwrap_or(body);
    let shape = dialect.request_shape();
    let mut walk = Walk {
        shape,
        reader,
        index: 0,
        strings: Strings::new(),
        texts: Texts::default(),
        calls: Calls::new(shape),
        is_json: true,
    };
    let mut tokens = Tokens::new(body);
    while tokens.next_position() < body.len() {
        walk.value(&mut tokens, Part::Envelope, 0);
    }
    if !walk.is_json {
        walk.raw(body);
    }
}

struct Walk<'b, 'r> {
    shape: &'static RequestShape,
    reader: &'r mut dyn Reader,
    index: usize,
    strings: Strings<'b>,
    texts: Texts,
    calls: Calls<'b>,
    /// There was nothing between the elements that JSON does not have.
    is_json: bool,
}

impl<'b> Walk<'b, '_> {
    /// Reads the next value.
    fn value(&mut self, tokens: &mut Tokens<'b>, part: Part, depth: usize) {
        let mut ahead = tokens.clone();
        match (ahead.next(), part) {
            (Some(Token::Open { is_object: true }), Part::Envelope) if depth < MAX_DEPTH => {
                *tokens = ahead;
                self.members(tokens, depth);
            }
            (Some(Token::Open { is_object: false }), _) if depth < MAX_DEPTH && part != Part::Other => {
                *tokens = ahead;
                self.items(tokens, part, depth);
            }
            (Some(Token::Close), _) => {
                *tokens = ahead;
                self.is_json = false;
            }
            _ => {
                let raw = tokens.skip_value();
                // What should have been an envelope is anything.
                self.element(if part == Part::Envelope { Part::Other } else { part }, raw);
            }
        }
    }

    fn members(&mut self, tokens: &mut Tokens<'b>, depth: usize) {
        loop {
            let mut ahead = tokens.clone();
            match ahead.next() {
                None => return,
                Some(Token::Close) => {
                    *tokens = ahead;
                    return;
                }
                Some(Token::Text { raw, is_key: true }) => {
                    let quoted = tokens.skip_value();
                    let part = self.texts.as_it_reads(raw, |key| self.shape.part(key));
                    if part == Part::Other && !text::is_common(raw) {
                        self.element(Part::Other, quoted);
                    }
                    // A key without a value does not take that of the object around.
                    if !matches!(tokens.clone().next(), None | Some(Token::Close)) {
                        self.value(tokens, part, depth + 1);
                    }
                }
                Some(_) => self.value(tokens, Part::Other, depth + 1),
            }
        }
    }

    fn items(&mut self, tokens: &mut Tokens<'b>, part: Part, depth: usize) {
        loop {
            let mut ahead = tokens.clone();
            match ahead.next() {
                None => return,
                Some(Token::Close) => {
                    *tokens = ahead;
                    return;
                }
                Some(_) if part == Part::Envelope => self.value(tokens, part, depth + 1),
                Some(_) => {
                    let raw = tokens.skip_value();
                    self.element(part, raw);
                }
            }
        }
    }

    fn element(&mut self, part: Part, raw: &'b [u8]) {
        let is_bare = !matches!(raw.first(), Some(b'{' | b'[' | b'"'));
        if is_bare && !is_word(raw) {
            // It may be a part of something longer.
            self.is_json = false;
            return;
        }
        if is_bare && raw.len() < LONG_NUMBER {
            return;
        }
        let is_conversation = matches!(part, Part::Turns | Part::System | Part::Tools | Part::Results);
        let (role, kind) = (part.role(), part.kind());
        let element = Element { index: self.index, role, kind, is_conversation, raw };
        self.index += 1;
        if self.reader.begin(&element) {
            let shape = if part == Part::Turns { self.shape } else { &RequestShape::UNKNOWN };
            self.strings.begin(shape, part, raw);
            while self.strings.read() {
                self.strings.tell(&mut self.calls, &mut self.texts, self.reader);
            }
            self.strings.tell(&mut self.calls, &mut self.texts, self.reader);
            if !self.strings.is_json() {
                self.reader.segment(&Segment {
                    role: part.role(),
                    kind: part.kind(),
                    text: raw,
                    result: None,
                });
            }
            self.reader.end(&element);
        }
        if part == Part::Turns {
            self.calls.add_turn(raw);
        }
    }

    /// Tells all of a body that is not JSON.
    fn raw(&mut self, body: &'b [u8]) {
        let (role, kind) = (Role::User, Place::Text);
        let element = Element { index: self.index, role, kind, is_conversation: true, raw: body };
        if self.reader.begin(&element) {
            self.reader.segment(&Segment { role, kind, text: body, result: None });
            self.reader.end(&element);
        }
    }
}
