//! Redacts form fields: `application/x-www-form-urlencoded`, and the parts of `multipart/form-data`.

use std::borrow::Cow;

use super::redact::redact_body;
use super::rules::{is_document, is_secret_name, mark};
use crate::policy::secrets::SecretKind;
use crate::protocol::wire::framing::Framing;
use crate::protocol::wire::parameters::{percent_decoded, values};

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
        return Cow::Owned(format!("{name}={}", mark(SecretKind::Secret)));
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

/// Redacts the parts of a multipart body (RFC 2046): the content of those with a secret name, and the secrets in those
/// that are JSON documents. `media` is the body's `Content-Type`.
pub(super) fn redact_parts(text: &str, media: &str, is_cut: bool) -> String {
    let is_used = |boundary: &String| lines(text).any(|(_, line)| is_delimiter(line, boundary));
    // A body with another boundary than its head says is still read by its own.
    let mut boundaries = values(media, "boundary").into_iter().chain(first_boundary(text));
    let Some(boundary) = boundaries.find(is_used) else { return text.to_owned() };
    let mut out = String::with_capacity(text.len());
    let mut begin = 0;
    for (at, line) in lines(text).filter(|(_, line)| is_delimiter(line, &boundary)) {
        push_part(&mut out, &text[begin..at], false);
        out.push_str(line);
        begin = at + line.len();
    }
    push_part(&mut out, &text[begin..], is_cut);
    out
}

/// Iterates over lines, including their line ends, with their positions.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive('\n').scan(0, |at, line| {
        let begin = *at;
        *at += line.len();
        Some((begin, line))
    })
}

/// Returns true for a line that separates parts, or ends the last one. A line that only begins like one is content.
fn is_delimiter(line: &str, boundary: &str) -> bool {
    line.strip_prefix("--")
        .and_then(|rest| rest.strip_prefix(boundary))
        .is_some_and(|rest| rest.strip_prefix("--").unwrap_or(rest).trim().is_empty())
}

fn first_boundary(text: &str) -> Option<String> {
    let boundary = text.lines().find_map(|line| line.strip_prefix("--"))?.trim();
    (!boundary.is_empty()).then(|| boundary.to_owned())
}

/// Appends a part: its head, an empty line, its content.
fn push_part(out: &mut String, part: &str, is_cut: bool) {
    let head = lines(part).find(|(_, line)| line.trim_end_matches(['\r', '\n']).is_empty());
    let (head, content) = part.split_at(head.map_or(part.len(), |(at, line)| at + line.len()));
    // The last line end belongs to the delimiter.
    let value = content.strip_suffix('\n').unwrap_or(content);
    let value = value.strip_suffix('\r').unwrap_or(value);
    out.push_str(head);
    if !value.is_empty() && is_named_secret(head) {
        out.push_str(mark(SecretKind::Secret));
    } else if is_document(value) {
        out.push_str(&redact_body(value, Framing::Json, is_cut));
    } else {
        out.push_str(value);
    }
    out.push_str(&content[value.len()..]);
}

/// Returns true if a field of a part's head has a parameter `name` with a secret name.
fn is_named_secret(head: &str) -> bool {
    // A line that begins with a space continues the one before.
    let unfolded = head.replace("\r\n", "\n").replace("\n ", " ").replace("\n\t", " ");
    unfolded.lines().flat_map(|line| values(line, "name")).any(|name| is_secret_name(&decoded(&name)))
}

/// Decodes percent-encoding, and `+` as a space.
fn decoded(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        Cow::Owned(percent_decoded(&text.replace('+', " ")).into_owned())
    } else {
        percent_decoded(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEDIA: &str = "multipart/form-data; boundary=b";

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
        for secret in
            ["correct horse\r\nbattery", "x\r\n--y\r\nz", "--\r\n--bx\r\n--", "\n", "-----BEGIN x\n--"]
        {
            assert_eq!(redact_parts(&body(secret, "x"), MEDIA, false), body(mark, mark), "{secret:?}");
        }
        let cut = part("Content-Disposition: form-data; name=\"token\"", "abc");
        assert!(redact_parts(cut.trim_end(), MEDIA, true).ends_with(mark), "also where the body was cut");
        assert_eq!(redact_parts(&body("x", "y"), "multipart/form-data", false), body(mark, mark));
        assert_eq!(redact_parts(&body("x", "y"), "multipart/form-data; boundary=c", false), body(mark, mark));
        let document = |secret: &str| {
            part(
                "Content-Disposition: form-data; name=\"payload\"",
                &format!(r#"{{"cookie":{secret},"n":1}}"#),
            )
        };
        let redacted = document(r#"["[redacted:secret]","[redacted:secret]"]"#);
        assert_eq!(redact_parts(&document(r#"["a=1",7]"#), MEDIA, false), redacted);
    }

    #[test]
    fn the_name_of_a_part_is_read_in_every_notation() {
        for (line, is_secret) in [
            ("Content-Disposition: form-data; name=password", true),
            ("Content-Disposition:form-data;filename=\"a;b\";NAME=api_key", true),
            ("content-disposition: form-data; name=\"user[pass\\word]\"", true),
            ("Content-Disposition: form-data; name = \"token\" ; filename=x", true),
            ("Content-Disposition: form-data; name=\"user\"; name*=UTF-8''pass%77ord", true),
            ("Content-Disposition: form-data; name*=UTF-8'en'pass%77ord; name=\"user\"", true),
            ("Content-Disposition: form-data; name*0=\"pass\"; name*1*=%77ord", true),
            ("Content-Disposition: form-data;\r\n name=\"x-functions-key\"", true),
            ("Content-Disposition: form-data; name=\"pass%77ord\"\r\nContent-Type: text/plain", true),
            ("Content-Disposition: form-data; name=\"password", true),
            ("Content-Disposition: form-data; name=\"user\"; filename=\"name=password\"", false),
            ("Content-Disposition: form-data; filename=password", false),
            ("X-Note: password", false),
        ] {
            let body = |content: &str| format!("--b\r\n{line}\r\n\r\n{content}\r\n--b--\r\n");
            let expected = if is_secret { body("[redacted:secret]") } else { body("hunter2") };
            assert_eq!(redact_parts(&body("hunter2"), MEDIA, false), expected);
        }
    }

    #[test]
    fn wherever_a_body_is_cut_nothing_of_a_secret_part_is_left() {
        let secret = "hunter2\r\n--not-b\r\nhunter2";
        let head = "--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n";
        let body = format!("{head}{secret}\r\n--b\r\n\r\nafter\r\n--b--\r\n");
        for end in head.len() + 1..body.len() {
            let redacted = redact_parts(&body[..end], MEDIA, true);
            assert!(!redacted.contains("unter") && redacted.starts_with(head), "{redacted}");
        }
    }
}
