use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::failover::{error, gateway, nobody};
use crate::support::{Backend, Call, Connection, Demo, Gateway, RawBackend, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// A backend that answers 500 while it is told to.
async fn moody(is_sick: &Arc<AtomicBool>) -> RawBackend {
    let is_sick = Arc::clone(is_sick);
    RawBackend::start(move |mut connection: Connection| {
        let is_sick = Arc::clone(&is_sick);
        async move {
            while connection.request().await.is_some() {
                let answer = if is_sick.load(Relaxed) { error(500, "") } else { OK.to_owned() };
                if connection.send(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// What the control API and the metric say of a backend's health, once they agree.
async fn is_told_healthy(gateway: &Gateway, name: &str) -> bool {
    within("one word about health", async {
        loop {
            let backends = gateway.operator().await.get("/control/backends").await.json();
            let told = backends["backends"][name]["healthy"].as_bool().expect("a backend");
            let metric = gateway.metric(&format!("elida_backend_healthy{{backend=\"{name}\"}}")).await;
            if metric == f64::from(told) {
                return told;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_fails_in_a_row_is_left_alone_and_tried_again() {
    let is_sick = Arc::new(AtomicBool::new(true));
    let [first, second] = [moody(&is_sick).await, RawBackend::answering(OK).await];
    let keys = "fallback: b, health: { unhealthy_after: 3, rest: 2s }";
    let gateway = gateway(&[("a", &first.url(), keys), ("b", &second.url(), "")], "").await;
    for _ in 0..8 {
        assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    }
    assert_eq!((first.requests().len(), second.requests().len()), (3, 8));
    assert!(!is_told_healthy(&gateway, "a").await && is_told_healthy(&gateway, "b").await);
    is_sick.store(false, Relaxed);
    within("the first backend to be tried again", async {
        while first.requests().len() == 3 {
            assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
        }
    })
    .await;
    assert!(is_told_healthy(&gateway, "a").await);
    let before = second.requests().len();
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    assert_eq!(second.requests().len(), before, "the first one serves again");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_are_out_they_are_asked_anyway() {
    let is_sick = Arc::new(AtomicBool::new(true));
    let alone = moody(&is_sick).await;
    let gateway = gateway(&[("a", &alone.url(), "health: { unhealthy_after: 1, rest: 5m }")], "").await;
    for _ in 0..4 {
        assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 500);
    }
    assert_eq!(alone.requests().len(), 4);
    let (both, keys) = (nobody(), "health: { unhealthy_after: 1, rest: 5m }, models: ['gpt-*']");
    let dead = crate::failover::gateway(&[("a", &both, keys), ("b", &alone.url(), keys)], "").await;
    for _ in 0..4 {
        assert_eq!(Call::chat("hello").send(dead.proxy()).await.status(), 500);
    }
    is_sick.store(false, Relaxed);
    assert_eq!(Call::chat("hello").send(dead.proxy()).await.status(), 200, "the only one that is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_obeyed() {
    let [busy, second] =
        [RawBackend::answering(error(529, "Retry-After: 100\r\n")).await, RawBackend::answering(OK).await];
    let gateway = gateway(&[("a", &busy.url(), "fallback: b"), ("b", &second.url(), "")], "").await;
    for _ in 0..5 {
        assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    }
    assert_eq!((busy.requests().len(), second.requests().len()), (1, 5));
    let told = gateway.operator().await.get("/control/backends").await.json();
    assert!(told["backends"]["a"]["rests_for_ms"].as_u64().is_some_and(|ms| ms > 60_000), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_to_be_left_alone_is_not_troubled_for_a_better_answer() {
    let busy = || RawBackend::answering(error(529, "Retry-After: 100\r\n"));
    let [first, second] = [busy().await, busy().await];
    let gateway = gateway(&[("a", &first.url(), "fallback: b"), ("b", &second.url(), "")], "").await;
    for _ in 0..3 {
        assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 529);
    }
    assert_eq!((first.requests().len(), second.requests().len()), (3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_one_client_s_key_is_no_matter_of_others() {
    let limited = RawBackend::answering(error(429, "Retry-After: 100\r\n")).await;
    let second = RawBackend::answering(OK).await;
    let own = "auth: { realm: r }, fallback: b";
    let gateway =
        gateway(&[("a", &limited.url(), own), ("b", &second.url(), "auth: { realm: r }")], "").await;
    for number in 0..4 {
        let call = Call::chat("hello").header("authorization", &format!("Bearer key-{number}"));
        assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    }
    assert_eq!(limited.requests().len(), 4);
    assert!(is_told_healthy(&gateway, "a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_take_a_backend_out_and_bring_it_back() {
    let is_sick = Arc::new(AtomicBool::new(false));
    let [first, second] = [moody(&is_sick).await, RawBackend::answering(OK).await];
    let keys = "fallback: b, auth: { mode: inject, api_key: probe-key }, \
                health: { path: /healthz, interval: 100ms, unhealthy_after: 2, healthy_after: 2 }";
    let (url, other) = (first.url() + "/base", second.url());
    let gateway = gateway(&[("a", &url, keys), ("b", &other, "auth: { mode: none }")], "").await;
    first.until("a probe", |first| !first.heads().is_empty()).await;
    let probe = first.heads()[0].clone();
    assert_eq!((probe.target(), probe.field("authorization")), ("/base/healthz", Some("Bearer probe-key")));
    is_sick.store(true, Relaxed);
    within("probes to find it down", async { while is_told_healthy(&gateway, "a").await {} }).await;
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    assert_eq!(second.requests().len(), 1);
    assert!(first.heads().iter().all(|head| head.target() == "/base/healthz"), "no request was spent on it");
    is_sick.store(false, Relaxed);
    within("probes to find it up", async { while !is_told_healthy(&gateway, "a").await {} }).await;
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    assert_eq!(second.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_without_a_path_is_a_connection() {
    let second = RawBackend::answering(OK).await;
    let silent = RawBackend::answering(OK).await;
    let probe = "models: ['gpt-*'], health: { interval: 100ms, timeout: 500ms, unhealthy_after: 1 }";
    let dead = nobody();
    let gateway =
        gateway(&[("a", &dead, probe), ("b", &silent.url(), probe), ("c", &second.url(), "")], "").await;
    within("probes to find it down", async { while is_told_healthy(&gateway, "a").await {} }).await;
    silent.until("probes", |silent| silent.connections() > 2).await;
    assert!(is_told_healthy(&gateway, "b").await);
    let line = gateway.log_until(|line| line["message"] == "probes find the backend down").await;
    assert_eq!(line["backend"], "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn equals_share_the_work_and_a_session_stays_where_its_cache_is_warm() {
    let [one, two] = [Demo::start().await, Demo::start().await];
    let keys = "models: ['gpt-*']";
    let gateway = gateway(&[("one", &one.url(), keys), ("two", &two.url(), keys)], "").await;
    let mut open = Vec::new();
    for number in 0..10 {
        let call = Call::chat_stream("hello [[words 3]] [[stall]]").session(&format!("open-{number}"));
        let mut stream = call.open(gateway.proxy()).await;
        stream.until("word").await;
        open.push(stream);
    }
    assert_eq!((one.ledger().open(), two.ledger().open()), (5, 5), "the one with less to do takes the next");
    let mut homes: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0..12 {
        let session = format!("stays-{number}");
        let before = one.ledger().arrived();
        for _ in 0..4 {
            assert_eq!(Call::chat("hello").session(&session).send(gateway.proxy()).await.status(), 200);
        }
        let at_one = one.ledger().arrived() - before;
        assert!(at_one == 0 || at_one == 4, "{session} went {at_one} of 4 times to one");
        homes.insert(session, at_one);
    }
    assert!(
        homes.values().any(|at_one| *at_one == 0) && homes.values().any(|at_one| *at_one == 4),
        "{homes:?}"
    );
    within("the answered ones to be counted as gone", async {
        loop {
            let told = gateway.operator().await.get("/control/backends").await.json();
            let open = ["one", "two"].map(|name| told["backends"][name]["open"].as_u64());
            if open == [Some(5), Some(5)] {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_forgets_no_health_of_a_backend_that_stays() {
    let [busy, second] =
        [RawBackend::answering(error(503, "Retry-After: 100\r\n")).await, RawBackend::answering(OK).await];
    let backends = [("a", &*busy.url(), "fallback: b"), ("b", &second.url(), "")];
    let gateway = gateway(&backends, "").await;
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    gateway.rewrite(&crate::failover::configuration(&backends, "session: { idle_timeout: 3m }"));
    gateway.hangup();
    gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    assert_eq!((busy.requests().len(), second.requests().len()), (1, 2));
    assert!(!is_told_healthy(&gateway, "a").await);
    gateway.rewrite(&crate::failover::configuration(&[("b", &second.url(), "")], ""));
    gateway.hangup();
    within("the reload", async {
        while gateway.metrics().await.contains("elida_backend_healthy{backend=\"a\"}") {}
    })
    .await;
}
