//! The same answer in every dialect, divided into chunks in every way: what leaves, and what does not.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::protocol::Dialect;
use crate::protocol::answer::socket::SocketTap;
use crate::protocol::answer::tap::ResponseTap;
use crate::protocol::wire::coding::Coding;
use crate::protocol::wire::framing::Framing;
use crate::protocol::wire::websocket::text_frame;
use crate::proxy::downstream::Next;

/// What must not be written, and the tool that must not be called.
const PHRASE: &str = "drop all tables";
const TOOL: &str = "delete_everything";

/// A judge that knows one phrase, one tool and one kind of secret: `key-` and four digits.
#[derive(Default)]
struct Toy {
    said: Vec<u8>,
    lanes: HashMap<(u64, Option<u64>), String>,
    refuses: bool,
    /// Where the secret begins that is undecided.
    secret: Option<usize>,
}

impl Toy {
    fn flush(&mut self, choice: u64, index: Option<u64>) -> u64 {
        let said = String::from_utf8(std::mem::take(&mut self.said)).unwrap();
        let lane = self.lanes.entry((choice, index)).or_default();
        lane.push_str(&said);
        self.refuses |= lane.contains(PHRASE);
        said.len() as u64
    }
}

impl Judge for Toy {
    fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Text(text) | Event::Reasoning(text) | Event::Result(text) | Event::Definition(text) => {
                self.said.extend_from_slice(text)
            }
            Event::Choice(choice) => drop(self.flush(choice, None)),
            Event::Piece(index) => drop(self.flush(0, index)),
            Event::End { .. } => {}
            Event::Call(call) => self.refuses |= call.name == TOOL,
            Event::Stop(_) | Event::Usage(_) | Event::Ambiguous => {}
        }
    }

    fn rule(&mut self, of: Part) -> Ruling {
        let text = if of == Part::Unit { 0 } else { self.flush(0, None) };
        let secret = |lane: &String| {
            let at = lane.rfind("key-")?;
            let rest = &lane[at + 4..];
            let is_open = rest.len() < 4 && rest.bytes().all(|byte| byte.is_ascii_digit());
            self.refuses |= rest.len() >= 4 && rest.bytes().take(4).all(|byte| byte.is_ascii_digit());
            is_open.then_some((at, lane.len() as u64 - at as u64))
        };
        let open: Vec<(usize, u64)> = self.lanes.values().filter_map(secret).collect();
        let known = std::mem::replace(&mut self.secret, open.first().map(|(at, _)| *at));
        match (self.refuses, open.first()) {
            (true, _) => Ruling::Refuse(Box::new(Refusal::new(ErrorKind::PolicyBlocked, "no"))),
            (false, Some((at, of_secret))) if of != Part::End => {
                Ruling::Undecided { text, of_secret: *of_secret, is_new: known != Some(*at) }
            }
            (false, _) => Ruling::Pass { text, is_last: false },
        }
    }
}

/// The answer of one request.
enum Read {
    Body(Box<ResponseTap>),
    Socket(Box<SocketTap>),
}

impl Source for Read {
    fn read(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) -> usize {
        match self {
            Self::Body(tap) => tap.listen_unit(bytes, on),
            Self::Socket(tap) => tap.listen_message(bytes, on, &mut |_, _, _| {}),
        }
    }

    fn end(&mut self, on: &mut dyn FnMut(Event<'_>)) {
        if let Self::Body(tap) = self {
            tap.end_listening(on);
        }
    }

    fn is_between(&self) -> bool {
        match self {
            Self::Body(tap) => tap.is_between_units(),
            Self::Socket(tap) => tap.backend().is_between_messages(),
        }
    }

    fn has_units(&self) -> bool {
        match self {
            Self::Body(tap) => tap.has_units() == Some(true),
            Self::Socket(_) => true,
        }
    }

    fn is_unread(&self) -> bool {
        false
    }

    fn has_open_call(&self) -> bool {
        matches!(self, Self::Body(tap) if tap.has_open_call())
    }
}

/// An answer in one dialect, in its units.
struct Sample {
    name: &'static str,
    dialect: Dialect,
    framing: Framing,
    units: Vec<Vec<u8>>,
}

impl Sample {
    fn source(&self) -> Read {
        match self.framing {
            Framing::Messages => Read::Socket(Box::new(SocketTap::listening(self.dialect))),
            framing => Read::Body(Box::new(ResponseTap::listening(self.dialect, framing, Coding::Identity))),
        }
    }

