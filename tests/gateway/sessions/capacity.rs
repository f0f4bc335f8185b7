use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::wire::{Message, Unframed};
use crate::support::{Backend, Call, Demo, Gateway, RawClient};

async fn gateway(demo: &Demo, session: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\nsession: {{ {session} }}\n", demo.url())).await
}

async fn is_served(gateway: &Gateway, id: &str) {
    let answer = Call::chat("hello").session(id).send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

/// Sends all calls at the same time, each over a connection that is already open.
async fn at_once(gateway: &Gateway, calls: Vec<Call>) -> Vec<Message> {
    let address = gateway.proxy();
    let mut clients = Vec::new();
    for call in calls {
        clients.push((RawClient::connect(address).await, call));
    }
    let mut sending = JoinSet::new();
    for (mut client, call) in clients {
        sending.spawn(async move { call.send_over(&mut client, address).await });
    }
    sending.join_all().await
}

/// How many were served; the others must have been refused because the limit was reached.
fn served(answers: &[Message]) -> usize {
    let (served, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status() == 200);
    for refusal in refused {
        is_refused(refusal);
    }
    served.len()
}

fn is_refused(refusal: &Message) {
    assert_eq!(refusal.status(), 503, "{}", refusal.text());
    assert_eq!(refusal.json()["error"]["code"], "session_capacity", "{}", refusal.text());
    assert_eq!(refusal.head.field("retry-after"), Some("5"));
}

/// Streams that stay open, each in its own session.
async fn streams(gateway: &Gateway, calls: impl IntoIterator<Item = Call>) -> Vec<RawClient> {
    let mut open = Vec::new();
    for call in calls {
        let mut stream = call.open(gateway.proxy()).await;
        stream.until("first").await;
        open.push(stream);
    }
    open
}

fn stalled(key: &str, id: &str) -> Call {
    Call::chat_stream("first [[stall]]").header("x-api-key", key).session(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_sessions_than_allowed() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "max_active: 20").await;
    let _open = streams(&gateway, (0..20).map(|number| stalled(&format!("sk-{number}"), "open"))).await;
    let call = |number: usize| {
        let call = Call::chat("hello").session(&format!("s-{number}"));
        call.header("x-api-key", &format!("sk-{number}"))
    };
    let answers = at_once(&gateway, (0..50).map(call).collect()).await;
    let named = answers.iter().filter_map(|answer| answer.head.field("x-session-id"));
    assert_eq!((served(&answers), named.count()), (0, 50), "a refusal names the session too");
    assert_eq!(gateway.sessions().await.len(), 20);
    assert_eq!(gateway.metric("elida_sessions_limit_used_ratio{limit=\"session.max_active\"}").await, 1.0);
    assert_eq!(gateway.metric("elida_sessions_refused_total{limit=\"session.max_active\"}").await, 50.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_cannot_take_all_places() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "max_active_per_principal: 10").await;
    let _open = streams(&gateway, (0..10).map(|number| stalled("sk-ada", &format!("s-{number}")))).await;
    let refused = stalled("sk-ada", "s-10").send(gateway.proxy()).await;
    is_refused(&refused);
    assert!(refused.text().contains("session.max_active_per_principal"), "{}", refused.text());
    let of_bob = |number| Call::chat("hello").session(&format!("s-{number}")).header("x-api-key", "sk-bob");
    assert_eq!(served(&at_once(&gateway, (0..5).map(of_bob).collect()).await), 5);
    assert_eq!(gateway.sessions().await.len(), 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_gateway_ends_the_longest_idle_session_for_a_newcomer() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "max_active: 3").await;
    let _open = streams(&gateway, [stalled("sk-ada", "open")]).await;
    for id in ["idle", "busy"] {
        is_served(&gateway, id).await;
        gateway.session_until(id, |session| session["open_legs"] == 0).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let made_up = Call::chat("hello").session("new").header("x-api-key", "made-up");
    assert_eq!(made_up.send(gateway.proxy()).await.status(), 200, "nobody is locked out");
    let ended = record(&gateway, "idle", 1).await;
    assert_eq!((&ended["state"], &ended["end_reason"]), (&json!("timed_out"), &json!("capacity")), "{ended}");
    assert_eq!(gateway.session_until("busy", |_| true).await["state"], "active");
    assert_eq!(gateway.session_until("open", |_| true).await["open_legs"], 1);
    // Its id continues in another incarnation.
    is_served(&gateway, "idle").await;
    let again = gateway.session_until("idle", |session| session["incarnation"] == 2).await;
    assert_eq!(again["previous_id"], ended["uid"], "{again}");
    assert_eq!(gateway.metric("elida_sessions_evicted_total{limit=\"session.max_active\"}").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_with_one_key_has_room_by_default() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let call =
        |number: usize| Call::chat("hello").session(&format!("s-{number}")).header("x-api-key", "fleet");
    let mut client = RawClient::connect(gateway.proxy()).await;
    for number in 0..201 {
        assert_eq!(call(number).send_over(&mut client, gateway.proxy()).await.status(), 200, "{number}");
    }
    let series = "elida_sessions_limit_used_ratio{limit=\"session.max_active_per_principal\"}";
    assert_eq!(gateway.metric(series).await, 0.0201);
    let stats = gateway.operator().await.get("/control/stats").await.json();
    assert_eq!(stats["active"], 201, "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_starts_sessions_at_its_own_pace_only() {
    let demo = Demo::start().await;
    let keys = "session: { starts_per_address: { per_second: 1, burst: 5 } }\nserver: { trusted_proxies: [127.0.0.1] }";
    let gateway = Gateway::with(format!("backend: {:?}\n{keys}\n", demo.url())).await;
    let made_up = |number: usize, from: &str| {
        let key = format!("made-up-{number}");
        let call = Call::chat("hello").session("s").header("x-api-key", &key);
        if from.is_empty() { call } else { call.header("x-forwarded-for", from) }
    };
    let burst = |from: &'static str| at_once(&gateway, (1..20).map(|number| made_up(number, from)).collect());
    assert_eq!(made_up(0, "203.0.113.9").send(gateway.proxy()).await.status(), 200);
    let answers = burst("203.0.113.9").await;
    let refused: Vec<&Message> = answers.iter().filter(|answer| answer.status() == 429).collect();
    assert!((10..=15).contains(&refused.len()), "{}", refused.len());
    for refusal in refused {
        assert_eq!(refusal.json()["error"]["code"], "session_start_rate", "{}", refusal.text());
        let wait = refusal.head.field("retry-after").and_then(|wait| wait.parse::<u64>().ok());
        assert!(wait.is_some_and(|wait| (1..=10).contains(&wait)), "{:?}", refusal.head);
    }
    // A caller with a session goes on, and so do other callers.
    assert_eq!(made_up(0, "203.0.113.9").send(gateway.proxy()).await.status(), 200);
    assert_eq!(made_up(50, "203.0.113.10").send(gateway.proxy()).await.status(), 200);
    // Addresses of one /64 are one client; requests of the trusted proxy itself are not one client.
    let of_prefix = async |number: usize| {
        made_up(number, &format!("2001:db8::{number}")).send(gateway.proxy()).await.status()
    };
    let mut statuses = Vec::new();
    for number in 60..80 {
        statuses.push(of_prefix(number).await);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(burst("").await.iter().all(|answer| answer.status() == 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ended_leaves_its_place() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "max_active: 1").await;
    let _first = streams(&gateway, [stalled("sk-ada", "first")]).await;
    let second = Call::chat("hello").session("second");
    is_refused(&second.send(gateway.proxy()).await);
    assert_eq!(gateway.kill("first").await.status, 200);
    assert_eq!(second.send(gateway.proxy()).await.status(), 200);
}

/// The record of this session's incarnation.
async fn record(gateway: &Gateway, id: &str, incarnation: u64) -> Value {
    let is_it = |line: &Value| {
        line["message"] == "session_record" && line["session_id"] == id && line["incarnation"] == incarnation
    };
    gateway.log_until(is_it).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_times_out_and_its_id_may_be_used_again() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "idle_timeout: 300ms").await;
    is_served(&gateway, "idle").await;
    let ended = record(&gateway, "idle", 1).await;
    assert_eq!(
        (&ended["state"], &ended["end_reason"], &ended["ended_by"], &ended["request_count"]),
        (&json!("timed_out"), &json!("idle_timeout"), &Value::Null, &json!(1)),
        "{ended}"
    );
    assert!(ended["duration_ms"].as_u64() >= Some(300), "{ended}");
    let shown = gateway.session_until("idle", |session| session["state"] == "timed_out").await;
    assert_eq!((&shown["uid"], &shown["idle_ms"]), (&ended["uid"], &json!(0)), "{shown}");

    is_served(&gateway, "idle").await;
    let again = gateway.session_until("idle", |session| session["incarnation"] == 2).await;
    assert_eq!(again["previous_id"], ended["uid"], "{again}");
    assert_ne!(again["uid"], ended["uid"], "{again}");
    assert_eq!(again["request_count"], 1, "{again}");
    assert_eq!(record(&gateway, "idle", 2).await["previous_id"], ended["uid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_session_does_not_idle() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "idle_timeout: 500ms").await;
    // One word every 100 ms, for three seconds: three runs of the reaper.
    let call = Call::chat_stream("[[words 30]] [[pace 100ms]]").session("busy");
    let answer = call.send(gateway.proxy()).await;
    assert!(answer.is_whole && answer.text().contains("[DONE]"), "{}", answer.text());
    let session = gateway.session_until("busy", |session| session["open_legs"] == 0).await;
    assert_eq!((&session["incarnation"], &session["error_count"]), (&json!(1), &json!(0)), "{session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_duration_cuts_an_open_stream_with_an_error_of_its_dialect() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "max_duration: 500ms").await;
    let words = "[[words 1000]] [[pace 20ms]]";
    let calls = [
        (Call::messages_stream(words), "event: error\ndata: ", "message_stop"),
        (Call::chat_stream(words), "\n\ndata: ", "[DONE]"),
    ];
    for (number, (call, error, clean)) in calls.into_iter().enumerate() {
        let id = format!("long-{number}");
        let mut client = call.session(&id).open(gateway.proxy()).await;
        client.until("word2").await;
        let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
        let text = answer.text();
        assert!(!text.contains(clean), "{text}");
        let (_, last) = text.rsplit_once(error).unwrap_or_else(|| panic!("no error at the end: {text}"));
        let last = crate::support::json(last.as_bytes());
        assert_eq!(last["error"]["code"], "session_timed_out", "{last}");
        assert!(
            last["error"]["message"].as_str().is_some_and(|text| text.contains("max_duration")),
            "{last}"
        );
        let ended = record(&gateway, &id, 1).await;
        assert_eq!(
            (&ended["state"], &ended["end_reason"]),
            (&json!("timed_out"), &json!("max_duration")),
            "{ended}"
        );
        // Not a kill: the id can be used again at once.
        is_served(&gateway, &id).await;
        gateway.session_until(&id, |session| session["incarnation"] == 2).await;
    }
    demo.until("the aborts", |ledger| ledger.aborts().len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_ends_with_its_idle_session_and_says_so() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "idle_timeout: 300ms").await;
    let mut client = Call::chat_stream("first [[stall]]").session("silent").open(gateway.proxy()).await;
    client.until("first").await;
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.text().contains("session_timed_out"), "{}", answer.text());
    assert!(answer.text().contains("session.idle_timeout"), "the key to change is named: {}", answer.text());
    let ended = record(&gateway, "silent", 1).await;
    assert_eq!((&ended["end_reason"], &ended["error_count"]), (&json!("idle_timeout"), &json!(1)), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_completed_after_its_last_request() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "completed_after: 200ms").await;
    // A session with an open leg does not end, however silent it is.
    let mut open = Call::chat_stream("first [[stall]]").session("open").open(gateway.proxy()).await;
    open.until("first").await;
    is_served(&gateway, "done").await;
    let ended = record(&gateway, "done", 1).await;
    assert_eq!(
        (&ended["state"], &ended["end_reason"]),
        (&json!("completed"), &json!("completed_after")),
        "{ended}"
    );
    is_served(&gateway, "done").await;
    let again = gateway.session_until("done", |session| session["incarnation"] == 2).await;
    assert_eq!(again["previous_id"], ended["uid"], "{again}");
    let session = gateway.session_until("open", |session| session["idle_ms"].as_u64() > Some(200)).await;
    assert_eq!((&session["state"], &session["open_legs"]), (&json!("active"), &json!(1)), "{session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_sessions_are_forgotten_after_the_retention() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "retention: 1s, kill_block: { mode: until_resumed }").await;
    for id in ["active", "ended"] {
        is_served(&gateway, id).await;
    }
    assert_eq!(gateway.kill("ended").await.status, 200);
    assert_eq!(gateway.sessions().await.len(), 2, "an ended session stays listed");
    let mut operator = gateway.operator().await;
    crate::support::within("the ended session to go", async {
        while operator.get("/control/sessions/ended").await.status() != 404 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let left = gateway.sessions().await;
    assert_eq!((left.len(), &left[0]["id"]), (1, &json!("active")), "{left:?}");
    // The order outlives the session.
    assert_eq!(Call::chat("hello").session("ended").send(gateway.proxy()).await.status(), 403);
    assert_eq!(operator.get("/control/kills").await.json()["kills"][0]["session_id"], "ended");
    assert_eq!(gateway.resume("ended").await, 200);
    is_served(&gateway, "ended").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_are_closed_at_once() {
    let demo = Demo::start().await;
    let limit = "server: { limits: { max_connections: 2 } }";
    let gateway = Gateway::with(format!("backend: {:?}\n{limit}\n", demo.url())).await;
    let address = gateway.proxy();
    let mut two = [RawClient::connect(address).await, RawClient::connect(address).await];
    for client in &mut two {
        assert_eq!(Call::chat("hello").send_over(client, address).await.status(), 200);
    }
    // Well below the time-out of a silent connection (`server.timeouts.read`).
    let third = async { RawClient::connect(address).await.end().await };
    tokio::time::timeout(Duration::from_secs(10), third).await.expect("the third is closed");
    let metrics = gateway.operator().await.get("/metrics").await.text();
    assert!(metrics.contains("\nelida_connections 2\n"), "{metrics}");
    let [mut stays, leaves] = two;
    drop(leaves);
    crate::support::within("a place", async {
        loop {
            let mut client = Call::chat("hello").open(address).await;
            if client.message(Unframed::UntilEnd).await.is_some_and(|answer| answer.status() == 200) {
                return;
            }
        }
    })
    .await;
    assert_eq!(Call::chat("hello").send_over(&mut stays, address).await.status(), 200);
}
