use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::shared::{fleet, fleet_with, incarnation, record, records, store_is_up};
use crate::support::redis::Redis;
use crate::support::relay::Relay;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

/// Streams of one session per instance.
const STREAMS: usize = 12;

/// A stream whose client does not read: once cut, its leg takes some time to close.
async fn unread(gateway: &Gateway, id: &str) -> RawClient {
    let call = Call::chat_stream("[[words 100000]]").session(id);
    let mut client = call.open(gateway.proxy()).await;
    client.until("word1").await;
    client
}

async fn ask(gateway: &Gateway, id: &str) -> u16 {
    Call::chat("hello").session(id).send(gateway.proxy()).await.status()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_max_duration_is_the_next_incarnation() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet_with(&demo, &redis, 2, "  max_duration: 3s\n  idle_timeout: 3s").await;
    let (mut unread_ones, mut followers) = (Vec::new(), Vec::new());
    for gateway in &gateways {
        unread_ones.push(unread(gateway, "long").await);
        for _ in 0..STREAMS {
            let mut client = Call::chat_stream("[[stall]]").session("long").open(gateway.proxy()).await;
            client.until("\"delta\":{\"content\":\"").await;
            let proxy = gateway.proxy();
            followers.push(tokio::spawn(async move {
                let cut = client.message(Unframed::UntilEnd).await.expect("an answer").text();
                // The client's next request, at the moment in which it learns of the end.
                let next = Call::chat("hello").session("long").send(proxy).await;
                (cut, next.status(), next.text())
            }));
        }
    }
    for follower in followers {
        let (cut, status, text) = within("the end", follower).await.expect("a client");
        assert!(cut.contains("session_timed_out"), "{cut}");
        assert_eq!(status, 200, "refused or cut after the end: {text}");
    }
    let next = gateways[0].session_until("long", |session| session["state"] == "active").await;
    assert_eq!(next["incarnation"], 2, "{next}");
    assert!(next["previous_id"].is_string(), "{next}");
    let first = incarnation(&gateways, "long", 1).await;
    assert_eq!((&first["incarnation"], &first["end_reason"]), (&json!(1), &json!("max_duration")), "{first}");
    assert_eq!(first["request_count"], 2 * (STREAMS + 1), "{first}");
    // Nothing is counted twice, nothing is lost.
    gateways[0].session_until("long", |session| session["request_count"] == 2 * STREAMS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_begins_after_the_deadline_is_not_cut_by_the_reaper() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let keys = "  max_duration: 2s\n  idle_timeout: 2s";
    let mut gateways = fleet_with(&demo, &redis, 1, keys).await;
    gateways.push(Gateway::with(format!("backend: {:?}\nsession:\n{keys}\n", demo.url())).await);
    // The reaper runs once a second: at any time one of these is just past its deadline.
    let calls = gateways.iter().flat_map(|gateway| (0..5).map(move |number| (gateway, number)));
    let asked = calls.map(async |(gateway, number)| {
        tokio::time::sleep(Duration::from_millis(200 * number)).await;
        let id = format!("s-{number}");
        assert_eq!(ask(gateway, &id).await, 200);
        let session = gateway.session_until(&id, |_| true).await;
        let started: jiff::Timestamp = session["started_at"].as_str().expect("text").parse().expect("a time");
        let deadline = started + jiff::SignedDuration::from_millis(2005);
        let left = Duration::try_from(deadline.duration_since(jiff::Timestamp::now())).unwrap_or_default();
        tokio::time::sleep(left).await;
        let next = Call::chat_stream("[[words 35]] [[pace 40ms]]").session(&id).send(gateway.proxy()).await;
        assert!(next.text().contains("[DONE]"), "{id} was cut: {}", next.text());
    });
    within("all streams", futures::future::join_all(asked)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_begins_after_an_end_is_not_cut_with_it_however_slow_redis_is() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let relay = Relay::start(redis.address(), Duration::from_millis(30)).await;
    let gateway = Gateway::with(format!(
        "backend: {:?}\nsession:\n  store: redis\n  max_duration: 4s\n  idle_timeout: 4s\n  redis: {{ addr: {:?} }}\n",
        demo.url(),
        relay.address().to_string()
    ))
    .await;
    store_is_up(&gateway, true).await;
    let open = (0..STREAMS).map(async |number| {
        let id = format!("s-{number}");
        let mut client = Call::chat_stream("[[stall]]").session(&id).open(gateway.proxy()).await;
        client.until("\"delta\":{\"content\":\"").await;
        let cut = client.message(Unframed::UntilEnd).await.expect("an answer").text();
        assert!(cut.contains("session_timed_out"), "{cut}");
        // Long enough for an end that is written late to cut it.
        let call = Call::chat_stream("[[words 40]] [[pace 40ms]]").session(&id);
        let next = call.send(gateway.proxy()).await;
        assert!(next.text().contains("[DONE]"), "cut after the end of {id}: {}", next.text());
    });
    within("all streams", futures::future::join_all(open)).await;
    let gateways = [gateway];
    for number in 0..STREAMS {
        let first = incarnation(&gateways, &format!("s-{number}"), 1).await;
        assert_eq!((&first["incarnation"], &first["request_count"]), (&json!(1), &json!(1)), "{first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_past_max_duration_is_not_joined() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let mut gateways = fleet(&demo, &redis, 1).await;
    assert_eq!(ask(&gateways[0], "old").await, 200);
    gateways[0].session_until("old", |session| session["request_count"] == 1).await;
    // No instance ends it; then an instance starts for which it is overdue.
    gateways[0].signal("STOP");
    gateways.extend(fleet_with(&demo, &redis, 1, "  max_duration: 1ms").await);
    assert_eq!(ask(&gateways[1], "old").await, 200);
    let session = gateways[1].session_until("old", |session| session["incarnation"] == 2).await;
    assert!(session["previous_id"].is_string(), "{session}");
    gateways[0].signal("CONT");
    assert_eq!(incarnation(&gateways, "old", 1).await["end_reason"], "max_duration");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_killed_and_resumed_at_once_begins_anew() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 2).await;
    for number in 0..10 {
        let id = format!("s-{number}");
        let _unread = unread(&gateways[0], &id).await;
        let mut other = Call::chat_stream("[[stall]]").session(&id).open(gateways[1].proxy()).await;
        other.until("\"delta\":{\"content\":\"").await;
        assert_eq!(gateways[0].kill(&id).await.status, 200);
        assert_eq!(gateways[0].resume(&id).await, 200);
        within("the block to be lifted", async { while ask(&gateways[0], &id).await == 403 {} }).await;
        let session = gateways[0].session_until(&id, |session| session["incarnation"] == 2).await;
        assert_eq!(session["state"], "active", "{session}");
        // The kill was lifted before the other instance could read it, and has ended the session nevertheless.
        let cut = within("the cut", other.message(Unframed::UntilEnd)).await.expect("an answer");
        assert!(cut.text().contains("session_killed"), "{}", cut.text());
        let first = incarnation(&gateways, &id, 1).await;
        assert_eq!((&first["state"], &first["request_count"]), (&json!("killed"), &json!(2)), "{first}");
    }
    assert_eq!(records(&gateways).len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_redis_was_away_is_over_when_it_is_back() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet_with(&demo, &redis, 1, "  max_duration: 2s\n  idle_timeout: 2s").await;
    let mut client = Call::chat_stream("[[stall]]").session("s").open(gateways[0].proxy()).await;
    client.until("\"delta\":{\"content\":\"").await;
    redis.freeze();
    store_is_up(&gateways[0], false).await;
    let cut = within("the end", client.message(Unframed::UntilEnd)).await.expect("an answer");
    assert!(cut.text().contains("session_timed_out"), "{}", cut.text());
    redis.thaw();
    store_is_up(&gateways[0], true).await;
    assert_eq!(ask(&gateways[0], "s").await, 200);
    let session = gateways[0].session_until("s", |session| session["state"] == "active").await;
    assert_eq!(session["incarnation"], 2, "{session}");
    let first = incarnation(&gateways, "s", 1).await;
    assert_eq!(
        (&first["incarnation"], &first["request_count"]),
        (&Value::from(1), &Value::from(1)),
        "{first}"
    );
    // Long enough for an instance that would write it a second time.
    tokio::time::timeout(Duration::from_secs(2), std::future::pending::<()>()).await.expect_err("a pause");
    record(&gateways, "s").await;
}
