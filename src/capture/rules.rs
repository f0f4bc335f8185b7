//! Finds secrets and personal data in plain text.
//!
//! Keys of vendors and numbers of people are those of the table of policies ([`crate::policy::secrets`]); what a name or
//! header calls secret is found here. When in doubt, the rules redact too much rather than too little.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem;
use regex::Regex;

use super::card_numbers::card_numbers;
use crate::policy::secrets::{DETECTORS, Detector, Follows, SecretKind};
use crate::protocol::dialects::credentials::{secret_fields, secret_parameters};

/// The placeholder that replaces a secret.
pub(super) fn mark(kind: SecretKind) -> &'static str {
    match kind {
        SecretKind::ApiKey => "[redacted:api_key]",
        SecretKind::PrivateKey => "[redacted:private_key]",
        SecretKind::Token => "[redacted:token]",
        SecretKind::Secret => "[redacted:secret]",
        SecretKind::Email => "[redacted:email]",
        SecretKind::Card => "[redacted:card]",
        SecretKind::Iban => "[redacted:iban]",
        SecretKind::Ssn => "[redacted:ssn]",
        SecretKind::Phone => "[redacted:phone]",
    }
}

/// What may precede a key: anything but a word character, or an escape such as `\n` in a JSON string.
const BEFORE: &str = r"(?:^|[^A-Za-z0-9_-]|\\[nrtbf])";
/// Vendors' keys of the table, by what begins them. Tokens and headers have patterns of their own below.
fn keys() -> impl Iterator<Item = &'static Detector> {
    let is_own = |id: &str| matches!(id, "jwt" | "bearer-token");
    DETECTORS.iter().filter(move |detector| {
        matches!(detector.kind, SecretKind::ApiKey | SecretKind::Token)
            && detector.follows == Follows::NoWord
            && !is_own(detector.id)
            || detector.id == "elida-key"
    })
}

/// What the keys of vendors begin with.
pub(super) fn key_starts() -> impl Iterator<Item = &'static str> {
    keys().flat_map(|key| key.anchors).copied()
}

/// Numbers of people of the table; cards and e-mail addresses have patterns of their own.
fn numbers() -> impl Iterator<Item = &'static Detector> {
    DETECTORS
        .iter()
        .filter(|detector| matches!(detector.kind, SecretKind::Iban | SecretKind::Ssn | SecretKind::Phone))
}

/// Secret names besides those of header fields with a credential; a longer name is secret if it ends with one of them.
const NAMES: &str = "password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key\
                     |secret[_-]?key|private[_-]?key|cookies";
/// The local part of an e-mail address.
const LOCAL: &str = "[A-Za-z0-9._%+-]+(?:@|%40)";
/// The end of a private key is searched in this many bytes.
const BLOCK: usize = 16 << 10;

