use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, RawClient};

/// A backend whose answer never ends.
async fn endless() -> RawBackend {
    RawBackend::start(async |mut connection| {
        let Some(_) = connection.request().await else { return };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = connection.send(head).await;
        let piece = format!("{:x}\r\n{}\r\n", 65536, "x".repeat(65536));
        connection.send_until_closed(piece.as_bytes(), Duration::ZERO).await;
    })
    .await
}

fn with_grace(backend: &impl Backend, grace: &str) -> String {
    format!("backend: {:?}\nserver: {{ timeouts: {{ shutdown_grace: {grace} }} }}\n", backend.url())
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_end_at_once_and_the_last_answer_says_so() {
    let go_on = Arc::new(Notify::new());
    let wait = Arc::clone(&go_on);
    let backend = RawBackend::start(move |mut connection| {
        let wait = Arc::clone(&wait);
        async move {
            while let Some(request) = connection.request().await {
                if request.head.target() == "/later" {
                    wait.notified().await;
                }
                let _ = connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let mut gateway = Gateway::start(&backend).await;
    let proxy = gateway.proxy();
    let mut idle = RawClient::connect(proxy).await;
    let before = Call::get("/now").send_over(&mut idle, proxy).await;
    assert_ne!(before.head.field("connection"), Some("close"), "{:?}", before.head);
    let mut busy = Call::get("/later").open(proxy).await;
    backend.until("the request", |backend| backend.heads().len() == 2).await;
    gateway.terminate();
    let _ = idle.end().await;
    // Only now: the idle connection did not wait for the busy one, whose answer begins after the signal.
    go_on.notify_one();
    let answer = busy.message(Unframed::UntilEnd).await.expect("an answer");
    assert_eq!((answer.status(), answer.is_whole), (200, true));
    assert_eq!(answer.head.field("connection"), Some("close"), "{:?}", answer.head);
    assert!(gateway.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_accepted_may_still_ask() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::start(&demo).await;
    let mut fresh = RawClient::connect(gateway.proxy()).await;
    // A later connection was accepted, so this one was, too.
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    let mut idle = RawClient::connect(gateway.proxy()).await;
    assert_eq!(Call::chat("hello").send_over(&mut idle, gateway.proxy()).await.status(), 200);
    gateway.terminate();
    let _ = idle.end().await;
    // The idle connection is closed at once. This one has a second; the test waits for a part of it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = Call::chat("hello").send_over(&mut fresh, gateway.proxy()).await;
    assert_eq!((answer.status(), answer.is_whole), (200, true));
    assert!(gateway.ended().await.success());
    assert!(TcpStream::connect(gateway.proxy()).await.is_err(), "the port is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_does_not_hold_the_exit() {
    let backend = endless().await;
    let mut gateway = Gateway::with(with_grace(&backend, "300ms")).await;
    let mut client = RawClient::connect_narrow(gateway.proxy()).await;
    let call = Call::chat_stream("hello").session("stuck");
    client.send(&call.bytes("x")).await.expect("send");
    gateway.session_until("stuck", |session| session["open_legs"] == 1).await;
    backend.held_back(Duration::from_millis(200)).await;
    let asked = Instant::now();
    gateway.terminate();
    assert!(gateway.ended().await.success());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?} with a grace of 300 ms");
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    assert_eq!(record["session_id"], "stuck", "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_waits_for_nobody_and_leaves_the_records() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::start(&demo).await;
    let mut stream =
        Call::chat_stream("[[words 3000]] [[pace 20ms]]").session("cut").open(gateway.proxy()).await;
    stream.until("word1").await;
    let asked = Instant::now();
    gateway.signal("INT");
    let answer = stream.message(Unframed::UntilEnd).await.expect("a head");
    assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
    assert!(gateway.ended().await.success());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}, although the grace is 30 s");
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    assert_eq!(record["session_id"], "cut", "{record}");
    let line = gateway.access_line("/v1/chat/completions").await;
    assert_eq!(line["outcome"], "shutting_down", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_patience_but_a_reload_or_upgrade_does_not() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::start(&demo).await;
    let mut stream = Call::chat_stream("[[words 3000]] [[pace 20ms]]").open(gateway.proxy()).await;
    stream.until("word1").await;
    gateway.terminate();
    gateway.log_until(|line| line["message"] == "draining").await;
    gateway.hangup();
    gateway.signal("QUIT");
    stream.until("word20").await;
    gateway.terminate();
    assert!(gateway.ended().await.success());
    gateway.log_until(|line| line["message"] == "a second signal: not waiting any longer").await;
}
