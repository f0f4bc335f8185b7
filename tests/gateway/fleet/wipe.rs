use std::time::Duration;

use rusqlite::Connection;

use crate::fleet::shared::{fleet, store_is_up, yaml};
use crate::support::redis::Redis;
use crate::support::{Call, Demo, Gateway, within};

/// A request of a caller with a credential: its principal, and so the order's scope, must survive the wipe.
async fn ask(gateway: &Gateway, id: &str) -> u16 {
    let call = Call::chat("hello").session(id).header("authorization", "Bearer sk-1");
    call.send(gateway.proxy()).await.status()
}

/// How many orders the history of this instance would restore.
fn standing(gateway: &Gateway) -> i64 {
    let file = Connection::open(gateway.data().join("history.db")).expect("the history");
    file.busy_timeout(Duration::from_secs(5)).expect("a timeout");
    let now = jiff::Timestamp::now().as_millisecond();
    let sql = "SELECT count(*) FROM kills WHERE lifted_ms IS NULL AND ends_ms > ?1";
    file.query_row(sql, [now], |row| row.get(0)).expect("a count")
}

async fn standing_until(gateway: &Gateway, orders: i64) {
    within("the orders in the history", async {
        while standing(gateway) != orders {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Restarts Redis empty and all gateways, one after the other, while none of the others runs.
async fn restart_all(gateways: &mut [Gateway], redis: &mut Redis, yaml: &str) {
    for gateway in &*gateways {
        gateway.signal("STOP");
    }
    redis.stop();
    redis.run().await;
    for gateway in &mut *gateways {
        gateway.crash_and_restart(yaml).await;
    }
    for gateway in &*gateways {
        store_is_up(gateway, true).await;
    }
}

async fn status_until(gateway: &Gateway, id: &str, status: u16) {
    within("the answer", async {
        while ask(gateway, id).await != status {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_outlive_a_redis_that_is_wiped_while_all_instances_restart() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let mut gateways = fleet(&demo, &redis, 2).await;
    let yaml = yaml(&demo, &redis, "");
    for id in ["one", "two", "free"] {
        assert_eq!(ask(&gateways[0], id).await, 200);
    }
    assert_eq!(gateways[0].kill("one").await.status, 200);
    assert_eq!(gateways[1].kill("two").await.status, 200);
    for _ in 0..2 {
        restart_all(&mut gateways, &mut redis, &yaml).await;
        for gateway in &gateways {
            // The other instance's order arrives with the next sync at the latest.
            status_until(gateway, "one", 403).await;
            status_until(gateway, "two", 403).await;
            assert_eq!(ask(gateway, "free").await, 200);
        }
        // Each knows its own order before its first request.
        assert_eq!((ask(&gateways[0], "one").await, ask(&gateways[1], "two").await), (403, 403));
        assert_ne!(redis.ask(&["KEYS", "elida:killed:one@cred:*"]).await, "*0");
    }
    gateways[0]
        .log_until(|line| line["level"] == "ERROR" && line.to_string().contains("redis had lost kill orders"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_that_another_instance_has_resumed_is_not_revived() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let mut gateways = fleet(&demo, &redis, 2).await;
    let yaml = yaml(&demo, &redis, "");
    for id in ["while-up", "while-down"] {
        assert_eq!(ask(&gateways[0], id).await, 200);
        assert_eq!(gateways[0].kill(id).await.status, 200);
        status_until(&gateways[1], id, 403).await;
    }
    assert_eq!(gateways[1].resume("while-up").await, 200);
    // The instance that gave the order notes that another one has lifted it.
    standing_until(&gateways[0], 1).await;
    gateways[0].signal("STOP");
    assert_eq!(gateways[1].resume("while-down").await, 200);
    gateways[0].crash_and_restart(&yaml).await;
    store_is_up(&gateways[0], true).await;
    standing_until(&gateways[0], 0).await;
    for gateway in &gateways {
        assert_eq!((ask(gateway, "while-up").await, ask(gateway, "while-down").await), (200, 200));
    }
    restart_all(&mut gateways, &mut redis, &yaml).await;
    for gateway in &gateways {
        assert_eq!((ask(gateway, "while-up").await, ask(gateway, "while-down").await), (200, 200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_order_of_another_instance_replaces_the_one_in_the_history() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let mut gateways = fleet(&demo, &redis, 2).await;
    let yaml = yaml(&demo, &redis, "");
    assert_eq!(ask(&gateways[0], "run").await, 200);
    assert_eq!(gateways[0].kill("run").await.status, 200);
    status_until(&gateways[1], "run", 403).await;
    let shorter = serde_json::json!({"force": true, "block": {"mode": "duration", "duration": "2s"}});
    let answer = gateways[1].operator().await.post("/control/sessions/run/kill", &shorter).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    standing_until(&gateways[0], 1).await;
    standing_until(&gateways[0], 0).await;
    restart_all(&mut gateways, &mut redis, &yaml).await;
    for gateway in &gateways {
        assert_eq!(ask(gateway, "run").await, 200);
    }
}
