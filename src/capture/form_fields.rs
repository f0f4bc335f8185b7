//! Redacts form fields: `application/x-www-form-urlencoded`, and the parts of `multipart/form-data`.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use percent_encoding::percent_decode_str;
use regex::Regex;

use super::redact::redact_body;
use super::rules::{SecretKind, is_document, is_secret_name};
use crate::protocol::wire::framing::Framing;

/// The head of a multipart part, up to its content. One of the two groups is the field name.
#[expect(clippy::expect_used, reason = "the pattern is constant; a test compiles it")]
static PART: LazyLock<Regex> = LazyLock::new(|| {
    let name = r#"(?i-u:content-disposition):[^\r\n]*[; \t](?i-u:name)=(?:"([^"\r\n]*)"|([^"; \t\r\n]+))[^\r\n]*\r?\n"#;
    Regex::new(&format!(r"{name}(?:[^\r\n]+\r?\n)*\r?\n")).expect("the pattern is well formed")
});

/// Redacts a URL-encoded form. Pairs without secrets are not changed.
pub(super) fn redact_pairs(text: &str, is_cut: bool) -> String {
    let last = text.len() - text.rsplit('&').next().map_or(0, str::len);
    let mut at = 0;
    let pairs: Vec<Cow<'_, str>> = text
        .split('&')
        .map(|pair| {
            let is_cut = is_cut && at == last;
            at += pair.len() + 1;
            redact_pair(pair, is_cut)
        })
        .collect();
    pairs.join("&")
}

fn redact_pair(pair: &str, is_cut: bool) -> Cow<'_, str> {
    let (name, value) = pair.split_once('=').unwrap_or(("", pair));
    if value.is_empty() {
        return Cow::Borrowed(pair);
    }
    if is_secret_name(&decoded(name)) {
        return Cow::Owned(format!("{name}={}", SecretKind::Secret.mark()));
    }
    let plain = decoded(value);
    let framing = if is_document(&plain) { Framing::Json } else { Framing::Opaque };
    let redacted = redact_body(&plain, framing, is_cut);
    if redacted == plain {
        return Cow::Borrowed(pair);
    }
    let mut out = name.to_owned();
    if name.len() < pair.len() - value.len() {
        out.push('=');
    }
    for letter in redacted.chars() {
        match letter {
            '%' => out.push_str("%25"),
            '&' => out.push_str("%26"),
            '+' => out.push_str("%2B"),
            ' ' => out.push('+'),
            letter => out.push(letter),
        }
    }
    Cow::Owned(out)
}

/// Redacts the content of multipart parts with a secret name.
pub(super) fn redact_parts(text: &str) -> String {
    let mut secrets: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while let Some(head) = PART.captures_at(text, at) {
        let Some(all) = head.get(0) else { break };
        let name = head.get(1).or(head.get(2)).map_or("", |name| name.as_str());
        let rest = &text[all.end()..];
        let end = rest.find("\n--").map_or(rest.len(), |end| rest[..end].trim_end_matches('\r').len());
        at = all.end();
        if is_secret_name(&decoded(name)) && end > 0 {
            secrets.push(all.end()..all.end() + end);
            at += end;
        }
    }
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for secret in secrets {
        out.push_str(&text[at..secret.start]);
        out.push_str(SecretKind::Secret.mark());
        at = secret.end;
    }
    out.push_str(&text[at..]);
    out
}

/// Decodes percent-encoding, and `+` as a space.
fn decoded(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        Cow::Owned(percent_decoded(&text.replace('+', " ")).into_owned())
    } else {
        percent_decoded(text)
    }
}

/// Decodes percent-encoding. Invalid UTF-8 in the result is replaced.
pub(super) fn percent_decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_of_pairs_is_read_as_a_program_reads_it() {
        for (notation, expected) in [
            ("user=bob&password=x&a=b%20c", "user=bob&password=[redacted:secret]&a=b%20c"),
            ("pass%77ord=hunter2", "pass%77ord=[redacted:secret]"),
            ("user%5Bpassword%5D=hunter+2", "user%5Bpassword%5D=[redacted:secret]"),
            ("mail=bob%40example.com+now", "mail=[redacted:email]+now"),
            (
                "payload=%7B%22password%22%3A12345%2C%22a%22%3A1%7D",
                "payload={\"password\":\"[redacted:secret]\",\"a\":1}",
            ),
            ("a=1&&b", "a=1&&b"),
        ] {
            assert_eq!(redact_pairs(notation, false), expected);
        }
    }

    #[test]
    fn a_part_with_a_secret_name_loses_its_content() {
        let part = |head: &str, content: &str| format!("--b\r\n{head}\r\n\r\n{content}\r\n");
        let body = |secret: &str, short: &str| {
            [
                part("Content-Disposition: form-data; name=\"user\"", "bob"),
                part("content-disposition: form-data; name=\"password\"\r\nContent-Type: text/plain", secret),
                part("Content-Disposition: form-data; name=api_key", short),
                "--b--\r\n".to_owned(),
            ]
            .concat()
        };
        let mark = "[redacted:secret]";
        assert_eq!(redact_parts(&body("correct horse\r\nbattery", "x")), body(mark, mark));
        let cut = part("Content-Disposition: form-data; name=\"token\"", "abc");
        assert!(redact_parts(cut.trim_end()).ends_with(mark), "also where the body was cut");
    }
}
