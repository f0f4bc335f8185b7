//! What is a secret, and what is about a person: found in a plain text.
//!
//! Forms of keys are those that their vendors publish for secret scanners (GitHub, "Supported secret scanning
//! patterns"). A few words too many are taken out rather than one key too few left in.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem;
use regex::Regex;

/// What something is that is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ApiKey,
    PrivateKey,
    Token,
    Secret,
    Email,
    Card,
}

impl Kind {
    /// What is written in its place.
    pub(super) fn mark(self) -> &'static str {
        match self {
            Self::ApiKey => "[redacted:api_key]",
            Self::PrivateKey => "[redacted:private_key]",
            Self::Token => "[redacted:token]",
            Self::Secret => "[redacted:secret]",
            Self::Email => "[redacted:email]",
            Self::Card => "[redacted:card]",
        }
    }
}

/// What stands before a key: no part of a word, or an escape such as the `\n` of a text inside a text.
const BEFORE: &str = r"(?:^|[^A-Za-z0-9_-]|\\[nrtbf])";
/// How the keys of vendors begin, and how they go on.
const KEYS: [(&str, &str); 13] = [
    ("sk-ant-", "[A-Za-z0-9_-]{16,}"),
    ("sk-", "[A-Za-z0-9_-]{20,}"),
    ("[sr]k_(?:live|test)_", "[A-Za-z0-9]{16,}"),
    ("AIza", "[A-Za-z0-9_-]{35}"),
    ("A(?:KI|SI)A", "[A-Z0-9]{16}"),
    ("gh[oprsu]_", "[A-Za-z0-9]{36,}"),
    ("github_pat_", "[A-Za-z0-9_]{22,}"),
    ("xox[a-z]-", "[A-Za-z0-9-]{10,}"),
    ("hf_", "[A-Za-z0-9]{30,}"),
    ("glpat-", "[A-Za-z0-9_-]{20,}"),
    ("gsk_", "[A-Za-z0-9]{32,}"),
    ("xai-", "[A-Za-z0-9]{32,}"),
    ("npm_", "[A-Za-z0-9]{36}"),
];
/// The names of what is secret; a longer name ends with one of them.
const NAMES: &str = "password|passwd|passphrase|pwd|secret|token|authorization|api[_-]?key|access[_-]?key\
                     |secret[_-]?key|private[_-]?key";
/// Bytes of a private key's block in which its end is looked for.
const BLOCK: usize = 16 << 10;
/// Digits of a card's number (ISO/IEC 7812-1).
const CARD: Range<usize> = 13..20;

struct Rules {
    /// The secret is group 1 where there is one.
    whole: Vec<(Kind, Regex)>,
    /// At the end of a text that was cut: what may have begun.
    begun: Vec<(Kind, Regex)>,
    private_key: Regex,
    /// Up to the quotation mark before the value of a secret's name.
    named: Regex,
    name: Regex,
}

#[expect(clippy::expect_used, reason = "the patterns are constant; a test compiles them")]
static RULES: LazyLock<Rules> = LazyLock::new(|| Rules::new().expect("the patterns are well formed"));

impl Rules {
    fn new() -> Result<Self, regex::Error> {
        let keys = KEYS.map(|(begin, rest)| format!("{begin}{rest}")).join("|");
        let begun = KEYS.map(|(begin, _)| begin).join("|");
        let assigned = format!(r#"(?i-u:{NAMES})=["']?"#);
        let header =
            r"(?i-u:authorization|x-api-key|api-key|cookie):[ \t]*(?:(?i-u:basic|bearer|token)[ \t]+)?";
        let value = r#"[^ \t\r\n"'\\&;,<>()\[\]{}]"#;
        let bearer = r"(?i-u:bearer)[ \t]+";
        let local = "[A-Za-z0-9._%+-]+(?:@|%40)";
        let rules = |patterns: Vec<(Kind, String)>| -> Result<Vec<_>, regex::Error> {
            patterns.into_iter().map(|(kind, pattern)| Ok((kind, Regex::new(&pattern)?))).collect()
        };
        Ok(Self {
            whole: rules(vec![
                (Kind::ApiKey, format!("{BEFORE}({keys})")),
                (Kind::Token, r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?".into()),
                (Kind::Token, format!("{bearer}([A-Za-z0-9._~+/=-]{{8,}})")),
                (Kind::Secret, format!("{assigned}({value}{{6,}})")),
                (Kind::Secret, format!("{header}({value}{{6,}})")),
                (Kind::Secret, r#"://[A-Za-z0-9._%+-]*:([^ \t\r\n"'\\/@\[\]]+)@"#.into()),
                (Kind::Email, format!("{local}(?:[A-Za-z0-9-]+\\.)+[A-Za-z]{{2,}}")),
            ])?,
            begun: rules(vec![
                (Kind::ApiKey, format!(r"{BEFORE}((?:{begun})[A-Za-z0-9_-]*)\z")),
                (Kind::Token, r"eyJ[A-Za-z0-9_.-]*\z".into()),
                (Kind::Token, format!(r"{bearer}([A-Za-z0-9._~+/=-]+)\z")),
                (Kind::Secret, format!(r"{assigned}({value}+)\z")),
                (Kind::Secret, format!(r"{header}({value}+)\z")),
                (Kind::Secret, r#"://[A-Za-z0-9._%+-]*:([^ \t\r\n"'\\/@\[\]]+)\z"#.into()),
                (Kind::Email, format!(r"{local}[A-Za-z0-9.-]*\z")),
            ])?,
            private_key: Regex::new("-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----")?,
            named: Regex::new(&format!(
                r#"["'][A-Za-z0-9_.-]{{0,40}}(?i-u:{NAMES})\\*["'][ \t\r\n]*:[ \t\r\n]*(\\*)(["'])"#
            ))?,
            name: Regex::new(&format!(r"(?i-u:{NAMES})\z"))?,
        })
    }
}

/// Whether the value of a member with this name is a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    RULES.name.is_match(name)
}

/// Whether a text is what we write in the place of another.
pub(super) fn is_mark(text: &str) -> bool {
    text.strip_prefix("[redacted:")
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|kind| kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
}

/// Something that is to be taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) range: Range<usize>,
    /// What is written in its place.
    pub(super) mark: &'static str,
}

/// Finds what is to be taken out, in any order; spans may overlap. Where the text was cut, what has begun counts.
pub(super) fn find(text: &str, is_cut: bool) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut take = |kind: Kind, range: Range<usize>| {
        if !range.is_empty() {
            spans.push(Span { range, mark: kind.mark() });
        }
    };
    private_keys(text, &mut take);
    let begun = RULES.begun.iter().filter(|_| is_cut);
    for (kind, rule) in RULES.whole.iter().chain(begun) {
        for found in rule.captures_iter(text) {
            let Some(found) = found.get(1).or_else(|| found.get(0)) else { continue };
            if is_likely(*kind, found.as_str()) {
                take(*kind, behind_escape(text, found.range()));
            }
        }
    }
    named_values(text, &mut take);
    cards(text, is_cut, &mut take);
    spans
}

/// Words joined by hyphens look like a key; no key is without a digit. The name of a scheme is no credential.
fn is_likely(kind: Kind, found: &str) -> bool {
    let is_word = || !found.bytes().any(|byte| byte.is_ascii_digit());
    match kind {
        Kind::ApiKey => !(found.len() >= 20 && found.starts_with("sk-") && is_word()),
        Kind::Token => found.len() >= 20 || !is_word(),
        Kind::Secret => !["basic", "bearer", "token"].iter().any(|scheme| found.eq_ignore_ascii_case(scheme)),
        _ => true,
    }
}

/// The `n` of a `\n` before it is no part of what was found.
fn behind_escape(text: &str, mut range: Range<usize>) -> Range<usize> {
    let bytes = text.as_bytes();
    let is_escape = range.start > 0 && bytes[range.start - 1] == b'\\';
    if is_escape && range.len() > 1 && matches!(bytes[range.start], b'n' | b'r' | b't' | b'b' | b'f') {
        range.start += 1;
    }
    range
}

/// From the first line of a block to its last; without one, as far as it looks like the block.
fn private_keys(text: &str, take: &mut impl FnMut(Kind, Range<usize>)) {
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
        take(Kind::PrivateKey, begin.start()..begin.end() + length);
    }
}

