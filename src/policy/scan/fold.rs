//! Reads text the way patterns are written: lower case, one blank for white space, and ASCII for letters that look like it.
//!
//! Dropped: control characters, characters that are not shown, combining marks. Letters of Greek, Cyrillic and other
//! alphabets become the Latin ones they look like only in words that have a Latin letter, so that words of one script
//! stay. A character that is divided between two pieces waits for its end.

use super::letters::{form_of, look_alike};

/// What [`FOLD`] has for bytes that need more than a look-up.
pub(super) const SLOW: u8 = 0x80;

/// The folded form of each ASCII byte; [`SLOW`] for other bytes and control characters.
pub(super) static FOLD: [u8; 256] = table();

const fn table() -> [u8; 256] {
    let mut table = [SLOW; 256];
    let mut byte = 0;
    while byte < 128 {
        let at = byte as usize;
        match byte {
            b'\t' | b'\n' | b'\x0b' | b'\x0c' | b'\r' | b' ' => table[at] = b' ',
            b'A'..=b'Z' => table[at] = byte + 32,
            b'!'..=b'~' => table[at] = byte,
            _ => {}
        }
        byte += 1;
    }
    table
}

/// Most letters that wait for the rest of their word.
const MAX_WAITING: usize = 16;

/// A letter that looks like a Latin one, at the start of a word.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    letter: char,
    like: u8,
    /// Its bytes in the text, with those of what was dropped before it.
    bytes: u64,
}

/// The state between two pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Fold {
    partial: [u8; 4],
    partial_len: usize,
    waiting: Vec<Waiting>,
    /// Bytes of the text that were dropped since the last folded character.
    pub(super) dropped: u64,
    /// The last folded byte.
    pub(super) last: u8,
    /// The last character that was read, for the test of what is hidden.
    pub(super) before: Option<char>,
    /// Tags since the black flag that begins the flag of a region; more than a flag has if there was none.
    tags: u8,
    /// Hidden text was found.
    pub(super) is_hidden: bool,
}

/// Takes the folded bytes, each with the number of bytes of the text that it stands for.
pub(super) trait Sink {
    /// Takes a byte.
    fn push(&mut self, byte: u8, bytes: u64);
}

impl Fold {
    /// The state before the first character; white space at the start is dropped.
    pub(super) fn new() -> Self {
        Self { last: b' ', ..Self::default() }
    }

    /// Whether nothing waits: bytes of ASCII may be looked up in [`FOLD`].
    pub(super) fn is_clear(&self) -> bool {
        self.partial_len == 0 && self.waiting.is_empty()
    }

    /// Drops a byte that is a blank after another one. Returns whether it is.
    pub(super) fn drops(&mut self, byte: u8) -> bool {
        let is_dropped = self.last == b' ' && FOLD[usize::from(byte)] == b' ' && self.is_clear();
        if is_dropped {
            self.dropped += 1;
            self.before = Some(char::from(byte));
        }
        is_dropped
    }

    /// Reads a byte.
    pub(super) fn byte(&mut self, byte: u8, sink: &mut impl Sink) {
        if self.partial_len > 0 {
            if byte & 0xc0 == 0x80 {
                self.partial[self.partial_len] = byte;
                self.partial_len += 1;
                self.complete(sink);
                return;
            }
            self.invalid(sink);
        }
        match byte {
            ..0x80 if FOLD[usize::from(byte)] < SLOW => {
                self.before = Some(char::from(byte));
                self.ascii(FOLD[usize::from(byte)], 1, sink);
            }
            ..0x80 => self.character(char::from(byte), 1, sink),
            0xc2..=0xf4 => {
                self.partial[0] = byte;
                self.partial_len = 1;
            }
            _ => self.emit(byte, 1, sink),
        }
    }

    /// The text has ended: what waits is read as it is.
    pub(super) fn end(&mut self, sink: &mut impl Sink) {
        self.invalid(sink);
        self.release(false, sink);
    }

    fn complete(&mut self, sink: &mut impl Sink) {
        let expected = match self.partial[0] {
            0..0xe0 => 2,
            0xe0..0xf0 => 3,
            _ => 4,
        };
        if self.partial_len < expected {
            return;
        }
        match std::str::from_utf8(&self.partial[..expected]).ok().and_then(|text| text.chars().next()) {
            Some(character) => {
                self.partial_len = 0;
                self.character(character, expected as u64, sink);
            }
            None => self.invalid(sink),
        }
    }

    /// Passes on bytes that are no UTF-8 as they are.
    fn invalid(&mut self, sink: &mut impl Sink) {
        let (bytes, len) = (self.partial, std::mem::take(&mut self.partial_len));
        if len > 0 {
            self.release(false, sink);
            bytes[..len].iter().for_each(|byte| self.emit(*byte, 1, sink));
        }
    }

