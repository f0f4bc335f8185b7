//! Short texts of a client that are told beside bodies, in logs, spans and records: a path, the name of a model.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::fields::percent_decoded;
use super::redact::redact;
use crate::protocol::wire::framing::Framing;

/// What every secret has, in one pass: nearly all texts have none of it, and cost no more than this.
#[expect(clippy::expect_used, reason = "the pattern is constant; a test compiles it")]
static HINT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        "(?i-u:sk-|[sr]k_|aiza|a[ks]ia|gh[oprsu]_|github_pat_|xox|hf_|glpat-|gsk_|xai-|npm_|eyj|bearer|://|[=@%]\
         |:[ \\t]|PRIVATE KEY|[0-9][0-9 -]{11})",
    )
    .expect("the pattern is well formed")
});

/// The text without its secrets, also where they are percent-encoded; the text itself when it has none.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !HINT.is_match(text) {
        return Cow::Borrowed(text);
    }
    let redacted = redact(text, Framing::Opaque, false);
    let plain =
        if redacted.contains('%') { percent_decoded(&redacted) } else { return changed(text, redacted) };
    let again = redact(&plain, Framing::Opaque, false);
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
            assert_eq!(shown(path), expected);
        }
        for path in [
            "/v1/messages",
            "/v1beta/models/gemini-2.5-pro:generateContent",
            "/a%20b",
            "claude-sonnet-4-20250514",
        ] {
            assert!(matches!(shown(path), Cow::Borrowed(same) if same == path), "{path}");
        }
    }
}
