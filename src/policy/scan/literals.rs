//! Prepares regular expressions for folded text, and finds the literals that each match contains.

use regex_syntax::hir::Repetition;
use regex_syntax::hir::literal::{Extractor, Literal};
use regex_syntax::hir::{
    Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look,
};

use super::fold::folded;

/// Most bytes of a match.
pub(super) const MAX_MATCH: usize = 512;
/// Fewest bytes of a literal.
pub(super) const MIN_LITERAL: usize = 3;
/// Most literals of one expression.
const MAX_LITERALS: usize = 64;

/// Literals one of which each match contains, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Needles {
    pub(super) literals: Vec<Vec<u8>>,
    /// Most bytes of a match before the literal.
    pub(super) before: usize,
    /// Most bytes of a match from the start of the literal on.
    pub(super) after: usize,
}

/// Why an expression is refused: what is wrong, and what to do.
pub(super) type Refusal = (String, &'static str);

/// Parses an expression. Classes are of ASCII, unless the expression has a class of other characters.
pub(super) fn parse(pattern: &str) -> Result<Hir, Refusal> {
    if pattern.len() > MAX_PATTERN {
        let message = format!("the regular expression has {} bytes, more than {MAX_PATTERN}", pattern.len());
        return Err((message, "divide it into several"));
    }
    let hir = syntax(pattern, false)
        .or_else(|why| syntax(pattern, true).map_err(|_| why))
        .map_err(|why| (format!("the regular expression '{pattern}' is not valid: {why}"), "correct it"))?;
    let hir = fold(&hir)?;
    let properties = hir.properties();
    match (properties.minimum_len(), properties.maximum_len()) {
        (_, None) => Err((
            format!("the regular expression '{pattern}' may match text of any length"),
            "write the most that may repeat, such as {0,64} instead of *",
        )),
        (_, Some(length)) if length > MAX_MATCH => Err((
            format!("the regular expression '{pattern}' may match {length} bytes, more than {MAX_MATCH}"),
            "let it repeat less",
        )),
        (Some(0), _) => Err((
            format!("the regular expression '{pattern}' matches the empty text"),
            "let it match at least one character",
        )),
        (None, _) => Err((format!("the regular expression '{pattern}' matches nothing"), "correct it")),
        _ => Ok(hir),
    }
}

fn syntax(pattern: &str, is_unicode: bool) -> Result<Hir, String> {
    let mut builder = regex_syntax::ParserBuilder::new();
    builder.unicode(is_unicode).case_insensitive(!is_unicode).utf8(false).nest_limit(64);
    builder.build().parse(pattern).map_err(|error| match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        other => other.to_string(),
    })
}

/// Longest expression, in bytes.
const MAX_PATTERN: usize = 4096;

/// What an expression matches in folded text.
fn fold(hir: &Hir) -> Result<Hir, Refusal> {
    Ok(match hir.kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => match std::str::from_utf8(&literal.0) {
            Ok(text) => literal_hir(text),
            Err(_) => Hir::literal(literal.0.clone()),
        },
        HirKind::Class(class) => class_hir(class),
        HirKind::Look(look) => look_hir(*look)?,
        HirKind::Repetition(repetition) => {
            let sub = fold(&repetition.sub)?;
            // A run of white space is one blank.
            let (min, max) = match is_blank(&sub) {
                true => (repetition.min.min(1), Some(repetition.max.unwrap_or(1).min(1))),
                false => (repetition.min, repetition.max),
            };
            Hir::repetition(Repetition { min, max, greedy: repetition.greedy, sub: Box::new(sub) })
        }
        // Groups are not asked for.
        HirKind::Capture(capture) => fold(&capture.sub)?,
        HirKind::Concat(parts) => {
            let parts: Vec<Hir> = parts.iter().map(|part| fold(part)).collect::<Result<_, _>>()?;
            Hir::concat(one_blank(parts))
        }
        HirKind::Alternation(parts) => {
            Hir::alternation(parts.iter().map(|part| fold(part)).collect::<Result<_, _>>()?)
        }
    })
}

/// A literal. Its blanks stand by themselves, so that they meet those around it.
fn literal_hir(text: &str) -> Hir {
    // The blank in front keeps one that the text begins with, the letters keep the others.
    let mut bytes = folded(&format!("x{text}"));
    bytes.remove(0);
    Hir::concat(split_blanks(&bytes))
}

fn blank() -> Hir {
    Hir::literal(*b" ")
}

/// Whether an expression matches white space only.
fn is_blank(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(literal) => &*literal.0 == b" ",
        HirKind::Repetition(repetition) => is_blank(&repetition.sub),
        _ => false,
    }
}

/// Joins blanks that follow each other: folded text never has two.
fn one_blank(parts: Vec<Hir>) -> Vec<Hir> {
    let mut flat: Vec<Hir> = Vec::new();
    for piece in parts.into_iter().flat_map(pieces) {
        match flat.last_mut() {
            // If one of them must stand, one stands.
            Some(last) if is_blank(last) && is_blank(&piece) => {
                if piece.properties().minimum_len() == Some(1) {
                    *last = piece;
                }
            }
            _ => flat.push(piece),
        }
    }
    flat
}