    fn character(&mut self, character: char, bytes: u64, sink: &mut impl Sink) {
        let before = self.before.replace(character);
        if is_ignorable(character) {
            self.is_hidden |= self.hides(character, before);
            self.dropped += bytes;
        } else if character.is_whitespace() {
            self.release(false, sink);
            self.ascii(b' ', bytes, sink);
        } else if is_mark(character) || character.is_control() {
            self.dropped += bytes;
        } else if character.is_ascii() {
            self.ascii(FOLD[character as usize & 0x7f], bytes, sink);
        } else if let Some(form) = form_of(character) {
            self.ascii(form, bytes, sink);
        } else {
            self.letter(character, bytes, sink);
        }
    }

    /// Whether a character that is not shown hides something here. Joiners and selectors inside emoji and words of scripts
    /// that need them do not.
    fn hides(&mut self, character: char, before: Option<char>) -> bool {
        match character {
            // The flag of a region is a black flag and up to six tags.
            '\u{e0020}'..='\u{e007f}' => {
                let is_tag = before.is_some_and(|before| matches!(before, '\u{e0020}'..='\u{e007f}'));
                self.tags = match before {
                    Some('\u{1f3f4}') => 1,
                    _ if is_tag => self.tags.saturating_add(1),
                    _ => u8::MAX,
                };
                self.tags > 6
            }
            // Variants of Han characters.
            '\u{e0100}'..='\u{e01ef}' => !before
                .is_some_and(|before| matches!(before, '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}')),
            '\u{200b}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{e0000}'..='\u{e0fff}' => {
                true
            }
            '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' => true,
            '\u{feff}' => before.is_some(),
            '\u{200c}' | '\u{200d}' => before.is_some_and(|before| before.is_ascii_alphanumeric()),
            '\u{fe00}'..='\u{fe0f}' => before.is_some_and(|before| matches!(before, '\u{fe00}'..='\u{fe0f}')),
            _ => false,
        }
    }

    fn ascii(&mut self, byte: u8, bytes: u64, sink: &mut impl Sink) {
        if !self.waiting.is_empty() {
            self.release(byte.is_ascii_lowercase(), sink);
        }
        match byte == b' ' && self.last == b' ' {
            true => self.dropped += bytes,
            false => self.emit(byte, bytes, sink),
        }
    }

    fn letter(&mut self, character: char, bytes: u64, sink: &mut impl Sink) {
        // The second letter of a pair stands for no bytes of its own.
        let mut bytes = bytes;
        for letter in character.to_lowercase() {
            match look_alike(letter) {
                Some(like) if self.waiting.is_empty() && self.last.is_ascii_lowercase() => {
                    self.emit(like, std::mem::take(&mut bytes), sink);
                }
                Some(like) if self.waiting.len() < MAX_WAITING => {
                    let bytes = std::mem::take(&mut bytes) + std::mem::take(&mut self.dropped);
                    self.waiting.push(Waiting { letter, like, bytes });
                }
                _ => {
                    self.release(false, sink);
                    self.utf8(letter, std::mem::take(&mut bytes), sink);
                }
            }
        }
    }

    fn release(&mut self, is_latin: bool, sink: &mut impl Sink) {
        if self.waiting.is_empty() {
            return;
        }
        let dropped = std::mem::take(&mut self.dropped);
        let mut waiting = std::mem::take(&mut self.waiting);
        for Waiting { letter, like, bytes } in waiting.drain(..) {
            match is_latin {
                true => self.emit(like, bytes, sink),
                false => self.utf8(letter, bytes, sink),
            }
        }
        self.waiting = waiting;
        self.dropped = dropped;
    }

    fn utf8(&mut self, letter: char, bytes: u64, sink: &mut impl Sink) {
        let mut buffer = [0; 4];
        let mut bytes = bytes;
        for byte in letter.encode_utf8(&mut buffer).bytes() {
            self.emit(byte, std::mem::take(&mut bytes), sink);
        }
    }

    fn emit(&mut self, byte: u8, bytes: u64, sink: &mut impl Sink) {
        sink.push(byte, bytes + std::mem::take(&mut self.dropped));
        self.last = byte;
    }
}

/// Folds a whole text, as patterns are when they are compiled.
pub(super) fn folded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut fold = Fold::new();
    text.bytes().for_each(|byte| fold.byte(byte, &mut out));
    fold.end(&mut out);
    out
}

/// Returns a name as it reads, whatever the case, blanks and look-alikes it is written with.
pub fn folded_name(name: &str) -> String {
    String::from_utf8_lossy(&folded(name)).trim().to_owned()
}

impl Sink for Vec<u8> {
    fn push(&mut self, byte: u8, _: u64) {
        Self::push(self, byte);
    }
}

/// Characters that are not shown (`Default_Ignorable_Code_Point`).
pub fn is_ignorable(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Marks that combine with the character before them.
fn is_mark(character: char) -> bool {
    matches!(character,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}
