//! Patterns: whatever is written as one, it is refused or compiled, and what is compiled reads any text.
#![no_main]

use elida::policy::scan::{Pattern, PatternKind, Patterns, Work};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &str, &[u8])| {
    let (is_slow, pattern, text) = input;
    for kind in [PatternKind::Phrase(pattern.to_owned()), PatternKind::Regex(pattern.to_owned())] {
        match Patterns::compile(&[Pattern { kind, slow: is_slow }]) {
            Ok(patterns) => patterns.whole(text, &mut Work::new(text.len()), &mut |hit| assert!(hit.start <= hit.end)),
            Err(fault) => assert!(!fault.message.is_empty() && !fault.hint.is_empty()),
        }
    }
});
