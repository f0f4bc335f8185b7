use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::hits::{answer, field, yaml};
use crate::support::wire::Unframed;
use crate::support::{Call, Connection, Gateway, RawBackend, within};

const HEAD: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n";

/// A backend that answers `/held` in two halves, the second one when it may.
async fn halves(may: Arc<Semaphore>) -> RawBackend {
    RawBackend::start(move |mut connection: Connection| {
        let may = Arc::clone(&may);
        async move {
            while connection.request().await.is_some() {
                connection.send(format!("{HEAD}01234")).await.expect("the first half");
                let Ok(permit) = may.acquire().await else { return };
                permit.forget();
                if connection.send("56789").await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_wait_for_one_fill() {
    let may = Arc::new(Semaphore::new(0));
    let backend = halves(Arc::clone(&may)).await;
    let gateway = Gateway::with(yaml(&backend, "")).await;
    let mut first = Call::get("/x").open(gateway.proxy()).await;
    first.until("01234").await;
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let address = gateway.proxy();
            tokio::spawn(async move { Call::get("/x").send(address).await })
        })
        .collect();
    gateway.answer_until("/control/stats", |stats| stats["open_legs"] == 51).await;
    may.add_permits(1);
    for answer in waiting {
        let answer = within("an answer", answer).await.expect("a task");
        assert_eq!((answer.text().as_str(), answer.is_whole), ("0123456789", true));
        assert!(field(&answer, "cache-status").starts_with("elida; hit"), "{:?}", answer.head);
    }
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_a_fill_that_breaks_ask_the_backend_themselves() {
    let (breaks, broken) = watch::channel(false);
    let backend = RawBackend::start(move |mut connection: Connection| {
        let mut broken = broken.clone();
        async move {
            while connection.request().await.is_some() {
                let was_broken = *broken.borrow();
                connection.send(format!("{HEAD}01234")).await.expect("half of it");
                if !was_broken {
                    broken.wait_for(|broken| *broken).await.expect("the test");
                    return connection.reset();
                }
                connection.send("56789").await.expect("the rest");
            }
        }
    })
    .await;
    let gateway = Gateway::with(yaml(&backend, "")).await;
    let mut first = Call::get("/x").open(gateway.proxy()).await;
    first.until("01234").await;
    let address = gateway.proxy();
    let waiting: Vec<_> =
        (0..10).map(|_| tokio::spawn(async move { Call::get("/x").send(address).await })).collect();
    gateway.answer_until("/control/stats", |stats| stats["open_legs"] == 11).await;
    breaks.send(true).expect("the backend");
    within("the broken answer", first.end()).await;
    for answer in waiting {
        let answer = within("an answer", answer).await.expect("a task");
        assert_eq!((answer.text().as_str(), answer.is_whole), ("0123456789", true));
    }
    // Nothing half is stored.
    let stored = Call::get("/x").send(gateway.proxy()).await;
    assert_eq!(stored.text(), "0123456789");
    assert!(field(&stored, "cache-status").starts_with("elida; hit"), "{:?}", stored.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_fill_and_those_who_wait_go_on() {
    let may = Arc::new(Semaphore::new(0));
    let backend = halves(Arc::clone(&may)).await;
    let gateway = Gateway::with(yaml(&backend, "")).await;
    let mut first = Call::get("/x").open(gateway.proxy()).await;
    first.until("01234").await;
    let address = gateway.proxy();
    let waiting = tokio::spawn(async move { Call::get("/x").send(address).await });
    gateway.answer_until("/control/stats", |stats| stats["open_legs"] == 2).await;
    first.reset();
    backend.until("the second request", |backend| backend.requests().len() == 2).await;
    may.add_permits(10);
    let answer = within("the answer", waiting).await.expect("a task");
    assert_eq!((answer.text().as_str(), answer.is_whole), ("0123456789", true));
    gateway.answer_until("/control/cache/stats", |stats| stats["entries"] == 1).await;
    let held = gateway.operator().await.get("/control/cache/stats").await.json();
    assert!(held["bytes"].as_u64().expect("bytes") < 2000, "the room of the fill is given back: {held}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_others_up_for_a_short_time_only() {
    let body = "x".repeat(6 << 20);
    let whole = answer(200, "Cache-Control: max-age=60\r\n", &body);
    let backend = RawBackend::answering(whole).await;
    let gateway = Gateway::with(yaml(&backend, "")).await;
    let mut slow = crate::support::wire::Wire::connect_narrow(gateway.proxy()).await;
    slow.send(&Call::get("/x").bytes("gateway")).await.expect("send");
    backend.until("the first request", |backend| backend.requests().len() == 1).await;
    slow.until("HTTP/1.1 200").await;
    let begun = Instant::now();
    let other = within("the answer", Call::get("/x").send(gateway.proxy())).await;
    assert_eq!((other.body.len(), other.is_whole), (body.len(), true));
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let again = Instant::now();
    let third = within("the answer", Call::get("/x").send(gateway.proxy())).await;
    assert!(field(&third, "cache-status").starts_with("elida; hit"), "{:?}", third.head);
    assert!(again.elapsed() < Duration::from_secs(3), "{:?}", again.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_reaches_those_who_wait_for_a_fill() {
    let may = Arc::new(Semaphore::new(0));
    let backend = halves(Arc::clone(&may)).await;
    let gateway = Gateway::with(yaml(&backend, "")).await;
    let mut first = Call::get("/x").session("first").open(gateway.proxy()).await;
    first.until("01234").await;
    let address = gateway.proxy();
    let waiting = tokio::spawn(async move { Call::get("/x").session("waits").send(address).await });
    gateway.answer_until("/control/stats", |stats| stats["open_legs"] == 2).await;
    let begun = Instant::now();
    gateway.kill("waits").await;
    let refused = within("the refusal", waiting).await.expect("a task");
    assert_eq!(refused.status(), 403, "{}", refused.text());
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // The kill of the one that fills cuts it, and nothing is stored.
    gateway.kill("first").await;
    within("the end", first.end()).await;
    let stats = gateway.operator().await.get("/control/cache/stats").await.json();
    assert_eq!(stats["entries"], 0, "{stats}");
    assert_eq!(backend.requests().len(), 1);
    let _ = Unframed::Empty;
}
