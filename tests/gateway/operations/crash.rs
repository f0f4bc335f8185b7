use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, within};

/// A backend that sends half of an answer and then waits. The path selects the kind of answer.
async fn half() -> RawBackend {
    RawBackend::start(async |mut connection| {
        let Some(request) = connection.request().await else { return };
        let answer = match request.head.target() {
            "/length" => "Content-Type: application/json\r\nContent-Length: 24\r\n\r\n{\"whole\":true",
            "/sse" => "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nd\r\ndata: {\"a\":1}\r\n",
            "/ndjson" => "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"a\":1}\n\r\n",
            // Delimited by the end of the connection: only the gateway knows that it is truncated.
            _ => "Content-Type: application/json\r\nConnection: close\r\n\r\n{\"whole\":true}",
        };
        let _ = connection.send(format!("HTTP/1.1 200 OK\r\n{answer}")).await;
        connection.stay_silent().await;
    })
    .await
}

/// What a client saw of one request under load.
enum Seen {
    /// The whole, correct answer.
    Whole,
    /// The client could see that there is no answer.
    Failed,
}

/// One request over its own connection, read with a client's care: an answer counts only when its framing
/// says that it is whole, and then it must be the correct one.
async fn ask(address: SocketAddr, call: &Call, right: &[u8]) -> Seen {
    let Ok(mut stream) = TcpStream::connect(address).await else { return Seen::Failed };
    if stream.write_all(&call.bytes("x")).await.is_err() {
        return Seen::Failed;
    }
    let mut received = Vec::new();
    let ended_well = loop {
        match stream.read_buf(&mut received).await {
            Err(_) | Ok(0) => break false,
            Ok(_) if received.ends_with(b"0\r\n\r\n") => break true,
            Ok(_) => {}
        }
    };
    if !ended_well {
        return Seen::Failed;
    }
    let body = memchr::memmem::find(&received, b"\r\n\r\n").map(|at| &received[at + 4..]);
    assert_eq!(body.map(dechunked), Some(right.to_vec()), "a wrong answer taken for a whole one");
    Seen::Whole
}

fn dechunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(at) = memchr::memmem::find(body, b"\r\n") {
        let size = std::str::from_utf8(&body[..at]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size in hex");
        whole.extend_from_slice(&body[at + 2..at + 2 + size]);
        body = &body[at + 2 + size + 2..];
    }
    whole
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_leaves_no_answer_that_looks_whole() {
    let backend = half().await;
    let yaml = format!("backend: {:?}\n", backend.url());
    let mut gateway = Gateway::with(&yaml).await;
    let mut clients = Vec::new();
    for (path, begun) in [("/length", "true"), ("/sse", "data: "), ("/ndjson", "{\"a\""), ("/close", "true}")]
    {
        let mut client = Call::get(path).open(gateway.proxy()).await;
        client.until(begun).await;
        clients.push((path, client));
    }
    gateway.crash_and_restart(&yaml).await;
    for (path, mut client) in clients {
        let answer = client.message(Unframed::UntilEnd).await.expect("a head");
        assert!(!answer.is_whole, "{path}: half an answer looks whole: {:?}", answer.text());
    }
    assert_eq!(Call::get("/health").send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_clients_see_errors_and_then_service_again() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\n", demo.url());
    let mut gateway = Gateway::with(&yaml).await;
    let proxy = gateway.proxy();
    let call = Call::chat_stream("[[words 40]] [[pace 2ms]]");
    let right: Arc<[u8]> = call.send(proxy).await.body.into();
    let stop = Arc::new(AtomicBool::new(false));
    let [whole, failed] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (call, right, stop) = (call.clone(), Arc::clone(&right), Arc::clone(&stop));
            let (whole, failed) = (Arc::clone(&whole), Arc::clone(&failed));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match within("an answer or its failure", ask(proxy, &call, &right)).await {
                        Seen::Whole => whole.fetch_add(1, Ordering::Relaxed),
                        Seen::Failed => failed.fetch_add(1, Ordering::Relaxed),
                    };
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let more = async |than: usize| {
        within("whole answers", async {
            while whole.load(Ordering::Relaxed) < than {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        })
        .await;
    };
    for _ in 0..3 {
        more(whole.load(Ordering::Relaxed) + 8).await;
        gateway.crash_and_restart(&yaml).await;
    }
    more(whole.load(Ordering::Relaxed) + 8).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client that was never deceived");
    }
    assert!(failed.load(Ordering::Relaxed) > 0, "no client noticed three crashes");
}
