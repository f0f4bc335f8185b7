//! Step 1, request smuggling: a head that two parsers could read differently is rejected, never repaired.
//!
//! The head was parsed already (`downstream/http1`), leniently where RFC 9112 permits it: a bare LF ends a line,
//! `Content-Length` is dropped when there is a `Transfer-Encoding`, and `gzip, chunked` counts as chunked. Each is harmless alone, but smuggles
//! a request if a proxy in front reads it differently. So this step checks the raw bytes. What the parser itself rejects
//! (white space before a colon, folded lines, an empty name, NUL, lengths that differ or are not numbers) is not checked
//! again; tests/gateway/protocols/framing.rs verifies that it does.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Method, Version};
use pingora_http::RequestHeader;

use super::head_fields::HeadFields;
use crate::error::{ErrorKind, Refusal};
use crate::protocol::BackendKind;

/// Fields that must not occur twice, because the proxy could use one value and the backend the other: the media type, and
/// those that carry a provider's key.
static SINGLE: LazyLock<Box<[HeaderName]>> = LazyLock::new(|| {
    let keys = BackendKind::all().map(BackendKind::auth_header);
    let names: BTreeSet<&'static str> = keys.chain(["api-key", "content-type"]).collect();
    names.into_iter().map(HeaderName::from_static).collect()
});

/// Returns whether this field must not be sent with two values.
pub(crate) fn is_single(name: &HeaderName) -> bool {
    SINGLE.contains(name)
}

/// Rejects a head that can be read in two ways. `raw` holds its bytes on the wire, `head` is what was parsed of them, and
/// `fields` was found in it.
///
/// # Errors
/// 400, or 417 for an unknown expectation. The connection must carry no further request.
pub(crate) fn check(raw: &[u8], head: &RequestHeader, fields: &HeadFields<'_>) -> Result<(), Refusal> {
    if !lines_end_well(raw) {
        return refuse("a line of the head ends in a bare CR or LF (RFC 9112, 2.2)");
    }
    if let Some(name) = fields.differing {
        return refuse(&format!("the field {name} is sent with two values; send one"));
    }
    check_lengths(raw, fields)?;
    check_host(head, fields)?;
    check_target(target(raw))?;
    check_expectation(head, fields)
}

fn refuse(message: &str) -> Result<(), Refusal> {
    Err(Refusal::new(ErrorKind::BadRequest, message))
}

/// Returns whether every CR is followed by LF, and every LF follows a CR.
fn lines_end_well(raw: &[u8]) -> bool {
    let mut ends = 0;
    let mut is_end = |at: usize| {
        ends += 1;
        at > 0 && raw[at - 1] == b'\r'
    };
    // Where there are as many CRs as CRLFs, each CR is in one.
    memchr::memchr_iter(b'\n', raw).all(&mut is_end) && memchr::memchr_iter(b'\r', raw).count() == ends
}

/// Checks that the body has one length, given in one way.
fn check_lengths(raw: &[u8], fields: &HeadFields<'_>) -> Result<(), Refusal> {
    if fields.has_framing_twin {
        return refuse("content_length and transfer_encoding are no fields: write them with a hyphen");
    }
    if fields.transfer_encoding.is_present() {
        if !fields.transfer_encoding.is_only(b"chunked") {
            return refuse("Transfer-Encoding may be `chunked`, once, and nothing else (RFC 9112, 6.1)");
        }
        // The parser has removed the length from `fields`, so look at the bytes.
        if names_field(raw, &CONTENT_LENGTH) {
            return refuse("Content-Length and Transfer-Encoding must not be sent together (RFC 9112, 6.1)");
        }
    }
    if fields.content_length.has_more {
        return refuse("Content-Length must be sent once (RFC 9112, 6.3)");
    }
    match fields.content_length.first {
        Some(length) if !length.as_bytes().iter().all(u8::is_ascii_digit) => {
            refuse("Content-Length must be one number")
        }
        _ => Ok(()),
    }
}

/// Returns whether a line of the raw head is a field of this name.
fn names_field(raw: &[u8], wanted: &HeaderName) -> bool {
    raw.split(|byte| *byte == b'\n').skip(1).any(|line| {
        memchr::memchr(b':', line)
            .is_some_and(|colon| line[..colon].eq_ignore_ascii_case(wanted.as_str().as_bytes()))
    })
}

