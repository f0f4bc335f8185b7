//! Protocol parsing: scanning a request body, reading usage from a stream, writing a refusal.
#![expect(missing_docs, reason = "criterion's macro makes functions without them")]

use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

use brotli::CompressorWriter;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use elida::policy::facts::{Fact, Facts, Phase, Step, ToolFacts, Value};
use elida::policy::ruleset::RuleSet;
use elida::policy::scan::{Judged, Lane, Pattern, PatternKind, Patterns, Work};
use elida::policy::secrets::DETECTORS;
use elida::policy::settings::PolicyConfig;
use elida::policy::verdict::Verdict;
use elida::protocol::Dialect;
use elida::protocol::answer::events::Event;
use elida::protocol::answer::tap::ResponseTap;
use elida::protocol::facts::error_body::{ErrorBody, ErrorClass};
use elida::protocol::request::segments::{Element, Reader, Segment, read};
use elida::protocol::request::{RequestPaths, RequestScan};
use elida::protocol::wire::coding::Coding;
use elida::protocol::wire::framing::Framing;
use elida::settings::fault::Faults;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The size of one read from a socket.
const CHUNK: usize = 16 << 10;

/// The hints in bodies of the default configuration.
const HINTS: [&str; 6] = [
    "metadata.user_id",
    "metadata.session_id",
    "litellm_session_id",
    "conversation",
    "prompt_cache_key",
    "message.contextId",
];

/// A chat of about `bytes` bytes with the model as its last field, as SDKs write it.
fn chat(bytes: usize) -> String {
    let turn =
        r#"{"role":"user","content":"Look at \"src/main.rs\":\n\tfn main() { println!(\"hello\"); }"}"#;
    let turns = vec![turn; bytes / turn.len() + 1].join(",");
    format!(r#"{{"messages":[{turns}],"metadata":{{"user_id":"u_1"}},"stream":true,"model":"gpt-demo"}}"#)
}

/// A recorded stream, repeated many times.
fn recorded(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/recordings/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}")).repeat(50)
}

fn scanner(criterion: &mut Criterion) {
    let paths = Arc::new(RequestPaths::new(&HINTS.map(str::to_owned)));
    let mut group = criterion.benchmark_group("request body scan");
    for bytes in [300, 76 << 10, 1 << 20] {
        let body = chat(bytes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("{} bytes", body.len()), |bencher| {
            bencher.iter(|| {
                let mut scan = RequestScan::new(&paths);
                body.as_bytes().chunks(CHUNK).for_each(|chunk| scan.feed(black_box(chunk)));
                scan.finish()
            });
        });
    }
    group.finish();
}

