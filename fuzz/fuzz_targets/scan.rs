//! The scanner and its normaliser: whatever the bytes are and however they are divided, the hits are the same, and each of them
//! stands in the text.
#![no_main]

use std::sync::LazyLock;

use elida::policy::scan::{HIDDEN_TEXT, Hit, Lane, Pattern, PatternKind, Patterns, Work};
use elida::policy::secrets::DETECTORS;
use libfuzzer_sys::fuzz_target;

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let phrases = ["ignore previous", "aba", "system prompt"].map(|phrase| PatternKind::Phrase(phrase.to_owned()));
    let expressions = [r"git\s+push\s+-f\b", "[a-c]{0,5}key[a-c0-9]{1,4}", r"\bkey\b", "^start"];
    let expressions = expressions.map(|expression| PatternKind::Regex(expression.to_owned()));
    let kinds = phrases.into_iter().chain(expressions).chain(DETECTORS.iter().map(PatternKind::Detector));
    let all: Vec<Pattern> = kinds.map(|kind| Pattern { kind, slow: false }).collect();
    Patterns::compile(&all).expect("the patterns are valid")
});

fn sorted(mut hits: Vec<Hit>) -> Vec<(u32, u64, u64, &'static str)> {
    hits.retain(|hit| hit.pattern != HIDDEN_TEXT);
    let mut all: Vec<_> = hits.iter().map(|hit| (hit.pattern, hit.start, hit.end, hit.via.name())).collect();
    all.sort_unstable();
    all
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, text) = input;
    let mut whole = Vec::new();
    PATTERNS.whole(text, &mut Work::new(text.len()), &mut |hit| whole.push(hit));
    for hit in &whole {
        assert!(hit.start <= hit.end && hit.end <= text.len() as u64, "{hit:?}");
    }
    let (mut lane, mut pieces) = (Lane::new(), Vec::new());
    for piece in text.chunks(usize::from(size).max(1)) {
        PATTERNS.feed(&mut lane, piece, &mut |hit| pieces.push(hit));
    }
    PATTERNS.end(&mut lane, &mut |hit| pieces.push(hit));
    if !lane.exceeded() {
        assert_eq!(sorted(whole), sorted(pieces));
    }
});
