use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, params};
use serde_json::Value;

use crate::support::wire::{Unframed, Wire};
use crate::support::{Backend, Call, Demo, Gateway, within, within_time};

const EXPORT: &str = "/control/records/export?of=requests";
/// More exports than tokio has blocking threads.
const CROWD: usize = 540;
/// The longest that a kill, a query or a reload may take meanwhile, on a busy machine.
const PROMPT: Duration = Duration::from_secs(5);

/// Writes requests to the history: more than the socket buffers of an export hold.
fn fill(gateway: &Gateway, rows: usize) -> Connection {
    let mut file = Connection::open(gateway.data().join("history.db")).expect("the file");
    file.busy_timeout(Duration::from_secs(10)).expect("a timeout");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis();
    let now = i64::try_from(now).expect("a time");
    let body = format!("{{\"path\":\"/v1/messages\",\"note\":\"{}\"}}", "x".repeat(1000));
    let insert = file.transaction().expect("a transaction");
    for _ in 0..rows {
        let sql = "INSERT INTO requests (uid, at_ms, body) VALUES ('s_0', ?1, ?2)";
        insert.execute(sql, params![now, body]).expect("a row");
    }
    insert.commit().expect("written");
    file
}

/// A client that requests an export, reads the response head and then nothing.
async fn stalled(gateway: &Gateway, mut wire: Wire) -> (u16, Option<String>, Wire) {
    let request = format!("GET {EXPORT} HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.control());
    wire.send(request.as_bytes()).await.expect("sent");
    let head = wire.head().await.expect("a head");
    let again = head.field("retry-after").map(str::to_owned);
    (head.status(), again, wire)
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_exports_hold_up_neither_a_kill_nor_a_question_nor_a_reload() {
    let demo = Demo::start().await;
    // More than these clients, or the listener would refuse connections before routing.
    let yaml = format!("  limits: {{ max_connections: 1000 }}\nbackend: {:?}\n", demo.url());
    let gateway = Gateway::with(yaml).await;
    assert_eq!(Call::chat("hello").session("run-1").send(gateway.proxy()).await.status(), 200);
    fill(&gateway, 16_000);
    let mut crowd = Vec::with_capacity(CROWD);
    for _ in 0..CROWD {
        crowd.push(stalled(&gateway, Wire::connect_narrow(gateway.control()).await).await);
    }
    // A connection that has asked nothing for as long as this takes may be closed.
    let mut operator = gateway.operator().await;
    let killed = within_time(PROMPT, "a kill beside stalled exports", operator.kill("run-1")).await;
    assert_eq!(killed.status, 200, "{}", killed.body);
    let page = within_time(PROMPT, "the history", operator.get("/control/history?limit=5")).await;
    assert_eq!(page.status(), 200);
    let reload = within_time(PROMPT, "a reload", operator.post("/control/config/reload", &Value::Null)).await;
    assert_eq!(reload.status(), 200);
    let mut answers: BTreeMap<u16, usize> = BTreeMap::new();
    for (status, again, _) in &crowd {
        *answers.entry(*status).or_default() += 1;
        assert_eq!(again.is_some(), *status == 429, "{status} {again:?}");
    }
    assert_eq!(answers, BTreeMap::from([(200, 4), (429, CROWD - 4)]));
    // Their permits are free once they have disconnected.
    drop(crowd);
    let whole = within("an export", async {
        loop {
            let answer = operator.get(EXPORT).await;
            if answer.status() == 200 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(whole.is_whole && whole.text().lines().count() >= 16_000, "{}", whole.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_export_does_not_hold_the_write_ahead_log() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    fill(&gateway, 16_000);
    let (status, _, mut reader) = stalled(&gateway, Wire::connect(gateway.control()).await).await;
    assert_eq!(status, 200);
    let file = fill(&gateway, 1000);
    // A reader of an old snapshot would block the checkpoint of the write-ahead log.
    within("the log to be taken over", async {
        loop {
            let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
            let busy: i64 = file.query_row(checkpoint, [], |row| row.get(0)).expect("a checkpoint");
            if busy == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let log = std::fs::metadata(gateway.data().join("history.db-wal")).expect("the log").len();
    assert!(log < 1 << 20, "{log} bytes");
    // It continues where it stopped, and ends with the rows that existed when it began.
    let request =
        format!("GET {EXPORT} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", gateway.control());
    let mut other = Wire::connect(gateway.control()).await;
    let now = other.exchange(request.as_bytes(), Unframed::Empty).await;
    assert!(now.is_whole && now.text().lines().count() >= 17_000);
    within("the rest of the export", reader.until("0\r\n\r\n")).await;
}
