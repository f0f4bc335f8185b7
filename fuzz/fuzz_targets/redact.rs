//! Bodies that are kept: whatever a text is, secrets are taken out without a panic, and what JSON was stays JSON.
#![no_main]

use elida::capture::redact::redact_body;
use elida::protocol::wire::framing::Framing;
use libfuzzer_sys::fuzz_target;

const FRAMINGS: [Framing; 4] = [Framing::Sse, Framing::Ndjson, Framing::Json, Framing::Opaque];

fuzz_target!(|input: (u8, bool, &str)| {
    let (kind, is_cut, text) = input;
    let framing = FRAMINGS[usize::from(kind) % FRAMINGS.len()];
    let redacted = redact_body(text, framing, is_cut);
    let was_json = framing == Framing::Json && serde_json::from_str::<serde_json::Value>(text).is_ok();
    assert!(!was_json || is_cut || serde_json::from_str::<serde_json::Value>(&redacted).is_ok(), "{redacted}");
});
