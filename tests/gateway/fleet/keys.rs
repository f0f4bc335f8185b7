use std::fs;

use serde_json::Value;

use crate::fleet::shared::{fleet, fleet_with, store_is_up};
use crate::support::redis::Redis;
use crate::support::{Backend, Call, Demo, Gateway, within};

const KEY: &str = "elida:principals";
const FOREIGN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A request of a caller with a credential, whose principal depends on the key.
async fn ask(gateway: &Gateway, id: &str) -> u16 {
    let call = Call::chat("hello").session(id).header("authorization", "Bearer sk-1");
    call.send(gateway.proxy()).await.status()
}

fn yaml(demo: &Demo, redis: &Redis) -> String {
    format!("backend: {:?}\nsession:\n  store: redis\n  redis: {{ url: {:?} }}\n", demo.url(), redis.url())
}

async fn warning(gateway: &Gateway) -> String {
    let ready = gateway.operator().await.get("/health/readiness").await;
    ready.json()["warning"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_after_a_flush_takes_the_key_of_the_fleet_and_heeds_its_kills() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 2).await;
    for id in ["killed", "other"] {
        assert_eq!(ask(&gateways[0], id).await, 200);
    }
    assert_eq!(gateways[0].kill("killed").await.status, 200);
    let key = redis.ask(&["GET", KEY]).await;
    // No connection breaks, and no instance is notified.
    redis.ask(&["FLUSHALL"]).await;
    let newcomer = Gateway::with(yaml(&demo, &redis)).await;
    store_is_up(&newcomer, true).await;
    assert_eq!(redis.ask(&["GET", KEY]).await, key, "the newcomer brought a key of its own");
    within("the order to be written again", async {
        while redis.ask(&["KEYS", "elida:killed:killed@cred:*"]).await == "*0" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    for gateway in [&gateways[0], &gateways[1], &newcomer] {
        assert_eq!(ask(gateway, "killed").await, 403);
        assert_eq!(ask(gateway, "other").await, 200);
    }
    // One of the two noticed first; both may report it.
    let mut lost = 0.0;
    for gateway in &gateways {
        lost += gateway.metric("elida_store_lost_total{store=\"redis\",what=\"principal_key\"}").await;
    }
    assert!(lost >= 1.0, "{lost}");
    let warnings = format!("{} {}", warning(&gateways[0]).await, warning(&gateways[1]).await);
    assert!(
        warnings.contains("redis lost the principals' key") || warnings.contains("redis lost kill orders"),
        "{warnings}"
    );
    let log = format!("{} {}", gateways[0].log_text(), gateways[1].log_text());
    assert!(log.contains("redis had lost the principals' key"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_younger_key_is_replaced_by_the_one_in_force_and_its_instance_says_so() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 1).await;
    assert_eq!(ask(&gateways[0], "killed").await, 200);
    assert_eq!(gateways[0].kill("killed").await.status, 200);
    let key = redis.ask(&["GET", KEY]).await;
    // An instance found Redis empty and was the first to write a key.
    redis.ask(&["FLUSHALL"]).await;
    redis.ask(&["SET", KEY, FOREIGN]).await;
    let odd = Gateway::with(yaml(&demo, &redis)).await;
    within("the fleet's own key", async {
        while redis.ask(&["GET", KEY]).await != key {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    store_is_up(&odd, true).await;
    let loud =
        |line: &Value| line["level"] == "ERROR" && line.to_string().contains("another principals' key");
    gateways[0].log_until(loud).await;
    // Whatever its callers are named: the kill applies there.
    within("the kill at the odd one", async {
        while ask(&odd, "killed").await != 403 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(ask(&odd, "free").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_neither_takes_a_younger_key_over_nor_revives_a_kill() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let mut gateways = fleet_with(&demo, &redis, 2, "").await;
    assert_eq!(ask(&gateways[0], "killed").await, 200);
    assert_eq!(gateways[0].kill("killed").await.status, 200);
    let mut one = gateways.remove(0);
    drop(gateways);
    let file = one.data().join("principal.key");
    let kept = fs::read(&file).expect("the key");
    one.signal("STOP");
    // For the moment no instance uses the older key.
    redis.ask(&["SET", KEY, FOREIGN]).await;
    one.crash_and_restart(&yaml(&demo, &redis)).await;
    assert_eq!(fs::read(&file).expect("the key"), kept, "another key was taken over");
    store_is_up(&one, true).await;
    assert_eq!(redis.ask(&["GET", KEY]).await, format!("$64\r\n{FOREIGN}"), "a start replaces no key");
    within("the mismatch to be reported", async {
        while !warning(&one).await.contains("the principals' key in redis is not the one of this instance") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(one.metric("elida_principal_key_mismatch").await, 1.0);
    let loud =
        |line: &Value| line["level"] == "ERROR" && line.to_string().contains("principals' key in redis");
    one.log_until(loud).await;
    assert_eq!(ask(&one, "killed").await, 403);
    // An instance with the other key has another name for the caller, and still refuses the id.
    let newcomer = Gateway::with(yaml(&demo, &redis)).await;
    store_is_up(&newcomer, true).await;
    assert_eq!(ask(&newcomer, "killed").await, 403);
    // The same when one of the two gives the order while both keys are in use.
    assert_eq!(ask(&newcomer, "late").await, 200);
    newcomer.session_until("late", |session| session["request_count"] == 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(newcomer.kill("late").await.status, 200);
    within("the order at the other", async {
        while ask(&one, "late").await != 403 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(one.resume("late").await, 200);
}
