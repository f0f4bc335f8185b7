use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::sessions::agents::{order, spoke};
use crate::support::gateway::signal;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, within};

fn yaml(demo: &Demo) -> String {
    format!("backend: {:?}\n", demo.url())
}

async fn ask(gateway: &Gateway, id: &str) -> (u16, String) {
    let answer = Call::chat("hello").session(id).send(gateway.proxy()).await;
    (answer.status(), answer.text())
}

async fn kill_for(gateway: &Gateway, id: &str, block: &Value) {
    assert_eq!(ask(gateway, id).await.0, 200, "{id}");
    let body = json!({"reason": "runaway", "block": block});
    let answer = gateway.operator().await.post(&format!("/control/sessions/{id}/kill"), &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

/// Holds after every restart; [`give`] gave the orders.
async fn hold(gateway: &Gateway, orders: usize) {
    for id in ["timed", "for-good", "until-told", "twice"] {
        let (status, text) = ask(gateway, id).await;
        assert_eq!(status, 403, "{id}: {text}");
        assert!(text.contains("session_killed") && text.contains("runaway"), "{id}: {text}");
    }
    for id in ["resumed", "killed-again-and-resumed", "over", "shorter"] {
        let (status, text) = ask(gateway, id).await;
        assert_eq!(status, 200, "{id}: {text}");
    }
    for (agent, parent, status) in
        [("one", "", 403), ("below", "one", 403), ("", "", 200), ("other", "", 200)]
    {
        assert_eq!(spoke(gateway, agent, parent).await, status, "{agent}");
    }
    let kills = gateway.operator().await.get("/control/kills").await.json();
    assert_eq!(kills["kills"].as_array().map(Vec::len), Some(orders), "{kills}");
}

async fn give(gateway: &Gateway) {
    let long = json!({"mode": "duration", "duration": "1h"});
    let short = json!({"mode": "duration", "duration": "1s"});
    kill_for(gateway, "timed", &long).await;
    kill_for(gateway, "for-good", &json!({"mode": "permanent"})).await;
    kill_for(gateway, "until-told", &json!({"mode": "until_resumed"})).await;
    kill_for(gateway, "over", &short).await;
    kill_for(gateway, "resumed", &long).await;
    assert_eq!(gateway.resume("resumed").await, 200);
    // A replaced order does not come back: not the longer one, and not the one before a resume.
    for (id, blocks) in [
        ("twice", [&short, &long]),
        ("shorter", [&long, &short]),
        ("killed-again-and-resumed", [&long, &long]),
    ] {
        kill_for(gateway, id, blocks[0]).await;
        let body = json!({"reason": "runaway", "force": true, "block": blocks[1]});
        let answer = gateway.operator().await.post(&format!("/control/sessions/{id}/kill"), &body).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    assert_eq!(gateway.resume("killed-again-and-resumed").await, 200);
    for (agent, parent) in [("", ""), ("one", ""), ("below", "one")] {
        assert_eq!(spoke(gateway, agent, parent).await, 200);
    }
    assert_eq!(order(gateway, "kill", &json!({"reason": "runaway", "agent": "one"})).await.0, 200);
    within("the short blocks to end", async {
        while ask(gateway, "over").await.0 == 403 || ask(gateway, "shorter").await.0 == 403 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_hold_after_an_end_and_after_a_crash() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::with(yaml(&demo)).await;
    give(&gateway).await;
    hold(&gateway, 5).await;
    gateway.terminate();
    assert!(gateway.ended().await.success());
    gateway.crash_and_restart(&yaml(&demo)).await;
    hold(&gateway, 5).await;
    // Killed right after the answers: the gateway could not shut down in order.
    for number in 0..5 {
        let id = format!("last-{number}");
        assert_eq!(ask(&gateway, &id).await.0, 200);
        assert_eq!(gateway.kill(&id).await.status, 200);
        gateway.crash_and_restart(&yaml(&demo)).await;
        assert_eq!(ask(&gateway, &id).await.0, 403, "{id}");
        if number % 2 == 0 {
            assert_eq!(gateway.resume(&id).await, 200);
            gateway.crash_and_restart(&yaml(&demo)).await;
            assert_eq!(ask(&gateway, &id).await.0, 200, "{id}");
        }
    }
    // A restored order can be lifted like any other.
    assert_eq!(gateway.resume("until-told").await, 200);
    assert_eq!(ask(&gateway, "until-told").await.0, 200);
    assert_eq!(gateway.resume("for-good").await, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_many_old_orders_and_damaged_rows_does_not_hold_up_the_start() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::with(yaml(&demo)).await;
    assert_eq!(ask(&gateway, "stays").await.0, 200);
    assert_eq!(gateway.kill("stays").await.status, 200);
    gateway.terminate();
    assert!(gateway.ended().await.success());
    {
        let file = Connection::open(gateway.data().join("history.db")).expect("the history");
        file.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
             INSERT INTO kills (uid, session_id, at_ms, ends_ms, body)
             SELECT 's_' || i, 'old-' || i, unixepoch() * 1000 - 7200000 + i, unixepoch() * 1000 - 3600000,
                 replace((SELECT body FROM kills LIMIT 1), 'stays', 'old-' || i) FROM n;
             INSERT INTO kills (uid, session_id, at_ms, body) VALUES ('x', 'a', 1, 'no json');
             INSERT INTO kills (uid, session_id, at_ms, body) VALUES ('x', 'b', 2, '{\"session_id\":7}');
             INSERT INTO kills (uid, session_id, at_ms, body) VALUES ('x', 'stays', 3, CAST(x'ff' AS TEXT));",
        )
        .expect("rows");
    }
    let begun = Instant::now();
    gateway.crash_and_restart(&yaml(&demo)).await;
    eprintln!("started beside 100,000 old orders in {:?}", begun.elapsed());
    let (status, text) = ask(&gateway, "stays").await;
    assert_eq!(status, 403, "{text}");
    assert_eq!(ask(&gateway, "old-7").await.0, 200);
    let damaged =
        |line: &&Value| line["message"] == "a kill order in the history cannot be read and does not hold";
    assert_eq!(gateway.log_lines().iter().filter(damaged).count(), 3, "{}", gateway.log_text());
    // Damaged rows do not block later writes either.
    assert_eq!(gateway.resume("stays").await, 200);
    gateway.crash_and_restart(&yaml(&demo)).await;
    assert_eq!(ask(&gateway, "stays").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_readable_file_the_start_is_as_ever() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::with(yaml(&demo)).await;
    assert_eq!(ask(&gateway, "s").await.0, 200);
    assert_eq!(gateway.kill("s").await.status, 200);
    gateway.terminate();
    assert!(gateway.ended().await.success());
    std::fs::write(gateway.data().join("history.db"), "no database at all ".repeat(1000)).expect("junk");
    gateway.crash_and_restart(&yaml(&demo)).await;
    gateway
        .log_until(|line| line["message"].as_str().is_some_and(|text| text.contains("no history is kept")))
        .await;
    assert_eq!(ask(&gateway, "s").await.0, 200);
    assert_eq!(gateway.kill("s").await.status, 200);
    assert_eq!(ask(&gateway, "s").await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_takes_the_kills_along_and_each_process_hears_of_the_others() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::with(yaml(&demo)).await;
    give(&gateway).await;
    // Streams that the old process serves to their end.
    let mut streams = Vec::new();
    for id in ["shared", "other"] {
        let call = Call::chat_stream("[[words 600]] [[pace 20ms]]").session(id);
        let mut client = call.open(gateway.proxy()).await;
        client.until("word1").await;
        streams.push(client);
    }
    let mut old = gateway.operator().await;
    gateway.signal("QUIT");
    let started = gateway.log_until(|line| line["message"] == "starting the new process").await;
    // Sent to the old process while the new one starts.
    let between = old.kill("other").await.status;
    gateway.log_until(|line| line["message"] == "draining").await;
    assert_eq!(between, 200);
    within("the old process's order at the new one", async {
        while ask(&gateway, "other").await.0 != 403 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    hold(&gateway, 6).await;
    // Sent to the new process: the old one cuts its stream.
    assert_eq!(ask(&gateway, "shared").await.0, 200);
    assert_eq!(gateway.kill("shared").await.status, 200);
    for mut client in streams {
        let cut = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer");
        assert!(cut.text().contains("session_killed"), "{}", cut.text());
    }
    assert!(gateway.ended().await.success());
    let new = started["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    assert!(signal(new, "0"), "the new process lives");
    assert_eq!((ask(&gateway, "shared").await.0, ask(&gateway, "other").await.0), (403, 403));
}
