use std::time::Duration;

use crate::support::http2::Client;
use crate::support::wire::Unframed;
use crate::support::{Call, Connection, Gateway, RawBackend, RawClient};

/// Answers with what the path names.
async fn answer(mut connection: Connection, answers: &'static [(&'static str, &'static str)]) {
    while let Some(request) = connection.request().await {
        let found = answers.iter().find(|(path, _)| *path == request.head.target());
        let _ = connection.send(found.expect("a known path").1).await;
        if found.expect("a known path").1.starts_with("HTTP/1.0") {
            return;
        }
    }
}

const ANSWERS: &[(&str, &str)] = &[
    ("/list", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok"),
    ("/fields", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
    ("/204", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
    ("/204-chunked", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("/304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n"),
    ("/old", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ("/old-open", "HTTP/1.0 200 OK\r\n\r\nok"),
    ("/old-chunked", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    (
        "/trailers",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n",
    ),
    (
        "/hints",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 3\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn faults_in_the_framing_of_a_backend_are_not_passed_on() {
    let backend = RawBackend::start(|connection| answer(connection, ANSWERS)).await;
    let gateway = Gateway::start(&backend).await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    for path in ["/list", "/fields", "/old", "/old-open", "/old-chunked", "/trailers"] {
        let answer = Call::get(path).send_over(&mut client, gateway.proxy()).await;
        assert_eq!((answer.status(), answer.text().as_str(), answer.is_whole), (200, "ok", true), "{path}");
        assert!(answer.head.line.starts_with("HTTP/1.1 "), "{path}: {}", answer.head.line);
        let fields =
            |name: &str| answer.head.fields.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).count();
        assert_eq!(fields("content-length") + fields("transfer-encoding"), 1, "{path}: {:?}", answer.head);
        assert!(fields("content-length") == 0 || answer.head.field("content-length") == Some("2"), "{path}");
        assert_eq!(fields("trailer"), 0, "{path}: what is dropped is not announced");
    }
    for path in ["/204", "/204-chunked", "/304"] {
        let answer = Call::get(path).open(gateway.proxy()).await.head().await.expect("a head");
        assert!(answer.field("transfer-encoding").is_none(), "{path}: {answer:?}");
        let length = answer.field("content-length");
        assert_eq!(length, (path == "/304").then_some("5"), "{path}: {answer:?}");
    }
    let mut client = Call::get("/hints").open(gateway.proxy()).await;
    let hints = client.head().await.expect("hints");
    assert_eq!(
        (hints.status(), hints.field("link"), hints.field("content-length")),
        (103, Some("</a>"), None)
    );
    assert_eq!(client.message(Unframed::Empty).await.expect("an answer").text(), "ok");
    let mut client = Client::connect(gateway.proxy()).await;
    for path in ["/list", "/fields", "/old", "/old-open", "/old-chunked", "/trailers", "/hints"] {
        let answer = client.ask(&Call::get(path)).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{path}");
        assert!(!answer.headers.contains_key("trailer"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_left_before_its_request_was_read_does_not_keep_a_silent_stream() {
    let backend = RawBackend::start(async |mut connection: Connection| {
        connection.request().await;
        let event = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n";
        let _ = connection.send(event).await;
        connection.request().await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    for end in ["", "Connection: close\r\n"] {
        let id = if end.is_empty() { "left" } else { "closed" };
        let mut client = RawClient::connect(gateway.proxy()).await;
        // The end of its side is there when the request is read, as that of a client which closes only its half.
        gateway.signal("STOP");
        let request = format!("GET /a HTTP/1.1\r\nHost: a\r\nX-Session-ID: {id}\r\n{end}\r\n");
        client.send(request.as_bytes()).await.expect("send");
        drop(client);
        gateway.signal("CONT");
        let session =
            gateway.session_until(id, |session| session["request_count"] == 1 && session["open_legs"] == 0);
        session.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_half_gets_its_answer() {
    let backend = RawBackend::start(async |mut connection: Connection| {
        while connection.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let _ = connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let answered = async |request: &str| {
        let mut client = RawClient::connect(gateway.proxy()).await;
        // All of it is there when the gateway reads, as `nc -N` sends it.
        gateway.signal("STOP");
        client.send(request.as_bytes()).await.expect("send");
        client.shut().await;
        gateway.signal("CONT");
        let answer = client.message(Unframed::UntilEnd).await;
        answer.is_some_and(|answer| (answer.status(), answer.text().as_str()) == (200, "ok"))
    };
    for request in [
        "GET /a HTTP/1.0\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ] {
        assert!(answered(request).await, "{request}");
    }
    // The kernel may report the end later than the bytes before it. Without `Connection: close` that is a client that leaves.
    crate::support::within("an answer", async {
        while !answered("GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await {}
    })
    .await;
    // One that says that it sends nothing else may be later.
    let mut client = RawClient::connect(gateway.proxy()).await;
    let seen = backend.requests().len();
    client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("send");
    backend.until("the request", |backend| backend.requests().len() > seen).await;
    client.shut().await;
    assert_eq!(client.message(Unframed::UntilEnd).await.expect("an answer").status(), 200);
}