fn tap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("usage tap");
    for (name, dialect, framing) in [
        ("openai_chat_usage.sse", Dialect::OPENAI_CHAT, Framing::Sse),
        ("anthropic_thinking_tool.sse", Dialect::ANTHROPIC, Framing::Sse),
        ("responses_reasoning_tool.sse", Dialect::OPENAI_RESPONSES, Framing::Sse),
        ("ollama_chat_thinking.ndjson", Dialect::OLLAMA, Framing::Ndjson),
    ] {
        let stream = recorded(name);
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || ResponseTap::new(dialect, framing),
                |tap| stream.chunks(256).for_each(|chunk| tap.feed(black_box(chunk))),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// The same with a consumer that also wants text and arguments.
fn listener(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tap with a listener");
    for (name, dialect) in
        [("openai_chat_tools.sse", Dialect::OPENAI_CHAT), ("anthropic_thinking_tool.sse", Dialect::ANTHROPIC)]
    {
        let stream = recorded(name);
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || ResponseTap::listening(dialect, Framing::Sse, Coding::Identity),
                |tap| {
                    stream.chunks(256).for_each(|chunk| {
                        tap.listen(black_box(chunk), &mut |event| {
                            black_box(event);
                        })
                    });
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Compressed answers, per compressed byte.
fn decoding(criterion: &mut Criterion) {
    let stream = recorded("anthropic_thinking_tool.sse");
    let mut group = criterion.benchmark_group("usage tap, compressed");
    group.throughput(Throughput::Bytes(stream.len() as u64));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let mut brotli = CompressorWriter::new(Vec::new(), 4096, 5, 22);
    for event in stream.split_inclusive(|byte| *byte == b'\n') {
        for writer in [&mut gzip as &mut dyn Write, &mut brotli] {
            writer.write_all(event).and_then(|()| writer.flush()).expect("memory");
        }
    }
    let packed =
        [("gzip", Coding::Gzip, gzip.finish().expect("memory")), ("br", Coding::Brotli, brotli.into_inner())];
    for (name, coding, packed) in packed {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || ResponseTap::of(Dialect::ANTHROPIC, Framing::Sse, coding),
                |tap| packed.chunks(256).for_each(|chunk| tap.feed(black_box(chunk))),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn refusals(criterion: &mut Criterion) {
    let notice = ErrorBody {
        code: "session_killed",
        kind: ErrorClass::Permission,
        status: 403,
        message: "this session was killed by an operator: it looped",
        session_id: Some("bd060396-fe08-454b-8ed9-b937c9a41123"),
        request_id: "0198f1de-7e2a-7000-8000-000000000000",
        rpc: None,
        metadata: None,
    };
    criterion.bench_function("refusal, before the head", |bencher| {
        bencher.iter(|| Dialect::ANTHROPIC.error_body(black_box(&notice)));
    });
    criterion.bench_function("refusal, in a stream", |bencher| {
        bencher.iter(|| Dialect::ANTHROPIC.stream_end(Framing::Sse, true, black_box(&notice)));
    });
}

/// Phrases, expressions, and all secrets and personal data, on source code and pages of this repository.
fn patterns(criterion: &mut Criterion) {
    let phrases =
        (0..200).map(|number| PatternKind::Phrase(format!("ignore rule number {number} of the system")));
    let expressions = [r"git\s+push\s+(?:-f|--force)", r"rm\s+-[rf]{1,4}\s+/", r"drop\s+table\s+\w{1,40}"];
    let kinds = phrases
        .chain(expressions.map(|expression| PatternKind::Regex(expression.to_owned())))
        .chain(DETECTORS.iter().map(PatternKind::Detector));
    let all: Vec<Pattern> = kinds.map(|kind| Pattern { kind, slow: false }).collect();
    let patterns = Patterns::compile(&all).unwrap_or_else(|fault| panic!("{fault}"));
    let mut text = String::new();
    for name in
        ["docs/configuration.md", "docs/ARCHITECTURE.md", "src/proxy/gateway.rs", "src/capture/redact.rs"]
    {
        let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
        text += &fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let body = text.repeat((200 << 10) / text.len() + 1);
    let body = &body.as_bytes()[..200 << 10];
    let mut group = criterion.benchmark_group("patterns");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("a body of 200 KB", |bencher| {
        bencher.iter(|| {
            let mut found = 0;
            patterns.whole(black_box(body), &mut Work::new(body.len()), &mut |_| found += 1);
            found
        });
    });
    group.bench_function("deltas of 130 bytes", |bencher| {
        bencher.iter(|| {
            let (mut lane, mut found) = (Lane::new(), 0);
            body.chunks(130)
                .for_each(|delta| patterns.feed(&mut lane, black_box(delta), &mut |_| found += 1));
            patterns.end(&mut lane, &mut |_| found += 1);
            found
        });
    });
    group.finish();
}

/// Judges the texts of requests as the proxy does, without the rules behind the patterns.
struct Judging<'a> {
    patterns: &'a Patterns,
    table: &'a Judged,
    work: Work,
    key: u128,
    hits: usize,
}

impl Reader for Judging<'_> {
    fn begin(&mut self, element: &Element<'_>) -> bool {
        self.key = self.table.key(&[b"principal", element.raw]);
        !self.table.is_clean(self.key)
    }

    fn segment(&mut self, segment: &Segment<'_>) {
        self.patterns.whole(segment.text, &mut self.work, &mut |_| self.hits += 1);
    }

    fn end(&mut self, _: &Element<'_>) {
        self.table.note_clean(self.key);
    }
}

/// A conversation of so many turns of 1 KB.
fn conversation(turns: usize) -> String {
    let turn = |at: usize| {
        let text = "Look at \\\"src/main.rs\\\":\\n\\tfn main() { println!(); }\\n".repeat(20);
        format!(r#"{{"role":"user","content":[{{"type":"text","text":"{at}: {text}"}}]}}"#)
    };
    let turns: Vec<_> = (0..turns).map(turn).collect();
    format!(r#"{{"model":"claude-demo","messages":[{}]}}"#, turns.join(","))
}

/// The same new text in turn 2 and in turn 200, and a conversation that was never seen.
fn texts(criterion: &mut Criterion) {
    let detectors = DETECTORS.iter().map(PatternKind::Detector);
    let phrases = (0..50).map(|at| PatternKind::Phrase(format!("a phrase number {at} of an attack")));
    let patterns: Vec<_> = detectors.chain(phrases).map(|kind| Pattern { kind, slow: false }).collect();
    let patterns = Patterns::compile(&patterns).unwrap_or_else(|fault| panic!("{fault}"));
    let mut group = criterion.benchmark_group("texts of a request");
    for (name, known, turns) in [("turn 2", 1, 2), ("turn 200", 199, 200), ("200 turns, never seen", 0, 200)]
    {
        let (before, body) = (conversation(known), conversation(turns));
        let table = Judged::new(if known == 0 { 0 } else { 16 << 20 });
        let judge = |body: &str| {
            let work = Work::new(body.len());
            let mut judging = Judging { patterns: &patterns, table: &table, work, key: 0, hits: 0 };
            read(body.as_bytes(), Dialect::ANTHROPIC, &mut judging);
            judging.hits
        };
        judge(&before);
        group.throughput(Throughput::Bytes(body.len() as u64));
        let mut fresh = 0;
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    fresh += 1;
                    // The last turn is new each time.
                    body.replace(&format!("\"{}: ", turns - 1), &format!("\"{fresh}.{}: ", turns - 1))
                },
                |body| judge(black_box(&body)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// The patterns of the presets, as the gateway compiles them.
fn presets(rules: serde_json::Value) -> Arc<RuleSet> {
    let written: PolicyConfig = serde_json::from_value(rules).expect("rules");
    let mut faults = Faults::default();
    written.compile(&mut faults).unwrap_or_else(|| panic!("{faults}"))
}

/// The way of a body and of a stream from their bytes to what is found: JSON, texts, normaliser, patterns.
fn pipeline(criterion: &mut Criterion) {
    let set = presets(json!({"presets": ["strict", "coding-agent", "mcp"]}));
    let in_request = set.patterns(Phase::Request).expect("patterns");
    let in_answer = set.patterns(Phase::Response).expect("patterns");
    let body = conversation(195);
    let table = Judged::new(0);
    let mut group = criterion.benchmark_group("whole pipeline");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("a body of 200 KB, never seen", |bencher| {
        bencher.iter(|| {
            let work = Work::new(body.len());
            let mut judging = Judging { patterns: in_request, table: &table, work, key: 0, hits: 0 };
            read(black_box(body.as_bytes()), Dialect::ANTHROPIC, &mut judging);
            judging.hits
        });
    });
    let text = "Look at src/main.rs and tell me what it does; then run the tests, and say which of them fail, with the reason for each, please. ";
    let event = |at: usize| {
        let text = &text[at % 2..];
        format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
        )
    };
    let events: Vec<String> = (0..1000).map(event).collect();
    for (name, judged) in
        [("an event of 130 bytes of text, plain", false), ("an event of 130 bytes of text, judged", true)]
    {
        group.throughput(Throughput::Elements(events.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut tap = match judged {
                    true => ResponseTap::listening(Dialect::ANTHROPIC, Framing::Sse, Coding::Identity),
                    false => ResponseTap::new(Dialect::ANTHROPIC, Framing::Sse),
                };
                let (mut lane, mut found) = (Lane::new(), 0);
                for event in &events {
                    tap.listen(black_box(event.as_bytes()), &mut |event| {
                        if let (true, Event::Text(text)) = (judged, event) {
                            in_answer.feed(&mut lane, text, &mut |_| found += 1);
                        }
                    });
                }
                found
            });
        });
    }
    group.throughput(Throughput::Bytes((events.len() * text.len()) as u64));
    group.bench_function("deltas of 130 bytes, per byte of text", |bencher| {
        bencher.iter(|| {
            let mut tap = ResponseTap::listening(Dialect::ANTHROPIC, Framing::Sse, Coding::Identity);
            let (mut lane, mut found) = (Lane::new(), 0);
            for event in &events {
                tap.listen(black_box(event.as_bytes()), &mut |event| {
                    if let Event::Text(text) = event {
                        in_answer.feed(&mut lane, text, &mut |_| found += 1);
                    }
                });
            }
            found
        });
    });
    group.finish();
}

/// What a call looks like to rules.
struct Called<'a>(ToolFacts<'a>);

impl Facts for Called<'_> {
    fn get(&self, fact: Fact) -> Value<'_> {
        match fact {
            Fact::SessionRisk => Value::Float(3.0),
            Fact::SessionRequests => Value::Int(12),
            _ => self.0.get(fact),
        }
    }

    fn entry(&self, _: Fact, _: &str) -> Value<'_> {
        Value::Bool(false)
    }

    fn has(&self, _: Fact, text: &str) -> bool {
        text == "dev"
    }

    fn count(&self, _: Fact) -> usize {
        1
    }

    fn at(&self, _: Fact, path: &[Step]) -> Value<'_> {
        self.0.at(path)
    }
}

/// Fifty rules over facts of a call: most are about a tool, some about all.
fn rules(criterion: &mut Criterion) {
    let of_tool = |at: usize| {
        json!({"id": format!("tool-{at}"), "on": "tool_call", "action": "block",
        "when": format!("tool.name == \"tool_{at}\" && tool.args.path.startsWith(\"/etc\")")})
    };
    let of_all = |at: usize| {
        json!({"id": format!("all-{at}"), "on": "tool_call", "action": "block",
        "when": format!("session.risk > {at}0.0 && !(\"ops\" in principal.groups) && session.requests > {at}")})
    };
    let written: Vec<_> = (0..40).map(of_tool).chain((1..11).map(of_all)).collect();
    let set = presets(json!({"rules": written}));
    criterion.bench_function("50 rules over facts of a call", |bencher| {
        bencher.iter(|| {
            let call = ToolFacts {
                name: Some(black_box("tool_7")),
                args: br#"{"path": "/home/ada/notes.txt", "text": "hello"}"#,
                source: "model",
                ..ToolFacts::default()
            };
            let mut verdict = Verdict::default();
            set.finish(Phase::ToolCall, &Called(call), &mut verdict);
            verdict.is_empty()
        });
    });
}

criterion_group!(benches, scanner, tap, listener, decoding, refusals, patterns, texts, pipeline, rules);
criterion_main!(benches);