/// Checks that `Host` is present (HTTP/1.0 may omit it) and contains only a host and port, so that a backend that
/// concatenates it with the path cannot be misled. The parser rejects a second `Host` and one with `@`.
fn check_host(head: &RequestHeader, fields: &HeadFields<'_>) -> Result<(), Refusal> {
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte);
    match fields.host.first.map(HeaderValue::as_bytes) {
        None if head.version >= Version::HTTP_11 => refuse("the Host header is missing (RFC 9112, 3.2)"),
        Some(host) if host.is_empty() || !host.iter().all(is_host) => {
            refuse("the Host header is not a host (RFC 9110, 7.2)")
        }
        _ => Ok(()),
    }
}

/// Returns the request target from the raw head, since `head` has lost its fragment. Skips empty lines before the request line.
fn target(raw: &[u8]) -> &[u8] {
    let line = raw.trim_ascii_start();
    let line = &line[..memchr::memchr(b'\r', line).unwrap_or(line.len())];
    let first = memchr::memchr(b' ', line).map_or(line.len(), |at| at + 1);
    let last = memchr::memrchr(b' ', line).unwrap_or(line.len());
    line.get(first..last).unwrap_or_default()
}

/// Checks that the target is ASCII without a fragment.
fn check_target(target: &[u8]) -> Result<(), Refusal> {
    if target.iter().any(|byte| !byte.is_ascii_graphic() || *byte == b'#') {
        return refuse("the request target holds `#` or bytes that must be percent-encoded (RFC 3986)");
    }
    Ok(())
}

/// Returns whether `..` segments lead above the root of this path, plain or percent-encoded, with or without
/// `;parameters`. A backend that resolves them would leave its base path, or the prefix that routing checked.
pub(crate) fn climbs_out(path: &[u8]) -> bool {
    let mut depth = 0_usize;
    any_segment(path, |segment| {
        match segment {
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            b"." | b"" => {}
            _ => depth += 1,
        }
        false
    })
}

/// Returns whether the path has a `.` or `..` segment, in any of the spellings of [`climbs_out`].
pub(crate) fn has_dot_segments(path: &[u8]) -> bool {
    any_segment(path, |segment| matches!(segment, b"." | b".."))
}

/// Returns whether the test holds for a segment of the path, in its plain spelling and without parameters.
fn any_segment(path: &[u8], mut test: impl FnMut(&[u8]) -> bool) -> bool {
    // Without either byte, no segment is `.` or `..`.
    memchr::memchr2(b'.', b'%', path).is_some()
        && spelled_out(path)
            .split(|byte| matches!(byte, b'/' | b'\\'))
            .any(|segment| test(segment.split(|byte| *byte == b';').next().unwrap_or_default()))
}

/// Decodes `.`, `/` and `\` in the path.
fn spelled_out(path: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', path).is_none() {
        return Cow::Borrowed(path);
    }
    let mut spelled = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        let (byte, length) = match rest {
            [b'%', b'2', b'e' | b'E', ..] => (b'.', 3),
            [b'%', b'2', b'f' | b'F', ..] | [b'%', b'5', b'c' | b'C', ..] => (b'/', 3),
            _ => (*first, 1),
        };
        spelled.push(byte);
        rest = after.get(length - 1..).unwrap_or_default();
    }
    Cow::Owned(spelled)
}

/// Accepts `100-continue`, once, as the only expectation (RFC 9110, 10.1.1). Anything similar, such as
/// `y 100-continue`, is rejected: a parser that waits and one that does not would disagree on where the body is.
fn check_expectation(head: &RequestHeader, fields: &HeadFields<'_>) -> Result<(), Refusal> {
    let is_met = !fields.expect.is_present() || fields.expect.is_only(b"100-continue");
    if is_met || head.version < Version::HTTP_11 {
        return Ok(());
    }
    let message = "the only expectation met here is `Expect: 100-continue` (RFC 9110, 10.1.1)";
    Err(Refusal::new(ErrorKind::ExpectationFailed, message))
}

