use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rusqlite::Connection;

use super::budgets::{accounts, chat, prices, settled, tokens};
use crate::support::{Backend, Demo, Gateway, within};

/// What `state.db` has of all budgets.
fn stored(gateway: &Gateway) -> i64 {
    let Ok(file) = Connection::open(gateway.data().join("state.db")) else { return 0 };
    file.busy_timeout(Duration::from_secs(5)).expect("a timeout");
    file.query_row("SELECT coalesce(sum(spent), 0) FROM spending", [], |row| row.get(0)).unwrap_or(0)
}

async fn spend(gateway: &Gateway, requests: usize) -> u64 {
    let mut counted = 0;
    for number in 0..requests {
        let answer = chat(&"one two three ".repeat(number % 5 + 1), 100, number % 2 == 0);
        let answer = answer.send(gateway.proxy()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        counted += tokens(&answer);
    }
    counted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_loses_nothing_and_a_crash_what_was_not_written_yet() {
    let (demo, prices) = (Demo::start().await, prices());
    let yaml = format!(
        "backend: {:?}\nusage: {{ prices_file: {:?} }}\nbudgets:\n  \
         - {{ name: t, by: client.addr, period: total, limit: 1M tokens }}\n  \
         - {{ name: m, by: client.addr, period: month, limit: 1M tokens }}\n  \
         - {{ name: s, by: session.id, period: session, limit: 1M tokens }}\n",
        demo.url(),
        prices.path().display()
    );
    let mut gateway = Gateway::with(&yaml).await;
    let first = spend(&gateway, 20).await;
    gateway.terminate();
    assert!(gateway.ended().await.success());
    assert_eq!(stored(&gateway), 2 * i64::try_from(first).expect("small"), "not of sessions");
    let mode = std::fs::metadata(gateway.data().join("state.db")).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    gateway.crash_and_restart(&yaml).await;
    for account in accounts(&gateway).await {
        assert_eq!(account["spent"], first as f64, "{account}");
    }
    let second = spend(&gateway, 10).await;
    settled(&gateway).await;
    within("what was spent to be on disk", async {
        while stored(&gateway) < 2 * i64::try_from(first + second).expect("small") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let third = spend(&gateway, 3).await;
    gateway.crash_and_restart(&yaml).await;
    for account in accounts(&gateway).await {
        let spent = account["spent"].as_f64().expect("a number");
        let least = (first + second) as f64;
        assert!((least..=least + third as f64).contains(&spent), "{account}: {first} {second} {third}");
    }
    let before = settled(&gateway).await;
    let fourth = spend(&gateway, 5).await;
    assert_eq!(settled(&gateway).await, before + fourth as f64, "nothing counts twice");
}
