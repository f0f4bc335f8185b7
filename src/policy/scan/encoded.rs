//! Finds runs of base64 and hexadecimal digits, and decodes those that are text.
//!
//! A run is decoded in blocks as it comes. A block that does not read as text is left out, so that pictures, digests and
//! long names cost little.

use super::pattern::Via;

/// Fewest characters of a run.
const RUN: usize = 24;
/// Characters that are decoded at once: 18 bytes of base64, 16 of hexadecimal digits.
const BLOCKS: [usize; 2] = [RUN, 32];

/// Takes what was decoded.
pub(super) trait Readings {
    /// Text of a reading. `place` tells where a part of the reading stands, encoded, in the text; `None` if nothing of it
    /// was encoded.
    fn text(&mut self, via: Via, bytes: &[u8], place: Place<'_>);
    /// The reading has ended.
    fn over(&mut self, via: Via, place: Place<'_>);
}

/// Where a part of a reading stands in the text.
pub(super) type Place<'a> = &'a dyn Fn(u64, u64) -> Option<(u64, u64)>;

const NONE: u8 = 0xff;

/// The value of each character of base64 and base64url.
static VALUES: [u8; 256] = values();

const fn values() -> [u8; 256] {
    let mut values = [NONE; 256];
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut value = 0;
    while value < 64 {
        values[letters[value] as usize] = value as u8;
        value += 1;
    }
    values[b'-' as usize] = 62;
    values[b'_' as usize] = 63;
    values
}

/// The runs of a text.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    /// Characters of base64 at the end of what was read, below [`RUN`].
    tail: usize,
    is_run: bool,
    /// The run goes on if the next line does.
    at_line_end: bool,
    decoders: [Decoder; 2],
}

#[derive(Clone, Debug, Default)]
struct Decoder {
    characters: [u8; 32],
    len: usize,
    /// Where the first of them starts.
    start: u64,
    /// Where the reading starts, if the last block was text.
    open: Option<u64>,
}

impl Runs {
    /// Reads the next bytes; `kept` ends with them, and they start at `from`.
    pub(super) fn read(&mut self, kept: &[u8], bytes: usize, from: u64, to: &mut impl Readings) {
        let before = kept.len() - bytes;
        let text = &kept[before..];
        let mut at = 0;
        while at < text.len() {
            if self.is_run {
                at = self.run(text, at, from, to);
                continue;
            }
            match next_run(text, at, self.tail) {
                Next::Run(characters, begun) => {
                    self.tail = 0;
                    let start = from - begun as u64 + characters as u64;
                    self.is_run = true;
                    self.at_line_end = false;
                    for (place, byte) in kept[before + characters - begun..][..RUN].iter().enumerate() {
                        self.character(*byte, start + place as u64, to);
                    }
                    at = characters + RUN - begun;
                }
                Next::Tail(tail) => {
                    self.tail = tail;
                    return;
                }
            }
        }
    }

    /// The text has ended.
    pub(super) fn end(&mut self, at: u64, to: &mut impl Readings) {
        self.over(at, to);
        self.tail = 0;
    }

    /// Reads a run on; returns where it ends.
    fn run(&mut self, text: &[u8], mut at: usize, from: u64, to: &mut impl Readings) -> usize {
        while let Some(&byte) = text.get(at) {
            let place = from + at as u64;
            match byte {
                _ if VALUES[usize::from(byte)] != NONE => {
                    self.at_line_end = false;
                    self.character(byte, place, to);
                }
                b'\n' | b'\r' => self.at_line_end = true,
                b' ' | b'\t' if self.at_line_end => {}
                _ => {
                    self.over(place, to);
                    return at;
                }
            }
            at += 1;
        }
        at
    }

    fn character(&mut self, byte: u8, place: u64, to: &mut impl Readings) {
        self.decoders[0].push(byte, place, Via::Base64, to);
        match byte.is_ascii_hexdigit() {
            true => self.decoders[1].push(byte, place, Via::Hex, to),
            false => self.decoders[1].over(place, Via::Hex, to),
        }
    }

