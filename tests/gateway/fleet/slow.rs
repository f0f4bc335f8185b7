use std::time::{Duration, Instant};

use futures::StreamExt;

use crate::fleet::shared::{fleet, fleet_with, store_is_up, yaml};
use crate::support::redis::Redis;
use crate::support::relay::Relay;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, within, within_time};

/// Sessions that begin at an instance far from Redis.
const SESSIONS: usize = 700;
/// Half of a round trip.
const DELAY: Duration = Duration::from_millis(20);
/// One event per round trip would take five times as long.
const SOON: Duration = Duration::from_secs(6);

async fn ask(gateway: &Gateway, id: &str) -> u16 {
    Call::chat("hello").session(id).send(gateway.proxy()).await.status()
}

async fn number(redis: &Redis, command: &[&str]) -> i64 {
    let answer = redis.ask(command).await;
    let number = answer.rsplit(['\n', ':']).next().and_then(|text| text.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no number: {answer}"))
}

/// Waits for this many heartbeats of all instances together: each of them writes one.
async fn pause(redis: &Redis, beats: u64) {
    let shown = async || {
        let reply = redis.ask(&["INFO", "commandstats"]).await;
        let line = reply.lines().find_map(|line| line.strip_prefix("cmdstat_set:calls=")).expect("beats");
        line.split(',').next().and_then(|count| count.parse::<u64>().ok()).expect("a count")
    };
    let begun = shown().await;
    within("beats", async {
        while shown().await < begun + beats {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_keeps_up_with_an_instance_that_is_far_from_redis() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let relay = Relay::start(redis.address(), DELAY).await;
    let of = |addr: String| {
        format!(
            "backend: {:?}\nsession:\n  store: redis\n  max_active_per_principal: 10000\n  redis: {{ addr: {addr:?} }}\n",
            demo.url()
        )
    };
    let far = Gateway::with(of(relay.address().to_string())).await;
    let near = Gateway::with(of(redis.address().to_string())).await;
    for gateway in [&far, &near] {
        store_is_up(gateway, true).await;
    }
    let mut feed = Call::get("/control/events").open(near.control()).await;
    feed.until("connected").await;
    let begun = Instant::now();
    let calls = futures::stream::iter(0..SESSIONS).map(|number| {
        let (far, id) = (&far, format!("s-{number}"));
        async move { ask(far, &id).await }
    });
    let answers: Vec<u16> = calls.buffer_unordered(48).collect().await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert_eq!(ask(&far, "the-last-one").await, 200);
    let answered = Instant::now();
    feed.until("the-last-one").await;
    eprintln!("{SESSIONS} sessions in {:?}, reported {:?} later", answered - begun, answered.elapsed());
    assert!(answered.elapsed() < SOON, "the feed lags by {:?}", answered.elapsed());
    assert_eq!(far.metric("elida_store_events_dropped_total{store=\"redis\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_redis_does_not_take_are_counted() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 1).await;
    assert_eq!(ask(&gateways[0], "s").await, 200);
    redis.freeze();
    assert_eq!(gateways[0].kill("s").await.status, 200);
    within("the count", async {
        while gateways[0].metric("elida_store_events_dropped_total{store=\"redis\"}").await < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    redis.thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_idle_timeout_holds_for_sessions_that_live() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let keys = |idle: &str| format!("  idle_timeout: {idle}\n  retention: 0s");
    let gateways = fleet_with(&demo, &redis, 2, &keys("8s")).await;
    let mut client = Call::chat_stream("[[stall]]").session("s").open(gateways[0].proxy()).await;
    client.until("\"delta\":{\"content\":\"").await;
    gateways[1].session_until("s", |session| session["open_legs"] == 1).await;
    // Until all writes of the session are done.
    pause(&redis, 20).await;
    for gateway in &gateways {
        gateway.rewrite(&yaml(&demo, &redis, &keys("1h")));
        gateway.hangup();
        gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    }
    let uid = gateways[0].session_until("s", |_| true).await["uid"].as_str().expect("a uid").to_owned();
    for key in ["session:s@anon:127.0.0.1", &format!("incarnation:s@anon:127.0.0.1:{uid}"), "ids:s"] {
        let key = format!("elida:{key}");
        within(&key, async {
            while number(&redis, &["PTTL", &key]).await < 60_000 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    // An instance that still has the old time-out does not restore it.
    gateways[1].rewrite(&yaml(&demo, &redis, &keys("8s")));
    gateways[1].hangup();
    assert_eq!(ask(&gateways[1], "s").await, 200);
    gateways[0].session_until("s", |session| session["request_count"] == 2).await;
    assert!(number(&redis, &["PTTL", "elida:session:s@anon:127.0.0.1"]).await > 60_000);
    assert_eq!(gateways[1].kill("s").await.status, 200);
    let cut = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer");
    assert!(cut.text().contains("session_killed"), "{}", cut.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_retention_holds_for_sessions_that_have_ended() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet_with(&demo, &redis, 1, "  retention: 20s").await;
    assert_eq!(ask(&gateways[0], "s").await, 200);
    assert_eq!(gateways[0].kill("s").await.status, 200);
    let ended = async || redis.ask(&["KEYS", "elida:ended:s:*"]).await;
    within("the document", async {
        while ended().await == "*0" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let key = ended().await.lines().last().expect("a key").to_owned();
    gateways[0].rewrite(&yaml(&demo, &redis, "  retention: 1h"));
    gateways[0].hangup();
    within("a longer life", async {
        while number(&redis, &["PTTL", &key]).await < 60_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_written_as_often_as_flush_interval_says() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let yaml = |interval: &str| {
        format!(
            "backend: {:?}\nsession:\n  store: redis\n  redis: {{ url: {:?}, flush_interval: {interval} }}\n",
            demo.url(),
            redis.url()
        )
    };
    let gateway = Gateway::with(yaml("10m")).await;
    store_is_up(&gateway, true).await;
    let call = Call::chat_stream("[[words 3000]] [[pace 10ms]]").session("s");
    let mut client = call.open(gateway.proxy()).await;
    client.until("word3").await;
    let key = redis.ask(&["KEYS", "elida:incarnation:s@*"]).await.lines().last().expect("a key").to_owned();
    let written = async || {
        let fields = redis.ask(&["HGETALL", &key]).await;
        let mut lines = fields.lines().skip_while(|line| !line.starts_with("n:"));
        lines.nth(2).and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    pause(&redis, 2).await;
    let before = written().await;
    assert!(before > 0);
    pause(&redis, 8).await;
    assert_eq!(written().await, before, "counters are written more often than flush_interval says");
    // A query returns the current state.
    let count = redis.ask(&["HGETALL", &key]).await;
    let session = gateway.session_until("s", |session| session["bytes_out"].as_u64() > Some(1000)).await;
    assert!(!count.contains(&format!("\"bytes_out\":{}", session["bytes_out"])), "{count}");

    gateway.rewrite(&yaml("200ms"));
    gateway.hangup();
    let line = gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(line["restart_required"], "[]", "{line}");
    let before = written().await;
    within("counters", async {
        while written().await < before + 5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_redis_forgot_are_written_again() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 2).await;
    let mut client = Call::chat_stream("[[stall]]").session("s").open(gateways[0].proxy()).await;
    client.until("\"delta\":{\"content\":\"").await;
    let uid = gateways[1].session_until("s", |session| session["open_legs"] == 1).await["uid"].clone();
    let keys = redis.ask(&["KEYS", "elida:*s@anon:127.0.0.1*"]).await;
    let mut command = vec!["DEL", "elida:ids:s", "elida:sessions", "elida:sessions:activity"];
    command.extend(keys.lines().filter(|line| line.starts_with("elida:")));
    let key = "elida:session:s@anon:127.0.0.1";
    // Until all writes of the session are done.
    within("the loss", async {
        while redis.ask(&["EXISTS", key]).await != ":0" {
            redis.ask(&command).await;
            pause(&redis, 6).await;
        }
    })
    .await;
    // Orders and keys are compared every 30 s.
    within_time(Duration::from_secs(60), "the keys", async {
        while redis.ask(&["EXISTS", key]).await == ":0" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let session = gateways[1].session_until("s", |session| session["open_legs"] == 1).await;
    assert_eq!((&session["uid"], &session["incarnation"]), (&uid, &serde_json::json!(1)), "{session}");
    assert_eq!(gateways[1].kill("s").await.status, 200);
    let cut = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer");
    assert!(cut.text().contains("session_killed"), "{}", cut.text());
}
