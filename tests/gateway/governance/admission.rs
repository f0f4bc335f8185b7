use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use super::budgets::{accounts, chat, code};
use crate::support::http2::Client;
use crate::support::socket::Socket;
use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

async fn gateway(demo: &Demo, more: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\n{more}\n", demo.url())).await
}

/// Waits until so many requests wait for room.
async fn waiting(gateway: &Gateway, count: usize) {
    within(&format!("{count} to wait"), async {
        while gateway.metric("elida_admission_waiting").await as usize != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn spawn(gateway: &Gateway, call: Call) -> JoinHandle<Message> {
    let proxy = gateway.proxy();
    tokio::spawn(async move { call.send(proxy).await })
}

/// A stream that is open until its client is dropped.
async fn holder(gateway: &Gateway, session: &str) -> RawClient {
    let mut client = Call::chat_stream("[[stall]] one").session(session).open(gateway.proxy()).await;
    assert_eq!(client.head().await.expect("a head").status(), 200, "{session}");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_near_is_waited_for_and_the_rate_holds() {
    let demo = Demo::start().await;
    let more = "admission: { wait: 2s }\nlimits: [{ name: rate, by: client.addr, requests: 5/s, burst: 1 }]";
    let gateway = gateway(&demo, more).await;
    let begun = Instant::now();
    let calls = (0..40).map(|number| {
        let call = if number % 2 == 0 { Call::chat("one") } else { Call::chat_stream("one") };
        spawn(&gateway, call)
    });
    let calls: Vec<_> = calls.collect();
    let (mut passed, mut refused) = (0, 0);
    for call in calls {
        let answer = call.await.expect("an answer");
        match answer.status() {
            200 => passed += 1,
            429 => {
                refused += 1;
                assert!(answer.text().contains("5 requests per second"), "{}", answer.text());
            }
            status => panic!("{status}: {}", answer.text()),
        }
    }
    let most = 1 + 5 * usize::try_from(begun.elapsed().as_secs() + 1).expect("seconds");
    assert!((11..=most).contains(&passed), "{passed} of at least 11 and at most {most}");
    assert_eq!(passed + refused, 40);
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
    assert_eq!(demo.ledger().arrived(), passed as u64);
    waiting(&gateway, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_goes_to_the_first_that_waits_and_whoever_leaves_or_is_killed_frees_his() {
    let demo = Demo::start().await;
    let more = "admission: { wait: 20s }\nlimits: [{ name: open, by: \"'all'\", in_flight: 1 }]";
    let gateway = gateway(&demo, more).await;
    let first = holder(&gateway, "first").await;
    let leaves = Call::chat("leaves").session("leaves").open(gateway.proxy()).await;
    waiting(&gateway, 1).await;
    let mut http2 = Client::connect(gateway.proxy()).await;
    let resets = http2.send(&Call::chat("resets").session("resets")).await;
    waiting(&gateway, 2).await;
    let killed = spawn(&gateway, Call::chat("killed").session("killed"));
    waiting(&gateway, 3).await;
    let mut waits = Call::chat_stream("[[stall]] waits").session("waits").open(gateway.proxy()).await;
    waiting(&gateway, 4).await;
    let proxy = gateway.proxy();
    let socket = tokio::spawn(async move {
        Socket::connect(proxy, "/v1/realtime?model=gpt-realtime-demo", &[("x-session-id", "socket")]).await
    });
    waiting(&gateway, 5).await;
    drop(leaves);
    resets.reset();
    waiting(&gateway, 3).await;
    assert_eq!(gateway.kill("killed").await.status, 200);
    let refusal = killed.await.expect("an answer");
    assert_eq!((refusal.status(), code(&refusal).as_str()), (403, "session_killed"));
    waiting(&gateway, 2).await;
    assert_eq!(demo.ledger().arrived(), 1, "no backend has seen any of them");
    drop(first);
    assert_eq!(waits.head().await.expect("a head").status(), 200);
    waiting(&gateway, 1).await;
    assert!(!socket.is_finished());
    drop(waits);
    let socket = socket.await.expect("it ran").expect("a socket");
    assert_eq!(demo.ledger().arrived(), 3);
    drop(socket);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_too_long_is_refused_and_counted_nowhere() {
    let demo = Demo::start().await;
    let more =
        "admission: { wait: 300ms }\nlimits: [{ name: open, by: \"'all'\", in_flight: 1, requests: 3/h }]";
    let gateway = gateway(&demo, more).await;
    let first = holder(&gateway, "first").await;
    let rpc = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"});
    let mcp = Call::post("/mcp").header("accept", "application/json, text/event-stream").json(&rpc);
    for call in [Call::chat("one"), Call::chat_stream("one"), mcp] {
        let begun = Instant::now();
        let refusal = call.send(gateway.proxy()).await;
        assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
        assert_eq!(refusal.status(), 429, "{}", refusal.text());
        assert!(refusal.text().contains("the limit 'open' allows 1 open request"), "{}", refusal.text());
        assert!(refusal.head.field("ratelimit").is_some_and(|state| state.contains("r=2")));
    }
    drop(first);
    waiting(&gateway, 0).await;
    let calls = [spawn(&gateway, Call::chat("one")), spawn(&gateway, Call::chat("two"))];
    for call in calls {
        assert_eq!(call.await.expect("an answer").status(), 200);
    }
    assert_eq!(Call::chat("one").send(gateway.proxy()).await.status(), 403, "in 20 minutes there is room");
}

#[tokio::test(flavor = "multi_thread")]
async fn higher_classes_go_first() {
    let demo = Demo::start().await;
    let more = "admission:\n  wait: 20s\n  priorities:\n    \
                - { when: 'request.headers[\"x-class\"] == \"batch\"', class: low }\n    \
                - { when: 'request.headers[\"x-class\"] == \"urgent\"', class: high }\n\
                limits: [{ by: \"'all'\", in_flight: 1 }]";
    let gateway = gateway(&demo, more).await;
    let first = holder(&gateway, "first").await;
    let mut streams = Vec::new();
    for (place, class) in ["batch", "none", "urgent"].into_iter().enumerate() {
        let call = Call::chat_stream("[[stall]] one").session(class).header("x-class", class);
        streams.push(call.open(gateway.proxy()).await);
        waiting(&gateway, place + 1).await;
    }
    drop(first);
    for left in (0..3).rev() {
        let mut stream = streams.pop().expect("a stream");
        assert_eq!(stream.head().await.expect("a head").status(), 200);
        waiting(&gateway, left).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_emergency_low_classes_are_refused_before_their_body_is_read() {
    let demo = Demo::start().await;
    let more = "admission:\n  priorities: [{ when: 'request.headers[\"x-class\"] == \"batch\"', class: low }]\n  \
                emergency: { in_flight: 2, shed: low }";
    let gateway = gateway(&demo, more).await;
    let batch = || Call::chat("hello").header("x-class", "batch");
    assert_eq!(batch().send(gateway.proxy()).await.status(), 200);
    let (one, two) = (holder(&gateway, "one").await, holder(&gateway, "two").await);
    let mut unread = RawClient::connect(gateway.proxy()).await;
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-class: batch\r\ncontent-length: 1000\r\n\r\n";
    unread.send(head.as_bytes()).await.expect("it is sent");
    let refusal = unread.head().await.expect("an answer without the body");
    assert_eq!((refusal.status(), refusal.field("retry-after")), (429, Some("5")));
    let refusal = batch().send(gateway.proxy()).await;
    assert_eq!((refusal.status(), code(&refusal).as_str()), (429, "overloaded"));
    assert!(refusal.text().contains("admission.emergency"), "{}", refusal.text());
    let rpc = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"});
    let mcp = Call::post("/mcp").header("accept", "application/json, text/event-stream").json(&rpc);
    let refusal = mcp.header("x-class", "batch").send(gateway.proxy()).await;
    assert_eq!((refusal.status(), &refusal.json()["jsonrpc"]), (429, &json!("2.0")));
    let target = "/v1/realtime?model=gpt-realtime-demo";
    assert!(Socket::connect(gateway.proxy(), target, &[("x-class", "batch")]).await.is_err());
    let series = "elida_rate_limited_total{scope=\"admission.emergency\",unit=\"in_flight\"}";
    assert_eq!(gateway.metric(series).await, 4.0);
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200, "a normal one");
    drop((one, two));
    within("an end of the emergency", async {
        while batch().send(gateway.proxy()).await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_open_requests_hold_is_waited_for() {
    let demo = Demo::start().await;
    let more = "admission: { wait: 20s }\n\
                budgets: [{ name: tokens, by: client.addr, period: total, limit: 10k tokens }]";
    let gateway = gateway(&demo, more).await;
    let held = async |session: &str| {
        let call = chat("[[stall]] one", 6000, true).session(session);
        let mut client = call.open(gateway.proxy()).await;
        assert_eq!(client.head().await.expect("a head").status(), 200);
        client
    };
    let first = held("first").await;
    let large = spawn(&gateway, chat("one", 7000, false).session("large"));
    waiting(&gateway, 1).await;
    // It would fit, but does not overtake the one that waits.
    let small = spawn(&gateway, chat("one", 100, true).session("small"));
    waiting(&gateway, 2).await;
    let killed = spawn(&gateway, chat("one", 6000, false).session("killed"));
    waiting(&gateway, 3).await;
    assert_eq!(gateway.kill("killed").await.status, 200);
    assert_eq!(killed.await.expect("an answer").status(), 403);
    // What can never fit is refused at once.
    let never = chat("one", 20_000, false).send(gateway.proxy()).await;
    assert_eq!((never.status(), code(&never).as_str()), (403, "budget_exceeded"));
    drop(first);
    for call in [large, small] {
        let answer = call.await.expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    waiting(&gateway, 0).await;
    let account = &accounts(&gateway).await[0];
    assert!(account["spent"].as_f64().is_some_and(|spent| spent < 200.0), "{account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_wait_for_few_places_all_get_one() {
    let demo = Demo::start().await;
    let more = "admission: { wait: 25s }\nlimits: [{ by: \"'all'\", in_flight: 3 }]\n\
                budgets: [{ name: tokens, by: client.addr, period: total, limit: 100k tokens }]";
    let gateway = gateway(&demo, more).await;
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let call = chat("one", 30_000, number % 2 == 0).session(&format!("s-{number}"));
            let proxy = gateway.proxy();
            tokio::spawn(async move {
                if number % 10 == 9 {
                    // Leaves at some time.
                    let _ = tokio::time::timeout(Duration::from_millis(number), call.send(proxy)).await;
                    return 200;
                }
                call.send(proxy).await.status()
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("a status"), 200);
    }
    waiting(&gateway, 0).await;
    assert_eq!(accounts(&gateway).await[0]["held"], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_budget_holds_no_place_of_others() {
    let demo = Demo::start().await;
    let more = "admission: { wait: 20s }\nlimits: [{ name: open, by: \"'all'\", in_flight: 2 }]\n\
                budgets: [{ name: t, by: 'request.headers[\"x-team\"]', period: total, limit: 10k tokens }]";
    let gateway = gateway(&demo, more).await;
    let call = |text: &str| chat(text, 6000, true).header("x-team", "a");
    let mut first = call("[[stall]] one").session("first").open(gateway.proxy()).await;
    assert_eq!(first.head().await.expect("a head").status(), 200);
    let second = spawn(&gateway, call("two").session("second"));
    waiting(&gateway, 1).await;
    let other =
        within("the other team", chat("b", 10, false).header("x-team", "b").send(gateway.proxy())).await;
    assert_eq!(other.status(), 200, "{}", other.text());
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.await.expect("an answer").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_while_it_waits_gives_its_slot_back() {
    let demo = Demo::start().await;
    let more =
        "admission: { wait: 30s }\nlimits: [{ name: rate, by: \"'all'\", requests: 60/min, burst: 1 }]";
    let gateway = gateway(&demo, more).await;
    assert_eq!(Call::chat("one").send(gateway.proxy()).await.status(), 200);
    let mut leaving = Vec::new();
    for number in 0..20 {
        leaving.push(Call::chat("one").session(&format!("s-{number}")).open(gateway.proxy()).await);
    }
    waiting(&gateway, 20).await;
    drop(leaving);
    waiting(&gateway, 0).await;
    let begun = Instant::now();
    assert_eq!(Call::chat("one").send(gateway.proxy()).await.status(), 200);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_sent_its_body_does_not_wait_yet() {
    let demo = Demo::start().await;
    let more = "admission: { wait: 20s }\nlimits: [{ name: open, by: \"'all'\", in_flight: 1 }]";
    let gateway = gateway(&demo, more).await;
    let first = holder(&gateway, "first").await;
    let mut heads = Vec::new();
    for _ in 0..3 {
        let mut client = RawClient::connect(gateway.proxy()).await;
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n";
        client.send(head.as_bytes()).await.expect("it is sent");
        heads.push(client);
    }
    let whole = spawn(&gateway, Call::chat("one").session("whole"));
    waiting(&gateway, 1).await;
    // The place goes to the one whose body has arrived.
    drop(first);
    assert_eq!(whole.await.expect("an answer").status(), 200);
    drop(heads);
}
