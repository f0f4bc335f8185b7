use std::sync::Arc;

use serde_json::json;

use crate::support::recording::{Dice, Recording};
use crate::support::wire::{Message, Unframed};
use crate::support::{Backend, Call, Connection, Demo, Gateway, RawBackend, sha256};

/// How a backend frames its answer.
#[derive(Clone, Copy, Debug)]
enum Frame {
    Length,
    Chunks,
    UntilClose,
}

const FRAMES: [Frame; 3] = [Frame::Length, Frame::Chunks, Frame::UntilClose];

/// Answers `…?recording=3&frame=1&seed=9` with that recording, in random pieces.
async fn replay(mut connection: Connection, recordings: Arc<Vec<Recording>>) {
    while let Some(request) = connection.request().await {
        let number = |key: &str| {
            let target = request.head.target();
            let value = target.split(['?', '&']).find_map(|pair| pair.strip_prefix(key));
            value.and_then(|value| value.parse::<usize>().ok()).expect("a number in the query")
        };
        let recording = &recordings[number("recording=")];
        let frame = FRAMES[number("frame=")];
        if send(&mut connection, recording, frame, number("seed=")).await.is_err() {
            return;
        }
        if matches!(frame, Frame::UntilClose) {
            return;
        }
    }
}

async fn send(
    connection: &mut Connection,
    recording: &Recording,
    frame: Frame,
    seed: usize,
) -> std::io::Result<()> {
    let framing = match frame {
        Frame::Length => format!("Content-Length: {}", recording.bytes.len()),
        Frame::Chunks => "Transfer-Encoding: chunked".to_owned(),
        Frame::UntilClose => "Connection: close".to_owned(),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {}\r\n{framing}\r\n\r\n", recording.content_type);
    connection.send(head).await?;
    let mut dice = Dice::new(seed as u64);
    let largest = [1, 7, 64, 4096][seed % 4].max(recording.bytes.len() / 400);
    for piece in dice.cut(&recording.bytes, largest) {
        match frame {
            Frame::Chunks => {
                connection
                    .send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
                    .await?;
            }
            _ => connection.send(piece).await?,
        }
    }
    match frame {
        Frame::Chunks => connection.send("0\r\n\r\n").await,
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_streams_of_all_dialects_arrive_unchanged() {
    let recordings = Arc::new(Recording::all());
    let shared = Arc::clone(&recordings);
    let backend = RawBackend::start(move |connection| replay(connection, Arc::clone(&shared))).await;
    let gateway = Gateway::start(&backend).await;
    for seed in 0..4 {
        for (number, recording) in recordings.iter().enumerate() {
            for (frame, framing) in FRAMES.iter().enumerate() {
                let target = format!("{}?recording={number}&frame={frame}&seed={seed}", recording.path);
                let answer = Call::post(&target).body("{}").send(gateway.proxy()).await;
                let what = format!("{} {framing:?} {seed}", recording.name);
                assert_eq!(answer.status(), 200, "{what}");
                assert_eq!(answer.head.field("content-type"), Some(recording.content_type), "{what}");
                assert_eq!(sha256(&answer.body), sha256(&recording.bytes), "{what}: {}", answer.text());
                assert!(answer.is_whole || matches!(framing, Frame::UntilClose), "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_counted_for_every_dialect() {
    // Input and output tokens that the recording reports, without cached ones.
    let expected = [
        ("anthropic_thinking_tool.sse", 472, 89),
        ("anthropic_text_crlf.sse", 25, 17),
        ("anthropic_whole.json", 2095, 503),
        ("openai_chat_usage.sse", 19, 74),
        ("openai_chat_comments_crlf.sse", 5, 3),
        ("openai_whole.json", 13, 7),
        ("responses_reasoning_tool.sse", 3211, 152),
        // It reports 2,048 cached tokens of an input of 40.
        ("responses_incomplete.sse", 2048, 16),
        ("responses_whole.json", 3211, 152),
        ("mistral_text.sse", 11, 18),
        ("mistral_thinking_tool.sse", 94, 22),
        ("mistral_whole.json", 124, 22),
        ("ollama_chat_thinking.ndjson", 26, 282),
        ("ollama_chat_tool_crlf.ndjson", 169, 15),
        ("ollama_whole.json", 10, 4),
    ];
    let recordings = Arc::new(Recording::all());
    let shared = Arc::clone(&recordings);
    let backend = RawBackend::start(move |connection| replay(connection, Arc::clone(&shared))).await;
    let gateway = Gateway::start(&backend).await;
    for (name, input, output) in expected {
        let number = recordings.iter().position(|recording| recording.name == name).expect(name);
        for (frame, framing) in FRAMES.iter().enumerate() {
            let id = format!("usage-{number}-{frame}");
            let target = format!("{}?recording={number}&frame={frame}&seed=1", recordings[number].path);
            Call::post(&target).session(&id).body("{}").send(gateway.proxy()).await;
            let session = gateway
                .session_until(&id, |session| session["request_count"] == 1 && session["open_legs"] == 0)
                .await;
            let usage = &session["usage"];
            assert_eq!(usage["output_tokens"], output, "{name} {framing:?}: {usage}");
            // Anthropic reports cached tokens beside the input, the others in it.
            let counted = usage["input_tokens"].as_u64().unwrap_or_default();
            let cached = usage["cache_read_tokens"].as_u64().unwrap_or_default();
            let reported = if name.starts_with("anthropic") { counted } else { counted + cached };
            assert!(reported == input, "{name} {framing:?}: {usage}");
        }
    }
}

/// A chat of exactly `length` bytes with the model as its last field, as SDKs write it.
fn chat_of(length: usize) -> Vec<u8> {
    let (start, end) = (r#"{"messages":[{"role":"user","content":""#, r#""}],"model":"gpt-demo"}"#);
    match length.checked_sub(start.len() + end.len()) {
        Some(filling) => format!("{start}{}{end}", "x".repeat(filling)).into_bytes(),
        None => format!("{}{}", "{", " ".repeat(length - 2) + "}").into_bytes(),
    }
}

const SIZES: [usize; 6] = [2, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 1 << 20, 32 << 20];

async fn post(gateway: &Gateway, body: Vec<u8>, chunk: Option<usize>) -> Message {
    let call = Call::post("/v1/chat/completions").header("content-type", "application/json").body(body);
    let call = match chunk {
        Some(size) => call.chunked(size),
        None => call,
    };
    call.send(gateway.proxy()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn request_bodies_of_all_sizes_arrive_unchanged() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for size in SIZES {
        for chunk in [None, Some(16_000), Some(1 << 20)] {
            let body = chat_of(size);
            assert_eq!(body.len(), size);
            let digest = sha256(&body);
            let answer = post(&gateway, body, chunk).await;
            assert_eq!(
                answer.status(),
                if size == 2 { 400 } else { 200 },
                "{size} {chunk:?}: {}",
                answer.text()
            );
            let seen = demo.ledger().last().expect("a request");
            assert_eq!((seen.body_len, seen.body_sha256), (size, digest), "{size} {chunk:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_never_reaches_the_backend() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for chunk in [None, Some(1 << 20)] {
        let answer = post(&gateway, chat_of((32 << 20) + 1), chunk).await;
        assert_eq!(answer.status(), 413, "{chunk:?}");
        assert_eq!(answer.json()["error"]["code"], "body_too_large", "{chunk:?}");
    }
    assert_eq!(demo.ledger().arrived(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_without_models_gets_bodies_up_to_10_mib() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let web = RawBackend::answering(ok).await;
    let gateway =
        Gateway::with(format!("backends: {{ web: {{ url: {:?}, type: http }} }}\n", web.url())).await;
    let limit = 10 << 20;
    let put = |size| Call::new("PUT", "/file").header("content-type", "image/png").body(vec![b'x'; size]);
    for sent in [put(limit), put(limit).chunked(100_000)] {
        assert_eq!(sent.send(gateway.proxy()).await.status(), 200);
    }
    let announced = Call::new("PUT", "/file").header("content-length", &(limit + 1).to_string());
    let mut client = announced.open(gateway.proxy()).await;
    let refused = client.message(Unframed::UntilEnd).await.expect("an answer to the head");
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (413, &json!("body_too_large")));
    assert_eq!(web.heads().len(), 2, "it was announced");
    let refused = put(limit + 1).chunked(100_000).send(gateway.proxy()).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (413, &json!("body_too_large")));
    assert!(refused.text().contains("max_body"), "{}", refused.text());
    web.until("the end of the streamed one", |web| web.requests().len() == 3).await;
    let streamed = web.requests().pop().expect("a request");
    assert!(!streamed.is_whole && streamed.body.len() <= limit, "{} bytes", streamed.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_arrive_unchanged() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let bytes = Dice::new(11).bytes(8 << 20);
    for chunk in [None, Some(10_000)] {
        let call = Call::post("/echo").body(bytes.clone());
        let call = chunk.map_or(call.clone(), |size| call.chunked(size));
        let answer = call.send(gateway.proxy()).await;
        assert_eq!((answer.status(), answer.is_whole), (200, true));
        assert_eq!(sha256(&answer.body), sha256(&bytes), "{chunk:?}");
    }
}
