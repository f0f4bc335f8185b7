//! Peers that wait, stall, come in crowds or do not read; and a process without free descriptors.

use std::time::{Duration, Instant};

use crate::support::timing::after;
use crate::support::wire::{Ending, Unframed};
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, RawClient, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// A gateway in front of `backend` with these keys of `server`.
async fn with_server(backend: &impl Backend, server: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\nserver: {{ {server} }}\n", backend.url())).await
}

/// A backend that answers each request with this many bytes, as fast as they are read.
async fn endless(length: usize) -> RawBackend {
    RawBackend::start(move |mut connection| async move {
        while connection.request().await.is_some() {
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
            if connection.send(head).await.is_err() {
                return connection.gone();
            }
            let piece = [b'x'; 64 << 10];
            for _ in 0..length / piece.len() {
                if connection.send(piece).await.is_err() {
                    return connection.gone();
                }
            }
        }
    })
    .await
}

/// Waits until the backend has not sent anything for a while; returns how much it had sent.
async fn held_back(backend: &RawBackend) -> usize {
    within("the backend to be held back", async {
        let mut last = (backend.sent(), Instant::now());
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let sent = backend.sent();
            if sent != last.0 {
                last = (sent, Instant::now());
            } else if sent > 0 && last.1.elapsed() > Duration::from_secs(1) {
                return sent;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_body_is_told_408() {
    let backend = RawBackend::answering(OK).await;
    let gateway = with_server(&backend, "timeouts: { read: 300ms }").await;
    let head = "Host: a\r\nContent-Length: 1000\r\n\r\n{";
    for target in ["/v1/messages", "/upload"] {
        let mut client = RawClient::connect(gateway.proxy()).await;
        let started = Instant::now();
        client.send(format!("POST {target} HTTP/1.1\r\n{head}").as_bytes()).await.expect("send");
        let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
        assert_eq!(answer.status(), 408, "{target}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "request_timeout");
        client.end().await;
        assert!(after(started, answer.ended) < Duration::from_secs(2));
    }
    backend.until("the upload's end", |backend| backend.requests().len() == 1).await;
    assert!(!backend.requests()[0].is_whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_hangs_is_told_504() {
    let backend = RawBackend::not_accepting().await;
    let gateway = with_server(&backend, "timeouts: { upstream_connect: 300ms }").await;
    let answer = Call::chat("hello").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 504, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "backend_timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_ends_with_the_dialects_own_error() {
    let demo = Demo::start().await;
    let gateway = with_server(&demo, "timeouts: { stream_idle: 300ms }").await;
    let answer = Call::messages_stream("first [[stall]]").send(gateway.proxy()).await;
    let text = answer.text();
    assert!(text.contains("first") && text.contains("event: error\n"), "{text}");
    assert!(!text.contains("message_stop"), "{text}");
    let answer = Call::chat_stream("first [[stall]]").send(gateway.proxy()).await;
    let text = answer.text();
    assert!(text.contains("\"code\":\"backend_timeout\"") && !text.contains("[DONE]"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_may_be_idle_for_as_long_as_a_stream() {
    let backend = RawBackend::start(async |mut connection| {
        let Some(_) = connection.request().await else { return };
        let _ = connection.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n").await;
        connection.until("late").await;
        let _ = connection.send("heard").await;
        connection.stay_silent().await;
    })
    .await;
    let gateway = with_server(&backend, "timeouts: { read: 200ms, stream_idle: 2s }").await;
    let call = Call::get("/socket").header("Connection", "Upgrade").header("Upgrade", "websocket");
    let mut client = call.open(gateway.proxy()).await;
    assert_eq!(client.head().await.expect("an answer").status(), 101);
    // Three times the limit between two pieces of a request body.
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.send(b"late").await.expect("send");
    client.until("heard").await;
    let silent = Instant::now();
    let ending = client.end().await;
    let after = after(silent, ending.at());
    assert!((Duration::from_secs(1)..Duration::from_secs(6)).contains(&after), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut() {
    let backend = endless(64 << 20).await;
    let gateway = with_server(&backend, "timeouts: { write: 300ms }").await;
    let mut client = RawClient::connect_narrow(gateway.proxy()).await;
    client.send(&Call::get("/large").bytes("a")).await.expect("send");
    backend.until("the end of the upstream connection", |backend| !backend.closed().is_empty()).await;
    let line = gateway.access_line("/large").await;
    assert_eq!(line["outcome"], "client_stalled", "{line}");
    let ending = client.end().await;
    assert!(matches!(ending, Ending::Reset(_) | Ending::Closed(_)));
    // The same when only response heads are left to send: pipelined answers that nobody reads, with a long field so that
    // few of them fill the buffers.
    let head = format!("HTTP/1.1 200 OK\r\nX-Fill: {}\r\nContent-Length: 2\r\n\r\n", "a".repeat(4000));
    let backend = RawBackend::answering(head + "ok").await;
    let gateway = with_server(&backend, "timeouts: { write: 300ms }").await;
    let mut client = RawClient::connect_narrow(gateway.proxy()).await;
    let many = Call::get("/small").bytes("a").repeat(1000);
    let flood = async { while client.send(&many).await.is_ok() {} };
    within("the flood to be cut", flood).await;
    let mut calm = RawClient::connect(gateway.proxy()).await;
    assert_eq!(Call::get("/calm").send_over(&mut calm, gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_more_than_allowed_is_closed_at_once() {
    let backend = RawBackend::answering(OK).await;
    let gateway = with_server(&backend, "limits: { max_connections: 3 }").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = RawClient::connect(gateway.proxy()).await;
        assert_eq!(Call::get("/in").send_over(&mut client, gateway.proxy()).await.status(), 200);
        clients.push(client);
    }
    for _ in 0..3 {
        let started = Instant::now();
        let mut late = RawClient::connect(gateway.proxy()).await;
        let _ = late.send(&Call::get("/late").bytes("a")).await;
        let ending = late.end().await;
        assert!(after(started, ending.at()) < Duration::from_secs(1));
    }
    assert!(backend.heads().iter().all(|head| head.target() == "/in"));
    for client in &mut clients {
        assert_eq!(Call::get("/in").send_over(client, gateway.proxy()).await.status(), 200);
    }
    clients.pop();
    let entered = async {
        loop {
            let mut client = RawClient::connect(gateway.proxy()).await;
            let _ = client.send(&Call::get("/in").bytes("a")).await;
            if let Some(answer) = client.message(Unframed::UntilEnd).await {
                return answer.status();
            }
        }
    };
    assert_eq!(within("the free place", entered).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_files_it_serves_whom_it_has_and_recovers() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    let mut settled = RawClient::connect(gateway.proxy()).await;
    assert_eq!(Call::get("/in").send_over(&mut settled, gateway.proxy()).await.status(), 200);
    gateway.exhaust_files();
    // The kernel completes the connections; the gateway has no descriptor for them.
    let mut crowd = Vec::new();
    for _ in 0..80 {
        crowd.push(RawClient::connect(gateway.proxy()).await);
    }
    gateway
        .log_until(|line| line["message"].as_str().is_some_and(|text| text.contains("cannot accept")))
        .await;
    for _ in 0..20 {
        let answer = Call::get("/in").send_over(&mut settled, gateway.proxy()).await;
        assert_eq!(answer.status(), 200, "who is in is served: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(crowd);
    gateway.limit_files(1024);
    let answer = within("a new connection", async {
        loop {
            let mut client = RawClient::connect(gateway.proxy()).await;
            client.send(&Call::get("/new").bytes("a")).await.expect("send");
            match client.message(Unframed::UntilEnd).await {
                Some(answer) if answer.status() == 200 => return answer,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    assert!(answer.is_whole);
    let warnings = gateway.log_lines();
    let warnings = warnings.iter().filter(|line| line["level"] == "WARN" || line["level"] == "ERROR").count();
    assert!(warnings <= 5, "{warnings} warnings for one shortage");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slow_reader_holds_the_backend_back() {
    let backend = endless(64 << 20).await;
    let gateway = Gateway::start(&backend).await;
    // A client with the kernel's default receive buffer.
    let mut client = RawClient::connect(gateway.proxy()).await;
    client.send(&Call::get("/large").bytes("a")).await.expect("send");
    let in_flight = held_back(&backend).await;
    println!("in flight: {} KiB", in_flight >> 10);
    assert!(in_flight < 24 << 20, "{in_flight} bytes are on their way to one who does not read");
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.is_whole && answer.body.len() == 64 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_slow_readers_cost_little() {
    let backend = endless(64 << 20).await;
    let gateway = Gateway::start(&backend).await;
    let mut clients = Vec::new();
    // One first, so that one-time allocations are not counted.
    let mut before = 0;
    for count in 0..=200 {
        if count == 1 {
            held_back(&backend).await;
            before = gateway.resident_bytes();
        }
        let mut client = RawClient::connect_narrow(gateway.proxy()).await;
        client.send(&Call::get("/large").bytes("a")).await.expect("send");
        clients.push(client);
    }
    backend.until("all requests", |backend| backend.requests().len() == 201).await;
    held_back(&backend).await;
    let grown = gateway.resident_bytes().saturating_sub(before);
    println!("200 slow readers: {} KiB, {} KiB each", grown >> 10, (grown / 200) >> 10);
    assert!(grown < 64 << 20, "{grown} bytes for 200 readers that do not read");
}
