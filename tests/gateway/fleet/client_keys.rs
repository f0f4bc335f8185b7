use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fleet::shared::store_is_up;
use crate::support::redis::Redis;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

fn yaml(demo: &Demo, redis: &Redis) -> String {
    format!(
        "auth: {{ proxy: required }}\nbackends:\n  demo: {{ url: {:?}, type: openai, default: true, auth: {{ mode: inject, api_key: sk-house }} }}\n\
         session:\n  store: redis\n  redis: {{ url: {:?}, flush_interval: 200ms }}\n",
        demo.url(),
        redis.url()
    )
}

async fn instance(yaml: &str) -> Gateway {
    let gateway = Gateway::with(yaml).await;
    store_is_up(&gateway, true).await;
    gateway
}

async fn make(gateway: &Gateway, id: &str) -> String {
    gateway.elida(&["key", "create", "--id", id]).await.trim().to_owned()
}

/// Waits until an instance answers like this to a key.
async fn answers(gateway: &Gateway, key: &str, code: Option<&str>) {
    let what = format!("{code:?} for a key");
    within(&what, async {
        loop {
            let answer = Call::chat("x").header("x-api-key", key).send(gateway.proxy()).await;
            let found =
                if answer.status() == 200 { Value::Null } else { answer.json()["error"]["code"].clone() };
            if found == json!(code) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A stream that ends only when it is cut.
async fn stream(gateway: &Gateway, key: &str) -> RawClient {
    let call = Call::messages_stream("first second [[stall]]").header("x-api-key", key);
    let mut client = call.open(gateway.proxy()).await;
    client.until("first").await;
    client
}

async fn is_cut(client: &mut RawClient, begun: Instant) {
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.text().contains("key_revoked"), "{}", answer.text());
    let after = answer.ended.saturating_duration_since(begun);
    assert!(after < Duration::from_secs(1), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_made_or_revoked_on_one_instance_is_on_all() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let yaml = yaml(&demo, &redis);
    let (one, two) = (instance(&yaml).await, instance(&yaml).await);
    let key = make(&one, "ci").await;
    answers(&two, &key, None).await;
    let listed = two.elida(&["key", "list"]).await;
    assert!(listed.contains("ci"), "{listed}");
    let taken = two.operator().await.post("/control/keys", &json!({"id": "ci"})).await;
    assert_eq!(taken.json()["code"], "key_exists");

    let rotated = two.elida(&["key", "rotate", "ci", "--grace", "1h"]).await.trim().to_owned();
    answers(&one, &rotated, None).await;
    answers(&one, &key, None).await;
    let (mut old, mut new) = (stream(&two, &key).await, stream(&one, &rotated).await);
    let mut operator = one.operator().await;
    let begun = Instant::now();
    assert_eq!(operator.delete("/control/keys/ci").await.status(), 200);
    is_cut(&mut old, begun).await;
    is_cut(&mut new, begun).await;
    for (gateway, key) in [(&one, &key), (&two, &key), (&one, &rotated), (&two, &rotated)] {
        answers(gateway, key, Some("key_revoked")).await;
    }
    let stored = redis.ask(&["HGETALL", "elida:keys"]).await;
    assert!(stored.contains("key_sha256") && !stored.contains(&key), "digests only: {stored}");
    let again = make(&two, "ci").await;
    answers(&one, &again, None).await;
    answers(&one, &key, Some("key_unknown")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_wiped_loses_no_key_and_revives_none() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let yaml = yaml(&demo, &redis);
    let (one, mut two) = (instance(&yaml).await, instance(&yaml).await);
    let (kept, gone) = (make(&one, "kept").await, make(&one, "gone").await);
    answers(&two, &gone, None).await;
    // The other instance misses the revocation, and Redis forgets it.
    two.signal("STOP");
    one.elida(&["key", "revoke", "gone"]).await;
    redis.stop();
    redis.run().await;
    store_is_up(&one, true).await;
    two.crash_and_restart(&yaml).await;
    store_is_up(&two, true).await;
    answers(&two, &gone, Some("key_revoked")).await;
    answers(&two, &kept, None).await;
    redis.ask(&["FLUSHALL"]).await;
    within("the keys in redis", async {
        while !redis.ask(&["HGETALL", "elida:keys"]).await.contains("kept") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // An instance with an empty folder learns both.
    let three = instance(&yaml).await;
    answers(&three, &kept, None).await;
    answers(&three, &gone, Some("key_revoked")).await;
    answers(&one, &gone, Some("key_revoked")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_while_redis_is_away_holds_everywhere_when_it_is_back() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let yaml = yaml(&demo, &redis);
    let (one, two) = (instance(&yaml).await, instance(&yaml).await);
    let (key, other) = (make(&one, "ci").await, make(&one, "other").await);
    answers(&two, &key, None).await;
    answers(&two, &other, None).await;
    let mut open = stream(&two, &key).await;
    redis.stop();
    store_is_up(&one, false).await;
    store_is_up(&two, false).await;
    one.elida(&["key", "revoke", "ci"]).await;
    let made = make(&two, "new").await;
    // Of two changes of one key the revocation counts.
    one.elida(&["key", "revoke", "other"]).await;
    let rotated = two.elida(&["key", "rotate", "other", "--grace", "1h"]).await.trim().to_owned();
    answers(&one, &key, Some("key_revoked")).await;
    redis.run().await;
    store_is_up(&one, true).await;
    store_is_up(&two, true).await;
    let answer = open.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.text().contains("key_revoked"), "{}", answer.text());
    answers(&two, &key, Some("key_revoked")).await;
    answers(&one, &made, None).await;
    answers(&two, &other, Some("key_revoked")).await;
    for gateway in [&one, &two] {
        within("the end of the rotated key", async {
            while Call::chat("x").header("x-api-key", &rotated).send(gateway.proxy()).await.status() == 200 {}
        })
        .await;
    }
}
