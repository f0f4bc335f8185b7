use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fleet::shared::{fleet, record, records, store_is_up};
use crate::support::redis::Redis;
use crate::support::switch::Switch;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, within};

async fn ask(gateway: &Gateway, id: &str) -> u16 {
    Call::chat("hello").session(id).send(gateway.proxy()).await.status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_that_redis_took_but_told_nobody_of_reaches_all() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 2).await;
    // Redis has the scripts from then on.
    assert_eq!(ask(&gateways[1], "before").await, 200);
    assert_eq!(gateways[0].kill("before").await.status, 200);
    let mut client = Call::chat_stream("[[stall]]").session("s").open(gateways[1].proxy()).await;
    client.until("\"delta\":{\"content\":\"").await;
    gateways[0].session_until("s", |session| session["open_legs"] == 1).await;
    // Redis runs the command after the instance has stopped waiting for the reply.
    redis.ask(&["CLIENT", "PAUSE", "700", "WRITE"]).await;
    let killed = gateways[0].kill("s").await;
    assert_eq!((killed.status, &killed.body["instances_notified"]), (200, &Value::from(1)), "{killed:?}");
    let begun = Instant::now();
    let cut = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer");
    assert!(cut.text().contains("session_killed"), "{}", cut.text());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!((ask(&gateways[0], "s").await, ask(&gateways[1], "s").await), (403, 403));
    assert_eq!(record(&gateways, "s").await["request_count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_lacks_the_last_writes_loses_nothing() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let copy = redis.replica().await;
    let switch = Switch::start(redis.address()).await;
    let yaml = format!(
        "backend: {:?}\nsession:\n  store: redis\n  redis: {{ addr: {:?}, flush_interval: 200ms }}\n",
        demo.url(),
        switch.address().to_string()
    );
    let mut gateways = vec![Gateway::with(&yaml).await, Gateway::with(&yaml).await];
    for gateway in &gateways {
        store_is_up(gateway, true).await;
    }
    for id in ["both", "ended"] {
        for gateway in &gateways {
            assert_eq!(ask(gateway, id).await, 200);
        }
        gateways[0].session_until(id, |session| session["request_count"] == 2).await;
    }
    within("the copy to have it", async {
        while !copy.ask(&["KEYS", "elida:incarnation:ended@*"]).await.contains("ended") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    // From here on the replica receives nothing, whatever the master acknowledges.
    copy.ask(&["REPLICAOF", "NO", "ONE"]).await;
    for at in [0, 0, 1] {
        assert_eq!(ask(&gateways[at], "both").await, 200);
    }
    for id in ["fresh", "late"] {
        assert_eq!(ask(&gateways[1], id).await, 200);
    }
    for id in ["ended", "late"] {
        assert_eq!(gateways[0].kill(id).await.status, 200);
    }
    assert_eq!(record(&gateways, "ended").await["request_count"], 2);
    assert_eq!(record(&gateways, "late").await["request_count"], 1);
    gateways[0].session_until("both", |session| session["request_count"] == 5).await;

    // No more requests come: the replica still gets what it lacks.
    switch.to(copy.address());
    gateways[0].session_until("both", |session| session["request_count"] == 5).await;
    gateways[0].session_until("fresh", |session| session["request_count"] == 1).await;
    // An instance that knows only what the replica holds now.
    gateways.push(Gateway::with(&yaml).await);
    store_is_up(&gateways[2], true).await;
    for id in ["ended", "late"] {
        for gateway in &gateways {
            assert_eq!(ask(gateway, id).await, 403, "{id}");
        }
        let session = gateways[2].session_until(id, |session| session["state"] == "killed").await;
        assert_eq!(session["request_count"], if id == "ended" { 2 } else { 1 }, "{session}");
    }
    let session = gateways[2].session_until("both", |session| session["request_count"] == 5).await;
    assert_eq!(session["incarnation"], 1, "{session}");
    for (id, requests) in [("both", 5), ("fresh", 1)] {
        assert_eq!(gateways[2].kill(id).await.status, 200);
        assert_eq!(record(&gateways, id).await["request_count"], requests);
    }
    // Nothing waits to be recorded, and nothing was recorded twice.
    within("all to be looked after", async {
        while copy.ask(&["ZRANGE", "elida:sessions:activity", "0", "-1"]).await != "*0" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let records = records(&gateways);
    assert_eq!(records.len(), 4, "{records:#?}");
    assert!(records.values().all(|records| records.len() == 1), "{records:#?}");
}