    fn body(&self) -> Vec<u8> {
        self.units.concat()
    }
}

/// What leaves of a body that comes in these chunks, and whether it was refused. A limit of time is taken to have passed
/// never.
fn leaves(sample: &Sample, chunks: &[&[u8]]) -> (Vec<u8>, bool) {
    let (gate, mut source, mut judge) = (Gate::default(), sample.source(), Toy::default());
    gate.begin(false);
    let (mut withheld, mut left, mut counted) = (Withheld::new(0), Vec::new(), 0);
    for (at, chunk) in chunks.iter().enumerate() {
        let chunk = Bytes::copy_from_slice(chunk);
        let mut count = |bytes: &[u8]| counted += bytes.len();
        let exit = Exit::new(&gate, &mut count);
        match withheld.feed(chunk, at + 1 == chunks.len(), &mut source, &mut judge, exit) {
            Ok(bytes) => left.extend_from_slice(&bytes),
            Err(_) => {
                assert!(withheld.is_between() && !gate.is_closed(), "nothing may leave behind a refusal");
                return (left, true);
            }
        }
        while let Some(Next::Write(bytes)) = gate.next() {
            left.extend_from_slice(&bytes);
        }
    }
    assert_eq!(counted, left.len(), "{}", sample.name);
    (left, false)
}

fn sse(datas: &[String]) -> Vec<Vec<u8>> {
    datas.iter().map(|data| format!("data: {data}\n\n").into_bytes()).collect()
}

/// The deltas of a text, which are divided by bars.
fn words(text: &str) -> Vec<String> {
    text.split('|').map(str::to_owned).collect()
}

fn anthropic(text: &str, tool: &str) -> Sample {
    let event = |name: &str, data: &str| format!("event: {name}\ndata: {data}\n\n").into_bytes();
    let mut units = vec![
        event(
            "message_start",
            r#"{"type":"message_start","message":{"model":"claude-x","usage":{"input_tokens":3,"output_tokens":1}}}"#,
        ),
        event(
            "content_block_start",
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        ),
        b": a comment\n\n".to_vec(),
    ];
    units[2] = b": a comment\n".to_vec();
    units.push(b"\n".to_vec());
    units.extend(words(text).iter().map(|word| {
        event("content_block_delta", &format!(r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{word}"}}}}"#))
    }));
    units.push(event("content_block_stop", r#"{"type":"content_block_stop","index":0}"#));
    units.push(event("content_block_start", &format!(r#"{{"type":"content_block_start","index":1,"content_block":{{"type":"tool_use","id":"t1","name":"{tool}","input":{{}}}}}}"#)));
    units.push(event("content_block_delta", r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}"#));
    units.push(event("content_block_stop", r#"{"type":"content_block_stop","index":1}"#));
    units.push(event("message_stop", r#"{"type":"message_stop"}"#));
    Sample { name: "anthropic", dialect: Dialect::ANTHROPIC, framing: Framing::Sse, units }
}

fn openai(text: &str, tool: &str) -> Sample {
    let mut datas: Vec<String> = words(text)
        .iter()
        .flat_map(|word| {
            // The index stands behind the delta, and another choice is written meanwhile.
            let of = |choice: u32, text: &str| {
                format!(r#"{{"object":"chat.completion.chunk","choices":[{{"delta":{{"content":"{text}"}},"index":{choice}}}]}}"#)
            };
            [of(1, "noise "), of(0, word)]
        })
        .collect();
    datas.push(format!(r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,"id":"c1","function":{{"name":"{tool}","arguments":"{{}}"}}}}]}}}}]}}"#));
    datas.push(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#.to_owned());
    datas.push("[DONE]".to_owned());
    Sample { name: "openai", dialect: Dialect::OPENAI_CHAT, framing: Framing::Sse, units: sse(&datas) }
}

/// A call that begins without arguments, and has them piece by piece.
fn openai_in_pieces(text: &str, tool: &str) -> Sample {
    let mut sample = openai(text, tool);
    let piece = |more: &str| {
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":0,{more}}}]}}}}]}}\n\n")
            .into_bytes()
    };
    let at = sample.units.len() - 3;
    let pieces = [
        piece(&format!(r#""id":"c1","function":{{"name":"{tool}","arguments":""}}"#)),
        piece(r#""function":{"arguments":"{\"a\""}"#),
        piece(r#""function":{"arguments":":1}"}"#),
    ];
    sample.units.splice(at..=at, pieces);
    Sample { name: "openai in pieces", ..sample }
}

fn response_events(text: &str, tool: &str) -> Vec<String> {
    let mut datas: Vec<String> =
        vec![r#"{"type":"response.created","response":{"id":"r","model":"gpt"}}"#.into()];
    datas.extend(
        words(text).iter().map(|word| {
            format!(r#"{{"type":"response.output_text.delta","output_index":0,"delta":"{word}"}}"#)
        }),
    );
    datas.push(format!(r#"{{"type":"response.output_item.added","output_index":1,"item":{{"type":"function_call","call_id":"c","name":"{tool}","arguments":""}}}}"#));
    datas.push(r#"{"type":"response.function_call_arguments.delta","output_index":1,"delta":"{}"}"#.into());
    datas
        .push(r#"{"type":"response.function_call_arguments.done","output_index":1,"arguments":"{}"}"#.into());
    datas
}

fn responses(text: &str, tool: &str) -> Sample {
    let mut datas = response_events(text, tool);
    datas.push(r#"{"type":"response.completed","response":{"status":"completed","usage":{"input_tokens":1,"output_tokens":1}}}"#.into());
    let units = sse(&datas);
    Sample { name: "responses", dialect: Dialect::OPENAI_RESPONSES, framing: Framing::Sse, units }
}

fn socket(text: &str, tool: &str, dialect: Dialect, name: &'static str) -> Sample {
    let mut datas = response_events(text, tool);
    datas.push(r#"{"type":"response.done","response":{"status":"completed"}}"#.into());
    let units = datas.iter().map(|data| text_frame(data.as_bytes())).collect();
    Sample { name, dialect, framing: Framing::Messages, units }
}

fn gemini_part(part: &str) -> String {
    format!(r#"{{"candidates":[{{"content":{{"parts":[{part}]}},"index":0}}]}}"#)
}

fn gemini(text: &str, tool: &str, is_array: bool) -> Sample {
    let mut datas: Vec<String> =
        words(text).iter().map(|word| gemini_part(&format!(r#"{{"text":"{word}"}}"#))).collect();
    datas.push(gemini_part(&format!(r#"{{"functionCall":{{"name":"{tool}","args":{{"a":"b"}}}}}}"#)));
    datas.push(r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":1}}"#.into());
    let (name, framing, units) = match is_array {
        false => ("gemini", Framing::Sse, sse(&datas)),
        true => {
            let last = datas.len() - 1;
            let unit = |(at, data): (usize, &String)| {
                let (before, after) =
                    (if at == 0 { "[" } else { ",\r\n" }, if at == last { "\n]\n" } else { "" });
                format!("{before}{data}{after}").into_bytes()
            };
            ("gemini array", Framing::Json, datas.iter().enumerate().map(unit).collect())
        }
    };
    Sample { name, dialect: Dialect::GEMINI, framing, units }
}

fn ollama(text: &str, tool: &str) -> Sample {
    let line = |message: &str, done: bool| {
        format!("{{\"model\":\"m\",\"message\":{{\"role\":\"assistant\",{message}}},\"done\":{done}}}\n")
            .into_bytes()
    };
    let mut units: Vec<Vec<u8>> =
        words(text).iter().map(|word| line(&format!(r#""content":"{word}""#), false)).collect();
    units.push(line(
        &format!(r#""content":"","tool_calls":[{{"function":{{"name":"{tool}","arguments":{{}}}}}}]"#),
        false,
    ));
    units.push(line(r#""content":"""#, true));
    Sample { name: "ollama", dialect: Dialect::OLLAMA, framing: Framing::Ndjson, units }
}

fn cohere(text: &str, tool: &str) -> Sample {
    let mut datas: Vec<String> = words(text)
        .iter()
        .map(|word| format!(r#"{{"type":"content-delta","index":0,"delta":{{"message":{{"content":{{"text":"{word}"}}}}}}}}"#))
        .collect();
    datas.push(format!(r#"{{"type":"tool-call-start","index":1,"delta":{{"message":{{"tool_calls":{{"id":"c","type":"function","function":{{"name":"{tool}","arguments":""}}}}}}}}}}"#));
    datas.push(r#"{"type":"tool-call-end","index":1}"#.into());
    datas.push(r#"{"type":"message-end","delta":{"finish_reason":"TOOL_CALL"}}"#.into());
    Sample { name: "cohere", dialect: Dialect::COHERE, framing: Framing::Sse, units: sse(&datas) }
}

/// A message of Bedrock's event stream.
fn binary(kind: &str, payload: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [(":event-type", kind), (":message-type", "event")] {
        headers.push(name.len() as u8);
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&(value.len() as u16).to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let mut message = Vec::new();
    message.extend_from_slice(&((16 + headers.len() + payload.len()) as u32).to_be_bytes());
    message.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message.extend_from_slice(&headers);
    message.extend_from_slice(payload.as_bytes());
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message
}

fn bedrock(text: &str, tool: &str) -> Sample {
    let mut units: Vec<Vec<u8>> = words(text)
        .iter()
        .map(|word| {
            binary("contentBlockDelta", &format!(r#"{{"contentBlockIndex":0,"delta":{{"text":"{word}"}}}}"#))
        })
        .collect();
    units.push(binary(
        "contentBlockStart",
        &format!(r#"{{"contentBlockIndex":1,"start":{{"toolUse":{{"toolUseId":"t","name":"{tool}"}}}}}}"#),
    ));
    units.push(binary("contentBlockStop", r#"{"contentBlockIndex":1}"#));
    units.push(binary("messageStop", r#"{"stopReason":"tool_use"}"#));
    let dialect = Dialect::detect("/model/m/converse-stream", &http::HeaderMap::new());
    Sample { name: "bedrock", dialect, framing: Framing::BinaryEvents, units }
}

/// The same answer in every dialect.
fn samples(text: &str, tool: &str) -> Vec<Sample> {
    vec![
        anthropic(text, tool),
        openai(text, tool),
        openai_in_pieces(text, tool),
        responses(text, tool),
        gemini(text, tool, false),
        gemini(text, tool, true),
        ollama(text, tool),
        cohere(text, tool),
        bedrock(text, tool),
        socket(text, tool, Dialect::OPENAI_RESPONSES, "responses socket"),
        socket(text, tool, Dialect::OPENAI_REALTIME, "realtime"),
    ]
}

/// How many units leave when each comes by itself.
fn units_that_leave(sample: &Sample) -> (usize, bool) {
    let chunks: Vec<&[u8]> = sample.units.iter().map(Vec::as_slice).collect();
    let (left, is_refused) = leaves(sample, &chunks);
    let mut ends = sample.units.iter().scan(0, |sum, unit| {
        *sum += unit.len();
        Some(*sum)
    });
    let count =
        if left.is_empty() { Some(0) } else { ends.position(|end| end == left.len()).map(|at| at + 1) };
    (count.unwrap_or_else(|| panic!("{}: a part of a unit has left", sample.name)), is_refused)
}

/// Every division into two chunks, into single bytes, and into chunks of one size.
fn divisions(body: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut divisions: Vec<Vec<&[u8]>> = (0..=body.len()).map(|at| vec![&body[..at], &body[at..]]).collect();
    divisions.extend((1..40).map(|size| body.chunks(size).collect()));
    divisions
}

#[test]
fn an_answer_that_passes_is_not_changed_whatever_its_chunks() {
    for sample in samples("all |is fine, |key-|12| is none and |key-3|4x too|", "Bash") {
        let body = sample.body();
        for chunks in divisions(&body) {
            assert_eq!(leaves(&sample, &chunks), (body.clone(), false), "{}", sample.name);
        }
    }
}

/// The units before this one leave, and no byte of others, whatever the chunks.
fn assert_ends_before(sample: &Sample, at: usize) {
    assert_eq!(units_that_leave(sample), (at, true), "{}", sample.name);
    let whole: Vec<u8> = sample.units[..at].concat();
    for chunks in divisions(&sample.body()) {
        // What came before in the same chunk may be dropped with it.
        let (left, is_refused) = leaves(sample, &chunks);
        assert!(is_refused && whole.starts_with(&left), "{}", sample.name);
    }
}

#[test]
fn no_unit_that_completes_a_phrase_leaves_whatever_its_chunks() {
    for sample in samples("first |drop |all |tables| then more", "Bash") {
        // Up to `all`; `tables` completes it.
        let at = sample.units.iter().position(|unit| String::from_utf8_lossy(unit).contains("tables"));
        assert_ends_before(&sample, at.unwrap());
    }
}

#[test]
fn no_byte_of_a_secret_leaves_from_its_anchor_on() {
    for sample in samples("take |key- 1 |and key-1| or key-99 98 |then ke y-1234 |or key-1234 |done", "Bash")
    {
        let at = sample.units.iter().rposition(|unit| String::from_utf8_lossy(unit).contains("key-1234"));
        assert_eq!(units_that_leave(&sample), (at.unwrap(), true), "{}", sample.name);
    }
    // Divided between units: from that of the anchor on.
    for sample in samples("take |key-|1 or key-|12|34| done", "Bash") {
        let at = sample.units.iter().rposition(|unit| String::from_utf8_lossy(unit).contains("key-"));
        assert_ends_before(&sample, at.unwrap());
    }
}

#[test]
fn no_unit_that_completes_a_denied_call_leaves_whatever_its_chunks() {
    for sample in samples("first ", TOOL) {
        let (left, is_refused) = units_that_leave(&sample);
        assert!(is_refused, "{}", sample.name);
        // Deltas of the call have left; its end, and what follows, have not.
        let rest = String::from_utf8_lossy(&sample.units[left]).into_owned();
        let ends = [
            "content_block_stop",
            "delete_everything",
            "arguments.done",
            "functionCall",
            "tool_calls",
            "tool-call-end",
            "contentBlockStop",
        ];
        assert!(ends.iter().any(|end| rest.contains(end)), "{}: {rest}", sample.name);
        let whole: Vec<u8> = sample.units[..left].concat();
        for chunks in divisions(&sample.body()) {
            let (bytes, is_refused) = leaves(&sample, &chunks);
            assert!(is_refused && whole.starts_with(&bytes), "{}", sample.name);
        }
    }
}

#[test]
fn a_call_in_pieces_leaves_as_a_whole() {
    let sample = openai_in_pieces("first ", "Bash");
    let at = sample.units.iter().position(|unit| String::from_utf8_lossy(unit).contains("Bash")).unwrap();
    for shown in 1..sample.units.len() {
        let chunks: Vec<&[u8]> = sample.units[..shown].iter().map(Vec::as_slice).collect();
        let (gate, mut source, mut judge) = (Gate::default(), sample.source(), Toy::default());
        gate.begin(false);
        let (mut withheld, mut left) = (Withheld::new(0), Vec::new());
        for chunk in chunks {
            let mut count = |_: &[u8]| {};
            let exit = Exit::new(&gate, &mut count);
            let chunk = Bytes::copy_from_slice(chunk);
            left.extend(withheld.feed(chunk, false, &mut source, &mut judge, exit).ok().unwrap());
        }
        let leaves = if (at + 1..at + 3).contains(&shown) { at } else { shown };
        assert_eq!(left, sample.units[..leaves].concat(), "{shown}");
    }
}

#[test]
fn a_whole_answer_leaves_as_a_whole() {
    for (text, refused) in [("all is fine", false), (PHRASE, true)] {
        let body = format!(
            r#"{{"id":"x","choices":[{{"index":0,"message":{{"content":"{text}"}},"finish_reason":"stop"}}]}} "#
        );
        let sample = Sample {
            name: "whole",
            dialect: Dialect::OPENAI_CHAT,
            framing: Framing::Json,
            units: vec![body.clone().into_bytes()],
        };
        for chunks in divisions(body.as_bytes()) {
            let (left, is_refused) = leaves(&sample, &chunks);
            assert_eq!((left.len(), is_refused), (if refused { 0 } else { body.len() }, refused));
        }
    }
}

#[test]
fn a_long_answer_flows_but_for_its_last_chunk() {
    let text = "fine ".repeat(400 << 10);
    for (end, refused) in [("fine", false), (PHRASE, true)] {
        let body = format!(
            r#"{{"choices":[{{"index":0,"message":{{"content":"{text}{end}"}},"finish_reason":"stop"}}]}}"#
        );
        let sample =
            Sample { name: "long", dialect: Dialect::OPENAI_CHAT, framing: Framing::Json, units: Vec::new() };
        let chunks: Vec<&[u8]> = body.as_bytes().chunks(64 << 10).collect();
        let (gate, mut source, mut judge) = (Gate::default(), sample.source(), Toy::default());
        gate.begin(true);
        let (mut withheld, mut left) = (Withheld::new(0), 0);
        for (at, chunk) in chunks.iter().enumerate() {
            let mut count = |_: &[u8]| {};
            let exit = Exit::new(&gate, &mut count);
            let is_last = at + 1 == chunks.len();
            match withheld.feed(Bytes::copy_from_slice(chunk), is_last, &mut source, &mut judge, exit) {
                Ok(bytes) => left += bytes.len(),
                Err(_) => assert!(refused && is_last),
            }
            if !is_last && at > 17 {
                assert_eq!(left, at * (64 << 10), "all but the last chunk");
            }
        }
        // What is refused is the last chunk, and the one that was kept before it.
        let passed = (chunks.len() - 2) * (64 << 10);
        assert_eq!(left, if refused { passed } else { body.len() });
    }
}

#[test]
fn text_stays_behind_by_as_much_as_is_asked_for() {
    let sample = openai("one |two |three |four |five |six |seven |eight |nine |ten ", "Bash");
    let (gate, mut source) = (Gate::default(), sample.source());
    gate.begin(false);
    let (mut withheld, mut left) = (Withheld::new(12), Vec::new());
    struct Counting(u64);
    impl Judge for Counting {
        fn hear(&mut self, event: Event<'_>) {
            if let Event::Text(text) = event {
                self.0 += text.len() as u64;
            }
        }
        fn rule(&mut self, _: Part) -> Ruling {
            Ruling::Pass { text: std::mem::take(&mut self.0), is_last: false }
        }
    }
    let mut judge = Counting(0);
    for (at, unit) in sample.units.iter().enumerate() {
        let mut count = |_: &[u8]| {};
        let exit = Exit::new(&gate, &mut count);
        let end = at + 1 == sample.units.len();
        left.extend(withheld.feed(unit.clone().into(), end, &mut source, &mut judge, exit).ok().unwrap());
        let written: usize = sample.units[..=at].iter().map(Vec::len).sum();
        assert!(end || at < 3 || left.len() < written, "something stays behind");
    }
    assert_eq!(left, sample.body());
}

proptest! {
    #[test]
    fn any_division_gives_the_same_bytes(which in 0usize..11, sizes in prop::collection::vec(1usize..200, 1..20)) {
        let all = samples("all |is |fine, key-|12 is |none ", "Bash");
        let sample = &all[which];
        let body = sample.body();
        let mut chunks = Vec::new();
        let mut rest = &*body;
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        prop_assert_eq!(leaves(sample, &chunks), (body, false));
    }
}
