use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::sessions::usage::{Counts, RECORDED, counts};
use crate::support::recording::{Dice, Recording};
use crate::support::wire::Message;
use crate::support::{Call, Demo, Gateway, RawBackend, RawClient};

/// How to ask for an answer, and where the provider reports its counts in it, in the order of
/// [`crate::sessions::usage::KEYS`]. The last report counts.
struct Case {
    name: &'static str,
    path: &'static str,
    ask: fn(&str, bool) -> Value,
    counts: [&'static [&'static str]; 5],
    stop: [&'static str; 2],
}

const TOOLS: [&str; 1] = ["weather"];

fn chat(model: &str, text: &str, stream: bool) -> Value {
    let tools: Vec<_> =
        TOOLS.iter().map(|name| json!({"type": "function", "function": {"name": name}})).collect();
    json!({"model": model, "messages": [{"role": "user", "content": text}], "stream": stream, "tools": tools,
        "stream_options": {"include_usage": true}})
}

fn flat_tools() -> Vec<Value> {
    TOOLS.iter().map(|name| json!({"type": "function", "name": name, "parameters": {}})).collect()
}

const CHAT_COUNTS: [&[&str]; 5] = [
    &["/usage/prompt_tokens"],
    &["/usage/completion_tokens"],
    &["/usage/prompt_tokens_details/cached_tokens", "/usage/num_cached_tokens"],
    &["/usage/prompt_tokens_details/cache_write_tokens"],
    &["/usage/completion_tokens_details/reasoning_tokens"],
];

const CASES: [Case; 8] = [
    Case {
        name: "chat",
        path: "/v1/chat/completions",
        ask: |text, stream| chat("gpt-demo", text, stream),
        counts: CHAT_COUNTS,
        stop: ["stop", "tool_calls"],
    },
    Case {
        name: "mistral",
        path: "/v1/chat/completions",
        ask: |text, stream| chat("mistral-demo", text, stream),
        counts: CHAT_COUNTS,
        stop: ["stop", "tool_calls"],
    },
    Case {
        name: "completions",
        path: "/v1/completions",
        ask: |text, stream| json!({"model": "m", "prompt": text, "stream": stream, "stream_options": {"include_usage": true}}),
        counts: CHAT_COUNTS,
        stop: ["stop", "stop"],
    },
    Case {
        name: "responses",
        path: "/v1/responses",
        ask: |text, stream| json!({"model": "m", "input": text, "stream": stream, "tools": flat_tools()}),
        counts: [
            &["/response/usage/input_tokens", "/usage/input_tokens"],
            &["/response/usage/output_tokens", "/usage/output_tokens"],
            &[
                "/response/usage/input_tokens_details/cached_tokens",
                "/usage/input_tokens_details/cached_tokens",
            ],
            &[
                "/response/usage/input_tokens_details/cache_write_tokens",
                "/usage/input_tokens_details/cache_write_tokens",
            ],
            &[
                "/response/usage/output_tokens_details/reasoning_tokens",
                "/usage/output_tokens_details/reasoning_tokens",
            ],
        ],
        stop: ["completed", "completed"],
    },
    Case {
        name: "messages",
        path: "/v1/messages",
        ask: |text, stream| {
            json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text}],
                "stream": stream, "tools": flat_tools()})
        },
        counts: [
            &["/message/usage/input_tokens", "/usage/input_tokens"],
            &["/message/usage/output_tokens", "/usage/output_tokens"],
            &["/message/usage/cache_read_input_tokens", "/usage/cache_read_input_tokens"],
            &["/message/usage/cache_creation_input_tokens", "/usage/cache_creation_input_tokens"],
            &["/usage/output_tokens_details/thinking_tokens"],
        ],
        stop: ["end_turn", "tool_use"],
    },
    Case {
        name: "cohere",
        path: "/v2/chat",
        ask: |text, stream| chat("command-demo", text, stream),
        counts: [
            &["/delta/usage/billed_units/input_tokens", "/usage/billed_units/input_tokens"],
            &["/delta/usage/billed_units/output_tokens", "/usage/billed_units/output_tokens"],
            &["/delta/usage/cached_tokens", "/usage/cached_tokens"],
            &[],
            &[],
        ],
        stop: ["COMPLETE", "TOOL_CALL"],
    },
    Case {
        name: "ollama chat",
        path: "/api/chat",
        ask: |text, stream| chat("llama-demo", text, stream),
        counts: [&["/prompt_eval_count"], &["/eval_count"], &[], &[], &[]],
        stop: ["stop", "stop"],
    },
    Case {
        name: "ollama generate",
        path: "/api/generate",
        ask: |text, stream| json!({"model": "llama-demo", "prompt": text, "stream": stream}),
        counts: [&["/prompt_eval_count"], &["/eval_count"], &[], &[], &[]],
        stop: ["stop", "stop"],
    },
];

