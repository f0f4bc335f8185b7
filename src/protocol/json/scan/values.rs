//! How the scanner reads keys and scalars: whole, in parts, or past them.

use memchr::memchr;

use super::{KEPT_MAX, Scanner, State, Value};
use crate::protocol::json::text::{is_bare, quote_or_backslash, settled, unescape, unescape_bytes, word};

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
            let text = if self.has_escapes { unescape(raw).into() } else { String::from_utf8_lossy(raw) };
            self.report(&Value::Str(text), on);
        }
        rest
    }

    /// Reads on in a string that is wanted in parts. Only an escape that is not complete is held back.
    pub(super) fn parts<'b>(&mut self, bytes: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        let quote = self.closing_quote(bytes);
        let part = &bytes[..quote.unwrap_or(bytes.len())];
        let mut raw = std::mem::take(&mut self.kept);
        let written = if raw.is_empty() {
            part
        } else {
            raw.extend_from_slice(part);
            &raw
        };
        let end = if quote.is_some() { written.len() } else { settled(written) };
        let (now, later) = written.split_at(end);
        if let Some(id) = self.target.and_then(|node| self.paths.parts(node))
            && !now.is_empty()
        {
            match memchr(b'\\', now) {
                Some(_) => on(id, Value::Part(&unescape_bytes(now))),
                None => on(id, Value::Part(now)),
            }
        }
        self.kept.extend_from_slice(later);
        match quote {
            Some(end) => {
                self.state = State::AfterValue;
                &bytes[end + 1..]
            }
            None => &[],
        }
    }

    pub(super) fn bare<'b>(&mut self, bytes: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        let Some(end) = bytes.iter().position(|byte| !is_bare(*byte)) else {
            self.keep(bytes);
            return &[];
        };
        let (part, rest) = bytes.split_at(end);
        self.state = State::AfterValue;
        if self.too_long {
            return rest;
        }
        if self.kept.is_empty() {
            self.too_long = part.len() > KEPT_MAX;
        } else {
            self.keep(part);
        }
        let raw = if self.kept.is_empty() { part } else { &self.kept };
        if !self.too_long
            && let Some(value) = word(raw)
        {
            self.report(&value, on);
            if value != Value::Null
                && let Some(id) = self.target.and_then(|node| self.paths.parts(node))
            {
                on(id, Value::Part(raw));
            }
        }
        rest
    }

    pub(super) fn report(&self, value: &Value<'_>, on: &mut dyn FnMut(usize, Value<'_>)) {
        let Some(node) = self.target else { return };
        for id in self.paths.scalars(node) {
            on(*id, value.clone());
        }
    }
}
