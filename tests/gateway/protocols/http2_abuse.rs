use std::time::Duration;

use h2::client;

use crate::support::http2::{Client, End, GET, RawFrames, block, frame};
use crate::support::{Backend, Call, Gateway, RawBackend, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// ENHANCE_YOUR_CALM (RFC 9113, 7).
const CALM: u32 = 11;

/// How much a flood may send before it is ended, and how much memory it may leave behind.
const ENOUGH: usize = 64 << 20;
const MEMORY: u64 = 24 << 20;

async fn with_server(backend: &impl Backend, server: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\nserver: {{ {server} }}\n", backend.url())).await
}

/// Answers after a while, so that a stream is still open when it is cancelled.
async fn slow() -> RawBackend {
    RawBackend::start(async |mut connection| {
        while connection.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if connection.send(OK).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Another client is served at once, and the flood has left no memory behind.
async fn is_unharmed(gateway: &Gateway, before: u64) {
    let mut calm = Client::connect(gateway.proxy()).await;
    assert_eq!(calm.ask(&Call::get("/health/liveness")).await.status, 200);
    let grown = gateway.resident_bytes().saturating_sub(before);
    println!("grown by {} KiB", grown >> 10);
    assert!(grown < MEMORY, "{grown} bytes are left of the flood");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_reset_at_once_do_not_reach_the_backend() {
    let backend = slow().await;
    let gateway = Gateway::start(&backend).await;
    // CVE-2023-44487: open and reset, many per segment.
    let client = RawFrames::connect(gateway.proxy()).await;
    let pair =
        |stream| [frame(1, 5, stream, &block(&GET)), frame(3, 0, stream, &8_u32.to_be_bytes())].concat();
    let many: Vec<u8> = (0..4000).flat_map(|number| pair(2 * number + 1)).collect();
    let flooded = client.flood(&many, many.len()).await;
    assert_eq!(flooded.code(), Some(CALM));
    assert!(backend.heads().len() <= 20, "{} of 4000 reached the backend", backend.heads().len());
    // The same, with a pause until each stream is being served.
    let mut client = RawFrames::connect(gateway.proxy()).await;
    let mut opened = 0;
    for number in 0..2000 {
        let stream = 2 * number + 1;
        if client.send(&frame(1, 5, stream, &block(&GET))).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        if client.send(&frame(3, 0, stream, &8_u32.to_be_bytes())).await.is_err() {
            break;
        }
        opened += 1;
    }
    assert!(opened < 1000, "{opened} streams were accepted");
    assert!(backend.heads().len() < 400, "{} reached the backend", backend.heads().len());
    assert_eq!(Client::connect(gateway.proxy()).await.ask(&Call::get("/calm")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_we_are_made_to_reset_are_counted() {
    let backend = slow().await;
    let gateway = Gateway::start(&backend).await;
    // CVE-2025-8671: the client exceeds its own window, so that the gateway has to reset the stream.
    let mut client = RawFrames::connect(gateway.proxy()).await;
    let mut made = 0;
    for number in 0..2000 {
        let stream = 2 * number + 1;
        let pair = [frame(1, 5, stream, &block(&GET)), frame(8, 0, stream, &i32::MAX.to_be_bytes())].concat();
        if client.send(&pair).await.is_err() {
            break;
        }
        made += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(made < 1000, "{made} resets were accepted");
    assert_eq!(client.closed().await, Some(CALM));
    assert!(backend.heads().len() < 400, "{} reached the backend", backend.heads().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_end_are_not_kept() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    Client::connect(gateway.proxy()).await.ask(&Call::get("/warm")).await;
    let before = gateway.resident_bytes();
    // RUSTSEC-2024-0332: CONTINUATION after CONTINUATION.
    let mut client = RawFrames::connect(gateway.proxy()).await;
    client.send(&frame(1, 1, 1, &block(&GET))).await.expect("a head without its end");
    let field = block(&[("x-large", &"x".repeat(16000))]);
    let flooded = client.flood(&frame(9, 0, 1, &field), ENOUGH).await;
    println!("CONTINUATION: {} KiB", flooded.sent >> 10);
    assert!(flooded.sent < ENOUGH);
    // The same with empty frames.
    let mut client = RawFrames::connect(gateway.proxy()).await;
    client.send(&frame(1, 1, 1, &block(&GET))).await.expect("a head without its end");
    let flooded = client.flood(&frame(9, 0, 1, &[]).repeat(100), ENOUGH).await;
    println!("empty CONTINUATION: {} KiB", flooded.sent >> 10);
    assert!(flooded.sent < ENOUGH);
    is_unharmed(&gateway, before).await;
    assert_eq!(backend.heads().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_bomb_is_refused_before_it_unfolds() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    Client::connect(gateway.proxy()).await.ask(&Call::get("/warm")).await;
    let before = gateway.resident_bytes();
    // CVE-2026-47774: one field of 3,900 bytes in the table (RFC 7541, 6.2.1), then one byte for each copy of it.
    let value = "x".repeat(3900);
    let mut stored = block(&[("x-bomb", &value)]);
    stored[0] = 0x40;
    let bomb = [block(&GET), stored, vec![0x80 | 62; 10_000]].concat();
    let reference = [block(&GET), vec![0x80 | 62; 10_000]].concat();
    let mut client = RawFrames::connect(gateway.proxy()).await;
    let mut streams = vec![frame(1, 5, 1, &bomb)];
    streams.extend((1..100).map(|number| frame(1, 5, 2 * number + 1, &reference)));
    // The gateway may refuse one stream or the whole connection.
    for stream in streams {
        if client.send(&stream).await.is_err() {
            break;
        }
    }
    is_unharmed(&gateway, before).await;
    drop(client);
    assert_eq!(backend.heads().len(), 1, "no bomb reaches the backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_ask_for_nothing_end_the_connection() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    Client::connect(gateway.proxy()).await.ask(&Call::get("/warm")).await;
    let before = gateway.resident_bytes();
    // CVE-2019-9512, -9515, -9513, and other frames without a body.
    for (name, bytes) in [
        ("PING", frame(6, 0, 0, &[7; 8])),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 0, 9])),
        ("an unknown frame", frame(200, 0, 0, &[1; 32])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &1_u32.to_be_bytes())),
    ] {
        let client = RawFrames::connect(gateway.proxy()).await;
        let flooded = client.flood(&bytes.repeat(256), ENOUGH).await;
        println!("{name}: {} KiB", flooded.sent >> 10);
        assert!(flooded.sent < ENOUGH, "{name}");
    }
    // CVE-2019-9518: empty DATA frames on a stream that never ends.
    let mut client = RawFrames::connect(gateway.proxy()).await;
    let head =
        block(&[(":method", "POST"), (":scheme", "http"), (":path", "/up"), (":authority", "gateway")]);
    client.send(&frame(1, 4, 1, &head)).await.expect("a head");
    let flooded = client.flood(&frame(0, 0, 1, &[]).repeat(256), ENOUGH).await;
    println!("empty DATA: {} KiB", flooded.sent >> 10);
    assert!(flooded.sent < ENOUGH);
    is_unharmed(&gateway, before).await;
    assert!(backend.requests().len() <= 1, "no flood is a request");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_nothing_are_borne_with_requests() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    // A client that sends a PING with each of many requests is not an attacker.
    let mut client = RawFrames::connect(gateway.proxy()).await;
    for number in 0..3000 {
        let stream = 2 * number + 1;
        let bytes = [
            frame(6, 0, 0, &[7; 8]),
            frame(1, 5, stream, &block(&GET)),
            frame(8, 0, 0, &1_u32.to_be_bytes()),
        ];
        client.send(&bytes.concat()).await.expect("an open connection");
        client.frame(0).await;
    }
    assert_eq!(backend.heads().len(), 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_of_nothing_cost_little_and_end() {
    let backend = RawBackend::start(async |mut connection| {
        while connection.request().await.is_some() {
            let _ = connection.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 8 << 20)).await;
            for _ in 0..128 {
                if connection.send(vec![b'x'; 64 << 10]).await.is_err() {
                    return connection.gone();
                }
            }
        }
    })
    .await;
    let gateway = with_server(&backend, "timeouts: { write: 2s }").await;
    Client::connect(gateway.proxy()).await.ask(&Call::get("/health")).await;
    let before = gateway.resident_bytes();
    let mut settings = client::Builder::new();
    settings.initial_window_size(0);
    let mut client = Client::with(gateway.proxy(), &settings).await;
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting.push(client.send(&Call::get("/large")).await);
    }
    backend.until("all requests", |backend| backend.requests().len() == 100).await;
    backend.held_back(Duration::from_millis(300)).await;
    let grown = gateway.resident_bytes().saturating_sub(before);
    println!("100 windows of nothing: {} KiB", grown >> 10);
    assert!(grown < 48 << 20, "{grown} bytes for 100 streams that take nothing");
    for exchange in waiting {
        assert!(matches!(exchange.answer().await.end, End::Reset(_) | End::Broken));
    }
    backend.until("the end of all upstream", |backend| backend.closed().len() == 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_streams_is_held_to_the_number_of_connections() {
    let backend = slow().await;
    let gateway = with_server(&backend, "limits: { max_connections: 20 }").await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(Client::connect(gateway.proxy()).await);
    }
    let mut exchanges = Vec::new();
    for number in 0..120 {
        exchanges.push(clients[number % 2].send(&Call::get("/crowd")).await);
    }
    let (mut served, mut refused) = (0, 0);
    for exchange in exchanges {
        let answer = exchange.answer().await;
        match answer.end {
            End::Whole => served += 1,
            End::Reset(h2::Reason::REFUSED_STREAM) => refused += 1,
            End::Reset(_) | End::Broken => panic!("{answer:?}"),
        }
    }
    println!("{served} served, {refused} refused");
    assert!(served >= 20 && refused > 0);
    assert_eq!(backend.heads().len(), served);
    assert!(backend.connections() <= 20, "{} at a time", backend.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_http11_could_read_as_more_does_not_reach_the_backend() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    let base: Vec<(&str, &str)> =
        vec![(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "gateway")];
    let with = |more: &[(&'static str, &'static str)]| [base.as_slice(), more].concat();
    let path = |path: &'static str| {
        vec![(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "gateway")]
    };
    let heads: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("H2.TE", with(&[("transfer-encoding", "chunked")])),
        ("connection", with(&[("connection", "keep-alive")])),
        ("CRLF in a value", with(&[("x", "a\r\nhost: evil")])),
        ("LF in a value", with(&[("x", "a\nb: c")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("a colon in a name", with(&[("x: y\r\nz", "a")])),
        ("an upper-case name", with(&[("X-Upper", "a")])),
        ("an empty name", with(&[("", "a")])),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "5")])),
        ("a length that is none", with(&[("content-length", "+5")])),
        ("two credentials", with(&[("authorization", "Bearer a"), ("authorization", "Bearer b")])),
        ("another host", with(&[("host", "other")])),
        ("a late pseudo field", with(&[("x", "a"), (":path", "/b")])),
        ("CRLF in the path", path("/a HTTP/1.1\r\nx: y\r\n\r\nGET /b")),
        ("a space in the path", path("/a b")),
        ("an absolute path", path("http://other/a")),
        ("no path", path("")),
        ("CONNECT", vec![(":method", "CONNECT"), (":authority", "other:443")]),
        (
            "CONNECT with a protocol",
            vec![
                (":method", "CONNECT"),
                (":protocol", "connect-udp"),
                (":scheme", "http"),
                (":path", "/a"),
                (":authority", "gateway"),
            ],
        ),
        ("no authority", vec![(":method", "GET"), (":scheme", "http"), (":path", "/a")]),
        (
            "userinfo",
            vec![(":method", "GET"), (":scheme", "http"), (":path", "/a"), (":authority", "u@gateway")],
        ),
    ];
    for (what, head) in heads {
        let mut client = RawFrames::connect(gateway.proxy()).await;
        client.send(&frame(1, 5, 1, &block(&head))).await.expect("send");
        client.send(&frame(6, 0, 0, &[9; 8])).await.expect("a question behind it");
        // The end of the stream or of the connection, or an answer made by the gateway.
        client.ended_or_refused(what).await;
        assert!(backend.heads().is_empty(), "{what}: {:?}", backend.heads());
    }
    // H2.CL: the body is longer or shorter than declared.
    for (length, body) in [("2", "four"), ("10", "four")] {
        let mut client = RawFrames::connect(gateway.proxy()).await;
        let head = block(&with(&[
            ("content-type", "text/plain"),
            ("content-length", if length == "2" { "2" } else { "10" }),
        ]));
        client.send(&[frame(1, 4, 1, &head), frame(0, 1, 1, body.as_bytes())].concat()).await.expect("send");
        client.ended_or_refused(length).await;
        assert!(backend.requests().iter().all(|request| !request.is_whole), "{:?}", backend.requests());
    }
    let answer = within("an answer", Call::get("/good").send(gateway.proxy())).await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
}