/// Decompresses the body as the client's library does.
fn unpacked(answer: &Message) -> Vec<u8> {
    let mut plain = Vec::new();
    let read = match answer.head.field("content-encoding") {
        Some("gzip") => flate2::read::GzDecoder::new(answer.body.as_slice()).read_to_end(&mut plain),
        Some("deflate") => flate2::read::ZlibDecoder::new(answer.body.as_slice()).read_to_end(&mut plain),
        Some("br") => brotli::Decompressor::new(answer.body.as_slice(), 4096).read_to_end(&mut plain),
        Some(other) => panic!("compressed by {other}"),
        None => return answer.body.clone(),
    };
    read.expect("a compressed body that is whole");
    plain
}

/// The JSON values of an answer, in order: the whole body, its lines, or the data of its events.
fn values(body: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(body).expect("text");
    if let Ok(whole) = serde_json::from_str(text) {
        return vec![whole];
    }
    let data = |line: &str| serde_json::from_str(line.strip_prefix("data: ").unwrap_or(line)).ok();
    text.lines().filter_map(data).collect()
}

/// The last count at each of the case's paths, as the session shows it: every provider but Anthropic counts cached
/// tokens in the input.
fn reported(case: &Case, values: &[Value]) -> Counts {
    let all = |pointers: &[&str]| {
        let at = |value: &Value| pointers.iter().find_map(|pointer| value.pointer(pointer)?.as_u64());
        values.iter().rev().find_map(at).unwrap_or(0)
    };
    let mut counts = case.counts.map(all);
    if case.name != "messages" {
        counts[0] -= counts[2] + counts[3];
    }
    counts
}

