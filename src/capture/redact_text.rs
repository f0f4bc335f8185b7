//! Redacts short client-supplied texts in logs, spans and records, such as a path or a model name.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::LazyLock;

use regex::Regex;

use super::redact::redact_body;
use super::rules::key_starts;
use crate::protocol::wire::framing::Framing;
use crate::protocol::wire::parameters::percent_decoded;

/// Matches a part of every secret. Almost no text matches, so that most texts cost one scan.
#[expect(clippy::expect_used, reason = "the pattern is made of constants; a test compiles it")]
static HINT: LazyLock<Regex> = LazyLock::new(|| {
    let keys: Vec<String> = key_starts().map(regex::escape).collect();
    let others = r"eyj|bearer|://|[=@%]|:[ \t]|PRIVATE KEY|[0-9][0-9 .()-]{8}|[A-Z]{2}[0-9]{2}[ A-Z0-9]{9}";
    Regex::new(&format!("(?i-u:{}|{others})", keys.join("|"))).expect("the pattern is well formed")
});

/// The texts of a thread that were last found not to match: paths and models repeat.
#[derive(Default)]
struct Harmless {
    texts: [Box<str>; HARMLESS],
    next: usize,
}

/// How many are remembered; comparing with all of them costs less than a scan.
const HARMLESS: usize = 8;

/// The longest text that is remembered, in bytes.
const REMEMBERED: usize = 128;

thread_local! {
    static LAST: RefCell<Harmless> = RefCell::default();
}

impl Harmless {
    /// Returns whether `text` matches nothing.
    fn is(&mut self, text: &str) -> bool {
        if self.texts.iter().any(|known| **known == *text) {
            return true;
        }
        let is_harmless = !HINT.is_match(text);
        if is_harmless && text.len() <= REMEMBERED {
            self.texts[self.next] = text.into();
            self.next = (self.next + 1) % HARMLESS;
        }
        is_harmless
    }
}

/// Redacts secrets, including percent-encoded ones. Returns the text unchanged if it contains none.
pub fn redact_text(text: &str) -> Cow<'_, str> {
    if LAST.with_borrow_mut(|last| last.is(text)) {
        return Cow::Borrowed(text);
    }
    let redacted = redact_body(text, Framing::Opaque, false);
    let plain =
        if redacted.contains('%') { percent_decoded(&redacted) } else { return changed(text, redacted) };
    let again = redact_body(&plain, Framing::Opaque, false);
    if again == plain { changed(text, redacted) } else { Cow::Owned(again) }
}

fn changed(text: &str, redacted: String) -> Cow<'_, str> {
    if redacted == text { Cow::Borrowed(text) } else { Cow::Owned(redacted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_loses_its_secrets_and_no_other_path_changes() {
        for (path, expected) in [
            ("/v1/keys/sk-ant-api03-abcDEF123456789_abcDEF-xyz0/x", "/v1/keys/[redacted:api_key]/x"),
            ("/v1/keys/sk%2Dant-api03-abcDEF123456789_abcDEF-xyz0", "/v1/keys/[redacted:api_key]"),
            ("/users/bob%40example.com/files", "/users/[redacted:email]/files"),
            ("/a;password=x", "/a;password=[redacted:secret]"),
            ("/cards/4111111111111111", "/cards/[redacted:card]"),
        ] {
            assert_eq!(redact_text(path), expected);
        }
        for path in [
            "/v1/messages",
            "/v1beta/models/gemini-2.5-pro:generateContent",
            "/a%20b",
            "claude-sonnet-4-20250514",
        ] {
            // Again from memory.
            for _ in 0..2 {
                assert!(matches!(redact_text(path), Cow::Borrowed(same) if same == path), "{path}");
            }
        }
    }
}
