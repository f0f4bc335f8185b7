//! Resolves percent-coding, escapes of program texts and character references of HTML.
//!
//! A reading begins at the first escape, with some text before it, and ends when none has come for a while: words may be
//! escaped in part.

use std::collections::VecDeque;

use memchr::memchr;

use super::encoded::Readings;
use super::pattern::Via;

/// How much text before the first escape and behind the last one belongs to a reading.
const AROUND: usize = 256;
/// Most escapes of a reading that are remembered.
const MAX_POINTS: usize = 2048;
/// Longest escape.
const MAX_ESCAPE: usize = 12;
/// How much is resolved before it is searched.
const PIECE: usize = 64;

/// The escapes of one kind in a text.
#[derive(Clone, Debug)]
pub(super) struct Escapes {
    via: Via,
    /// What may be an escape.
    partial: Vec<u8>,
    is_open: bool,
    /// Bytes since the last escape.
    quiet: usize,
    /// Text that was resolved and not passed on.
    resolved: Vec<u8>,
    /// Bytes passed on.
    passed: u64,
    /// Where escapes stand: in the reading and in the text.
    points: VecDeque<Point>,
    /// Where the reading starts in the text.
    start: u64,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    start: u64,
    end: u64,
    text_end: u64,
}

/// What a text begins with.
enum Parsed {
    /// More is needed to tell.
    Incomplete,
    No,
    /// An escape of so many bytes.
    Yes(Resolved, usize),
}

/// What an escape stands for.
enum Resolved {
    Byte(u8),
    Character(char),
}

impl Escapes {
    /// No escape has been read.
    pub(super) fn new(via: Via) -> Self {
        let (partial, resolved, points) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { via, partial, is_open: false, quiet: 0, resolved, passed: 0, points, start: 0 }
    }

    /// The character that escapes begin with.
    fn sign(&self) -> u8 {
        match self.via {
            Via::Percent => b'%',
            Via::Html => b'&',
            _ => b'\\',
        }
    }

    /// Reads the next bytes; `kept` ends with them, and they start at `from`.
    pub(super) fn read(&mut self, kept: &[u8], bytes: usize, from: u64, to: &mut impl Readings) {
        let text = &kept[kept.len() - bytes..];
        let mut at = 0;
        while at < text.len() {
            if self.partial.is_empty() {
                let next = memchr(self.sign(), &text[at..]).map_or(text.len(), |next| at + next);
                self.plain(&text[at..next], to);
                at = next;
                if at == text.len() {
                    break;
                }
            }
            self.partial.push(text[at]);
            at += 1;
            self.settle(&kept[..kept.len() - bytes + at], from + at as u64, to);
        }
        self.pass(to);
    }

