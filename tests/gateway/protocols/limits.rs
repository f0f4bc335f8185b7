use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::timing::after;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, RawClient, json, within};

/// A gateway in front of `backend` with these `server.timeouts`.
async fn with_timeouts(backend: &impl Backend, timeouts: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\nserver:\n  timeouts: {{ {timeouts} }}\n", backend.url())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_refused_by_its_announcement() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for (path, limit) in [("/v1/messages", 32 << 20), ("/anything", 512 << 20)] {
        let announced = (limit + 1).to_string();
        let call = Call::post(path).header("content-length", &announced).body("{\"model\":");
        let mut client = call.open(gateway.proxy()).await;
        let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
        assert_eq!(answer.status(), 413, "{path}: {}", answer.text());
    }
    assert_eq!(demo.ledger().arrived(), 0);
}

/// Sends these bytes; returns the answer as text.
async fn sent(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.proxy()).await.expect("connect");
    stream.write_all(bytes).await.expect("send");
    let mut answer = Vec::new();
    within("an answer", stream.read_to_end(&mut answer)).await.expect("an answer");
    String::from_utf8(answer).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_cannot_be_parsed_have_the_right_status_an_access_line_and_a_count() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let begin = "GET /v1/models HTTP/1.1\r\nHost: x\r\n";
    let fields: String = (0..300).map(|number| format!("x-{number}: 1\r\n")).collect();
    let cases = [
        (format!("{begin}{fields}\r\n"), 431, "headers_too_large"),
        (format!("{begin}{fields}bad line\r\n\r\n"), 431, "headers_too_large"),
        (format!("{begin}bad line\r\n\r\n"), 400, "bad_request"),
        (format!("{begin}too many headers larger than\r\n\r\n"), 400, "bad_request"),
        (format!("{begin}x: 1\r\nTooManyHeaders\r\n\r\n"), 400, "bad_request"),
        ("GET /Request header larger than HTTP/1.1\0\r\n\r\n".to_owned(), 400, "bad_request"),
    ];
    for (head, status, code) in &cases {
        let answer = sent(&gateway, head.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:?}: {answer}");
        let body = answer.split("\r\n\r\n").nth(1).expect("a body");
        let error = json(body.as_bytes());
        assert_eq!(error["error"]["code"], *code, "{answer}");
        let id = error["request_id"].clone();
        let line = gateway
            .log_until(|line| line["message"] == "request_completed" && line["request_id"] == id)
            .await;
        assert_eq!((&line["status"], &line["outcome"]), (&json!(status), &json!(code)), "{line}");
        assert_eq!((&line["method"], &line["url"]), (&json!("-"), &json!("-")), "{line}");
        assert_eq!(
            (&line["client_ip"], &line["bytes_out"]),
            (&json!("127.0.0.1"), &json!(body.len())),
            "{line}"
        );
    }
    for (status, count) in [(431, 2.0), (400, 4.0)] {
        let series = format!(
            "elida_http_requests_total{{backend=\"none\",code=\"{status}\",method=\"OTHER\",route=\"refused\"}}"
        );
        assert!((gateway.metric(&series).await - count).abs() < f64::EPSILON, "{series}");
    }
    assert_eq!(demo.ledger().arrived(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_targets_and_large_heads_are_refused() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let long = format!("/v1/models?q={}", "x".repeat(9000));
    let answer = Call::get(&long).send(gateway.proxy()).await;
    assert_eq!(answer.status(), 414, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "uri_too_long");
    let large = Call::get("/v1/models").header("x-large", &"x".repeat(17 * 1024));
    let answer = large.send(gateway.proxy()).await;
    assert_eq!(answer.status(), 431, "{}", answer.text());
    let many =
        (0..130).fold(Call::get("/v1/models"), |call, number| call.header(&format!("x-{number}"), "1"));
    let answer = many.send(gateway.proxy()).await;
    assert_eq!(answer.status(), 431, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "headers_too_large");
    assert_eq!(demo.ledger().arrived(), 0);
    assert_eq!(Call::get("/v1/models").send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_not_waited_for() {
    let demo = Demo::start().await;
    let gateway = with_timeouts(&demo, "read: 300ms").await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    let started = Instant::now();
    client.send(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.expect("send");
    let end = client.end().await;
    assert!(after(started, end.at()) < Duration::from_secs(2));
    // Sending one byte at a time does not extend the time.
    let mut client = RawClient::connect(gateway.proxy()).await;
    let started = Instant::now();
    while client.send(b"G").await.is_ok() && started.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_is_not_waited_for() {
    let demo = Demo::start().await;
    let gateway = with_timeouts(&demo, "read: 300ms").await;
    let call = Call::post("/v1/messages").header("content-length", "1000").body("{");
    let mut client = call.open(gateway.proxy()).await;
    let started = Instant::now();
    let end = client.end().await;
    assert!(after(started, end.at()) < Duration::from_secs(2));
    assert_eq!(demo.ledger().finished(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed() {
    let demo = Demo::start().await;
    let gateway = with_timeouts(&demo, "read: 500ms, idle: 300ms").await;
    let mut never_spoke = RawClient::connect(gateway.proxy()).await;
    let mut spoke = RawClient::connect(gateway.proxy()).await;
    let answer = Call::chat("hello").send_over(&mut spoke, gateway.proxy()).await;
    assert_eq!(answer.status(), 200);
    let again = Call::chat("hello").send_over(&mut spoke, gateway.proxy()).await;
    assert_eq!(again.status(), 200, "a connection is kept between requests");
    for client in [&mut never_spoke, &mut spoke] {
        let started = Instant::now();
        let end = client.end().await;
        assert!(after(started, end.at()) < Duration::from_secs(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_never_answers_gives_504() {
    let demo = Demo::start().await;
    let gateway = with_timeouts(&demo, "upstream_first_byte: 300ms").await;
    let answer = Call::chat("[[mute]]").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 504, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "backend_timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_cannot_be_connected_to_is_given_up() {
    let backend = RawBackend::not_accepting().await;
    let gateway = with_timeouts(&backend, "upstream_connect: 300ms").await;
    let started = Instant::now();
    let answer = Call::chat("hello").send(gateway.proxy()).await;
    assert!(matches!(answer.status(), 502 | 504), "{}", answer.text());
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fell_silent_is_cut_without_a_clean_end() {
    let demo = Demo::start().await;
    let gateway = with_timeouts(&demo, "stream_idle: 300ms").await;
    let answer = Call::chat_stream("first [[stall]]").send(gateway.proxy()).await;
    assert!(answer.text().contains("first") && !answer.text().contains("[DONE]"), "{}", answer.text());
    assert!(answer.text().contains("\"error\"") || !answer.is_whole, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_cancels_upstream_within_100_ms() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let directives = ["[[stall]]", "[[mute]]", "[[words 1000000]] [[pace 1ms]]"];
    for (number, directive) in directives.iter().enumerate() {
        let id = format!("left-{number}");
        let mut client = Call::chat_stream(directive).session(&id).open(gateway.proxy()).await;
        match *directive {
            "[[mute]]" => demo.until("the request", |ledger| ledger.count("/v1/chat/completions") == 2).await,
            _ => client.until("\"delta\":{\"content\":\"").await,
        }
        let left = Instant::now();
        match *directive {
            // An end of its side alone would be taken for a half-close if it were there before the gateway waits for the answer.
            "[[mute]]" => client.reset(),
            _ => drop(client),
        }
        demo.until("the abort", |ledger| ledger.aborts().len() == number + 1).await;
        let late = after(left, demo.ledger().aborts()[number]);
        assert!(late < Duration::from_millis(100), "{directive}: {late:?}");
        // It is still counted.
        let session = gateway.session_until(&id, |session| session["open_legs"] == 0).await;
        assert_eq!(session["request_count"], 1, "{session}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_the_backend_back() {
    let backend = RawBackend::start(async |mut connection| {
        let Some(_) = connection.request().await else { return };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = connection.send(head).await;
        let event = format!("data: {}\n\n", "x".repeat(64 * 1024));
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        connection.send_until_closed(chunk.as_bytes(), Duration::ZERO).await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    // One stream first, so that one-time allocations are not counted.
    Call::chat_stream("hello").open(gateway.proxy()).await.until("data: ").await;
    let before = gateway.resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = RawClient::connect_narrow(gateway.proxy()).await;
        let call = Call::chat_stream("hello");
        client.send(&call.bytes(&gateway.proxy().to_string())).await.expect("send");
        client.until("data: ").await;
        clients.push(client);
    }
    // The backend sends until all buffers are full and it blocks.
    let stopped_at = backend.held_back(Duration::from_millis(300)).await;
    assert!(stopped_at < 400 << 20, "{stopped_at} bytes to ten readers that do not read");
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 10 * (2 << 20), "{grown} bytes for ten readers that do not read");
    // When the client reads again, the backend continues.
    let read = tokio::spawn(async move {
        let mut client = clients.swap_remove(0);
        let _ = tokio::time::timeout(Duration::from_secs(5), client.end()).await;
        clients
    });
    backend.until("the backend to go on", |backend| backend.sent() > stopped_at).await;
    read.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_backend_are_used_again() {
    let backend = RawBackend::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
    let gateway = Gateway::start(&backend).await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    for _ in 0..20 {
        let answer = Call::chat("hello").send_over(&mut client, gateway.proxy()).await;
        assert_eq!((answer.status(), answer.is_whole), (200, true));
    }
    assert_eq!((backend.heads().len(), backend.requests().len()), (20, 20));
    assert_eq!(backend.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_over_the_capacity_are_refused() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!("backend: {:?}\nsession: {{ max_active: 2 }}\n", demo.url())).await;
    let mut open = Vec::new();
    for id in ["a", "b"] {
        let mut stream = Call::chat_stream("first [[stall]]").session(id).open(gateway.proxy()).await;
        stream.until("first").await;
        open.push(stream);
    }
    assert_eq!(Call::chat("hello").session("a").send(gateway.proxy()).await.status(), 200);
    let refused = Call::chat("hello").session("c").send(gateway.proxy()).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.json()["error"]["code"], json!("session_capacity"));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_finish_within_the_grace_time() {
    let demo = Demo::start().await;
    let mut gateway = with_timeouts(&demo, "shutdown_grace: 10s").await;
    let mut client =
        Call::chat_stream("[[words 30]] [[pace 20ms]]").session("last").open(gateway.proxy()).await;
    client.until("word2").await;
    gateway.terminate();
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.is_whole && answer.text().contains("word30") && answer.text().contains("[DONE]"));
    let status = gateway.ended().await;
    assert_eq!(status.code(), Some(0), "{status:?}");
    gateway.log_until(|line| line["message"] == "session_record" && line["session_id"] == "last").await;
}
