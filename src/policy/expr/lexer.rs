//! Splits an expression into tokens.

use super::expression::SourceFault;

/// A token and the position of its first byte.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) kind: TokenKind,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    /// A name or a keyword (`true`, `false`, `in`).
    Word(String),
    /// A text without its quotes and escapes.
    Text(String),
    Int(i64),
    Float(f64),
    /// An operator or a bracket.
    Sign(&'static str),
}

/// Longer signs first: `<=` is not `<` and `=`.
const SIGNS: [&str; 22] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "?", ":", "+", "-", "*", "/", "%", "(", ")", "[", "]",
    ",", ".",
];

/// Splits `source` into tokens.
///
/// # Errors
/// A text has no end or an unknown escape, a number is too large, or a character has no meaning.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, SourceFault> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (kind, len) = match first {
            '"' | '\'' => text(source, at)?,
            'r' | 'R' if rest[1..].starts_with(['"', '\'']) => raw_text(source, at)?,
            '0'..='9' => number(source, at)?,
            _ if first.is_ascii_alphabetic() || first == '_' => word(rest),
            _ => sign(source, at)?,
        };
        tokens.push(Token { at, kind });
        at += len;
    }
    Ok(tokens)
}

fn word(rest: &str) -> (TokenKind, usize) {
    let len = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    (TokenKind::Word(rest[..len].to_owned()), len)
}

fn sign(source: &str, at: usize) -> Result<(TokenKind, usize), SourceFault> {
    let rest = &source[at..];
    if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
        return Ok((TokenKind::Sign(sign), sign.len()));
    }
    let hint = match rest.as_bytes()[0] {
        b'=' => "compare with ==",
        b'&' => "write && for and",
        b'|' => "write || for or",
        _ => "texts are written in quotes",
    };
    let wrong = rest.chars().next().unwrap_or_default();
    Err(SourceFault::new(at, format!("'{wrong}' has no meaning here"), hint))
}

/// Reads a number in decimal digits. A name must not follow directly.
fn number(source: &str, at: usize) -> Result<(TokenKind, usize), SourceFault> {
    let rest = &source[at..];
    let digits = |from: usize| rest[from..].bytes().take_while(u8::is_ascii_digit).count();
    let mut len = digits(0);
    let mut is_float = false;
    if rest[len..].starts_with('.') && digits(len + 1) > 0 {
        is_float = true;
        len += 1 + digits(len + 1);
    }
    if rest[len..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[len + 1..].starts_with(['+', '-']));
        if digits(len + 1 + sign) > 0 {
            is_float = true;
            len += 1 + sign + digits(len + 1 + sign);
        }
    }
    let written = &rest[..len];
    if rest[len..].starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_') {
        let message = format!("'{written}' is followed by letters");
        return Err(SourceFault::new(at, message, "write numbers in decimal digits, such as 10 or 0.5"));
    }
    let kind = match is_float {
        true => written.parse().ok().filter(|number: &f64| number.is_finite()).map(TokenKind::Float),
        false => written.parse().ok().map(TokenKind::Int),
    };
    kind.map(|kind| (kind, len))
        .ok_or_else(|| SourceFault::new(at, format!("{written} is too large"), "numbers have 64 bits"))
}

fn unended(at: usize) -> SourceFault {
    SourceFault::new(at, "this text has no end", "close it with the quote that opens it")
}

/// Reads a text without escapes: `r"…"`.
fn raw_text(source: &str, at: usize) -> Result<(TokenKind, usize), SourceFault> {
    let inside = &source[at + 2..];
    let quote = source.as_bytes()[at + 1];
    let len = inside.bytes().position(|byte| byte == quote).ok_or_else(|| unended(at))?;
    Ok((TokenKind::Text(inside[..len].to_owned()), len + 3))
}

/// Reads a text in quotes, with CEL's escapes.
fn text(source: &str, at: usize) -> Result<(TokenKind, usize), SourceFault> {
    let quote = char::from(source.as_bytes()[at]);
    let mut text = String::new();
    let mut characters = source[at + 1..].char_indices();
    while let Some((offset, character)) = characters.next() {
        let place = at + 1 + offset;
        match character {
            '\\' => {
                let (_, escape) = characters.next().ok_or_else(|| unended(at))?;
                let digits = match escape {
                    'x' | 'X' => 2,
                    'u' => 4,
                    'U' => 8,
                    _ => 0,
                };
                let code: String = characters.by_ref().take(digits).map(|(_, digit)| digit).collect();
                text.push(unescaped(escape, &code).ok_or_else(|| {
                    let message = format!("\\{escape}{code} is no escape");
                    SourceFault::new(
                        place,
                        message,
                        "write \\\\ for a backslash, or r\"…\" for a text without escapes",
                    )
                })?);
            }
            '\n' => return Err(unended(at)),
            _ if character == quote => return Ok((TokenKind::Text(text), offset + 2)),
            _ => text.push(character),
        }
    }
    Err(unended(at))
}

fn unescaped(escape: char, code: &str) -> Option<char> {
    Some(match escape {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        '\\' | '"' | '\'' | '`' | '?' => escape,
        'x' | 'X' | 'u' | 'U' => return char::from_u32(u32::from_str_radix(code, 16).ok()?),
        _ => return None,
    })
}
