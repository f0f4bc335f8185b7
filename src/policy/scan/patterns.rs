//! The patterns of a phase, and the search.

use regex::bytes::{Regex, RegexBuilder};

use super::lane::Lane;
use super::pattern::{Hit, Pattern, PatternFault, PatternKind, Via};
use super::work::Work;

/// Compiled patterns. The place of a pattern in the list is its number in a [`Hit`].
#[derive(Debug)]
pub struct Patterns {
    all: Vec<(Regex, Option<&'static crate::policy::secrets::Detector>)>,
}

impl Patterns {
    /// Compiles patterns.
    ///
    /// # Errors
    /// The first pattern that is not valid.
    pub fn compile(patterns: &[Pattern]) -> Result<Self, PatternFault> {
        let all = patterns.iter().enumerate().map(|(index, pattern)| {
            let fault = |message: String, hint: &str| PatternFault { index, message, hint: hint.to_owned() };
            let (text, detector) = match &pattern.kind {
                PatternKind::Phrase(phrase) if phrase.trim().len() < 3 => {
                    return Err(fault(
                        format!("the phrase '{phrase}' is too short"),
                        "write at least three letters",
                    ));
                }
                PatternKind::Phrase(phrase) => {
                    let words: Vec<String> = phrase.split_whitespace().map(regex::escape).collect();
                    (format!("(?i){}", words.join(r"\s+")), None)
                }
                PatternKind::Regex(regex) => (format!("(?i){regex}"), None),
                PatternKind::Detector(detector) => (detector.regex.to_owned(), Some(*detector)),
            };
            let regex = RegexBuilder::new(&text).unicode(false).size_limit(1 << 20).build();
            Ok((regex.map_err(|error| fault(error.to_string(), "correct the regular expression"))?, detector))
        });
        Ok(Self { all: all.collect::<Result<_, _>>()? })
    }

    /// Whether there is nothing to search.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Scans the next bytes of a lane; `on` gets each hit once.
    pub fn feed(&self, lane: &mut Lane, text: &[u8], on: &mut dyn FnMut(Hit)) {
        lane.text.extend_from_slice(text);
        self.search(lane, on);
    }

    /// Ends the text of a lane: what waited for more text is a hit or not.
    pub fn end(&self, lane: &mut Lane, on: &mut dyn FnMut(Hit)) {
        self.search(lane, on);
    }

    /// Scans a whole text.
    pub fn whole(&self, text: &[u8], _work: &mut Work, on: &mut dyn FnMut(Hit)) {
        let mut lane = Lane::new();
        self.feed(&mut lane, text, on);
        self.end(&mut lane, on);
    }

    fn search(&self, lane: &mut Lane, on: &mut dyn FnMut(Hit)) {
        for (pattern, (regex, detector)) in self.all.iter().enumerate() {
            for found in regex.find_iter(&lane.text) {
                let key = (pattern as u32, found.start() as u64);
                let is_valid = detector.is_none_or(|detector| (detector.validate)(found.as_bytes()));
                if is_valid && !lane.reported.contains(&key) {
                    lane.reported.push(key);
                    on(Hit { pattern: key.0, start: key.1, end: found.end() as u64, via: Via::Plain });
                }
            }
        }
    }
}