    fn over(&mut self, place: u64, to: &mut impl Readings) {
        if std::mem::take(&mut self.is_run) {
            self.decoders[0].over(place, Via::Base64, to);
            self.decoders[1].over(place, Via::Hex, to);
        }
    }
}

enum Next {
    /// A run starts here, with so many characters of what was read before.
    Run(usize, usize),
    /// No run: so many characters at the end may be the start of one.
    Tail(usize),
}

/// Finds the next run. Looks at every 24th byte and goes back from there, so most bytes are not looked at.
fn next_run(text: &[u8], from: usize, tail: usize) -> Next {
    let is_inside = |byte: &u8| VALUES[usize::from(*byte)] != NONE;
    // Where a run may start; `tail` bytes before these belong to it.
    let (mut start, mut tail) = (from, tail);
    loop {
        let Some(last) =
            text.get(start..).and_then(|rest| rest.get(RUN - tail - 1)).map(|_| start + RUN - tail - 1)
        else {
            let rest = &text[start.min(text.len())..];
            let count = rest.iter().rev().take_while(|byte| is_inside(byte)).count();
            return Next::Tail(if count == rest.len() { count + tail } else { count });
        };
        let count = text[start..=last].iter().rev().take_while(|byte| is_inside(byte)).count();
        if count == last + 1 - start {
            return Next::Run(start, tail);
        }
        (start, tail) = (last + 1 - count, 0);
    }
}

impl Decoder {
    fn push(&mut self, byte: u8, place: u64, via: Via, to: &mut impl Readings) {
        if self.len == 0 {
            self.start = place;
        }
        self.characters[self.len] = byte;
        self.len += 1;
        if self.len < BLOCKS[usize::from(via == Via::Hex)] {
            return;
        }
        let mut bytes = [0; RUN];
        let len = self.decode(via, &mut bytes);
        match as_text(&mut bytes[..len]) {
            Some(text) => {
                let start = *self.open.get_or_insert(self.start);
                to.text(via, text, &|from, _| Some((start + encoded(via, from), place + 1)));
            }
            None => self.close(place, via, to),
        }
        self.len = 0;
    }

    /// The run has ended: what is left of it is text if the block before was.
    fn over(&mut self, place: u64, via: Via, to: &mut impl Readings) {
        if let Some(start) = self.open {
            let mut bytes = [0; RUN];
            let len = self.decode(via, &mut bytes);
            let kept: Vec<u8> = bytes[..len].iter().copied().filter(|byte| *byte != 0).collect();
            to.text(via, &kept, &|from, _| Some((start + encoded(via, from), place)));
            self.close(place, via, to);
        }
        self.len = 0;
    }

    fn close(&mut self, place: u64, via: Via, to: &mut impl Readings) {
        if let Some(start) = self.open.take() {
            to.over(via, &|from, _| Some((start + encoded(via, from), place)));
        }
    }

    fn decode(&self, via: Via, bytes: &mut [u8; RUN]) -> usize {
        let characters = &self.characters[..self.len];
        let mut len = 0;
        let mut put = |byte: u32| {
            bytes[len] = byte as u8;
            len += 1;
        };
        match via {
            Via::Hex => {
                let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0);
                characters.chunks_exact(2).for_each(|pair| put(digit(pair[0]) << 4 | digit(pair[1])));
            }
            _ => {
                for four in characters.chunks(4) {
                    let bits = four
                        .iter()
                        .fold(0, |bits, byte| bits << 6 | u32::from(VALUES[usize::from(*byte)] & 63));
                    let bits = bits << (6 * (4 - four.len()));
                    (0..four.len() - 1).for_each(|place| put(bits >> (16 - 8 * place)));
                }
            }
        }
        len
    }
}

/// Returns the bytes if they read as text. Of UTF-16 the zeros are left out.
fn as_text(bytes: &mut [u8]) -> Option<&[u8]> {
    let zeros = bytes.iter().filter(|byte| **byte == 0).count();
    let mut len = bytes.len();
    if zeros * 5 > bytes.len() * 2 {
        len = 0;
        for at in 0..bytes.len() {
            if bytes[at] != 0 {
                bytes[len] = bytes[at];
                len += 1;
            }
        }
    }
    let text = &bytes[..len];
    let (mut others, mut shown) = (0, 0);
    for chunk in text.utf8_chunks() {
        // The first and the last character may be cut.
        others += chunk.invalid().len();
        for character in chunk.valid().chars() {
            match character.is_control() && !matches!(character, '\n' | '\r' | '\t' | '\u{1b}') {
                true => others += 4,
                false => shown += 1,
            }
        }
    }
    (len > 0 && others <= 3 && shown > 0 && (others == 0 || !text.is_ascii())).then_some(text)
}

/// How many characters so many bytes are written with.
fn encoded(via: Via, bytes: u64) -> u64 {
    if via == Via::Hex { bytes * 2 } else { bytes * 4 / 3 }
}
