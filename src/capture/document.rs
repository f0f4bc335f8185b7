//! The stored JSON document of a capture: bodies as text, decompressed, with secrets redacted.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Serialize;

use super::buffer::{Body, Capture};
use super::form_fields::{redact_pairs, redact_parts};
use super::redact::redact_body;
use super::redact_text::redact_text;
use super::rules::is_document;
use crate::clock::millis;
use crate::ids::{BackendName, RequestId, SessionId, Uid};
use crate::protocol::wire::coding::{Coding, Decoder};
use crate::protocol::wire::framing::Framing;

/// A capture as it is stored and returned by the API.
#[derive(Serialize)]
struct Stored<'a> {
    at: Timestamp,
    request_id: &'a RequestId,
    session_id: &'a SessionId,
    uid: Uid,
    method: &'a str,
    path: String,
    backend: Option<&'a BackendName>,
    model: Option<String>,
    status: Option<u16>,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_ms: Option<u64>,
    redacted: bool,
    request: StoredBody<'a>,
    response: StoredBody<'a>,
}

#[derive(Serialize)]
struct StoredBody<'a> {
    content_type: Option<Cow<'a, str>>,
    content_encoding: Option<&'a str>,
    /// The size of the whole body as it passed.
    bytes: u64,
    truncated: bool,
    body: Option<Cow<'a, str>>,
    /// Why `body` is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<&'static str>,
}

/// Serializes a capture as JSON.
pub fn to_json(capture: &Capture) -> String {
    let is_whole = capture.outcome == "ok";
    let body = |body| stored_body(body, capture, is_whole);
    let own = |text: &'_ str| if capture.redact { redact_text(text).into_owned() } else { text.to_owned() };
    let stored = Stored {
        at: capture.at,
        request_id: &capture.request_id,
        session_id: &capture.session_id,
        uid: capture.uid,
        method: &capture.method,
        path: own(&capture.path),
        backend: capture.backend.as_ref(),
        model: capture.model.as_deref().map(own),
        status: capture.status,
        outcome: capture.outcome,
        queue_ms: capture.queue.map(millis),
        redacted: capture.redact,
        request: body(&capture.request),
        response: body(&capture.answer),
    };
    // Fails only for maps with non-string keys, and there are none.
    serde_json::to_string(&stored).unwrap_or_default()
}

fn stored_body<'a>(body: &'a Body, capture: &Capture, is_whole: bool) -> StoredBody<'a> {
    let (bytes, is_cut) = match plain(body, capture.max_body) {
        Some((bytes, is_cut)) => (Some(bytes), is_cut),
        None => (None, body.is_cut()),
    };
    let (text, omitted) = match bytes.map(|bytes| as_text(bytes, body.media.as_deref(), is_cut || !is_whole))
    {
        Some(Some(text)) => (Some(text), None),
        Some(None) => (None, Some("binary")),
        None => (None, Some("content_encoding")),
    };
    let text = match text {
        Some(text) if capture.redact => {
            Some(Cow::Owned(redacted(body.media.as_deref(), &text, is_cut || !is_whole)))
        }
        text => text,
    };
    StoredBody {
        content_type: body
            .media
            .as_deref()
            .map(|media| if capture.redact { redact_text(media) } else { media.into() }),
        content_encoding: body.coding.as_deref(),
        bytes: body.total,
        truncated: is_cut,
        body: text,
        omitted,
    }
}

/// Redacts the text of a body, depending on its media type.
fn redacted(media: Option<&str>, text: &str, is_cut: bool) -> String {
    let framing = framing(media, text);
    let is = |kind: &str| {
        media
            .and_then(|media| media.trim_start().get(..kind.len()))
            .is_some_and(|begin| begin.eq_ignore_ascii_case(kind))
    };
    match framing {
        Framing::Opaque if is("multipart/") => {
            redact_body(&redact_parts(text, media.unwrap_or_default(), is_cut), framing, is_cut)
        }
        Framing::Opaque if is("application/x-www-form-urlencoded") => {
            redact_body(&redact_pairs(text, is_cut), framing, is_cut)
        }
        Framing::Sse
        | Framing::Ndjson
        | Framing::BinaryEvents
        | Framing::Json
        | Framing::Messages
        | Framing::Opaque => redact_body(text, framing, is_cut),
    }
}

/// Decompresses a body to at most `max` bytes. Returns it, and whether anything is missing; `None` if its coding is
/// unknown or corrupt from the start.
fn plain(body: &Body, max: usize) -> Option<(Cow<'_, [u8]>, bool)> {
    let mut decoder = match Decoder::new(Coding::of(body.coding.as_deref())) {
        Ok(None) => return Some((Cow::Borrowed(&body.bytes), body.is_cut())),
        Ok(Some(decoder)) => decoder,
        Err(_) => return None,
    };
    let (mut plain, mut is_cut) = (Vec::new(), body.is_cut());
    let decoded = decoder.feed(&body.bytes, |piece| {
        let room = max - plain.len();
        is_cut |= piece.len() > room;
        plain.extend_from_slice(&piece[..piece.len().min(room)]);
    });
    let is_readable = decoded.is_ok() || !plain.is_empty();
    is_readable.then_some((Cow::Owned(plain), is_cut || decoded.is_err()))
}

/// Converts bytes to text; `None` if they are binary.
fn as_text<'a>(bytes: Cow<'a, [u8]>, media: Option<&str>, is_cut: bool) -> Option<Cow<'a, str>> {
    let valid = match std::str::from_utf8(&bytes) {
        Ok(_) => bytes.len(),
        // The body was cut inside a character.
        Err(fault) if is_cut && fault.error_len().is_none() => fault.valid_up_to(),
        Err(_) if media.is_some_and(says_text) => {
            return Some(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()));
        }
        Err(_) => return None,
    };
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(&bytes[..valid]).ok().map(Cow::Borrowed),
        Cow::Owned(mut bytes) => {
            bytes.truncate(valid);
            String::from_utf8(bytes).ok().map(Cow::Owned)
        }
    }
}