    /// Whether there is nothing to read in a text without the sign of an escape.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_open && self.partial.is_empty()
    }

    /// The text has ended.
    pub(super) fn end(&mut self, to: &mut impl Readings) {
        let rest = std::mem::take(&mut self.partial);
        self.plain(&rest, to);
        self.close(to);
    }

    /// Where a range of the reading stands in the text, if an escape is in it or before it, where a boundary may be.
    fn place(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let before = self.points.partition_point(|point| point.start < end);
        let is_escaped = before.checked_sub(1).is_some_and(|last| self.points[last].end >= start);
        is_escaped.then(|| {
            let place = |place: u64| {
                let last = self.points.partition_point(|point| point.end <= place).checked_sub(1);
                match last.map(|last| self.points[last]) {
                    Some(point) => point.text_end + (place - point.end),
                    None => self.start + place,
                }
            };
            (place(start), place(end))
        })
    }

    /// Resolves what waits, as far as it can be told; the text up to its end is `kept`, which ends at `end`.
    fn settle(&mut self, kept: &[u8], end: u64, to: &mut impl Readings) {
        while !self.partial.is_empty() {
            if self.partial[0] != self.sign() {
                let next = memchr(self.sign(), &self.partial).unwrap_or(self.partial.len());
                let plain: Vec<u8> = self.partial.drain(..next).collect();
                self.plain(&plain, to);
                continue;
            }
            match self.parse() {
                Parsed::Incomplete if self.partial.len() < MAX_ESCAPE => return,
                Parsed::Incomplete | Parsed::No => {
                    let first = self.partial.remove(0);
                    self.plain(&[first], to);
                }
                Parsed::Yes(resolved, length) => {
                    let begin = kept.len() - self.partial.len();
                    if !self.is_open {
                        self.open(
                            &kept[begin.saturating_sub(AROUND)..begin],
                            end - self.partial.len() as u64,
                        );
                    }
                    let start = self.passed + self.resolved.len() as u64;
                    match resolved {
                        Resolved::Byte(byte) => self.resolved.push(byte),
                        Resolved::Character(character) => {
                            self.resolved.extend(character.encode_utf8(&mut [0; 4]).bytes());
                        }
                    }
                    let text_end = end - (self.partial.len() - length) as u64;
                    if self.points.len() == MAX_POINTS {
                        self.points.pop_front();
                    }
                    self.points.push_back(Point {
                        start,
                        end: self.passed + self.resolved.len() as u64,
                        text_end,
                    });
                    self.partial.drain(..length);
                    self.quiet = 0;
                    self.pass_much(to);
                }
            }
        }
    }

    fn open(&mut self, before: &[u8], at: u64) {
        self.is_open = true;
        self.passed = 0;
        self.points.clear();
        self.start = at - before.len() as u64;
        self.resolved.clear();
        self.resolved.extend_from_slice(before);
    }

    /// Adds text without escapes; ends the reading when there has been much.
    fn plain(&mut self, text: &[u8], to: &mut impl Readings) {
        if !self.is_open {
            return;
        }
        let taken = text.len().min(AROUND - self.quiet);
        self.quiet += taken;
        self.resolved.extend_from_slice(&text[..taken]);
        match self.quiet == AROUND {
            true => self.close(to),
            false => self.pass_much(to),
        }
    }

    fn close(&mut self, to: &mut impl Readings) {
        if self.is_open {
            self.pass(to);
            to.over(self.via, &|start, end| self.place(start, end));
            self.is_open = false;
            self.quiet = 0;
        }
    }

    fn pass_much(&mut self, to: &mut impl Readings) {
        if self.resolved.len() >= PIECE {
            self.pass(to);
        }
    }

    fn pass(&mut self, to: &mut impl Readings) {
        if !self.resolved.is_empty() {
            let resolved = std::mem::take(&mut self.resolved);
            self.passed += resolved.len() as u64;
            to.text(self.via, &resolved, &|start, end| self.place(start, end));
            self.resolved = resolved;
            self.resolved.clear();
        }
    }

    fn parse(&self) -> Parsed {
        let text = &self.partial[1..];
        match self.via {
            Via::Percent => match text {
                [] => Parsed::Incomplete,
                [high] if high.is_ascii_hexdigit() => Parsed::Incomplete,
                [high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    hex(&text[..2]).map_or(Parsed::No, |value| Parsed::Yes(Resolved::Byte(value as u8), 3))
                }
                _ => Parsed::No,
            },
            Via::Html => html(text),
            _ => self.program(text),
        }
    }

    /// `\u0069`, `\u{69}`, `\U00000069`, `\x69`; where there are some, also `\n` and the like.
    fn program(&self, text: &[u8]) -> Parsed {
        let Some((kind, rest)) = text.split_first() else { return Parsed::Incomplete };
        let digits = match kind {
            b'u' if rest.first() == Some(&b'{') => return braced(&rest[1..]),
            b'u' => 4,
            b'U' => 8,
            b'x' => 2,
            b'n' | b't' | b'r' if self.is_open => return Parsed::Yes(Resolved::Byte(b'\n'), 2),
            b'"' | b'\'' | b'/' if self.is_open => return Parsed::Yes(Resolved::Byte(*kind), 2),
            _ => return Parsed::No,
        };
        let Some(value) = rest.get(..digits) else {
            let is_hex = rest.iter().all(u8::is_ascii_hexdigit);
            return if is_hex { Parsed::Incomplete } else { Parsed::No };
        };
        let Some(value) = hex(value) else { return Parsed::No };
        match (kind, value) {
            (b'x', value) => Parsed::Yes(Resolved::Byte(value as u8), 4),
            // The first half of a character beyond U+FFFF.
            (b'u', 0xd800..0xdc00) => match rest[4..].strip_prefix(b"\\u") {
                Some(low) if low.len() >= 4 => match hex(&low[..4]) {
                    Some(low @ 0xdc00..0xe000) => {
                        character(0x10000 + ((value - 0xd800) << 10) + (low - 0xdc00), MAX_ESCAPE)
                    }
                    _ => Parsed::No,
                },
                Some(low) if low.iter().all(u8::is_ascii_hexdigit) => Parsed::Incomplete,
                None if b"\\u".starts_with(&rest[4..]) => Parsed::Incomplete,
                _ => Parsed::No,
            },
            (_, value) => character(value, 2 + digits),
        }
    }
}

fn braced(text: &[u8]) -> Parsed {
    match text.iter().position(|byte| !byte.is_ascii_hexdigit()) {
        None if text.len() <= 6 => Parsed::Incomplete,
        Some(length @ 1..=6) if text[length] == b'}' => match hex(&text[..length]) {
            Some(value) => character(value, length + 4),
            None => Parsed::No,
        },
        _ => Parsed::No,
    }
}

/// `&#105;`, `&#x69;` and the names of blanks; the semicolon may be missing.
fn html(text: &[u8]) -> Parsed {
    const NAMES: [(&[u8], char); 6] = [
        (b"nbsp;", ' '),
        (b"Tab;", ' '),
        (b"NewLine;", ' '),
        (b"shy;", '\u{ad}'),
        (b"zwj;", '\u{200d}'),
        (b"zwnj;", '\u{200c}'),
    ];
    let Some(number) = text.strip_prefix(b"#") else {
        return match NAMES.iter().find(|(name, _)| name.starts_with(text) || text.starts_with(name)) {
            Some((name, value)) if text.len() >= name.len() => {
                Parsed::Yes(Resolved::Character(*value), name.len() + 1)
            }
            Some(_) => Parsed::Incomplete,
            None => Parsed::No,
        };
    };
    let (digits, radix, before) = match number {
        [b'x' | b'X', digits @ ..] => (digits, 16, 3),
        digits => (digits, 10, 2),
    };
    let count = digits.iter().take(8).take_while(|byte| char::from(**byte).is_digit(radix)).count();
    match digits.get(count) {
        None if count < 8 => Parsed::Incomplete,
        Some(next) if count > 0 => {
            let value = std::str::from_utf8(&digits[..count])
                .ok()
                .and_then(|digits| u32::from_str_radix(digits, radix).ok());
            value.map_or(Parsed::No, |value| character(value, before + count + usize::from(*next == b';')))
        }
        _ => Parsed::No,
    }
}

fn character(value: u32, length: usize) -> Parsed {
    char::from_u32(value).map_or(Parsed::No, |character| Parsed::Yes(Resolved::Character(character), length))
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}
