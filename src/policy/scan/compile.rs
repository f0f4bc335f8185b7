//! Compiles patterns.

use std::sync::atomic::{AtomicU64, Ordering};

use super::automaton::Automaton;
use super::candidates::Slot;
use super::fold::{FOLD, folded};
use super::literals::{MIN_LITERAL, needles, parse};
use super::pattern::{Pattern, PatternFault, PatternKind};
use super::patterns::{Anchors, ByteClass, Literal, Literals, Patterns};
use super::regexes::Expression;
use crate::policy::secrets::{Detector, Lead};

/// Most expressions that are searched in all text.
const MAX_SLOW: usize = 8;
/// Largest automaton, in bytes.
const MAX_AUTOMATON: usize = 16 << 20;
/// Longest phrase, in bytes after folding.
const MAX_PHRASE: usize = 256;
/// Most patterns of a phase.
const MAX_PATTERNS: usize = 10_000;

/// Tells the patterns apart to which the state of a lane belongs.
static NEXT: AtomicU64 = AtomicU64::new(1);

#[derive(Default)]
struct Parts {
    literals: Vec<Vec<u8>>,
    outputs: Vec<Literal>,
    expressions: Vec<Expression>,
    detectors: Vec<Slot>,
    slow: usize,
}

impl Patterns {
    /// Compiles patterns.
    ///
    /// # Errors
    /// The first pattern that is not valid.
    pub fn compile(patterns: &[Pattern]) -> Result<Self, PatternFault> {
        let fault = |index: usize, message: String, hint: &str| PatternFault {
            index,
            message,
            hint: hint.to_owned(),
        };
        if patterns.len() > MAX_PATTERNS {
            return Err(fault(
                MAX_PATTERNS,
                format!("there are more than {MAX_PATTERNS} patterns"),
                "use fewer",
            ));
        }
        let mut parts = Parts::default();
        for (index, pattern) in patterns.iter().enumerate() {
            parts.add(index as u32, pattern).map_err(|(message, hint)| fault(index, message, hint))?;
        }
        let literals = match parts.literals.is_empty() {
            true => None,
            false => Some(Automaton::new(&parts.literals, MAX_AUTOMATON).ok_or_else(|| {
                let message = format!(
                    "the phrases and expressions need an automaton of more than {MAX_AUTOMATON} bytes"
                );
                fault(patterns.len().saturating_sub(1), message, "use fewer or shorter ones")
            })?),
        };
        let literals = literals.map(|automaton| Literals { automaton, outputs: parts.outputs });
        let anchors = Anchors::new(&parts.detectors);
        let has_shapes = parts.detectors.iter().any(|(_, detector)| is_shape(detector));
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            bytes: byte_classes(anchors.as_ref(), literals.as_ref(), has_shapes),
            anchors,
            detectors: parts.detectors,
            literals,
            slow: (0..parts.expressions.len() as u32)
                .filter(|at| parts.expressions[*at as usize].reach.is_none())
                .collect(),
            expressions: parts.expressions,
        })
    }
}

impl Anchors {
    /// The anchors of these detectors; `None` if they have none.
    fn new(detectors: &[Slot]) -> Option<Self> {
        let of = |slot: usize, detector: &'static Detector| {
            detector.anchors.iter().map(move |anchor| (*anchor, slot as u16))
        };
        let (anchors, slots): (Vec<&str>, Vec<u16>) =
            detectors.iter().enumerate().flat_map(|(slot, (_, detector))| of(slot, detector)).unzip();
        let is_empty = anchors.is_empty() && !detectors.iter().any(|(_, detector)| is_shape(detector));
        // The table of detectors is small: the automaton is never too large.
        (!is_empty)
            .then(|| Automaton::new(&anchors, MAX_AUTOMATON))
            .flatten()
            .map(|automaton| Self { automaton, slots })
    }
}

/// Whether a detector is found by the shape of its numbers.
fn is_shape(detector: &Detector) -> bool {
    matches!(detector.lead, Lead::Digits | Lead::Account)
}

/// What the loop needs of each byte.
fn byte_classes(
    anchors: Option<&Anchors>,
    literals: Option<&Literals>,
    has_shapes: bool,
) -> Box<[ByteClass; 256]> {
    let mut classes = Box::new([ByteClass::default(); 256]);
    for (byte, class) in (0..=u8::MAX).zip(&mut *classes) {
        let folded = FOLD[usize::from(byte)];
        *class = ByteClass {
            folded,
            anchor: anchors.map_or(0, |anchors| anchors.automaton.class(byte)),
            literal: literals.map_or(0, |literals| literals.automaton.class(folded)),
            is_digit: has_shapes && byte.is_ascii_digit(),
        };
    }
    classes
}

impl Parts {
    fn add(&mut self, number: u32, pattern: &Pattern) -> Result<(), (String, &'static str)> {
        match &pattern.kind {
            PatternKind::Phrase(phrase) => {
                let mut text = folded(phrase);
                while text.last() == Some(&b' ') {
                    text.pop();
                }
                match text.len() {
                    ..MIN_LITERAL => {
                        let message =
                            format!("the phrase '{phrase}' has fewer than {MIN_LITERAL} characters");
                        return Err((
                            message,
                            "write a longer phrase, or a regular expression with 'slow: true'",
                        ));
                    }
                    MAX_PHRASE.. => {
                        let message = format!("the phrase has {} bytes, {MAX_PHRASE} or more", text.len());
                        return Err((message, "write the part of it that matters"));
                    }
                    _ => self.literal(text, Literal::Phrase { pattern: number }),
                }
            }
            PatternKind::Regex(text) => self.expression(number, text, pattern.slow)?,
            PatternKind::Detector(detector) => {
                if self.detectors.len() >= usize::from(u16::MAX) {
                    return Err(("there are too many secrets to search".to_owned(), "use fewer"));
                }
                self.detectors.push((number, detector));
            }
        }
        Ok(())
    }

    fn expression(&mut self, number: u32, text: &str, is_slow: bool) -> Result<(), (String, &'static str)> {
        let hir = parse(text)?;
        let needles = needles(&hir);
        match &needles {
            Some(needles) => {
                for literal in &needles.literals {
                    let expression = self.expressions.len() as u32;
                    self.literal(literal.clone(), Literal::Needle { expression });
                }
            }
            None if is_slow && self.slow < MAX_SLOW => self.slow += 1,
            None if is_slow => {
                let message = format!("there are more than {MAX_SLOW} expressions with 'slow: true'");
                return Err((message, "give the others a literal of three characters"));
            }
            None => {
                let message =
                    format!("the regular expression '{text}' has no literal of {MIN_LITERAL} characters");
                return Err((
                    message,
                    "add one that each match contains, or 'slow: true', which reads all text again",
                ));
            }
        }
        self.expressions.push(Expression::compile(number, &hir, needles.as_ref(), text)?);
        Ok(())
    }

    fn literal(&mut self, literal: Vec<u8>, output: Literal) {
        self.literals.push(literal);
        self.outputs.push(output);
    }
}