/// Asks for every kind of answer of a case; the session must show what the provider reports.
async fn asked(gateway: &Gateway, case: &Case) {
    let has_tools = case.stop[0] != case.stop[1] || case.name == "responses" || case.name == "ollama chat";
    for packing in ["", "[[gzip]]", "[[deflate]]", "[[br]]"] {
        for stream in [false, true] {
            for calls in [false, true].into_iter().filter(|calls| has_tools || !calls) {
                let wish = if calls { r#"[[tool weather {"city": "Zürich", "days": [1, 2]}]]"# } else { "" };
                let text = format!(
                    "one two three {packing}[[cached 40]][[written 7]][[reasoning 11]][[words 30]]{wish}"
                );
                let session = format!("{}{packing}{stream}{calls}", case.name).replace(['[', ']', ' '], "-");
                let call = Call::post(case.path).json(&(case.ask)(&text, stream)).session(&session);
                let answer = call.send(gateway.proxy()).await;
                assert_eq!((answer.status(), answer.is_whole), (200, true), "{session}");
                let expected = reported(case, &values(&unpacked(&answer)));
                assert!(expected[0] > 0 && expected[1] > 0, "{session}: {expected:?}");
                let shown = gateway.session_until(&session, |session| session["open_legs"] == 0).await;
                assert_eq!(counts(&shown["usage"]), expected, "{session}: {shown}");
                let line = &shown["requests"][0];
                assert_eq!(line["stop_reason"], case.stop[usize::from(calls)], "{session}: {line}");
                let tools = if calls { json!({"weather": 1}) } else { json!({}) };
                assert_eq!((&line["tools"], &shown["tools"]), (&tools, &tools), "{session}");
                assert_eq!(line["stream"], stream, "{session}: {line}");
            }
        }
    }
}

async fn case(name: &str) {
    let demo = Demo::start().await;
    let yaml = format!(
        "backends:\n  demo: {{ url: {0:?}, type: openai, default: true }}\n  \
         mistral: {{ url: {0:?}, type: mistral, models: [\"mistral-*\"] }}\n",
        crate::support::Backend::url(&demo)
    );
    let gateway = Gateway::with(yaml).await;
    let case = CASES.iter().find(|case| case.name == name).expect("a case");
    asked(&gateway, case).await;
    let metrics = gateway.operator().await.get("/metrics").await.text();
    assert!(!metrics.contains("elida_answers_unread_total{"), "all were read: {metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_chat_is_read_as_the_provider_says() {
    case("chat").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_completions_are_read_as_the_provider_says() {
    case("completions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_responses_are_read_as_the_provider_says() {
    case("responses").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_messages_are_read_as_the_provider_says() {
    case("messages").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cohere_is_read_as_the_provider_says() {
    case("cohere").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistral_is_read_as_the_provider_says() {
    case("mistral").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ollama_is_read_as_the_provider_says() {
    case("ollama chat").await;
    case("ollama generate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_count_and_counting_tokens_does_not() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let messages = json!([{"role": "user", "content": "one two three"}]);
    for (path, body, pointer, used) in [
        ("/v1/embeddings", json!({"model": "e", "input": ["one two", "three"]}), "/usage/prompt_tokens", 3),
        ("/api/embed", json!({"model": "e", "input": "one two three four"}), "/prompt_eval_count", 4),
        ("/v1/messages/count_tokens", json!({"model": "m", "messages": messages}), "/input_tokens", 0),
    ] {
        let session = path.replace('/', "-");
        let answer = Call::post(path).json(&body).session(&session).send(gateway.proxy()).await;
        let value = crate::support::json(&answer.body);
        assert!(value.pointer(pointer).and_then(Value::as_u64) > Some(2), "{path}: {value}");
        let shown = gateway.session_until(&session, |session| session["open_legs"] == 0).await;
        assert_eq!(counts(&shown["usage"]), [used, 0, 0, 0, 0], "{path}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_leg_shows_what_its_request_offers() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let ask = (CASES[4].ask)("one [[stall]]", true);
    let mut client = Call::post(CASES[4].path).json(&ask).session("open").open(gateway.proxy()).await;
    client.until("one").await;
    let shown = gateway.session_until("open", |session| session["open_legs"] == 1).await;
    let leg = &shown["legs"][0];
    assert_eq!(leg["tools_offered"], json!(TOOLS), "{leg}");
    assert_eq!(leg["input_tokens_estimate"], ask.to_string().len().div_ceil(4), "{leg}");
    assert_eq!(gateway.kill("open").await.status, 200);
    let shown = gateway.session_until("open", |session| session["open_legs"] == 0).await;
    let line = &shown["requests"][0];
    assert_eq!((&line["tools_offered"], &line["tools"]), (&json!(TOOLS.len()), &json!({})), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_add_up_in_the_record() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for stream in [false, true] {
        let ask = (CASES[0].ask)("[[tool weather]]", stream);
        Call::post(CASES[0].path).json(&ask).session("sum").send(gateway.proxy()).await;
        let ask = (CASES[4].ask)("[[tool weather {}]]", stream);
        Call::post(CASES[4].path).json(&ask).session("sum").send(gateway.proxy()).await;
    }
    gateway.session_until("sum", |session| session["open_legs"] == 0 && session["request_count"] == 4).await;
    assert_eq!(gateway.kill("sum").await.status, 200);
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    assert_eq!(record["tools"], json!({"weather": 4}), "{record}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(bytes).expect("memory");
    packer.finish().expect("memory")
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut packer = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
    packer.write_all(bytes).expect("memory");
    packer.into_inner()
}

/// Answers each request with these bytes in random pieces.
async fn answering(content_type: &str, encoding: &str, body: Vec<u8>) -> RawBackend {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Encoding: {encoding}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    RawBackend::start(move |mut connection| {
        let (head, body) = (head.clone(), body.clone());
        async move {
            if connection.request().await.is_none() {
                return;
            }
            let _ = connection.send(head).await;
            // Few pieces for a large body.
            for piece in Dice::new(11).cut(&body, 60 + body.len() / 50) {
                let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                let _ = connection.send(chunk).await;
            }
            let _ = connection.send("0\r\n\r\n").await;
        }
    })
    .await
}

/// Recordings with a content coding, in pieces that ignore its block boundaries.
async fn recorded_under(encoding: &str, pack: fn(&[u8]) -> Vec<u8>) {
    for (recording, (name, expected)) in Recording::all().iter().zip(RECORDED) {
        let packed = pack(&recording.bytes);
        let backend = answering(recording.content_type, encoding, packed.clone()).await;
        let gateway = Gateway::start(&backend).await;
        let call = Call::post(recording.path).json(&json!({"model": "m", "messages": []})).session("packed");
        let answer = call.send(gateway.proxy()).await;
        assert_eq!(answer.body, packed, "{name}: not a byte is changed");
        assert_eq!(answer.head.field("content-encoding"), Some(encoding), "{name}");
        let shown = gateway.session_until("packed", |session| session["open_legs"] == 0).await;
        assert_eq!(counts(&shown["usage"]), expected.unwrap_or_default(), "{name}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_are_counted_through_gzip() {
    recorded_under("gzip", gzip).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_are_counted_through_br() {
    recorded_under("br", brotli).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decoded_passes_and_is_told() {
    let bomb = gzip(&vec![b' '; 64 << 20]);
    for (encoding, body, reason) in [
        ("gzip", bomb, "too_large"),
        ("gzip", b"{\"plain\": \"json\"}".to_vec(), "corrupt"),
        ("compress", b"whatever".to_vec(), "coding"),
    ] {
        let backend = answering("application/json", encoding, body.clone()).await;
        let gateway = Gateway::start(&backend).await;
        let answer = Call::chat("hi").session("unread").send(gateway.proxy()).await;
        assert!(answer.body == body && answer.is_whole, "{reason}: the client gets all of it");
        gateway.session_until("unread", |session| session["open_legs"] == 0).await;
        let metrics = gateway.operator().await.get("/metrics").await.text();
        let line = format!("elida_answers_unread_total{{backend=\"default\",reason=\"{reason}\"}} 1");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_writes_nothing_plain_into_a_compressed_stream() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for encoding in ["gzip", "deflate", "br"] {
        let text = format!("one two three [[{encoding}]] [[stall]]");
        for (name, call) in [("messages", Call::messages_stream(&text)), ("chat", Call::chat_stream(&text))] {
            let session = &format!("{encoding}-{name}");
            let mut client: RawClient = call.session(session).open(gateway.proxy()).await;
            let head = client.head().await.expect("a head");
            assert_eq!(head.field("content-encoding"), Some(encoding));
            gateway.session_until(session, |session| session["bytes_out"].as_u64() > Some(0)).await;
            assert_eq!(gateway.kill(session).await.status, 200);
            let rest = client.body(head, crate::support::wire::Unframed::UntilEnd).await;
            assert!(!rest.is_whole, "{session}: the framing is left incomplete");
            let plain = rest.body.windows(7).any(|bytes| bytes == b"\"error\"" || bytes == b"killed\"");
            assert!(!plain, "{session}: {}", String::from_utf8_lossy(&rest.body));
        }
    }
}
