//! Clients that leave at odd moments: behind bytes that nobody reads, and after an answer that came early.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use serde_json::json;

use crate::support::http2::{Client, write};
use crate::support::wire::{Ending, Unframed};
use crate::support::{Backend, Call, Gateway, RawBackend, RawClient, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// The longest that a client which has left may go unnoticed, on a busy machine.
const NOTICED: Duration = Duration::from_secs(3);

/// Reads a head, and nothing more.
async fn reading_no_body() -> RawBackend {
    RawBackend::start(async |mut connection| {
        connection.request_head().await;
        connection.freeze().await;
    })
    .await
}

/// Answers as soon as the head is there, and reads the body then.
async fn answering_early() -> RawBackend {
    RawBackend::start(async |mut connection| {
        while let Some(head) = connection.request_head().await {
            let _ = connection.send(OK).await;
            connection.rest_of(head).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_behind_a_pipelined_byte_is_noticed() {
    let backend = RawBackend::start(async |mut connection| {
        connection.request().await;
        connection.stay_silent().await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    for (at, more) in ["G", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", &"x".repeat(100_000)].iter().enumerate() {
        let mut client = Call::chat("hello").open(gateway.proxy()).await;
        backend.until("the request", |backend| backend.requests().len() == at + 1).await;
        client.send(more.as_bytes()).await.expect("send");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let left = Instant::now();
        drop(client);
        backend.until("the end of the request", |backend| backend.closed().len() == at + 1).await;
        assert!(left.elapsed() < NOTICED, "{} bytes: after {:?}", more.len(), left.elapsed());
    }
    gateway.log_until(|line| line["outcome"] == "client_gone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_its_upload_is_stuck_is_noticed() {
    let backend = reading_no_body().await;
    let gateway = Gateway::start(&backend).await;
    let piece = vec![b'x'; 64 << 10];
    let head =
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 100000000\r\n\r\n";
    let mut client = RawClient::connect(gateway.proxy()).await;
    client.send(head.as_bytes()).await.expect("send");
    while let Ok(sent) = tokio::time::timeout(Duration::from_millis(500), client.send(&piece)).await {
        sent.expect("send");
    }
    let left = Instant::now();
    client.reset();
    gateway.log_until(|line| line["url"] == "/v1/files" && line["outcome"] == "client_gone").await;
    assert!(left.elapsed() < NOTICED, "HTTP/1.1: after {:?}", left.elapsed());

    let mut client = Client::connect(gateway.proxy()).await;
    let request = http::Request::post("http://x/v1/uploads").body(()).expect("a head");
    let (_answer, mut body) = client.begin(request, false).await;
    while let Ok(sent) =
        tokio::time::timeout(Duration::from_millis(500), write(&mut body, Bytes::from(piece.clone()), false))
            .await
    {
        sent.expect("send");
    }
    let left = Instant::now();
    body.send_reset(Reason::CANCEL);
    gateway.log_until(|line| line["url"] == "/v1/uploads" && line["outcome"] == "client_gone").await;
    assert!(left.elapsed() < NOTICED, "HTTP/2: after {:?}", left.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_after_an_early_answer_has_its_answer() {
    let backend = answering_early().await;
    let gateway = Gateway::start(&backend).await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    let head =
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\nbegun";
    client.send(head.as_bytes()).await.expect("send");
    assert_eq!(client.message(Unframed::UntilEnd).await.expect("an answer").status(), 200);
    drop(client);
    let line = gateway.access_line("/v1/files").await;
    assert_eq!(line["outcome"], json!("ok"), "HTTP/1.1: {line}");

    let mut client = Client::connect(gateway.proxy()).await;
    let request = http::Request::post("http://x/v1/uploads").body(()).expect("a head");
    let (answer, mut body) = client.begin(request, false).await;
    body.send_data(Bytes::from_static(b"begun"), false).expect("send");
    let mut answer = within("an answer", answer).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    while within("the body", answer.body_mut().data()).await.is_some_and(|data| data.is_ok()) {}
    body.send_reset(Reason::NO_ERROR);
    let line = gateway.access_line("/v1/uploads").await;
    assert_eq!(line["outcome"], json!("ok"), "HTTP/2: {line}");
    backend.until("both uploads", |backend| backend.requests().len() == 2).await;
    assert!(backend.requests().iter().all(|seen| !seen.is_whole), "no upload looks complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_after_an_early_answer_is_recorded() {
    let backend = answering_early().await;
    let yaml = format!("backend: {:?}\nrouting: {{ blocked_models: ['*-secret'] }}\n", backend.url());
    let gateway = Gateway::with(yaml).await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    let form = "--b\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n\
                --b\r\nContent-Disposition: form-data; name=file; filename=x\r\n\r\n";
    let file = "{\"body\":{\"model\":\"gpt-secret\"}}\r\n--b--\r\n";
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n\r\n",
        form.len() + file.len()
    );
    client.send((head + form).as_bytes()).await.expect("send");
    assert_eq!(client.message(Unframed::UntilEnd).await.expect("an answer").status(), 200);
    client.send(file.as_bytes()).await.expect("send");
    let line = gateway.access_line("/v1/files").await;
    assert_eq!((&line["status"], &line["outcome"]), (&json!(200), &json!("policy_blocked")), "{line}");
    backend.until("the upload", |backend| backend.requests().len() == 1).await;
    assert!(!backend.requests()[0].is_whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_to_http_1_0_ends_with_a_reset() {
    let backend = RawBackend::start(async |mut connection| {
        let Some(request) = connection.request().await else { return };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = connection.send(format!("{head}4\r\nhalf\r\n")).await;
        if request.head.target() == "/killed" {
            connection.stay_silent().await;
        }
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    for target in ["/broken", "/killed"] {
        let mut client = RawClient::connect(gateway.proxy()).await;
        let request = format!("GET {target} HTTP/1.0\r\nHost: a\r\nX-Session-ID: s\r\n\r\n");
        client.send(request.as_bytes()).await.expect("send");
        client.until("half").await;
        if target == "/killed" {
            gateway.kill("s").await;
        }
        assert!(
            matches!(client.end().await, Ending::Reset(_)),
            "{target}: an end would look like that of the answer"
        );
    }
}