/// Returns whether this is a WebSocket handshake (RFC 6455, 4.1). Such a request has no body.
pub(crate) fn is_websocket(head: &RequestHeader, fields: &HeadFields<'_>) -> bool {
    let has_body = || {
        fields.transfer_encoding.is_present()
            || fields.content_length.first.is_some_and(|length| length != "0")
    };
    fields.upgrade.is_only(b"websocket")
        && head.method == Method::GET
        && head.version == Version::HTTP_11
        && !has_body()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_path_climbs_out_when_its_plain_spelling_does(segments in prop::collection::vec(0..6_usize, 0..8)) {
            let plain: Vec<&str> = segments.iter().map(|kind| ["a", "..", "b..", "", ".", ".."][*kind]).collect();
            let other: Vec<&str> =
                segments.iter().map(|kind| ["%61", "%2e.", "b%2E.", "", "%2e;x", "..;y=.."][*kind]).collect();
            let mut depth = 0_i32;
            let climbs = plain.iter().any(|segment| {
                depth += match *segment { ".." => -1, "." | "" => 0, _ => 1 };
                depth < 0
            });
            for path in [format!("/{}", plain.join("/")), format!("%2f{}", other.join("%5C"))] {
                prop_assert_eq!(climbs_out(path.as_bytes()), climbs, "{}", path);
            }
        }

        #[test]
        fn nothing_in_a_head_panics(raw in prop::collection::vec(prop::sample::select(b"\r\n: %2e/.#aGT\0".as_slice()), 0..60)) {
            let _ = (lines_end_well(&raw), target(&raw), names_field(&raw, &CONTENT_LENGTH), climbs_out(&raw));
        }
    }

    proptest! {
        #[test]
        fn a_line_ends_well_where_no_cr_or_lf_is_left_without_the_crlfs(
            raw in prop::collection::vec(prop::sample::select(b"\r\na".as_slice()), 0..12),
        ) {
            let text = String::from_utf8(raw).unwrap();
            prop_assert_eq!(lines_end_well(text.as_bytes()), !text.replace("\r\n", "").contains(['\r', '\n']));
        }
    }

    #[test]
    fn only_crlf_ends_a_line() {
        for good in ["", "GET / HTTP/1.1\r\n\r\n", "\r\nGET / HTTP/1.1\r\nA: b\r\n\r\n"] {
            assert!(lines_end_well(good.as_bytes()), "{good:?}");
        }
        for bad in ["\n", "\r", "a\n\r\n", "a\rb\r\n", "a\r\r\n", "a\r\n\n"] {
            assert!(!lines_end_well(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn two_dots_climb_in_every_spelling() {
        for bad in [
            "/..",
            "/a/../../b",
            "/a/..;x/../b",
            "/%2e./b",
            "/a/%2E%2e/../c",
            "/a%2f..%2f..%2fb",
            "/a\\..\\..\\b",
            "/a/%2e%2e%5c%2e%2e",
            "/.%2e;v=1",
            "//a/.;/./../..",
            "/;/..",
        ] {
            assert!(climbs_out(bad.as_bytes()), "{bad}");
        }
        for good in
            ["/", "", "/a..b", "/...", "/a/../b", "/a/b/../..", "/a;..", "/%2e", "/%252e%252e", "/a%", "/%2"]
        {
            assert!(!climbs_out(good.as_bytes()), "{good}");
        }
    }

    #[test]
    fn dot_segments_are_known_in_every_spelling() {
        for bad in ["/a/./b", "/a/../b", "/a/%2E/b", "/a/%2e%2E;x/b", "/a\\..\\b", "/.", "/a/.;v=1"] {
            assert!(has_dot_segments(bad.as_bytes()), "{bad}");
        }
        for good in ["", "/", "/v1/a.b", "/gpt-5.1/...", "/a..", "/%252e", "/models/.well-known"] {
            assert!(!has_dot_segments(good.as_bytes()), "{good}");
        }
    }

    #[test]
    fn the_target_is_what_came() {
        assert_eq!(target(b"GET /a#b?c HTTP/1.1\r\nHost: a b\r\n\r\n"), b"/a#b?c");
        assert_eq!(target(b"\r\nGET / HTTP/1.1\r\n\r\n"), b"/");
        assert_eq!(target(b"GET"), b"");
        assert_eq!(target(b"GET \r\n"), b"");
    }

    #[test]
    fn a_field_is_found_by_its_line_only() {
        let raw = b"GET /content-length: HTTP/1.1\r\nX: content-length: 1\r\nCONTENT-length: 5\r\n\r\n";
        assert!(names_field(raw, &CONTENT_LENGTH));
        assert!(!names_field(&raw[..raw.len() - 21], &CONTENT_LENGTH));
    }
}
