use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::Value;

use crate::routing::failover::{configuration, error, gateway, nobody};
use crate::support::{Backend, Call, Connection, Demo, Gateway, RawBackend, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// A backend that answers 500 while its switch is on.
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

/// For [`chat_of`]: the gateway believes what its peer says about the client's address.
const BEHIND_A_PROXY: &str = "server: { trusted_proxies: [127.0.0.1] }";

/// A chat request with this caller's credential, from an address of its own. Backends that share callers are in one realm.
fn chat_of(caller: &str) -> Call {
    let host = caller.bytes().fold(0_u8, |host, byte| host.wrapping_mul(31).wrapping_add(byte));
    chat_from(caller, &format!("192.0.2.{host}"))
}

/// A chat request with this caller's credential, from this address.
fn chat_from(caller: &str, address: &str) -> Call {
    let call = Call::chat("hello").header("authorization", &format!("Bearer {caller}"));
    call.header("x-forwarded-for", address)
}

/// A backend's health as the control API and the metric report it, once they agree.
async fn is_reported_healthy(gateway: &Gateway, name: &str) -> bool {
    within("one word about health", async {
        loop {
            let backends = gateway.operator().await.get("/control/backends").await.json();
            let reported = backends["backends"][name]["healthy"].as_bool().expect("a backend");
            let metric = gateway.metric(&format!("elida_backend_healthy{{backend=\"{name}\"}}")).await;
            if metric == f64::from(reported) {
                return reported;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_fails_in_a_row_is_left_alone_and_tried_again() {
    let is_sick = Arc::new(AtomicBool::new(true));
    let [first, second] = [moody(&is_sick).await, RawBackend::answering(OK).await];
    let keys = "auth: { realm: r }, fallback: b, health: { unhealthy_after: 3, rest: 2s }";
    let gateway =
        gateway(&[("a", &first.url(), keys), ("b", &second.url(), "auth: { realm: r }")], BEHIND_A_PROXY)
            .await;
    for number in 0..8 {
        assert_eq!(chat_of(["ada", "bob"][number % 2]).send(gateway.proxy()).await.status(), 200);
    }
    assert_eq!((first.requests().len(), second.requests().len()), (3, 8));
    assert!(!is_reported_healthy(&gateway, "a").await && is_reported_healthy(&gateway, "b").await);
    is_sick.store(false, Relaxed);
    within("the first backend to be tried again", async {
        while first.requests().len() == 3 {
            assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
        }
    })
    .await;
    assert!(is_reported_healthy(&gateway, "a").await);
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
    let dead = crate::routing::failover::gateway(&[("a", &both, keys), ("b", &alone.url(), keys)], "").await;
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
    let keys = "auth: { realm: r }, fallback: b";
    let gateway =
        gateway(&[("a", &busy.url(), keys), ("b", &second.url(), "auth: { realm: r }")], BEHIND_A_PROXY)
            .await;
    for _ in 0..3 {
        assert_eq!(chat_of("ada").send(gateway.proxy()).await.status(), 200);
    }
    assert_eq!((busy.requests().len(), second.requests().len()), (1, 3));
    assert!(is_reported_healthy(&gateway, "a").await, "so far one caller was asked to wait");
    for caller in ["bob", "eve", "bob"] {
        assert_eq!(chat_of(caller).send(gateway.proxy()).await.status(), 200);
    }
    assert_eq!((busy.requests().len(), second.requests().len()), (2, 6));
    let reported = gateway.operator().await.get("/control/backends").await.json();
    assert!(reported["backends"]["a"]["rests_for_ms"].as_u64().is_some_and(|ms| ms > 60_000), "{reported}");
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
    assert!(is_reported_healthy(&gateway, "a").await);
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
    within("probes to find it down", async { while is_reported_healthy(&gateway, "a").await {} }).await;
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    assert_eq!(second.requests().len(), 1);
    assert!(first.heads().iter().all(|head| head.target() == "/base/healthz"), "no request was spent on it");
    is_sick.store(false, Relaxed);
    within("probes to find it up", async { while !is_reported_healthy(&gateway, "a").await {} }).await;
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
    within("probes to find it down", async { while is_reported_healthy(&gateway, "a").await {} }).await;
    silent.until("probes", |silent| silent.connections() > 2).await;
    assert!(is_reported_healthy(&gateway, "b").await);
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
            let reported = gateway.operator().await.get("/control/backends").await.json();
            let open = ["one", "two"].map(|name| reported["backends"][name]["open"].as_u64());
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
    let keys = "auth: { realm: r }, fallback: b";
    let backends = [("a", &*busy.url(), keys), ("b", &second.url(), "auth: { realm: r }")];
    let gateway = gateway(&backends, BEHIND_A_PROXY).await;
    for caller in ["ada", "bob"] {
        assert_eq!(chat_of(caller).send(gateway.proxy()).await.status(), 200);
    }
    gateway.rewrite(&crate::routing::failover::configuration(
        &backends,
        &format!("{BEHIND_A_PROXY}\nsession: {{ idle_timeout: 3m }}"),
    ));
    gateway.hangup();
    gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(chat_of("eve").send(gateway.proxy()).await.status(), 200);
    assert_eq!((busy.requests().len(), second.requests().len()), (2, 3));
    assert!(!is_reported_healthy(&gateway, "a").await);
    gateway.rewrite(&crate::routing::failover::configuration(&[("b", &second.url(), "")], ""));
    gateway.hangup();
    within("the reload", async {
        while gateway.metrics().await.contains("elida_backend_healthy{backend=\"a\"}") {}
    })
    .await;
}

/// How a backend answers a request, by the credential it carries.
async fn by_caller(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> RawBackend {
    let answer = Arc::new(answer);
    RawBackend::start(move |mut connection: Connection| {
        let answer = Arc::clone(&answer);
        async move {
            while let Some(request) = connection.request().await {
                let who = request.head.field("authorization").unwrap_or_default().to_owned();
                if connection.send(answer(&who)).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// A gateway in front of `first` with `second` as its fallback; both may receive the client's credential.
async fn pair(first: &RawBackend, second: &RawBackend, keys: &str) -> Gateway {
    let keys = format!("auth: {{ realm: r }}, fallback: b, {keys}");
    gateway(&[("a", &first.url(), &keys), ("b", &second.url(), "auth: { realm: r }")], BEHIND_A_PROXY).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_what_was_sent_before_ends_no_rest() {
    let (release, held) = tokio::sync::watch::channel(false);
    let first = RawBackend::start(move |mut connection: Connection| {
        let mut held = held.clone();
        async move {
            while let Some(request) = connection.request().await {
                let is_early = request.head.field("authorization") == Some("Bearer early");
                if is_early {
                    held.wait_for(|free| *free).await.expect("the test goes on");
                }
                if connection.send(error(if is_early { 401 } else { 500 }, "")).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let second = RawBackend::answering(OK).await;
    let gateway = pair(&first, &second, "health: { unhealthy_after: 2, rest: 5m }").await;
    let mut early = chat_of("early").open(gateway.proxy()).await;
    first.until("the early request", |first| first.requests().len() == 1).await;
    for caller in ["ada", "bob"] {
        assert_eq!(chat_of(caller).send(gateway.proxy()).await.status(), 200);
    }
    assert!(!is_reported_healthy(&gateway, "a").await);
    release.send_replace(true);
    assert_eq!(early.head().await.expect("a head").status(), 401);
    assert!(!is_reported_healthy(&gateway, "a").await, "it was asked before the others failed");
    assert_eq!(chat_of("eve").send(gateway.proxy()).await.status(), 200);
    assert_eq!((first.requests().len(), second.requests().len()), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_alone_takes_a_backend_from_nobody() {
    let first = by_caller(|who| match who {
        "Bearer eve" => error(500, ""),
        "Bearer mal" => error(501, ""),
        "Bearer sam" => error(505, ""),
        "Bearer tim" => error(503, "Retry-After: 100\r\n"),
        _ => OK.to_owned(),
    })
    .await;
    let second = RawBackend::answering(OK).await;
    let gateway = pair(&first, &second, "health: { unhealthy_after: 3, rest: 5m }").await;
    // How many of a caller's five requests reached the first backend.
    for (caller, asked) in [("eve", 3), ("mal", 5), ("sam", 5), ("tim", 1)] {
        let before = first.requests().len();
        for _ in 0..5 {
            assert_eq!(chat_of(caller).send(gateway.proxy()).await.status(), 200);
        }
        assert_eq!(first.requests().len() - before, asked, "{caller}");
        assert!(is_reported_healthy(&gateway, "a").await, "{caller}");
        let (before, elsewhere) = (first.requests().len(), second.requests().len());
        assert_eq!(chat_of("ada").send(gateway.proxy()).await.status(), 200);
        assert_eq!((first.requests().len(), second.requests().len()), (before + 1, elsewhere), "{caller}");
    }
    let reported = gateway.operator().await.get("/control/backends").await.json();
    assert_eq!(reported["backends"]["a"]["callers_kept_away"], 2, "{reported}");
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_credentials_make_no_second_client() {
    let first = by_caller(|who| match who.rsplit('-').next() {
        Some("fails") => error(500, ""),
        Some("waits") => error(503, "Retry-After: 100\r\n"),
        _ => OK.to_owned(),
    })
    .await;
    let second = RawBackend::answering(OK).await;
    let gateway = pair(&first, &second, "health: { unhealthy_after: 3, eject_for: 5m }").await;
    // The /64 of an IPv6 address is one client, too.
    for (address, how) in [("192.0.2.7", "fails"), ("2001:db8::", "fails"), ("192.0.2.7", "waits")] {
        for number in 0..8 {
            let from = if address.ends_with(':') { format!("{address}{number}") } else { address.into() };
            let call = chat_from(&format!("{number}-{how}"), &from);
            assert_eq!(call.send(gateway.proxy()).await.status(), 200);
        }
        assert!(is_reported_healthy(&gateway, "a").await, "{address} {how}");
        let (before, elsewhere) = (first.requests().len(), second.requests().len());
        for call in [chat_of("ada"), chat_from("bob", address)] {
            assert_eq!(call.send(gateway.proxy()).await.status(), 200);
        }
        assert_eq!((first.requests().len(), second.requests().len()), (before + 2, elsewhere), "{address}");
    }
    for (caller, address) in [("x-fails", "192.0.2.7"), ("y-fails", "192.0.2.8"), ("z-fails", "192.0.2.7")] {
        assert_eq!(chat_from(caller, address).send(gateway.proxy()).await.status(), 200);
    }
    assert!(!is_reported_healthy(&gateway, "a").await, "two addresses with two credentials are believed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trial_of_one_client_does_not_speak_for_the_others() {
    let is_sick = Arc::new(AtomicBool::new(true));
    let sick = Arc::clone(&is_sick);
    let first =
        by_caller(
            move |who| {
                if who.ends_with("fails") || sick.load(Relaxed) { error(500, "") } else { OK.to_owned() }
            },
        )
        .await;
    let second = RawBackend::answering(OK).await;
    let gateway = pair(&first, &second, "health: { unhealthy_after: 2, eject_for: 2s, max_eject: 5m }").await;
    for caller in ["ada", "bob"] {
        assert_eq!(chat_of(caller).send(gateway.proxy()).await.status(), 200);
    }
    assert!(!is_reported_healthy(&gateway, "a").await);
    is_sick.store(false, Relaxed);
    let mut number = 0;
    within("the trial of a client whose requests fail", async {
        while first.requests().len() == 2 {
            number += 1;
            let call = chat_from(&format!("{number}-fails"), "192.0.2.7");
            assert_eq!(call.send(gateway.proxy()).await.status(), 200);
        }
    })
    .await;
    for number in 0..5 {
        let call = chat_from(&format!("{number}-also-fails"), "192.0.2.7");
        assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    }
    assert_eq!(first.requests().len(), 3, "the next trial is not for that address");
    let before = second.requests().len();
    assert_eq!(chat_of("ada").send(gateway.proxy()).await.status(), 200);
    assert_eq!((first.requests().len(), second.requests().len()), (4, before));
    assert!(is_reported_healthy(&gateway, "a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_with_one_key_behind_one_address_notices_an_outage() {
    let second = RawBackend::answering(OK).await;
    let failing = RawBackend::answering(error(500, "")).await;
    let silent = RawBackend::start(async |mut connection: Connection| {
        connection.request().await;
        connection.stay_silent().await;
    })
    .await;
    let keys = "auth: { realm: r }, fallback: b, health: { unhealthy_after: 3, eject_for: 5m }, \
                retries: { on: [connect_failure, server_error, first_byte_timeout] }";
    let server = "server: { timeouts: { upstream_first_byte: 300ms } }";
    for (first, asked) in [(&failing, 3), (&silent, 3)] {
        let backends = [("a", &*first.url(), keys), ("b", &second.url(), "auth: { realm: r }")];
        let gateway = gateway(&backends, server).await;
        for number in 0..8 {
            let call = Call::chat("hello").header("authorization", "Bearer the-fleet");
            assert_eq!(call.session(&format!("s-{number}")).send(gateway.proxy()).await.status(), 200);
        }
        assert_eq!(first.requests().len(), asked);
    }
    // Nobody causes a failed connection: three of them count for everyone.
    let backends = [("a", &*nobody(), keys), ("b", &second.url(), "auth: { realm: r }")];
    let gateway = gateway(&backends, server).await;
    for _ in 0..3 {
        assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    }
    assert!(!is_reported_healthy(&gateway, "a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anonymous_429_speaks_for_its_address_only() {
    let first = by_caller(|who| match who {
        "" => error(429, "Retry-After: 100\r\n"),
        _ => OK.to_owned(),
    })
    .await;
    let second = RawBackend::answering(OK).await;
    let gateway = pair(&first, &second, "").await;
    for _ in 0..3 {
        assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    }
    assert_eq!((first.requests().len(), second.requests().len()), (1, 3), "that address was asked to wait");
    assert!(is_reported_healthy(&gateway, "a").await);
    assert_eq!(chat_of("ada").send(gateway.proxy()).await.status(), 200);
    assert_eq!((first.requests().len(), second.requests().len()), (2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_whose_client_leaves_is_given_to_another() {
    let (mode, seen) = tokio::sync::watch::channel("sick");
    let first = RawBackend::start(move |mut connection: Connection| {
        let seen = seen.clone();
        async move {
            while connection.request().await.is_some() {
                let mode = *seen.borrow();
                let sent = match mode {
                    "silent" => return connection.stay_silent().await,
                    "sick" => connection.send(error(500, "")).await,
                    _ => connection.send(OK).await,
                };
                if sent.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let second = RawBackend::answering(OK).await;
    // Long enough to distinguish a half-open request that was returned from one that timed out.
    let gateway = pair(&first, &second, "health: { unhealthy_after: 2, rest: 3s }").await;
    for caller in ["ada", "bob"] {
        assert_eq!(chat_of(caller).send(gateway.proxy()).await.status(), 200);
    }
    mode.send_replace("silent");
    gateway
        .answer_until("/control/backends", |reported| reported["backends"]["a"]["rests_for_ms"].is_null())
        .await;
    let closed = first.closed().len();
    let trial = chat_of("eve").open(gateway.proxy()).await;
    first.until("the trial", |first| first.requests().len() == 3).await;
    drop(trial);
    first.until("its end", |first| first.closed().len() > closed).await;
    mode.send_replace("well");
    gateway.log_until(|line| line["outcome"] == "client_gone").await;
    assert_eq!(chat_of("tim").send(gateway.proxy()).await.status(), 200);
    assert_eq!(first.requests().len(), 4, "the next request tries it");
    assert!(is_reported_healthy(&gateway, "a").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_send_its_request_says_nothing_about_the_backend() {
    let first = RawBackend::start(async |mut connection: Connection| {
        if let Some(head) = connection.request_head().await {
            connection.rest_of(head).await;
        }
    })
    .await;
    let keys = "type: http, health: { unhealthy_after: 1, rest: 5m }";
    let yaml = format!(
        "server: {{ trusted_proxies: [127.0.0.1], timeouts: {{ upstream_first_byte: 300ms }} }}\nbackends:\n  a: {{ url: {:?}, default: true, {keys} }}\n",
        first.url()
    );
    let gateway = Gateway::with(yaml).await;
    for (caller, address) in [("ada", "192.0.2.1"), ("bob", "192.0.2.2")] {
        let call = Call::post("/upload").header("content-type", "application/octet-stream");
        let call = call.header("content-length", "1000").header("authorization", caller).body("so far");
        let call = call.header("x-forwarded-for", address);
        let mut client = call.open(gateway.proxy()).await;
        client.end().await;
    }
    assert!(is_reported_healthy(&gateway, "a").await);
    let reported = gateway.operator().await.get("/control/backends").await.json();
    assert_eq!(reported["backends"]["a"]["callers_kept_away"], 0, "{reported}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_backend_gets_no_new_request_until_it_is_undrained() {
    let [first, second] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let yaml = |eject: &str| {
        let keys = format!("auth: {{ realm: r }}, fallback: b, health: {{ eject_for: {eject} }}");
        configuration(&[("a", &first.url(), &keys), ("b", &second.url(), "auth: { realm: r }")], "")
    };
    let gateway = Gateway::with(yaml("10s")).await;
    let asked = || [first.requests().len(), second.requests().len()];
    let chat = async || Call::chat("hello").session("s").send(gateway.proxy()).await;
    assert_eq!((chat().await.status(), asked()), (200, [1, 0]));
    assert_eq!(gateway.elida(&["backends", "drain", "a"]).await, "a gets no new requests; 0 are open\n");
    let list = gateway.elida(&["backends"]).await;
    assert!(list.contains("a     drained") && list.contains("b     healthy"), "{list}");
    assert_eq!((chat().await.status(), asked()), (200, [1, 1]), "also of a session that it served");
    gateway.rewrite(&yaml("20s"));
    assert_eq!(gateway.operator().await.post("/control/config/reload", &Value::Null).await.status(), 200);
    assert_eq!((chat().await.status(), asked()), (200, [1, 2]), "a reload does not undrain it");
    gateway.elida(&["backends", "drain", "b"]).await;
    let refused = chat().await;
    let text = refused.text();
    assert_eq!((refused.status(), asked()), (502, [1, 2]), "{text}");
    assert!(text.contains("an operator has drained the backend"), "{text}");
    assert_eq!(gateway.elida(&["backends", "undrain", "b"]).await, "b gets requests again\n");
    assert_eq!((chat().await.status(), asked()), (200, [1, 3]));
    let unknown = gateway.operator().await.post("/control/backends/c/drain", &Value::Null).await;
    assert_eq!((unknown.status(), unknown.json()["code"].clone()), (404, "backend_not_found".into()));
}