struct Rules {
    /// The secret is the first group that matched, or the whole match.
    whole: Vec<(SecretKind, Regex)>,
    /// Incomplete secrets at the end of a text that was cut.
    begun: Vec<(SecretKind, Regex)>,
    private_key: Regex,
    /// Numbers of people, with what tells them from others.
    numbers: Vec<(&'static Detector, Regex)>,
    /// A secret name in quotation marks, up to the opening quotation mark or bracket of its value.
    named: Regex,
    /// The same for a name that contains escapes (`pass\u0077ord`).
    escaped: Regex,
    name: Regex,
}

#[expect(clippy::expect_used, reason = "the patterns are constant; a test compiles them")]
static RULES: LazyLock<Rules> = LazyLock::new(|| Rules::new().expect("the patterns are well formed"));

/// The characters of an unquoted value.
const VALUE: &str = r#"[^ \t\r\n"'\\&;,<>()\[\]{}]"#;
/// `Authorization` schemes whose credential is the rest of the line (RFC 7616, RFC 4559, AWS Signature 4).
const SCHEMES: &str = "digest|negotiate|ntlm|hawk|oauth|signature|gnap|dpop|aws4-hmac-sha256";

/// The alternatives of a pattern for secret names: one list for members, variables, form fields and header lines.
fn names() -> String {
    // `x-api-key` is also written `x_api_key` and `xApiKey`.
    let fields = secret_fields().map(|name| regex::escape(name).replace(r"\-", "[_-]?"));
    fields.chain([NAMES.to_owned()]).collect::<Vec<_>>().join("|")
}

/// A header field with a credential, up to its value.
fn header() -> String {
    let fields: Vec<String> = secret_fields().map(regex::escape).collect();
    let names = fields.join("|");
    format!(r"(?i-u:{names}|subscription-key|-token|-secret):[ \t]*(?:(?i-u:basic|bearer|token)[ \t]+)?")
}

/// The alternatives of a pattern for query parameters with a credential, besides those that end with a secret name.
fn parameters() -> String {
    secret_parameters().map(regex::escape).collect::<Vec<_>>().join("|")
}

impl Rules {
    fn new() -> Result<Self, regex::Error> {
        let names = names();
        let named = format!(r#"["'][A-Za-z0-9_.\[-]{{0,40}}(?i-u:{names})[\]0-9_-]*\\*["']"#);
        let value = r#"[ \t\r\n]*:[ \t\r\n]*(\\*)(["'\[{])"#;
        Ok(Self {
            whole: compiled(whole(&names))?,
            begun: compiled(begun(&names))?,
            private_key: Regex::new("-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----")?,
            numbers: numbers()
                .map(|number| Ok((number, Regex::new(&format!("(?-u:{})", number.regex()))?)))
                .collect::<Result<_, regex::Error>>()?,
            named: Regex::new(&format!("{named}{value}"))?,
            escaped: Regex::new(&format!(
                r#"["'](?P<name>[A-Za-z0-9_.-]{{0,40}}(?:\\+u[0-9A-Fa-f]{{4}}[A-Za-z0-9_.-]{{0,40}}){{1,20}})\\*["']{value}"#
            ))?,
            name: Regex::new(&format!(r"(?i-u:{names})[\])0-9 _-]*\z"))?,
        })
    }
}

fn compiled(patterns: Vec<(SecretKind, String)>) -> Result<Vec<(SecretKind, Regex)>, regex::Error> {
    patterns.into_iter().map(|(kind, pattern)| Ok((kind, Regex::new(&pattern)?))).collect()
}

fn whole(names: &str) -> Vec<(SecretKind, String)> {
    let (header, parameters) = (header(), parameters());
    let keys = keys().map(Detector::open_ended).collect::<Vec<_>>().join("|");
    vec![
        (SecretKind::ApiKey, format!("{BEFORE}({keys})")),
        (SecretKind::Token, r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?".into()),
        (SecretKind::Token, r"(?i-u:bearer)[ \t]+([A-Za-z0-9._~+/=-]{2,})".into()),
        (SecretKind::Secret, format!(r#"(?i-u:(?:{names})(?:[\])]|%5D)*(?:=|%3D))["']?({VALUE}+)"#)),
        // Quoted values, which may contain spaces (shell, TOML, YAML).
        (
            SecretKind::Secret,
            format!(
                r#"(?i-u:{names})[\])]*[ \t]*[:=][ \t]*(?:"([^"\r\n\\]+)"|'([^'\r\n\\]+)'|\\+"([^"\r\n\\]+)\\+")"#
            ),
        ),
        // A line of YAML.
        (
            SecretKind::Secret,
            format!(r"(?m)^[ \t-]*[A-Za-z0-9_.-]{{0,40}}(?i-u:{names}):[ \t]+({VALUE}+)[ \t]*\r?$"),
        ),
        // A number in JSON.
        (
            SecretKind::Secret,
            format!(r#"(?i-u:{names})[\])]*\\*["'][ \t\r\n]*:[ \t\r\n]*(-?[0-9][0-9.eE+-]*)"#),
        ),
        (SecretKind::Secret, format!("{header}({VALUE}+)")),
        (SecretKind::Secret, format!(r"(?i-u:authorization):[ \t]*(?i-u:{SCHEMES})[ \t]+([^\r\n\[\]]+)")),
        (
            SecretKind::Token,
            r#"(?i-u:authorization):[ \t]*[A-Za-z][A-Za-z0-9-]*[ \t]+([A-Za-z0-9._~+/=-]{8,})"#.into(),
        ),
        (SecretKind::Secret, r#"(?i-u:cookie):[ \t]*([^ \t\r\n"'\\;=\[\]]+=[^\r\n"'\\\[\]]*)"#.into()),
        (SecretKind::Secret, format!("(?i-u:[?&](?:{parameters})=)({VALUE}+)")),
        (SecretKind::Secret, r#"://[A-Za-z0-9._%+-]*:([^ \t\r\n"'\\/@\[\]]+)@"#.into()),
        (SecretKind::Token, r#"://([A-Za-z0-9._%+~-]{8,})@"#.into()),
        (SecretKind::Email, format!("{LOCAL}(?:[A-Za-z0-9-]+\\.)+[A-Za-z]{{2,}}")),
    ]
}

fn begun(names: &str) -> Vec<(SecretKind, String)> {
    let begun = key_starts().map(regex::escape).collect::<Vec<_>>().join("|");
    vec![
        (SecretKind::ApiKey, format!(r"{BEFORE}((?:{begun})[A-Za-z0-9_-]*)\z")),
        (SecretKind::Token, r"eyJ[A-Za-z0-9_.-]*\z".into()),
        (SecretKind::Token, r"(?i-u:bearer)[ \t]+([A-Za-z0-9._~+/=-]+)\z".into()),
        (SecretKind::Secret, r#"://[A-Za-z0-9._%+-]*:([^ \t\r\n"'\\/@\[\]]+)\z"#.into()),
        (SecretKind::Email, format!(r"{LOCAL}[A-Za-z0-9.-]*\z")),
        (SecretKind::Secret, format!(r#"(?i-u:{names})[ \t]*[:=][ \t]*\\*["']([^"'\r\n]+)\z"#)),
    ]
}

/// Returns true if the value of a member with this (unescaped) name is secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    RULES.name.is_match(name)
}

/// Returns true if a text is a placeholder.
pub(super) fn is_mark(text: &str) -> bool {
    text.strip_prefix("[redacted:")
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|kind| kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
}

/// A range of a text to redact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redaction {
    pub(super) range: Range<usize>,
    /// Where the match starts, for example at the name of a value.
    pub(super) from: usize,
    /// The placeholder.
    pub(super) mark: &'static str,
}

/// Finds secrets, in any order; ranges may overlap. If the text was cut, also finds an incomplete secret at its end.
pub(super) fn find_secrets(text: &str, is_cut: bool) -> Vec<Redaction> {
    let mut redactions = Vec::new();
    let mut take = |kind: SecretKind, from: usize, range: Range<usize>| {
        if !range.is_empty() {
            redactions.push(Redaction { range, from, mark: mark(kind) });
        }
    };
    private_keys(text, &mut take);
    let begun = RULES.begun.iter().filter(|_| is_cut);
    for (kind, rule) in RULES.whole.iter().chain(begun) {
        for all in rule.captures_iter(text) {
            let Some(found) = (1..all.len()).chain([0]).find_map(|group| all.get(group)) else { continue };
            if is_likely(*kind, found.as_str()) {
                let range = behind_escape(text, found.range());
                take(*kind, all.get(0).map_or(range.start, |all| all.start()).min(range.start), range);
            }
        }
    }
    named_values(text, &RULES.named, &mut take);
    if text.contains("\\u") {
        named_values(text, &RULES.escaped, &mut take);
    }
    for (number, rule) in &RULES.numbers {
        for found in rule.find_iter(text) {
            let is_one = number.may_follow(&text.as_bytes()[found.start().saturating_sub(2)..found.start()])
                && (number.validate)(found.as_str().as_bytes());
            if is_one {
                take(number.kind, found.start(), found.range());
            }
        }
    }
    card_numbers(text, is_cut, &mut |range| take(SecretKind::Card, range.start, range));
    redactions
}

/// Returns true if a text starts like a JSON object or array.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '['])
}

/// Returns true if a text is a JSON document or the beginning of one. Other texts may start with a bracket, too.
pub(super) fn is_document(text: &str) -> bool {
    is_json(text)
        && serde_json::from_str::<serde::de::IgnoredAny>(text).map_or_else(|why| why.is_eof(), |_| true)
}

/// Words in the position of a secret that are none: `Authorization` schemes, types, and null values.
const NO_SECRET: [&str; 12] = [
    "basic", "bearer", "token", "digest", "string", "str", "&str", "number", "null", "none", "true", "false",
];

/// Filters false positives: words joined by hyphens look like a key but contain no digit, and the name of a scheme is not
/// a credential.
fn is_likely(kind: SecretKind, found: &str) -> bool {
    let is_word = || !found.bytes().any(|byte| byte.is_ascii_digit());
    match kind {
        SecretKind::ApiKey => !(found.len() >= 20 && found.starts_with("sk-") && is_word()),
        SecretKind::Token => found.len() >= 20 || !is_word(),
        SecretKind::Secret => !NO_SECRET.iter().any(|word| found.eq_ignore_ascii_case(word)),
        SecretKind::PrivateKey
        | SecretKind::Email
        | SecretKind::Card
        | SecretKind::Iban
        | SecretKind::Ssn
        | SecretKind::Phone => true,
    }
}

/// Excludes the `n` of a preceding `\n` escape from a match.
fn behind_escape(text: &str, mut range: Range<usize>) -> Range<usize> {
    let bytes = text.as_bytes();
    let is_escape = range.start > 0 && bytes[range.start - 1] == b'\\';
    if is_escape && range.len() > 1 && matches!(bytes[range.start], b'n' | b'r' | b't' | b'b' | b'f') {
        range.start += 1;
    }
    range
}

/// Finds private key blocks, from the first line to the last, or as far as the text looks like a key.
fn private_keys(text: &str, take: &mut impl FnMut(SecretKind, usize, Range<usize>)) {
    for begin in RULES.private_key.find_iter(text) {
        let rest = &text.as_bytes()[begin.end()..];
        let near = &rest[..rest.len().min(BLOCK)];
        let last_line = memmem::find(near, b"-----END").and_then(|at| {
            let dashes = memmem::find(&near[at + 8..], b"-----")?;
            Some(at + 8 + dashes + 5)
        });
        let is_inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=\\:,- \t\r\n".contains(byte);
        let length =
            last_line.unwrap_or_else(|| rest.iter().position(|byte| !is_inside(byte)).unwrap_or(rest.len()));
        take(SecretKind::PrivateKey, begin.start(), begin.start()..begin.end() + length);
    }
}

/// Finds the values of secret names, also in JSON nested in strings, where each level doubles the backslashes before a
/// quotation mark and adds one. Objects and arrays are redacted as a whole.
fn named_values(text: &str, rule: &Regex, take: &mut impl FnMut(SecretKind, usize, Range<usize>)) {
    let mut from = 0;
    let mut document = None;
    while let Some(found) = rule.captures_at(text, from) {
        let groups = (found.get(0), found.get(found.len() - 2), found.get(found.len() - 1));
        let (Some(all), Some(level), Some(open)) = groups else { return };
        from = all.end();
        if found.name("name").is_some_and(|name| !is_secret_name(&unescaped(name.as_str()))) {
            continue;
        }
        let is_nested = matches!(open.as_str(), "{" | "[");
        // In a document every text is checked by itself. Do not measure nested values: each would be scanned to its end.
        if is_nested && *document.get_or_insert_with(|| is_document(text)) {
            continue;
        }
        let rest = &text.as_bytes()[all.end()..];
        let range = if is_nested {
            open.start()..all.end() + nested_length(rest, level_of(all.as_str()))
        } else {
            all.end()..all.end() + value_length(rest, open.as_str(), level.len())
        };
        let value = &text[range.clone()];
        let is_left = if is_nested {
            // A value without strings and numbers contains no secret.
            !value.contains(|c: char| c.is_ascii_digit() || matches!(c, '"' | '\''))
        } else {
            is_mark(value)
        };
        if !is_left {
            from = range.end.max(from);
            take(SecretKind::Secret, all.start(), range);
        }
    }
}

/// Resolves the escapes of a name, however many backslashes precede each of them.
fn unescaped(name: &str) -> String {
    let mut parts = name.split('\\').filter(|part| !part.is_empty());
    let mut out = String::new();
    if !name.starts_with('\\') {
        out.push_str(parts.next().unwrap_or_default());
    }
    for part in parts {
        let code = part.strip_prefix('u').and_then(|digits| digits.get(..4));
        match code.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32) {
            Some(letter) => {
                out.push(letter);
                out.push_str(part.get(5..).unwrap_or_default());
            }
            None => out.push_str(part),
        }
    }
    out
}

/// The number of backslashes before the closing quotation mark of a name.
fn level_of(name: &str) -> usize {
    let end = name.rfind(['"', '\'']).unwrap_or_default();
    name[..end].bytes().rev().take_while(|byte| *byte == b'\\').count()
}

/// The length of an object or array after its opening bracket, including the closing one.
fn nested_length(value: &[u8], level: usize) -> usize {
    let (mut depth, mut at) = (1_usize, 0);
    while let Some(&byte) = value.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => at += value_length(&value[at..], "\"", level) + level + 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    value.len()
}

/// The length of a string whose quotation marks are preceded by `level` backslashes.
fn value_length(value: &[u8], quote: &str, level: usize) -> usize {
    let mut backslashes: usize = 0;
    for (at, &byte) in value.iter().enumerate() {
        if byte == b'\\' {
            backslashes += 1;
            continue;
        }
        if quote.as_bytes() == [byte] {
            let is_end = match backslashes.checked_sub(level) {
                None => true,
                Some(more) => (more / (level + 1)).is_multiple_of(2),
            };
            if is_end {
                return at - backslashes.min(level);
            }
        }
        backslashes = 0;
    }
    value.len()
}
