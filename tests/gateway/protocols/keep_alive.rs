use std::time::Duration;

use serde_json::json;

use crate::support::program::Program;
use crate::support::wire::{Message, Unframed};
use crate::support::{Backend, Call, Connection, Demo, Gateway, RawBackend, RawClient};

const COMMENT: &str = ": keep-alive\n\n";
const SSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Several comments fit into this silence.
const SILENCE: Duration = Duration::from_millis(500);

async fn with_keep_alive(backend: &impl Backend, more: &str) -> Gateway {
    let timeouts = format!("stream_keep_alive: 100ms{more}");
    Gateway::with(format!("backend: {:?}\nserver: {{ timeouts: {{ {timeouts} }} }}\n", backend.url())).await
}

async fn chunk(connection: &mut Connection, text: &str) {
    let _ = connection.send(format!("{:x}\r\n{text}\r\n", text.len())).await;
}

/// Sends this head and these pieces, each after a silence, then the end of a chunked body.
async fn piecemeal(head: &'static str, pieces: &'static [&'static str]) -> RawBackend {
    RawBackend::start(move |mut connection| async move {
        let Some(_) = connection.request().await else { return };
        tokio::time::sleep(SILENCE).await;
        let _ = connection.send(head).await;
        for piece in pieces {
            tokio::time::sleep(SILENCE).await;
            if head.contains("chunked") {
                chunk(&mut connection, piece).await;
            } else {
                let _ = connection.send(piece).await;
            }
        }
        tokio::time::sleep(SILENCE).await;
        let _ = connection.send(if head.contains("chunked") { "0\r\n\r\n" } else { "" }).await;
    })
    .await
}

async fn asked(gateway: &Gateway, session: &str) -> Message {
    Call::chat_stream("hello").session(session).send(gateway.proxy()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_stand_between_events_and_nowhere_else() {
    let pieces = &["data: one\n\n", "data: tw", "o\n", "\n", "data: three\r\n\r\n", "data: [DONE]\n\n"];
    let backend = piecemeal(SSE, pieces).await;
    let gateway = with_keep_alive(&backend, "").await;
    let answer = asked(&gateway, "s").await;
    let text = answer.text();
    assert!(answer.is_whole, "{text:?}");
    let original = pieces.concat();
    assert_eq!(text.replace(COMMENT, ""), original, "{text:?}");
    assert!(text.contains("data: two\n\n"), "never inside an event: {text:?}");
    let c = COMMENT;
    let places = [
        format!("{c}data: one\n\n{c}"),
        format!("{c}data: two\n\n{c}"),
        format!("{c}data: three\r\n\r\n{c}"),
        format!("data: [DONE]\n\n{c}"),
    ];
    assert!(text.starts_with(c) && places.iter().all(|place| text.contains(place)), "{text:?}");
    // The gateway's counts are those of the provider.
    let session = gateway.session_until("s", |session| session["open_legs"] == 0).await;
    assert_eq!(session["bytes_out"], json!(original.len()), "{session}");
    assert_eq!(gateway.access_line("/v1/chat/completions").await["bytes_out"], json!(original.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_can_hold_no_comment_get_none() {
    let cases: [(&str, &[&str]); 5] = [
        (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            &["{}", "\n\n"],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
            &["{}\n", "{}\n"],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
            &["not\n\n", "gzip\n\n"],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 10\r\n\r\n",
            &["a: b\n\n", ": c\n"],
        ),
        (
            "HTTP/1.1 429 Slow Down\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            &["a: b\n\n", "\n"],
        ),
    ];
    let all = cases.map(|(head, pieces)| async move {
        let backend = piecemeal(head, pieces).await;
        let gateway = with_keep_alive(&backend, "").await;
        let answer = asked(&gateway, "s").await;
        assert!(answer.is_whole && answer.text() == pieces.concat(), "{head}: {:?}", answer.text());
    });
    futures::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_before_the_head_nor_without_being_asked_for() {
    let backend = piecemeal(SSE, &["data: x\n\n"]).await;
    let gateway = Gateway::start(&backend).await;
    assert_eq!(asked(&gateway, "off").await.text(), "data: x\n\n");
    let gateway = with_keep_alive(&backend, "").await;
    let mut client = Call::chat_stream("hello").session("on").open(gateway.proxy()).await;
    let head = client.head().await.expect("a head");
    assert_eq!(head.status(), 200, "{head:?}");
    assert!(client.body(head, Unframed::UntilEnd).await.text().contains(COMMENT));
    // HTTP/1.0 has no chunked coding.
    let mut old = RawClient::connect(gateway.proxy()).await;
    let request = "POST /v1/chat/completions HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
    old.send(request.as_bytes()).await.expect("send");
    let answer = old.message(Unframed::UntilEnd).await.expect("an answer").text();
    assert!(answer.contains(COMMENT) && answer.replace(COMMENT, "") == "data: x\n\n", "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_gets_none() {
    let backend = RawBackend::start(async |mut connection| {
        let Some(_) = connection.request().await else { return };
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nContent-Type: text/event-stream\r\n\r\n";
        let _ = connection.send(head).await;
        tokio::time::sleep(SILENCE).await;
        let _ = connection.send("heard\n\n").await;
        tokio::time::sleep(SILENCE).await;
    })
    .await;
    let gateway = with_keep_alive(&backend, "").await;
    let call = Call::get("/socket").header("Connection", "Upgrade").header("Upgrade", "websocket");
    let mut client = call.open(gateway.proxy()).await;
    let head = client.head().await.expect("an answer");
    assert_eq!(head.status(), 101);
    assert_eq!(client.body(head, Unframed::UntilEnd).await.text(), "heard\n\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_is_no_sign_of_life_of_the_backend() {
    let demo = Demo::start().await;
    let gateway = with_keep_alive(&demo, ", stream_idle: 1s").await;
    let text = Call::chat_stream("first [[stall]]").send(gateway.proxy()).await.text();
    assert!(text.contains(COMMENT) && text.contains("\"code\":\"backend_timeout\""), "{text}");
    // The closing event is an event by itself.
    assert!(text.contains(&format!("{COMMENT}data: {{")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_is_no_activity_of_the_session() {
    let demo = Demo::start().await;
    let yaml = format!(
        "backend: {:?}\nserver: {{ timeouts: {{ stream_keep_alive: 100ms }} }}\nsession: {{ idle_timeout: 1s }}\n",
        demo.url()
    );
    let gateway = Gateway::with(yaml).await;
    let text = Call::chat_stream("first [[stall]]").session("s").send(gateway.proxy()).await.text();
    assert!(text.contains(COMMENT) && text.contains("\"code\":\"session_timed_out\""), "{text}");
    let session = gateway.session_until("s", |session| session["state"] != "active").await;
    assert_eq!(session["end_reason"], "idle_timeout", "{session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_a_stream_that_is_kept_alive() {
    let demo = Demo::start().await;
    let gateway = with_keep_alive(&demo, "").await;
    let mut client = Call::messages_stream("first [[stall]]").session("s").open(gateway.proxy()).await;
    client.until(COMMENT).await;
    assert_eq!(gateway.kill("s").await.body["legs_cut"], 1);
    let text = client.message(Unframed::UntilEnd).await.expect("an answer").text();
    assert!(text.contains(&format!("{COMMENT}event: error\n")) && text.contains("session_killed"), "{text}");
    demo.until("the abort", |ledger| ledger.aborts().len() == 1).await;
}

/// Comments and events meet at every distance while the client's buffers fill up again and again: a write that is
/// abandoned halfway is completed before anything else is written.
#[tokio::test(flavor = "multi_thread")]
async fn events_and_comments_never_mix_before_a_slow_reader() {
    const EVENTS: usize = 300;
    let event = |number: usize| format!("data: {number} {}\n\n", "x".repeat(2000 + number % 97));
    let backend = RawBackend::start(move |mut connection| async move {
        let Some(_) = connection.request().await else { return };
        let _ = connection.send(SSE).await;
        for number in 0..EVENTS {
            chunk(&mut connection, &event(number)).await;
            tokio::time::sleep(Duration::from_millis(number as u64 % 13)).await;
        }
        let _ = connection.send("0\r\n\r\n").await;
        connection.stay_silent().await;
    })
    .await;
    let yaml =
        format!("backend: {:?}\nserver: {{ timeouts: {{ stream_keep_alive: 3ms }} }}\n", backend.url());
    let gateway = Gateway::with(yaml).await;
    let mut client = RawClient::connect_narrow(gateway.proxy()).await;
    client.send(&Call::chat_stream("hello").bytes("a")).await.expect("send");
    for part in 1..10 {
        client.until(&format!("data: {} ", part * 10)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.is_whole);
    let original: String = (0..EVENTS).map(event).collect();
    assert!(answer.text().contains(COMMENT));
    assert!(answer.text().replace(COMMENT, "") == original, "every byte of the provider's, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdks_read_on_behind_comments() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\nserver: {{ timeouts: {{ stream_keep_alive: 20ms }} }}\n", demo.url());
    let gateway = Gateway::with(yaml).await;
    let raw = Call::chat_stream("one two three [[pace 150ms]]").send(gateway.proxy()).await.text();
    assert!(raw.matches(COMMENT).count() >= 3, "{raw}");
    for sdk in ["openai", "anthropic"] {
        let outcome = Program::python("paced.py", &gateway.url(), &[sdk]).outcome().await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(outcome.last()["text"].as_str().map(str::trim), Some("one two three"), "{outcome:?}");
    }
}
