use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::support::http2::{Client, End, GET, RawFrames, block, frame};
use crate::support::{Backend, Call, Gateway, RawBackend, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers `/ok` at once, `/long` with a first half at once and the rest on notice, other paths never.
async fn backend() -> (RawBackend, Arc<Notify>) {
    let finish = Arc::new(Notify::new());
    let notice = Arc::clone(&finish);
    let backend = RawBackend::start(move |mut connection| {
        let notice = Arc::clone(&notice);
        async move {
            while let Some(request) = connection.request().await {
                match request.head.target() {
                    "/ok" => drop(connection.send(OK).await),
                    "/long" => {
                        let _ = connection.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await;
                        notice.notified().await;
                        let _ = connection.send("rest").await;
                    }
                    _ => return connection.stay_silent().await,
                }
            }
        }
    })
    .await;
    (backend, finish)
}

async fn with_server(backend: &impl Backend, server: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\nserver: {{ {server} }}\n", backend.url())).await
}

/// Opens streams and cancels each one when its backend has it, until the gateway accepts no more; returns their number.
async fn cancel(client: &mut Client, backend: &RawBackend, most: usize) -> usize {
    for number in 0..most {
        let before = backend.heads().len();
        let Some(exchange) = client.try_send(&Call::get("/never")).await else { return number };
        let arrived = backend.until("the request", |backend| backend.heads().len() > before);
        tokio::select! {
            () = arrived => {}
            // Refused, or lost with the connection.
            () = tokio::time::sleep(Duration::from_millis(500)) => return number,
        }
        exchange.reset();
    }
    most
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_streams_among_answered_ones_end_nothing() {
    let (backend, finish) = backend().await;
    let gateway = Gateway::start(&backend).await;
    let mut client = Client::connect(gateway.proxy()).await;
    let mut innocent = client.send(&Call::get("/long")).await.head().await.expect("a head");
    innocent.until("half").await;
    // Twice as many cancelled as answered, and many times what a client may cancel without an answer.
    for _ in 0..200 {
        assert_eq!(client.ask(&Call::get("/ok")).await.status, 200);
        assert_eq!(cancel(&mut client, &backend, 2).await, 2);
    }
    finish.notify_one();
    let answer = innocent.rest().await;
    assert_eq!((answer.end, answer.text().as_str()), (End::Whole, "halfrest"));
    assert!(client.is_open().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_credit_a_client_keeps_its_open_streams() {
    let (backend, finish) = backend().await;
    let gateway = with_server(&backend, "limits: { max_cancelled_streams: 20 }").await;
    let mut client = Client::connect(gateway.proxy()).await;
    let mut innocent = client.send(&Call::get("/long")).await.head().await.expect("a head");
    innocent.until("half").await;
    let cancelled = cancel(&mut client, &backend, 200).await;
    assert!((20..60).contains(&cancelled), "{cancelled} were accepted");
    // After GOAWAY the client opens another connection for new requests.
    assert!(!client.is_open().await);
    assert_eq!(Client::connect(gateway.proxy()).await.ask(&Call::get("/ok")).await.status, 200);
    finish.notify_one();
    let answer = innocent.rest().await;
    assert_eq!((answer.end, answer.text().as_str()), (End::Whole, "halfrest"), "{answer:?}");
    let ended = client.ended().await;
    assert!(ended.is_ok(), "NO_ERROR, and closed when all has been said: {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_all_it_has_open_costs_a_client_no_other_stream() {
    let (backend, finish) = backend().await;
    let gateway = with_server(&backend, "limits: { max_cancelled_streams: 10 }").await;
    let mut client = Client::connect(gateway.proxy()).await;
    let mut innocent = client.send(&Call::get("/long")).await.head().await.expect("a head");
    innocent.until("half").await;
    let mut others = Vec::new();
    for _ in 0..40 {
        others.push(client.send(&Call::get("/never")).await);
    }
    backend.until("all requests", |backend| backend.heads().len() == 41).await;
    // Streams that the gateway has not seen yet are cancelled with them.
    for _ in 0..40 {
        others.push(client.send(&Call::get("/never")).await);
    }
    others.into_iter().for_each(crate::support::http2::PendingAnswer::reset);
    within("GOAWAY", async {
        while client.is_open().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
    finish.notify_one();
    let answer = innocent.rest().await;
    assert_eq!((answer.end, answer.text().as_str()), (End::Whole, "halfrest"), "{answer:?}");
    let ended = client.ended().await;
    assert!(ended.is_ok(), "NO_ERROR: {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ignores_goaway_is_closed_after_a_while() {
    let (backend, finish) = backend().await;
    let gateway = with_server(&backend, "limits: { max_cancelled_streams: 10 }").await;
    let get = |path: &'static str| block(&[GET[0], GET[1], (":path", path), GET[3]]);
    for is_patient in [true, false] {
        let mut client = RawFrames::connect(gateway.proxy()).await;
        client.send(&frame(1, 5, 1, &get("/long"))).await.expect("a head");
        client.frame(0).await;
        // The gateway's GOAWAY is followed by a PING that this client does not answer.
        let (begun, before) = (Instant::now(), backend.heads().len());
        let most = Duration::from_millis(if is_patient { 2500 } else { 15_000 });
        for stream in (3..).step_by(2).take_while(|_| begun.elapsed() < most) {
            let pair = [frame(1, 5, stream, &get("/never")), frame(3, 0, stream, &8_u32.to_be_bytes())];
            if client.send(&pair.concat()).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let opened = backend.heads().len() - before;
        assert!(opened < 60, "{opened} reached the backend");
        if is_patient {
            finish.notify_one();
            assert_eq!(client.frame(0).await, b"rest", "what was open goes on");
        } else {
            let took = begun.elapsed();
            assert!((5..12).contains(&took.as_secs()), "{took:?}");
        }
        client.closed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_speaks_for_many_clients() {
    let (backend, _finish) = backend().await;
    let gateway =
        with_server(&backend, "trusted_proxies: [127.0.0.1], limits: { max_cancelled_streams: 20 }").await;
    let mut client = Client::connect(gateway.proxy()).await;
    assert_eq!(cancel(&mut client, &backend, 500).await, 500);
    // Many at once, before the gateway has seen any of them.
    let mut exchanges = Vec::new();
    for _ in 0..90 {
        exchanges.push(client.send(&Call::get("/never")).await);
    }
    exchanges.into_iter().for_each(crate::support::http2::PendingAnswer::reset);
    assert_eq!(within("an answer", client.ask(&Call::get("/ok"))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_cancelled_after_their_answer_began_cost_nothing() {
    let (backend, _finish) = backend().await;
    let gateway = with_server(&backend, "limits: { max_cancelled_streams: 5 }").await;
    let mut client = Client::connect(gateway.proxy()).await;
    for _ in 0..60 {
        let mut begun = client.send(&Call::get("/long")).await.head().await.expect("a head");
        begun.until("half").await;
        // The client resets a stream when it is dropped.
        drop(begun);
    }
    assert_eq!(client.ask(&Call::get("/ok")).await.status, 200);
}
