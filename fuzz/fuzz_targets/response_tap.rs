//! The usage tap: whatever a backend answers, in whatever chunks, gives the same counts and no panic.
#![no_main]

use elida::protocol::dialect::Dialect;
use elida::protocol::framing::Framing;
use elida::protocol::tap::ResponseTap;
use elida::protocol::usage::Usage;
use libfuzzer_sys::fuzz_target;

const DIALECTS: [Dialect; 8] = [
    Dialect::OpenAiChat,
    Dialect::OpenAiResponses,
    Dialect::OpenAiOther,
    Dialect::Anthropic,
    Dialect::Mistral,
    Dialect::Ollama,
    Dialect::Gemini,
    Dialect::Mcp,
];
const FRAMINGS: [Framing; 4] = [Framing::Sse, Framing::Ndjson, Framing::Json, Framing::Opaque];

fn read<'a>(
    dialect: Dialect,
    framing: Framing,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> (Option<Usage>, Option<String>, bool, bool) {
    let mut tap = ResponseTap::new(dialect, framing);
    chunks.for_each(|chunk| tap.feed(chunk));
    let at_boundary = tap.at_boundary();
    tap.end();
    (tap.usage(), tap.model().map(str::to_owned), tap.is_complete(), at_boundary)
}

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (kind, size, answer) = input;
    let dialect = DIALECTS[usize::from(kind) % DIALECTS.len()];
    let framing = FRAMINGS[usize::from(kind) / DIALECTS.len() % FRAMINGS.len()];
    let whole = read(dialect, framing, std::iter::once(answer));
    assert_eq!(whole, read(dialect, framing, answer.chunks(usize::from(size).max(1))));
});
