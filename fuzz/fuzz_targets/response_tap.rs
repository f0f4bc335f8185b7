//! The tap: whatever a backend answers, in whatever chunks, gives the same counts, calls and text, and no panic;
//! who does not listen sees the same facts.
#![no_main]

use elida::protocol::wire::coding::Coding;
use elida::protocol::Dialect;
use elida::protocol::answer::events::Event;
use elida::protocol::wire::framing::Framing;
use elida::protocol::answer::tap::ResponseTap;
use elida::protocol::facts::tools::{ToolCall, ToolCounts};
use elida::protocol::facts::usage::Usage;
use libfuzzer_sys::fuzz_target;

const FRAMINGS: [Framing; 5] =
    [Framing::Sse, Framing::Ndjson, Framing::BinaryEvents, Framing::Json, Framing::Opaque];

/// Everything a listener hears and the tap shows.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    text: Vec<u8>,
    calls: Vec<ToolCall>,
    stops: Vec<String>,
    shown: (Option<Usage>, Option<String>, Option<String>, Option<ToolCounts>, bool),
    at_boundary: bool,
}

fn shown(tap: &ResponseTap) -> (Option<Usage>, Option<String>, Option<String>, Option<ToolCounts>, bool) {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    (tap.usage(), owned(tap.model()), owned(tap.stop_reason()), tap.tools().cloned(), tap.is_complete())
}

fn read<'a>(dialect: Dialect, framing: Framing, is_plain: bool, chunks: impl Iterator<Item = &'a [u8]>) -> Heard {
    let mut heard = Heard::default();
    let mut tap = ResponseTap::listening(dialect, framing, Coding::Identity);
    let mut facts = ResponseTap::new(dialect, framing);
    for chunk in chunks {
        facts.feed(chunk);
        tap.listen(chunk, &mut |event| match event {
            Event::Text(part) => heard.text.extend_from_slice(part),
            Event::Call(call) => heard.calls.push(call.clone()),
            Event::Stop(why) => heard.stops.push(why.to_owned()),
            Event::Reasoning(_)
            | Event::Result(_)
            | Event::Definition(_)
            | Event::Ambiguous
            | Event::Usage(_)
            | Event::Choice(_)
            | Event::Piece(_)
            | Event::End { .. } => {}
        });
    }
    heard.at_boundary = tap.at_boundary();
    tap.end();
    facts.end();
    // A listener hears of members in any case.
    if is_plain {
        assert_eq!(shown(&tap), shown(&facts));
    }
    // A call is told again when it has grown, or may be read otherwise.
    let counted = tap.tools().map_or(0, |tools| tools.iter().map(|(_, calls)| calls).sum());
    assert!(counted <= heard.calls.len() as u64);
    heard.shown = shown(&tap);
    heard
}

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (kind, size, answer) = input;
    let dialects: Vec<Dialect> = Dialect::all().collect();
    let dialect = dialects[usize::from(kind) % dialects.len()];
    let framing = FRAMINGS[usize::from(kind) / dialects.len() % FRAMINGS.len()];
    let is_plain = !answer.iter().any(|byte| byte.is_ascii_uppercase() || *byte == b'\\' || !byte.is_ascii());
    let whole = read(dialect, framing, is_plain, std::iter::once(answer));
    assert_eq!(whole, read(dialect, framing, is_plain, answer.chunks(usize::from(size).max(1))));
});
