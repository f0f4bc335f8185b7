//! Strings as they read, and the JSON in them.

use std::borrow::Cow;

use super::{CallResult, Reader, Segment};
use crate::policy::rule::{Place, Role};
use crate::protocol::json::whole::{Token, Tokens, unescape};

/// How often JSON in a string is opened.
const LEVELS: usize = 3;
/// Strings of at least so many bytes may be the bytes of an image.
const IMAGE: usize = 512;
/// How the bytes of images and documents begin, in base64: PNG, JPEG, GIF, WebP, PDF.
const IMAGE_HEADS: [&[u8]; 5] = [b"iVBORw0KGgo", b"/9j/", b"R0lGOD", b"UklGR", b"JVBERi0"];

/// What is told of a result: its number, the id and tool of its call as written, whether that failed, its bytes.
pub(super) type ResultParts<'b> = (u32, Option<&'b [u8]>, Option<&'b [u8]>, bool, usize);

/// Tells strings as they read. Keeps its memory.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// One for each level of JSON in a string, and one for the string itself.
    plain: [Vec<u8>; LEVELS + 1],
    result: Option<Told>,
}

#[derive(Debug)]
struct Told {
    number: u32,
    call_id: Option<String>,
    tool: Option<String>,
    is_error: bool,
    bytes: usize,
}

impl Texts {
    /// Sets the result that the next texts are part of.
    pub(super) fn set_result(&mut self, result: Option<ResultParts<'_>>) {
        self.result = result.map(|(number, call_id, tool, is_error, bytes)| Told {
            number,
            call_id: call_id.map(owned),
            tool: tool.map(owned),
            is_error,
            bytes,
        });
    }

    /// Tells a string, given as written, and the strings of the JSON in it.
    pub(super) fn tell(&mut self, role: Role, kind: Place, raw: &[u8], reader: &mut dyn Reader) {
        let result = self.result.as_ref().map(|told| CallResult {
            number: told.number,
            call_id: told.call_id.as_deref(),
            tool: told.tool.as_deref(),
            is_error: told.is_error,
            bytes: told.bytes,
        });
        tell(&mut self.plain, raw, &mut |text| reader.segment(&Segment { role, kind, text, result }));
    }

    /// Calls `with` with a string as it reads.
    pub(super) fn as_it_reads<T>(&mut self, raw: &[u8], with: impl FnOnce(&[u8]) -> T) -> T {
        if memchr::memchr(b'\\', raw).is_none() {
            return with(raw);
        }
        let plain = &mut self.plain[0];
        plain.clear();
        unescape(plain, raw);
        with(plain)
    }
}

fn owned(raw: &[u8]) -> String {
    let mut plain = Vec::with_capacity(raw.len());
    unescape(&mut plain, raw);
    match String::from_utf8_lossy(&plain) {
        Cow::Owned(text) => text,
        Cow::Borrowed(text) => text.to_owned(),
    }
}

/// Tells a string, and those strings of the JSON in it that have escapes: the others are in it as they read.
fn tell(levels: &mut [Vec<u8>], raw: &[u8], on: &mut dyn FnMut(&[u8])) {
    if memchr::memchr(b'\\', raw).is_none() {
        return on(raw);
    }
    let Some((plain, deeper)) = levels.split_first_mut() else { return };
    plain.clear();
    unescape(plain, raw);
    on(plain);
    if deeper.is_empty() || !matches!(plain.trim_ascii_start().first(), Some(b'{' | b'[' | b'"')) {
        return;
    }
    if memchr::memchr(b'\\', plain).is_none() {
        return;
    }
    for token in Tokens::new(plain) {
        if let Token::Text { raw, .. } | Token::Cut(raw) = token
            && memchr::memchr(b'\\', raw).is_some()
        {
            tell(deeper, raw, on);
        }
    }
}

/// Names and words of the APIs, in which nobody looks for anything.
pub(super) fn is_common(raw: &[u8]) -> bool {
    matches!(
        raw,
        b"role"
            | b"content"
            | b"type"
            | b"text"
            | b"id"
            | b"name"
            | b"input"
            | b"arguments"
            | b"function"
            | b"parts"
            | b"user"
            | b"assistant"
            | b"system"
            | b"developer"
            | b"tool"
            | b"model"
            | b"message"
            | b"description"
            | b"properties"
            | b"required"
            | b"string"
            | b"object"
            | b"array"
            | b"cache_control"
            | b"ephemeral"
            | b"tool_use"
            | b"tool_result"
            | b"tool_use_id"
            | b"tool_calls"
            | b"tool_call_id"
            | b"input_schema"
            | b"parameters"
            | b"stream"
            | b"max_tokens"
            | b"temperature"
            | b"metadata"
            | b"call_id"
            | b"output"
            | b"input_text"
            | b"output_text"
            | b"function_call"
            | b"function_call_output"
            | b"thinking"
            | b"signature"
            | b"is_error"
    )
}

/// Whether a string, as written, is the bytes of an image or a document, and nothing else.
pub(super) fn is_image(raw: &[u8]) -> bool {
    if raw.len() < IMAGE {
        return false;
    }
    let bytes = match raw.strip_prefix(b"data:") {
        Some(rest) => {
            let head = &rest[..rest.len().min(64)];
            match memchr::memmem::find(head, b";base64,") {
                Some(at) => &rest[at + 8..],
                None => return false,
            }
        }
        None => raw,
    };
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    IMAGE_HEADS.iter().any(|head| bytes.starts_with(head)) && bytes.iter().all(is_base64)
}
