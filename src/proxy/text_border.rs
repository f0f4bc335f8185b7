//! The borders between texts that follow each other: a model reads the parts of a message as one text, so a phrase may be divided
//! among any number of them.

use crate::policy::rule::{Place, Role};
use crate::policy::ruleset::Element;
use crate::policy::scan::{HIDDEN_TEXT, Hit, Patterns, Work};
use crate::protocol::request::segments::Segment;

/// Bytes on either side of a border that are read together.
const BORDER: usize = 256;
/// Bytes of short texts that are gathered before they are read, so that many of them cost no more than a long one.
const STEP: usize = 256;

/// What was found over the borders of texts.
pub(super) struct Found<'a> {
    pub(super) role: Role,
    pub(super) place: Place,
    pub(super) hits: &'a [Hit],
    /// The texts, joined.
    pub(super) text: &'a [u8],
}

impl Found<'_> {
    /// The same as a text of its own, with this digest.
    pub(super) fn element(&self, digest: u64) -> Element<'_> {
        Element { role: Some(self.role), place: self.place, hits: self.hits, digest: digest.max(1) }
    }
}

/// Which texts are joined: who says them, what they are, and of which result.
type Of = (Role, Place, Option<u32>);

/// The ends of the texts so far, joined in both ways that programs join them.
#[derive(Debug, Default)]
pub(super) struct Border {
    /// Without and with a blank between two texts.
    ways: [Joined; 2],
    of: Option<Of>,
}

/// Texts that are joined in one way.
#[derive(Debug, Default)]
struct Joined {
    text: Vec<u8>,
    /// Where one ends and another one begins.
    borders: Vec<usize>,
    /// How many bytes were read.
    read: usize,
}

impl Border {
    /// Adds the next text.
    pub(super) fn add(
        &mut self,
        patterns: &Patterns,
        segment: &Segment<'_>,
        work: &mut Work,
        on: &mut dyn FnMut(&Found<'_>),
    ) {
        // Texts of other places are values of members, which are no parts of one text.
        if !matches!(segment.kind, Place::Text | Place::System | Place::Reasoning | Place::ToolResult) {
            return self.end(patterns, work, on);
        }
        let of = (segment.role, segment.kind, segment.result.map(|result| result.number));
        if self.of != Some(of) {
            self.end(patterns, work, on);
            self.of = Some(of);
        }
        for (joined, between) in self.ways.iter_mut().zip([&b""[..], b" "]) {
            joined.add(segment.text, between, patterns, work, &mut found(of, on));
        }
    }

    /// The next text has none before it.
    pub(super) fn end(&mut self, patterns: &Patterns, work: &mut Work, on: &mut dyn FnMut(&Found<'_>)) {
        let Some(of) = self.of.take() else { return };
        for joined in &mut self.ways {
            joined.search(patterns, work, &mut found(of, on));
            joined.clear();
        }
    }
}

fn found((role, place, _): Of, on: &mut dyn FnMut(&Found<'_>)) -> impl FnMut(&[Hit], &[u8]) {
    move |hits, text| on(&Found { role, place, hits, text })
}

impl Joined {
    fn clear(&mut self) {
        self.text.clear();
        self.borders.clear();
        self.read = 0;
    }

    fn add(
        &mut self,
        text: &[u8],
        between: &[u8],
        patterns: &Patterns,
        work: &mut Work,
        on: &mut dyn FnMut(&[Hit], &[u8]),
    ) {
        if !self.text.is_empty() {
            self.borders.push(self.text.len());
            self.text.extend_from_slice(between);
        }
        if text.len() > 2 * BORDER {
            // What begins before it ends in its first bytes, and what begins in its last ones ends behind it.
            self.text.extend_from_slice(&text[..BORDER]);
            self.search(patterns, work, on);
            self.clear();
            self.text.extend_from_slice(&text[text.len() - BORDER..]);
            self.read = BORDER;
            return;
        }
        self.text.extend_from_slice(text);
        if self.text.len() - self.read >= STEP {
            self.search(patterns, work, on);
        }
    }

    /// Looks for what crosses a border and ends in what was not read.
    fn search(&mut self, patterns: &Patterns, work: &mut Work, on: &mut dyn FnMut(&[Hit], &[u8])) {
        let Self { text, borders, read } = self;
        if text.len() > *read && !borders.is_empty() {
            let mut hits = Vec::new();
            patterns.whole(text, work, &mut |hit| {
                let crosses = |border: &usize| hit.start < *border as u64 && hit.end > *border as u64;
                let is_new = hit.end > *read as u64 && hit.pattern != HIDDEN_TEXT;
                if is_new && borders.iter().any(crosses) {
                    hits.push(hit);
                }
            });
            if !hits.is_empty() {
                on(&hits, text);
            }
        }
        let gone = text.len().saturating_sub(BORDER);
        text.drain(..gone);
        borders.retain(|border| *border > gone);
        borders.iter_mut().for_each(|border| *border -= gone);
        *read = text.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::scan::{Pattern, PatternKind};

    fn found(parts: &[&str]) -> u32 {
        let kind = PatternKind::Phrase("ignore all previous instructions".to_owned());
        let patterns = Patterns::compile(&[Pattern { kind, slow: false }]).unwrap();
        let (mut border, mut work, mut count) = (Border::default(), Work::new(1000), 0);
        let mut on = |found: &Found<'_>| count += found.hits.len() as u32;
        for part in parts {
            let segment =
                Segment { role: Role::User, kind: Place::Text, text: part.as_bytes(), result: None };
            border.add(&patterns, &segment, &mut work, &mut on);
        }
        border.end(&patterns, &mut work, &mut on);
        count
    }

    #[test]
    fn a_phrase_is_found_over_any_number_of_texts() {
        let (long, longer) = ("x".repeat(300), "x".repeat(600));
        for parts in [
            &["ignore all ", "previous instructions"][..],
            &["please ignore", "all", "previous", "instructions now"],
            &["ig", "nore a", "ll prev", "ious instruct", "ions"],
            &[&long, "ignore all previous", &format!("instructions{long}")],
            &[&longer, "ignore all previous", &format!("instructions{longer}")],
            &[&format!("{longer}ignore all previous"), &format!(" instructions{longer}")],
            &["i", "g", "n", "o", "r", "e", " ", "a", "l", "l", " ", "previous", " instructions"],
        ] {
            assert!(found(parts) > 0, "{parts:?}");
        }
        for parts in [
            &["ignore all previous", &long, "instructions"][..],
            &["ignore all previous", &longer, "instructions"],
            &["ignore all previous instructions"],
            &["x", "ignore all previous instructions", "x"],
            &["instructions", "previous", "all", "ignore"],
        ] {
            assert_eq!(found(parts), 0, "{parts:?}: a text by itself is read elsewhere");
        }
        // Wherever it stands among many short texts, and once in each way to join them.
        for before in [0, 1, 200, 255, 256, 257, 500] {
            let mut parts = vec!["y"; before];
            parts.extend(["ignore all", " previous", " instructions"]);
            parts.extend(vec!["z"; 300]);
            assert_eq!(found(&parts), 2, "behind {before} texts");
        }
    }
}
