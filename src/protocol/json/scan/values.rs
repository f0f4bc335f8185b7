//! How the scanner reads keys and scalars: whole, in parts, or past them.

use std::borrow::Cow;

use memchr::memchr;

use super::{KEPT_MAX, Scanner, State, Value};
use crate::protocol::json::text::{
    closing_quote, is_bare, lossy, quote_or_backslash, quote_or_bracket, settled, unescape, unescape_into,
    word,
};

impl Scanner {
    pub(super) fn begin_text(&mut self) {
        self.kept.clear();
        self.too_long = false;
        self.escaped = false;
        self.has_escapes = false;
    }

    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if self.kept.len() + bytes.len() > KEPT_MAX {
            self.too_long = true;
        }
        if !self.too_long {
            self.kept.extend_from_slice(bytes);
        }
    }

    /// The place of the quote that closes the string under way; `None` when it is not in `bytes`.
    pub(super) fn closing_quote(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = usize::from(std::mem::take(&mut self.escaped));
        while let Some(found) = quote_or_backslash(bytes.get(at..).unwrap_or_default()) {
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

    pub(super) fn skip_text<'b>(&mut self, bytes: &'b [u8], next: State) -> &'b [u8] {
        match self.closing_quote(bytes) {
            Some(end) => {
                self.state = next;
                &bytes[end + 1..]
            }
            None => &[],
        }
    }

    /// Reads on in a wanted key or string: its last part, and what comes behind it.
    pub(super) fn finish_text<'b>(&mut self, bytes: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
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

    /// Reads on behind the first quote of a key: all members that are scalars, whole in `bytes` and written as usual, also those
    /// of objects in this one and behind its end. The states read everything else.
    pub(super) fn members<'b>(
        &mut self,
        mut bytes: &'b [u8],
        on: &mut dyn FnMut(usize, Value<'_>),
    ) -> &'b [u8] {
        self.begin_text();
        let mut object = self.followed[self.level - 1];
        while !self.one_by_one
            && let Some(end) = quote_or_backslash(bytes).filter(|end| *end <= KEPT_MAX)
            && let Some(value) = bytes[end..].strip_prefix(b"\":")
            && let value = value.strip_prefix(b" ").unwrap_or(value)
            && let Some(&first) = value.first()
        {
            self.target = self.paths.child(object, &bytes[..end]);
            self.note_member(self.target);
            if let Some(node) = self.target
                && let Some(inside) = value.strip_prefix(b"{\"")
                && self.paths.follows_object(node)
            {
                self.open_object(node, on);
                (object, bytes) = (node, inside);
                continue;
            }
            let Some(mut rest) = self.whole_scalar(first, value, on) else {
                self.state = State::BeforeValue;
                return value;
            };
            while let Some(after) = rest.strip_prefix(b"}") {
                self.close(on);
                if self.state == State::Done || self.in_array() {
                    return after;
                }
                (object, rest) = (self.followed[self.level - 1], after);
            }
            let Some(next) = rest.strip_prefix(b",\"").or_else(|| rest.strip_prefix(b", \"")) else {
                self.state = State::AfterValue;
                return rest;
            };
            bytes = next;
        }
        self.state = State::Key;
        bytes
    }

    /// Reads and reports a scalar that ends within `bytes`, and returns what follows it. `None`, and nothing is reported,
    /// for any other value and one that is wanted and has escapes.
    #[inline]
    fn whole_scalar<'b>(
        &self,
        first: u8,
        bytes: &'b [u8],
        on: &mut dyn FnMut(usize, Value<'_>),
    ) -> Option<&'b [u8]> {
        if first == b'"' {
            let text = &bytes[1..];
            let Some(node) = self.target else { return Some(&text[closing_quote(text)? + 1..]) };
            let end = quote_or_backslash(text).filter(|end| text[*end] == b'"' && *end <= KEPT_MAX)?;
            if self.paths.parts(node).is_some() {
                return None;
            }
            if !self.paths.scalars(node).is_empty() {
                self.report(&Value::Str(lossy(&text[..end])), on);
            }
            return Some(&text[end + 1..]);
        }
        let end = bytes.iter().position(|byte| !is_bare(*byte)).filter(|end| (1..=KEPT_MAX).contains(end))?;
        if let Some(node) = self.target {
            if self.paths.parts(node).is_some() {
                return None;
            }
            match word(&bytes[..end]) {
                Some(value) => self.report(&value, on),
                None if self.paths.scalars(node).is_empty() => {}
                None => return None,
            }
        }
        Some(&bytes[end..])
    }

    pub(super) fn key<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
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
            self.note_member(self.target);
        }
        match rest.strip_prefix(b":") {
            Some(after) => {
                self.state = State::BeforeValue;
                after
            }
            None => rest,
        }
    }

    pub(super) fn text<'b>(&mut self, bytes: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        let Some((part, rest)) = self.finish_text(bytes) else { return &[] };
        self.state = State::AfterValue;
        if !self.too_long {
            let raw = if self.kept.is_empty() { part } else { &self.kept };
            let text = if self.has_escapes { unescape(raw).into() } else { lossy(raw) };
            self.report(&Value::Str(text), on);
        } else {
            // Further inside, long texts are pictures.
            self.is_irregular |= self.level <= 2;
        }
        rest
    }

    /// Reads on in a string that is wanted in parts. Only an escape that is not complete is held back.
    pub(super) fn parts<'b>(&mut self, bytes: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        let quote = self.closing_quote(bytes);
        let part = &bytes[..quote.unwrap_or(bytes.len())];
        let mut kept = std::mem::take(&mut self.kept);
        let is_new = kept.is_empty();
        if !is_new {
            kept.extend_from_slice(part);
        }
        let written = if is_new { part } else { &kept };
        let end = if quote.is_some() { written.len() } else { settled(written) };
        self.report_part(&written[..end], on);
        match is_new {
            true => kept.extend_from_slice(&part[end..]),
            false => drop(kept.drain(..end)),
        }
        self.kept = kept;
        match quote {
            Some(end) => {
                self.state = State::AfterValue;
                &bytes[end + 1..]
            }
            None => &[],
        }
    }

    /// Reports a part of a string, as written up to here.
    fn report_part(&mut self, raw: &[u8], on: &mut dyn FnMut(usize, Value<'_>)) {
        let Some(id) = self.target.and_then(|node| self.paths.parts(node)).filter(|_| !raw.is_empty()) else {
            return;
        };
        if memchr(b'\\', raw).is_none() {
            return on(id, Value::Part(raw));
        }
        self.plain.clear();
        unescape_into(&mut self.plain, raw);
        on(id, Value::Part(&self.plain));
    }

    pub(super) fn bare<'b>(&mut self, bytes: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        let Some(end) = bytes.iter().position(|byte| !is_bare(*byte)) else {
            self.keep(bytes);
            return &[];
        };
        let (part, rest) = bytes.split_at(end);
        self.state = State::AfterValue;
        let is_wanted = self.target.is_some_and(|node| !self.paths.scalars(node).is_empty());
        if !self.too_long && self.kept.is_empty() {
            self.too_long = part.len() > KEPT_MAX;
        } else {
            self.keep(part);
        }
        if self.too_long {
            self.is_irregular |= is_wanted;
            return rest;
        }
        let raw = if self.kept.is_empty() { part } else { &self.kept };
        let Some(value) = word(raw) else {
            self.is_irregular |= is_wanted;
            return rest;
        };
        self.report(&value, on);
        if value != Value::Null
            && let Some(id) = self.target.and_then(|node| self.paths.parts(node))
        {
            on(id, Value::Part(raw));
        }
        rest
    }

    pub(super) fn report(&self, value: &Value<'_>, on: &mut dyn FnMut(usize, Value<'_>)) {
        let Some(node) = self.target else { return };
        for id in self.paths.scalars(node) {
            // Borrowed, also where the text was written with escapes.
            let value = match value {
                Value::Str(text) => Value::Str(Cow::Borrowed(text)),
                other => other.clone(),
            };
            on(*id, value);
        }
    }

    /// Goes on in a container that is not followed.
    pub(super) fn nested<'b>(&mut self, bytes: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        let rest = if self.state == State::NestedText {
            self.skip_text(bytes, State::Nested)
        } else {
            self.skip_nested(bytes)
        };
        if let Some(id) = self.raw {
            on(id, Value::Raw(&bytes[..bytes.len() - rest.len()]));
        }
        rest
    }

    /// Skips to the end of the outermost container that is not followed.
    fn skip_nested<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            match byte {
                b',' | b':' => {}
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
                // Of numbers, words and whitespace there may be many, in embeddings for example.
                _ => at += quote_or_bracket(&bytes[at..]),
            }
        }
        &[]
    }
}