/// Returns true for media types of text: for those, invalid bytes are replaced instead of omitting the body.
fn says_text(media: &str) -> bool {
    let media = media.to_ascii_lowercase();
    media.starts_with("text/")
        || ["json", "xml", "javascript", "x-www-form-urlencoded"].iter().any(|word| media.contains(word))
}

/// The framing of the text. `curl -d` sends JSON with the media type of a form.
fn framing(media: Option<&str>, text: &str) -> Framing {
    let framing = Framing::of(media, None);
    if framing == Framing::Opaque && is_document(text) { Framing::Json } else { framing }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::Value;

    use super::*;

    fn capture(media: &str, coding: Option<&str>, bytes: &[u8], max_body: usize) -> Capture {
        let mut answer =
            Body { media: Some(media.into()), coding: coding.map(Into::into), ..Body::default() };
        answer.feed(bytes, max_body);
        Capture {
            at: Timestamp::UNIX_EPOCH,
            request_id: RequestId::new("r"),
            session_id: SessionId::new("s"),
            uid: Uid::fresh(),
            method: "POST".into(),
            path: "/v1/messages".into(),
            backend: None,
            model: None,
            status: Some(200),
            outcome: "ok",
            queue: None,
            redact: true,
            max_body,
            request: Body::default(),
            answer,
        }
    }

    fn response(capture: &Capture) -> Value {
        serde_json::from_str::<Value>(&to_json(capture)).unwrap()["response"].take()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_compressed_body_is_stored_decoded_and_redacted() {
        let plain = format!("{}, bob@example.com", "word ".repeat(3000));
        let response = response(&capture("text/plain", Some("gzip"), &gzip(plain.as_bytes()), 1 << 16));
        let body = response["body"].as_str().unwrap();
        assert!(body.starts_with("word word") && body.ends_with("[redacted:email]"), "{response}");
        assert_eq!(response["truncated"], false);
    }

    #[test]
    fn what_a_capture_says_of_itself_and_forms_lose_their_secrets_too() {
        let key = "sk-ant-api03-abcDEF123456789_abcDEF-xyz0";
        let part = "--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\npw1\r\n--b--\r\n";
        let mut capture = capture("multipart/form-data; boundary=b", None, part.as_bytes(), 4096);
        (capture.path, capture.model) = (format!("/v1/keys/{key}").into(), Some(format!("ft:{key}").into()));
        capture.request = Body::of((Some("application/x-www-form-urlencoded".into()), None));
        capture.request.feed(b"user=bob&pass%77ord=pw2", 4096);
        let text = to_json(&capture);
        for secret in [key, "pw1", "pw2"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["path"], "/v1/keys/[redacted:api_key]");
        assert_eq!(told["request"]["body"], "user=bob&pass%77ord=[redacted:secret]");
        capture.redact = false;
        assert!(to_json(&capture).contains(key) && to_json(&capture).contains("pw1"));
    }

    #[test]
    fn how_a_body_is_divided_into_chunks_changes_nothing() {
        let multipart =
            "--b\r\nContent-Disposition: form-data; name=password\r\n\r\npw1\r\n--x\r\npw1\r\n--b--\r\n";
        let json =
            r#"{"cookie":"sid=pw1","set-cookie":["pw1"],"h":[{"name":"x-api-key","value":"pw1"}],"n":1}"#;
        for (media, body) in [("multipart/form-data; boundary=b", multipart), ("application/json", json)] {
            let whole = response(&capture(media, None, body.as_bytes(), 4096));
            assert!(whole["body"].as_str().unwrap().contains("[redacted:secret]"), "{whole}");
            for at in 0..body.len() {
                let (first, second) = body.as_bytes().split_at(at);
                let mut divided = capture(media, None, first, 4096);
                divided.answer.feed(second, 4096);
                assert_eq!(response(&divided), whole, "{at}");
                let cut = response(&capture(media, None, body.as_bytes(), at.max(1)));
                assert!(!cut["body"].as_str().unwrap().contains("pw"), "{cut}");
            }
        }
    }

    #[test]
    fn a_body_that_grows_when_it_is_decoded_keeps_its_limit() {
        let bomb = gzip(&vec![b'x'; 900_000]);
        let response = response(&capture("text/plain", Some("gzip"), &bomb, 4096));
        assert_eq!((response["body"].as_str().unwrap().len(), &response["truncated"]), (4096, &true.into()));
        assert_eq!(response["bytes"], bomb.len());
    }

    #[test]
    fn what_is_no_text_is_left_out_and_said_so() {
        let binary = response(&capture("image/png", None, b"\x89PNG\xff\xfe", 100));
        assert_eq!((&binary["body"], &binary["omitted"]), (&Value::Null, &"binary".into()));
        let unknown = response(&capture("text/plain", Some("x-own"), b"abc", 100));
        assert_eq!((&unknown["body"], &unknown["omitted"]), (&Value::Null, &"content_encoding".into()));
        let wrong = response(&capture("application/json", None, b"{\"a\":\"\xff\"}", 100));
        assert_eq!(wrong["body"], "{\"a\":\"\u{fffd}\"}");
    }

    #[test]
    fn a_cut_inside_a_character_leaves_it_out() {
        let cut = response(&capture("text/plain", None, "naïve".as_bytes(), 3));
        assert_eq!((&cut["body"], &cut["truncated"], &cut["bytes"]), (&"na".into(), &true.into(), &6.into()));
    }
}