/// The values of secret names, in JSON inside a text too: each level doubles the backslashes before a quotation mark
/// and adds one.
fn named_values(text: &str, take: &mut impl FnMut(Kind, Range<usize>)) {
    let mut from = 0;
    while let Some(found) = RULES.named.captures_at(text, from) {
        let (Some(all), Some(level), Some(quote)) = (found.get(0), found.get(1), found.get(2)) else {
            return;
        };
        let end = all.end() + value_length(&text.as_bytes()[all.end()..], quote.as_str(), level.len());
        let value = &text[all.end()..end];
        if !is_mark(value) {
            take(Kind::Secret, all.end()..end);
        }
        from = end.max(all.end());
    }
}

/// The length of a value whose quotation marks stand behind so many backslashes.
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

/// Numbers of cards: digits, alone or in groups, whose check digit is right (ISO/IEC 7812-1, annex B).
fn cards(text: &str, is_cut: bool, take: &mut impl FnMut(Kind, Range<usize>)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(u8::is_ascii_digit) {
        let begin = at + next;
        // Groups of digits with one space or hyphen between two.
        let mut groups: Vec<Range<usize>> = Vec::new();
        at = begin;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            let length =
                bytes[at..].iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len() - at);
            groups.push(at..at + length);
            at += length;
            let is_joint = matches!(bytes.get(at), Some(b' ' | b'-'));
            if is_joint && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
        }
        // The digits behind a point are those of a fraction.
        let is_fraction = begin > 1 && bytes[begin - 1] == b'.' && bytes[begin - 2].is_ascii_digit();
        if !is_fraction {
            // The next group may have been to come.
            let is_last = matches!(bytes[at..], [] | [b' ' | b'-']);
            cards_in(bytes, &groups, is_cut && is_last, take);
        }
    }
}

fn cards_in(bytes: &[u8], groups: &[Range<usize>], is_cut: bool, take: &mut impl FnMut(Kind, Range<usize>)) {
    let mut first = 0;
    while let Some(begin) = groups.get(first).map(|group| group.start) {
        let mut count = 0;
        let mut found = None;
        for (last, group) in groups.iter().enumerate().skip(first) {
            count += group.len();
            if count >= CARD.end {
                break;
            }
            let has_begun = is_cut && last + 1 == groups.len() && count >= 6;
            let digits = bytes[begin..group.end].iter().filter(|byte| byte.is_ascii_digit());
            if is_issuer(bytes[begin]) && (has_begun || CARD.contains(&count) && checks(digits)) {
                found = Some((last, group.end));
            }
        }
        first = match found {
            Some((last, end)) => {
                take(Kind::Card, begin..end);
                last + 1
            }
            None => first + 1,
        };
    }
}

/// The first digit of the cards of banks and shops.
fn is_issuer(digit: u8) -> bool {
    matches!(digit, b'2'..=b'6')
}

/// Luhn's sum.
fn checks<'a>(digits: impl DoubleEndedIterator<Item = &'a u8>) -> bool {
    let sum: u32 = digits
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0');
            match (place % 2, digit * 2) {
                (0, _) => digit,
                (_, double @ 10..) => double - 9,
                (_, double) => double,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}
