//! Each attack is sent over a raw socket, with a second request hidden behind it where that is the point; the
//! backend counts the requests that reach it.

use std::time::Duration;

use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Gateway, RawBackend, RawClient};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
/// What an attack wants the backend to parse as a separate request.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// `POST` with these field lines beside `Host`, and these bytes after the head.
fn post(fields: &str, rest: &str) -> Vec<u8> {
    format!("POST /v1/messages HTTP/1.1\r\nHost: a\r\n{fields}\r\n{rest}").into_bytes()
}

/// `GET` of this target with these field lines beside `Host`.
fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

/// Sends each; expects this status, the connection closed after it, and nothing at the backend.
async fn all_refused(status: u16, cases: Vec<(&str, Vec<u8>)>) {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    for (name, bytes) in cases {
        let mut client = RawClient::connect(gateway.proxy()).await;
        // The gateway may have closed before everything was sent.
        let _ = client.send(&bytes).await;
        let answer = client.message(Unframed::UntilEnd).await;
        let answer = answer.unwrap_or_else(|| panic!("{name}: closed without an answer"));
        assert_eq!(answer.status(), status, "{name}: {}", answer.text());
        assert!(answer.is_whole && answer.json()["error"]["message"].is_string(), "{name}: {answer:?}");
        assert_eq!(answer.head.field("connection"), Some("close"), "{name}");
        assert!(client.message(Unframed::UntilEnd).await.is_none(), "{name}: answered twice");
    }
    assert_eq!(backend.heads().len(), 0, "{:?}", backend.heads());
    assert_eq!(Call::get("/v1/models").send(gateway.proxy()).await.status(), 200, "it still serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_with_two_lengths_is_refused() {
    let chunks = format!("0\r\n\r\n{HIDDEN}");
    all_refused(
        400,
        vec![
            ("CL.TE", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &chunks)),
            ("TE.CL", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &chunks)),
            ("TE.cl", post("transfer-encoding: Chunked\r\ncontent-length:5\r\n", &chunks)),
            ("TE.0", post("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", &chunks)),
            ("TE twin", post("Content-Length: 5\r\nTransfer_Encoding: chunked\r\n", "{}   ")),
            ("CL twin", post("Content-Length: 5\r\nContent_Length: 2\r\n", "{}   ")),
            ("CL differs", post("Content-Length: 5\r\nContent-Length: 6\r\n", "{}   ")),
            ("CL doubled", post("Content-Length: 5\r\nContent-Length: 5\r\n", "{}   ")),
            ("CL list differs", post("Content-Length: 5, 6\r\n", "{}   ")),
            ("CL list", post("Content-Length: 5, 5\r\n", "{}   ")),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_no_number_is_refused() {
    let mut cases = Vec::new();
    for length in ["+5", "-5", "0x5", "5 5", "5,", "\"5\"", "5;", "five", "", "5.0", "18446744073709551616"] {
        cases.push((length, post(&format!("Content-Length: {length}\r\n"), "{}   ")));
    }
    all_refused(400, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_coding_but_chunked_is_refused() {
    let chunks = format!("0\r\n\r\n{HIDDEN}");
    let mut cases = vec![
        ("two fields", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &chunks)),
        ("field and list", post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", &chunks)),
        (
            "HTTP/1.0",
            b"POST /v1/messages HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        ),
        ("space before the colon", post("Transfer-Encoding : chunked\r\n", &chunks)),
        ("folded", post("Transfer-Encoding:\r\n chunked\r\n", &chunks)),
        ("tab before the name", post("\tTransfer-Encoding: chunked\r\n", &chunks)),
    ];
    for coding in [
        "chunked, chunked",
        "xchunked",
        "identity",
        "gzip, chunked",
        "chunked, identity",
        "chunked;q=1",
        "\"chunked\"",
        ", chunked",
        "chunked,",
        "\u{b}chunked",
        "",
    ] {
        cases.push((coding, post(&format!("Transfer-Encoding: {coding}\r\n"), &chunks)));
    }
    all_refused(400, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_with_broken_lines_is_refused() {
    all_refused(
        400,
        vec![
            ("bare LF ends all lines", b"GET /v1/models HTTP/1.1\nHost: a\n\n".to_vec()),
            ("bare LF ends one line", get("/v1/models", "X-A: b\nX-Backend: c\r\n")),
            ("bare LF ends the head", b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\n".to_vec()),
            ("bare CR in a value", get("/v1/models", "X-A: b\rX-Backend: c\r\n")),
            ("two CR", get("/v1/models", "X-A: b\r\r\n")),
            ("a folded value", get("/v1/models", "X-A: b\r\n c\r\n")),
            ("a first line that is folded", get("/v1/models", " X-A: b\r\n")),
            ("an empty name", get("/v1/models", ": b\r\n")),
            ("a space before the colon", get("/v1/models", "X-A : b\r\n")),
            ("a space in a name", get("/v1/models", "X A: b\r\n")),
            ("no colon", get("/v1/models", "X-A\r\n")),
            ("NUL in a value", get("/v1/models", "X-A: b\0c\r\n")),
            ("NUL in a name", get("/v1/models", "X-\0A: b\r\n")),
            ("DEL in a value", get("/v1/models", "X-A: b\x7fc\r\n")),
            ("HTTP/1.2", b"GET /v1/models HTTP/1.2\r\nHost: a\r\n\r\n".to_vec()),
            ("HTTP/2.0", b"GET /v1/models HTTP/2.0\r\nHost: a\r\n\r\n".to_vec()),
            ("http/1.1", b"GET /v1/models http/1.1\r\nHost: a\r\n\r\n".to_vec()),
            ("no version", b"GET /v1/models\r\nHost: a\r\n\r\n".to_vec()),
            ("no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
            ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec()),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_none_is_refused() {
    let head = |hosts: &str| format!("GET /v1/models HTTP/1.1\r\n{hosts}Accept: */*\r\n\r\n").into_bytes();
    all_refused(
        400,
        vec![
            ("none", head("")),
            ("two", head("Host: a\r\nHost: b\r\n")),
            ("the same twice", head("Host: a\r\nHost: a\r\n")),
            ("empty", head("Host:\r\n")),
            ("a path", head("Host: x/#@y\r\n")),
            ("a query", head("Host: x?y\r\n")),
            ("a user", head("Host: me@x\r\n")),
            ("two words", head("Host: x y\r\n")),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_can_be_read_twice_is_refused() {
    let targets = ["/v1/models#/../hidden", "/#", "/v1/\u{fc}"];
    all_refused(400, targets.map(|target| (target, get(target, ""))).into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reverse_proxy_takes_no_other_form_of_target() {
    all_refused(
        405,
        vec![
            ("absolute", get("http://a/v1/models", "")),
            ("asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ],
    )
    .await;
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    let connect = format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n{HIDDEN}");
    let mut client = RawClient::connect(gateway.proxy()).await;
    client.send(connect.as_bytes()).await.expect("send");
    assert_eq!(client.message(Unframed::UntilEnd).await.expect("an answer").status(), 405);
    assert!(client.message(Unframed::UntilEnd).await.is_none(), "what follows is no request");
    assert_eq!(backend.heads().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_expectation_of_rfc_9110_is_met() {
    let length = "Content-Length: 2\r\n";
    let mut cases = Vec::new();
    for value in ["y 100-continue", "100-continue, x", "100-continued", "x=100-continue", ""] {
        cases.push((value, post(&format!("{length}Expect: {value}\r\n"), "")));
    }
    cases.push(("twice", post(&format!("{length}Expect: 100-continue\r\nExpect: 100-continue\r\n"), "")));
    all_refused(417, cases).await;
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    client.send(&post(&format!("{length}Expect: 100-Continue\r\n"), "")).await.expect("send");
    let leave = client.head().await.expect("an interim answer");
    assert_eq!(leave.status(), 100);
    client.send(b"{}").await.expect("send");
    assert_eq!(client.message(Unframed::UntilEnd).await.expect("an answer").status(), 200);
    let request = backend.requests().remove(0);
    assert_eq!((request.body.as_slice(), request.head.field("expect")), (&b"{}"[..], None));
    // HTTP/1.0 has no `Expect`; neither the client nor the backend may be left waiting.
    let old = b"POST /v1/messages HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n{}";
    let answer = RawClient::connect(gateway.proxy()).await.exchange(old, Unframed::UntilEnd).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(backend.requests().last().expect("a request").head.field("expect"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_none_are_refused() {
    let mut cases = Vec::new();
    for chunks in [
        "fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        "ffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        "2 2\r\n{}\r\n0\r\n\r\n",
        "2\n{}\r\n0\r\n\r\n",
        "2;\nx\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}\r\n0;\n\r\n\r\n",
        "2 \r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "2\r\n{}X\r\n0\r\n\r\n",
        "two\r\n{}\r\n0\r\n\r\n",
    ] {
        cases.push((chunks, post("Transfer-Encoding: chunked\r\n", chunks)));
    }
    all_refused(400, cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_extensions_and_trailers_do_not_reach_the_backend() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    for chunks in [
        "2;name=\"value\"\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}\r\n0\r\nX-Backend: other\r\nContent-Length: 9\r\n\r\n",
        "02\r\n{}\r\n0\r\n\r\n",
    ] {
        let request = post("Transfer-Encoding: chunked\r\n", chunks);
        let answer = RawClient::connect(gateway.proxy()).await.exchange(&request, Unframed::UntilEnd).await;
        assert_eq!(answer.status(), 200, "{chunks:?}: {}", answer.text());
        let seen = backend.requests().pop().expect("a request");
        assert_eq!((seen.body.as_slice(), seen.is_whole), (&b"{}"[..], true), "{chunks:?}");
        assert_eq!(seen.head.field("content-length"), None, "{chunks:?}");
        assert_eq!(seen.head.field("x-backend"), None, "{chunks:?}");
    }
    assert_eq!(backend.heads().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_on_its_way_is_never_whole_at_the_backend() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    // Not a model call, so the body is not buffered: the backend has its head before the fault is found.
    let head = "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n";
    let mut client = RawClient::connect(gateway.proxy()).await;
    client.send(head.as_bytes()).await.expect("send");
    backend.until("the head", |backend| backend.heads().len() == 1).await;
    client.send(format!("0x0\r\n\r\n{HIDDEN}").as_bytes()).await.expect("send");
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert_eq!(answer.status(), 400, "{}", answer.text());
    assert!(client.message(Unframed::UntilEnd).await.is_none());
    backend.until("the end of the upload", |backend| backend.requests().len() == 1).await;
    assert!(!backend.requests()[0].is_whole);
    assert_eq!(Call::get("/v1/models").send(gateway.proxy()).await.status(), 200);
    assert_eq!((backend.heads().len(), backend.connections()), (2, 2), "the broken one is not used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_body_is_never_a_request() {
    // The backend answers as soon as it has the head.
    let backend = RawBackend::start(async |mut connection| {
        while let Some(head) = connection.request_head().await {
            let _ = connection.send(OK).await;
            if !connection.rest_of(head).await.is_whole {
                return;
            }
        }
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let length = format!("Content-Length: {}\r\n", HIDDEN.len() + 10);
    for expect in ["", "Expect: 100-continue\r\n"] {
        let before = backend.heads().len();
        let mut client = RawClient::connect(gateway.proxy()).await;
        let head = format!("POST /upload HTTP/1.1\r\nHost: a\r\n{length}{expect}\r\n");
        client.send(head.as_bytes()).await.expect("send");
        let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
        assert_eq!((answer.status(), answer.head.field("connection")), (200, Some("close")));
        // The next bytes are the body, whatever they look like.
        let _ = client.send(HIDDEN.as_bytes()).await;
        let _ = client.send(HIDDEN.as_bytes()).await;
        assert!(client.message(Unframed::UntilEnd).await.is_none(), "{expect:?}");
        assert_eq!(Call::get("/next").send(gateway.proxy()).await.status(), 200);
        let targets: Vec<_> = backend.heads()[before..].iter().map(|head| head.target().to_owned()).collect();
        assert_eq!(targets, ["/upload", "/next"], "{expect:?}");
    }
    // The gateway's own refusal is also sent before the body is read.
    let before = backend.heads().len();
    let mut client = RawClient::connect(gateway.proxy()).await;
    let head = format!("POST /v1/messages HTTP/1.1\r\nHost: a\r\nX-Backend: none\r\n{length}\r\n{HIDDEN}");
    client.send(head.as_bytes()).await.expect("send");
    tokio::time::timeout(Duration::from_millis(100), client.head()).await.ok();
    let _ = client.send(HIDDEN.as_bytes()).await;
    client.end().await;
    assert_eq!(backend.heads().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let backend = RawBackend::start(async |mut connection| {
        while let Some(request) = connection.request().await {
            let body = request.head.target().to_owned();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if connection.send(answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let mut bytes = Vec::new();
    let targets: Vec<String> = (0..50).map(|number| format!("/v1/models/{number}")).collect();
    for (number, target) in targets.iter().enumerate() {
        let call = match number % 3 {
            0 => Call::get(target),
            1 => Call::post(target).body("{\"model\":\"m\"}"),
            _ => Call::post(target).body("{\"model\":\"m\"}").chunked(4),
        };
        bytes.extend(call.bytes("a"));
    }
    let mut client = RawClient::connect(gateway.proxy()).await;
    client.send(&bytes).await.expect("send");
    for target in &targets {
        let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
        assert_eq!((answer.status(), answer.text()), (200, target.clone()));
    }
    assert_eq!(backend.heads().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_with_its_connection_is_framed_for_the_client() {
    let backend = RawBackend::start(async |mut connection| {
        while let Some(request) = connection.request().await {
            let framing = match request.head.target() {
                "/old" => "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello",
                _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            };
            let _ = connection.send(framing).await;
            if request.head.target() == "/old" {
                return;
            }
        }
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    for target in ["/old", "/new", "/old"] {
        let answer = Call::get(target).send_over(&mut client, gateway.proxy()).await;
        assert_eq!((answer.status(), answer.text(), answer.is_whole), (200, "hello".to_owned(), true));
    }
    // An HTTP/1.0 client does not know the chunked coding (RFC 9112, 6.1).
    for target in ["/old", "/new"] {
        let request = format!("GET {target} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        let mut client = RawClient::connect(gateway.proxy()).await;
        let answer = client.exchange(request.as_bytes(), Unframed::UntilEnd).await;
        assert_eq!((answer.status(), answer.text()), (200, "hello".to_owned()), "{target}");
        assert_eq!(answer.head.field("transfer-encoding"), None, "{target}");
        assert_eq!(answer.head.field("connection"), Some("close"), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_length_that_is_reset_is_not_whole() {
    let backend = RawBackend::start(async |mut connection| {
        let Some(_) = connection.request().await else { return };
        let _ = connection.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf of").await;
        connection.reset();
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let answer = Call::get("/half").send(gateway.proxy()).await;
    assert!(answer.status() == 502 || !answer.is_whole, "{answer:?}");
    let line = gateway.access_line("/half").await;
    assert_ne!(line["outcome"], "ok", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_answer_with_two_lengths_is_not_passed_on() {
    let backend = RawBackend::start(async |mut connection| {
        while let Some(request) = connection.request().await {
            let fields = request.head.target().trim_start_matches('/').replace('_', " ").replace('/', "\r\n");
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{{}}HTTP/1.1 200 OK\r\n\r\n");
            let _ = connection.send(answer).await;
        }
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    for fields in [
        "Content-Length:2/Content-Length:3",
        "Content-Length:+2",
        "Content-Length:-2",
        "Content-Length:2,3",
        "Transfer-Encoding:chunked/Content-Length:2",
        "Transfer-Encoding:chunked,chunked",
        "Transfer-Encoding:chunked/Transfer-Encoding:chunked",
        "Transfer-Encoding:identity",
        "Transfer-Encoding:gzip,chunked",
        "Transfer-Encoding:xchunked",
    ] {
        let answer = Call::get(&format!("/{fields}")).send(gateway.proxy()).await;
        assert!(answer.status() == 502 || !answer.is_whole, "{fields}: {answer:?}");
    }
    let connections = backend.connections();
    assert_eq!(connections, 10, "none of these connections is used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_an_upgrade_waits_for_the_101() {
    let backend = RawBackend::start(async |mut connection| {
        let Some(request) = connection.request().await else { return };
        match request.head.target() {
            "/refuse" => {
                let _ = connection
                    .send("HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}")
                    .await;
                while connection.request().await.is_some() {
                    let _ = connection.send(OK).await;
                }
            }
            "/unasked" => {
                let _ = connection
                    .send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nraw")
                    .await;
                connection.stay_silent().await;
            }
            _ => connection.stay_silent().await,
        }
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let upgrade = |target: &str, method: &str, fields: &str| {
        format!(
            "{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
        )
    };
    // The backend does not answer: no byte after the handshake may reach it.
    let mut client = RawClient::connect(gateway.proxy()).await;
    let bytes = upgrade("/wait", "GET", "Upgrade: websocket\r\n") + HIDDEN;
    client.send(bytes.as_bytes()).await.expect("send");
    backend.until("the handshake", |backend| backend.requests().len() == 1).await;
    let _ = tokio::time::timeout(Duration::from_millis(300), client.head()).await;
    assert_eq!(backend.heads().len(), 1, "{:?}", backend.heads());
    drop(client);
    // An unsolicited 101 is not accepted either.
    let answer = Call::get("/unasked").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 502, "{}", answer.text());
    // A 200 is not an upgrade: the next bytes are another request, which is checked and counted.
    let mut client = RawClient::connect(gateway.proxy()).await;
    let bytes = upgrade("/refuse", "GET", "Upgrade: websocket\r\n")
        + &HIDDEN.replace("Host: a", "Host: a\r\nX-Backend: x");
    client.send(bytes.as_bytes()).await.expect("send");
    assert_eq!(client.message(Unframed::UntilEnd).await.expect("an answer").status(), 200);
    if let Some(second) = client.message(Unframed::UntilEnd).await {
        assert_eq!(second.status(), 400, "{}", second.text());
    }
    assert_eq!(backend.heads().len(), 3, "{:?}", backend.heads());
    // Other upgrades are not forwarded, and a body stays a body.
    for (method, fields, rest) in [
        ("GET", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n", ""),
        ("GET", "Upgrade: tls/1.0, websocket\r\n", ""),
        ("POST", "Upgrade: websocket\r\nContent-Length: 2\r\n", "{}"),
        ("GET", "Upgrade: websocket\r\nContent-Length: 2\r\n", "{}"),
    ] {
        let mut client = RawClient::connect(gateway.proxy()).await;
        let bytes = upgrade("/refuse", method, fields) + rest;
        let answer = client.exchange(bytes.as_bytes(), Unframed::UntilEnd).await;
        assert_eq!(answer.status(), 200, "{fields}: {}", answer.text());
        let seen = backend.requests().pop().expect("a request");
        assert_eq!(seen.head.field("upgrade"), None, "{fields}");
        assert_eq!(seen.head.field("http2-settings"), None, "{fields}");
        assert_eq!(String::from_utf8_lossy(&seen.body), rest, "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_carries_each_byte_once_and_in_order() {
    let backend = RawBackend::start(async |mut connection| {
        let Some(_) = connection.request().await else { return };
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = connection.send(head).await;
        connection.until("first second third").await;
        let _ = connection.send("all of it").await;
        connection.stay_silent().await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    // Some clients send frames right after the handshake, before the 101.
    for early in ["", "f", "first s"] {
        let mut client = RawClient::connect(gateway.proxy()).await;
        let head =
            get("/socket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        client.send(&[&head, early.as_bytes()].concat()).await.expect("send");
        assert_eq!(client.head().await.expect("an answer").status(), 101, "{early:?}");
        client.send(&b"first second third"[early.len()..]).await.expect("send");
        client.until("all of it").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_names_a_backend_by_its_first_segment_to_the_letter() {
    let [one, other] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let gateway = Gateway::with(format!(
        "backends:\n  one: {{ url: \"{}/base\", type: http }}\n  other: {{ url: {:?}, type: http, default: true }}\n",
        one.url(),
        other.url()
    ))
    .await;
    // The path as sent, and as the default backend must receive it: byte for byte.
    for path in [
        "/one;x/v1",
        "/one;/v1",
        "/.;/one/v1",
        "/./one/v1",
        "//one/v1",
        "/%6fne/v1",
        "/one%2fv1",
        "/ONE/v1",
        "/one%20/v1",
        "/one\\v1",
        "/one%00/v1",
        "/x?/one/v1",
    ] {
        let before = other.heads().len();
        assert_eq!(Call::get(path).send(gateway.proxy()).await.status(), 200, "{path}");
        assert_eq!(other.heads().len(), before + 1, "{path}");
        assert_eq!(other.heads()[before].target(), path);
    }
    assert_eq!(one.heads().len(), 0);
    for path in [
        "/one/../other",
        "/one/..;/other",
        "/one/%2e%2e/other",
        "/one%2f..",
        "/..",
        "/one/v1/../..",
        "/one/.%2E/one",
    ] {
        let before = one.heads().len() + other.heads().len();
        let answer = Call::get(path).send(gateway.proxy()).await;
        let reached = one.heads().len() + other.heads().len() - before;
        match path {
            // No backend's prefix: goes to the default backend, unchanged.
            "/one%2f.." => assert_eq!((answer.status(), reached), (200, 1), "{path}"),
            _ => assert_eq!((answer.status(), reached), (400, 0), "{path}: {}", answer.text()),
        }
    }
    for (path, seen) in [
        ("/one/v1/../v2", "/base/v1/../v2"),
        ("/one/v1", "/base/v1"),
        ("/one", "/base/"),
        ("/one?a=/other/", "/base/?a=/other/"),
        ("/one/./other;x", "/base/./other;x"),
    ] {
        assert_eq!(Call::get(path).send(gateway.proxy()).await.status(), 200, "{path}");
        assert_eq!(one.heads().last().expect("a request").target(), seen);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_obeyed_is_sent_once() {
    let twice = |name: &str| post(&format!("Content-Length: 2\r\n{name}: one\r\n{name}: two\r\n"), "{}");
    let names = ["Authorization", "x-api-key", "api-key", "X-Goog-Api-Key", "Content-Type"];
    all_refused(400, names.map(|name| (name, twice(name))).into()).await;
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    let call = Call::chat("hello").header("X-Backend", "default");
    let refused = call.clone().header("X-Backend", "other").send(gateway.proxy()).await;
    assert_eq!(refused.status(), 400, "{}", refused.text());
    assert_eq!(backend.heads().len(), 0);
    let same = call.header("X-Backend", "default").send(gateway.proxy()).await;
    assert_eq!(same.status(), 200, "{}", same.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_models_or_two_sessions_in_one_request_are_refused() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    for body in [
        r#"{"model":"cheap","messages":[],"model":"dear"}"#,
        r#"{"model":"cheap","messages":[],"mod\u0065l":"dear"}"#,
        r#"{"model":"cheap","messages":[],"model":7}"#,
        r#"{"model":null,"messages":[],"model":"dear"}"#,
    ] {
        let answer = Call::post("/v1/chat/completions").body(body).send(gateway.proxy()).await;
        assert_eq!(answer.status(), 400, "{body}: {}", answer.text());
    }
    let same = r#"{"model":"cheap","messages":[{"model":"dear"}],"model":"cheap"}"#;
    let answer = Call::post("/v1/chat/completions").body(same).send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "the same model twice, and one deeper: {}", answer.text());
    let reached = backend.heads().len();
    let call = Call::chat("hello").session("mine").session("yours");
    let answer = call.send(gateway.proxy()).await;
    assert_eq!(answer.status(), 400, "{}", answer.text());
    let answer = Call::chat("hello").session("mine, yours").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "one strange id: replaced by its digest, not split");
    assert!(answer.head.field("x-session-id").is_some_and(|id| id.starts_with("h-")));
    let call = Call::chat("hello").session("mine").session("mine");
    assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    assert_eq!(backend.heads().len(), reached + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_must_be_encoded_are_refused() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    for sent in ["/v1/a b", "/v1/a\0b", "/v1/a<b>"] {
        let mut client = RawClient::connect(gateway.proxy()).await;
        let answer = client.exchange(&get(sent, ""), Unframed::UntilEnd).await;
        assert_eq!(answer.status(), 400, "{sent:?}: {}", answer.text());
    }
    assert_eq!(backend.heads().len(), 0);
}