/// The parts of a part, with blanks by themselves.
fn pieces(part: Hir) -> Vec<Hir> {
    match part.kind() {
        HirKind::Concat(inner) => inner.iter().cloned().flat_map(pieces).collect(),
        HirKind::Literal(literal) if literal.0.len() > 1 => split_blanks(&literal.0),
        _ => vec![part],
    }
}

fn split_blanks(bytes: &[u8]) -> Vec<Hir> {
    let mut parts = Vec::new();
    for (at, word) in bytes.split(|byte| *byte == b' ').enumerate() {
        if at > 0 {
            parts.push(blank());
        }
        if !word.is_empty() {
            parts.push(Hir::literal(word.to_vec()));
        }
    }
    parts
}

/// A class: capitals become small letters, all white space a blank.
fn class_hir(class: &Class) -> Hir {
    match class {
        Class::Bytes(bytes) => {
            let has_blank = bytes
                .iter()
                .any(|range| (range.start()..=range.end()).any(|byte| byte.is_ascii_whitespace()));
            let ranges = [(0, 0x1f), (b'A', b'Z')].map(|(from, to)| ClassBytesRange::new(from, to));
            let mut small = bytes.clone();
            small.difference(&ClassBytes::new(ranges));
            if small.ranges().is_empty() {
                small = bytes.clone();
                small.case_fold_simple();
            }
            if has_blank {
                small.push(ClassBytesRange::new(b' ', b' '));
            }
            Hir::class(Class::Bytes(small))
        }
        Class::Unicode(characters) => {
            let mut kept = ClassUnicode::empty();
            let is_few = characters.iter().map(ClassUnicodeRange::len).sum::<usize>() <= 1024;
            for range in characters.iter() {
                // What a class leaves out stays out: of all other characters, none is folded.
                match is_few {
                    true => (range.start()..=range.end()).for_each(|character| {
                        let text = folded(&format!("x{character}"));
                        let mut rest = std::str::from_utf8(&text[1..]).unwrap_or_default().chars();
                        if let (Some(only), None) = (rest.next(), rest.next()) {
                            kept.push(ClassUnicodeRange::new(only, only));
                        }
                    }),
                    false => kept.push(*range),
                }
            }
            Hir::class(Class::Unicode(kept))
        }
    }
}

fn look_hir(look: Look) -> Result<Hir, Refusal> {
    let ascii = match look {
        Look::StartLF | Look::EndLF | Look::StartCRLF | Look::EndCRLF => {
            return Err((
                "the regular expression asks for the start or end of a line".to_owned(),
                "line breaks are read as blanks; leave (?m) out",
            ));
        }
        Look::WordUnicode => Look::WordAscii,
        Look::WordUnicodeNegate => Look::WordAsciiNegate,
        Look::WordStartUnicode => Look::WordStartAscii,
        Look::WordEndUnicode => Look::WordEndAscii,
        Look::WordStartHalfUnicode => Look::WordStartHalfAscii,
        Look::WordEndHalfUnicode => Look::WordEndHalfAscii,
        other => other,
    };
    Ok(Hir::look(ascii))
}

/// The best literals that each match contains; `None` if there are none of [`MIN_LITERAL`] bytes.
pub(super) fn needles(hir: &Hir) -> Option<Needles> {
    let parts: &[Hir] = match hir.kind() {
        HirKind::Concat(parts) => parts,
        _ => std::slice::from_ref(hir),
    };
    let longest = |parts: &[Hir]| {
        parts.iter().map(|part| part.properties().maximum_len().unwrap_or(MAX_MATCH)).sum::<usize>()
    };
    let mut best: Option<(usize, Needles)> = None;
    // A look at more of a long expression would not find better ones.
    for at in 0..parts.len().min(64) {
        let near = &parts[at..parts.len().min(at + 16)];
        let mut extractor = Extractor::new();
        extractor.limit_class(16).limit_repeat(16).limit_literal_len(32).limit_total(MAX_LITERALS);
        let mut found = extractor.extract(&Hir::concat(near.to_vec()));
        found.dedup();
        let Some(literals) = found.literals() else { continue };
        let shortest = literals.iter().map(Literal::len).min().unwrap_or(0);
        if shortest < MIN_LITERAL || literals.len() > MAX_LITERALS {
            continue;
        }
        let literals: Vec<Vec<u8>> = literals.iter().map(|literal| literal.as_bytes().to_vec()).collect();
        // Long ones are rare in other text, and so are few.
        let worth = shortest.min(8) * 64 - literals.len();
        if best.as_ref().is_none_or(|(other, _)| worth > *other) {
            best = Some((
                worth,
                Needles { literals, before: longest(&parts[..at]), after: longest(&parts[at..]) },
            ));
        }
    }
    best.map(|(_, needles)| needles)
}
