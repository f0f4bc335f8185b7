use std::time::Duration;

use crate::support::{Backend, Call, Connection, Gateway, RawBackend};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// Answers one request on each connection. The next one is read to the end of its head or of its body, and then the
/// connection ends without a byte of an answer.
async fn closing(mut connection: Connection, reads_body: bool, part: &'static str) {
    if connection.request().await.is_none() || connection.send(OK).await.is_err() {
        return;
    }
    let Some(head) = connection.request_head().await else { return };
    if reads_body {
        connection.rest_of(head).await;
    }
    let _ = connection.send(part).await;
    if !reads_body {
        connection.reset();
    }
}

async fn gateway(backend: &RawBackend, keys: &str) -> Gateway {
    Gateway::with(format!("backends:\n  b: {{ url: {:?}, type: openai, {keys} }}\n", backend.url())).await
}

/// Sends one request that makes a kept connection, then this one. Returns the status, and how many heads the backend saw
/// of it once it came over a kept connection.
async fn second(backend: &RawBackend, gateway: &Gateway, call: Call) -> (u16, usize) {
    let call = call.header("connection", "close");
    for _ in 0..100 {
        // It may get a connection that an earlier round has left.
        if Call::get("/first").header("connection", "close").send(gateway.proxy()).await.status() != 200 {
            continue;
        }
        let (before, connections) = (backend.heads().len(), backend.connections());
        let answer = call.send(gateway.proxy()).await;
        let outcome = (answer.status(), backend.heads().len() - before);
        // One that came before the connection was put aside got a connection of its own.
        if outcome.1 > 1 || backend.connections() == connections {
            return outcome;
        }
    }
    panic!("no connection was kept");
}

fn large() -> Call {
    let body = format!("{{\"model\":\"m\",\"pad\":\"{}\"}}", "x".repeat(8 << 20));
    Call::post("/v1/chat/completions").header("content-type", "application/json").body(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_written_completely_is_sent_again_once() {
    let backend = RawBackend::start(|connection| closing(connection, false, "")).await;
    let gateway = gateway(&backend, "").await;
    assert_eq!(second(&backend, &gateway, large()).await, (200, 2));
    let request = backend.requests().pop().expect("a request");
    assert!(request.is_whole && request.body.len() > 8 << 20, "the whole body");
    let backends = gateway.operator().await.get("/control/backends").await.json();
    assert_eq!(backends["backends"]["b"]["healthy"], true, "{backends}");
    assert_eq!(second(&backend, &gateway, Call::get("/get")).await, (200, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_processed_is_sent_once() {
    let backend = RawBackend::start(|connection| closing(connection, true, "")).await;
    let careful = gateway(&backend, "").await;
    for call in [Call::chat("hello"), Call::post("/empty"), Call::new("PATCH", "/a").body("{}")] {
        assert_eq!(second(&backend, &careful, call.clone()).await, (502, 1), "{call:?}");
    }
    for method in ["GET", "PUT", "DELETE"] {
        assert_eq!(second(&backend, &careful, Call::new(method, "/a")).await, (200, 2), "{method}");
    }
    let permitted = gateway(&backend, "pool: { resend: always }").await;
    assert_eq!(second(&backend, &permitted, Call::chat("hello")).await, (200, 2));
    // A byte of an answer says that the backend is at work, also with the key.
    let halting = RawBackend::start(|connection| closing(connection, true, "HTTP/1.1 2")).await;
    let permitted = gateway(&halting, "pool: { resend: always }").await;
    assert_eq!(second(&halting, &permitted, Call::chat("hello")).await, (502, 1));
    let halting =
        RawBackend::start(|connection| closing(connection, true, "HTTP/1.1 102 Processing\r\n\r\n")).await;
    let permitted = gateway(&halting, "pool: { resend: always }").await;
    let (_, sent) = second(&halting, &permitted, Call::chat("hello")).await;
    assert_eq!(sent, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_that_fails_too_is_the_end() {
    let backend = RawBackend::start(async |mut connection: Connection| {
        let Some(first) = connection.request().await else { return };
        if first.head.target() == "/first" {
            let _ = connection.send(OK).await;
            connection.request().await;
        }
    })
    .await;
    let gateway = gateway(&backend, "pool: { resend: always }").await;
    assert_eq!(second(&backend, &gateway, Call::chat("hello")).await, (502, 2));
    assert_eq!(second(&backend, &gateway, Call::get("/get")).await, (502, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_before_model_servers_close_it() {
    let closed_after = async |keys: &str| {
        let backend = RawBackend::answering(OK).await;
        let gateway = gateway(&backend, keys).await;
        assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
        let answered = std::time::Instant::now();
        backend.until("its end", |backend| !backend.closed().is_empty()).await;
        let closed = backend.closed().pop().expect("a time");
        // The connection of the first request was kept, if at all, for the next one.
        closed.saturating_duration_since(answered)
    };
    let (default, configured, none) = tokio::join!(
        closed_after(""),
        closed_after("pool: { idle_timeout: 500ms }"),
        closed_after("pool: { idle_timeout: 0 }")
    );
    assert!((Duration::from_secs(3)..Duration::from_secs(5)).contains(&default), "{default:?}");
    assert!((Duration::from_millis(400)..Duration::from_secs(2)).contains(&configured), "{configured:?}");
    assert!(none < Duration::from_millis(400), "{none:?}");
}
