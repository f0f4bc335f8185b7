use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::socket::Socket;
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

/// The database as written before the history stored single requests.
const VERSION_1: &str = "
    CREATE TABLE records (seq INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, session_id TEXT NOT NULL,
        state TEXT NOT NULL, kind TEXT NOT NULL, principal TEXT NOT NULL, client TEXT, backend TEXT,
        started_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL, requests INTEGER NOT NULL, errors INTEGER NOT NULL,
        bytes_in INTEGER NOT NULL, bytes_out INTEGER NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL,
        body TEXT NOT NULL) STRICT;
    CREATE INDEX records_by_end ON records (ended_ms);
    CREATE INDEX records_by_id ON records (session_id);
    CREATE TABLE usage (seq INTEGER NOT NULL REFERENCES records (seq) ON DELETE CASCADE, model TEXT,
        requests INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
        cache_read_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL) STRICT;
    CREATE INDEX usage_by_record ON usage (seq);
    CREATE TABLE legs (seq INTEGER NOT NULL REFERENCES records (seq) ON DELETE CASCADE, body TEXT NOT NULL) STRICT;
    CREATE INDEX legs_by_record ON legs (seq);
    CREATE TABLE events (number INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, type TEXT NOT NULL,
        session_id TEXT NOT NULL, uid TEXT NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE INDEX events_by_time ON events (at_ms);
    CREATE INDEX events_by_uid ON events (uid);
    CREATE TABLE kills (uid TEXT NOT NULL, session_id TEXT NOT NULL, at_ms INTEGER NOT NULL, lifted_ms INTEGER,
        lifted_by TEXT, body TEXT NOT NULL) STRICT;
    CREATE INDEX kills_by_uid ON kills (uid);
    CREATE TABLE heads (seq INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;
    PRAGMA user_version = 1;
";

/// A request as such a database stores it.
fn old_leg(id: &str) -> String {
    let now = jiff::Timestamp::now();
    let leg = json!({"request_id": id, "kind": "request", "method": "POST", "path": "/v1/messages", "agent": null,
        "started_at": now, "backend": "default", "failover_from": null, "attempts": 1, "model": null, "status": 200,
        "error": null, "outcome": "ok", "tools_offered": 0, "input_tokens_estimate": 0, "stop_reason": null,
        "tools": {}, "stream": false, "duration_ms": 5, "ttfb_ms": 5, "bytes_in": 1, "bytes_out": 1});
    leg.to_string()
}

/// A record as such a database stores it.
fn old_record() -> String {
    let now = jiff::Timestamp::now();
    let tokens = json!({"input_tokens": 0, "output_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0,
        "cache_write_1h_tokens": 0, "reasoning_tokens": 0, "web_search_requests": 0, "cost_usd": 0.0, "models": []});
    let record = json!({"session_id": "old-run", "state": "completed", "duration_ms": 5, "request_count": 2,
        "bytes_in": 2, "bytes_out": 2, "backend": "http://127.0.0.1:1", "client_addr": "127.0.0.1",
        "schema": "elida.cdr/1", "uid": "s_0198a0000000700080000000000000aa", "incarnation": 1, "previous_id": null,
        "kind": "traffic", "started_at": now, "ended_at": now, "end_reason": "idle_timeout", "ended_by": null,
        "principal": "anon:127.0.0.1", "client": null, "identity_source": "header:x-session-id", "agents": [],
        "backends": [], "failovers": 0, "usage": tokens, "tools": {}, "error_count": 0, "errors": {},
        "ttfb_ms": {"p50": 5, "p90": 5, "p95": 5}, "flags": [], "kill": null, "agent_kills": [],
        "chain": {"seq": 1, "prev": "", "hash": ""}});
    record.to_string()
}

/// One record with two requests, as such a database stores them.
fn old_file(path: &Path) {
    let file = Connection::open(path).expect("a file");
    file.execute_batch(VERSION_1).expect("the tables");
    let now = jiff::Timestamp::now();
    let record = "INSERT INTO records VALUES (1, 's_0198a0000000700080000000000000aa', 'old-run', 'completed', \
         'traffic', 'anon:127.0.0.1', NULL, NULL, ?1, ?1, 2, 0, 0, 0, '', '', ?2)";
    file.execute(record, (now.as_millisecond(), old_record())).expect("a record");
    for id in ["first", "second"] {
        file.execute("INSERT INTO legs VALUES (1, ?1)", [old_leg(id)]).expect("a leg");
    }
}

fn yaml(backend: &impl Backend, legs: &str, more: &str) -> String {
    format!("backend: {:?}\nhistory: {{ legs: {legs}{more} }}\n", backend.url())
}

/// This many requests of a session, in sequence; the number in each path is its position.
async fn run(gateway: &Gateway, session: &str, requests: std::ops::Range<usize>) {
    let mut client = RawClient::connect(gateway.proxy()).await;
    for number in requests {
        let call = Call::chat("hello").session(session).header("x-request-id", &format!("r-{number}"));
        assert_eq!(call.send_over(&mut client, gateway.proxy()).await.status(), 200);
    }
}

fn ids(requests: &[Value]) -> Vec<String> {
    requests.iter().map(|leg| leg["request_id"].as_str().expect("an id").to_owned()).collect()
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("r-{number}")).collect()
}

/// All pages of a session's stored requests, with this page size.
async fn paged(gateway: &Gateway, session: &str, limit: usize) -> Vec<Value> {
    let mut operator = gateway.operator().await;
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let target = format!("/control/records/{session}/requests?limit={limit}{cursor}");
        let page = operator.get(&target).await.json();
        let requests = page["requests"].as_array().unwrap_or_else(|| panic!("{target}: {page}"));
        assert!(requests.len() <= limit, "{page}");
        all.extend(requests.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// Waits until this many requests of a session are stored.
async fn kept(gateway: &Gateway, session: &str, count: usize) -> Vec<Value> {
    within("kept requests", async {
        loop {
            let all = paged(gateway, session, 1000).await;
            if all.len() >= count {
                return all;
            }
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_run_is_kept_in_order_with_what_it_cost() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "all", "")).await;
    run(&gateway, "run-1", 0..100).await;
    // The session is still active.
    let live = kept(&gateway, "run-1", 100).await;
    assert_eq!(ids(&live), numbered(0..100));
    for limit in [1, 7, 50, 100] {
        assert_eq!(ids(&paged(&gateway, "run-1", limit).await), numbered(0..100), "{limit} on a page");
    }
    assert_eq!(gateway.kill("run-1").await.status, 200);
    let one = |answer: &Value| answer["record"]["request_count"] == 100;
    let detail = gateway.answer_until("/control/records/run-1", one).await;
    assert_eq!(ids(detail["requests"].as_array().expect("requests")), numbered(80..100));
    let uid = detail["record"]["uid"].as_str().expect("a uid");
    let all = paged(&gateway, uid, 1000).await;
    assert_eq!(all, live, "nothing is written twice");
    for leg in &all {
        assert_eq!((&leg["status"], &leg["model"]), (&200.into(), &"gpt-demo".into()), "{leg}");
        assert!(leg["usage"]["cost_usd"].is_number(), "{leg}");
    }
    let sum: u64 = all.iter().map(|leg| leg["usage"]["input_tokens"].as_u64().expect("tokens")).sum();
    assert!(sum > 0);
    assert_eq!(detail["record"]["usage"]["input_tokens"], sum);

    let mut operator = gateway.operator().await;
    assert_eq!(operator.get("/control/records/nobody/requests").await.status(), 404);
    assert_eq!(operator.get("/control/records/run-1/requests?cursor=x").await.status(), 400);
    assert_eq!(operator.get("/control/records/run-1/requests?from=1h").await.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_each_request() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "all", "")).await;
    run(&gateway, "run-1", 0..30).await;
    assert_eq!(gateway.kill("run-1").await.status, 200);
    gateway.answer_until("/control/history", |page| page["records"].get(0).is_some()).await;
    let lines = gateway.elida(&["cdr", "export", "--requests"]).await;
    let legs: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(ids(&legs), numbered(0..30));
    assert!(legs.iter().all(|leg| leg["session_id"] == "run-1" && leg["uid"].is_string()), "{lines}");
    let table = gateway.elida(&["cdr", "export", "--requests", "--format", "csv"]).await;
    assert!(table.starts_with("uid,session_id,request_id,"), "{table}");
    assert_eq!(table.lines().count(), 31, "{table}");
    assert!(table.lines().nth(1).expect("a line").contains(",run-1,r-0,"), "{table}");
    assert_eq!(gateway.elida(&["cdr", "export", "--requests", "--to", "1h"]).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_one_request_with_the_tokens_of_all_its_answers() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "all", "")).await;
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime?model=gpt-realtime-demo", "voice").await;
    socket.until("session.created").await;
    for text in ["one two three", "four five"] {
        socket.ask(text).await;
        socket.until("response.done").await;
    }
    assert_eq!(paged(&gateway, "voice", 10).await, [Value::Null; 0], "it goes on");
    socket.close(1000, "bye").await;
    let leg = kept(&gateway, "voice", 1).await.remove(0);
    assert_eq!((&leg["kind"], &leg["socket"]["close_code"]), (&json!("socket"), &json!(1000)), "{leg}");
    assert_eq!(
        (&leg["usage"]["input_tokens"], &leg["usage"]["output_tokens"]),
        (&json!(11), &json!(5)),
        "{leg}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_twenty_are_kept_unless_all_are_asked_for() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    run(&gateway, "run-1", 0..50).await;
    assert_eq!(paged(&gateway, "run-1", 100).await, [Value::Null; 0], "they come with the record");
    assert_eq!(gateway.kill("run-1").await.status, 200);
    gateway.answer_until("/control/history", |page| page["records"].get(0).is_some()).await;
    assert_eq!(ids(&paged(&gateway, "run-1", 6).await), numbered(30..50));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_file_keeps_what_it_has_in_both_modes() {
    let demo = Demo::start().await;
    for (legs, expected) in [("last", 5..25), ("all", 0..25)] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("history.db");
        old_file(&file);
        let gateway = Gateway::with(yaml(&demo, legs, &format!(", file: {file:?}"))).await;
        assert_eq!(ids(&paged(&gateway, "old-run", 10).await), ["first", "second"]);
        let detail = gateway.answer_until("/control/records/old-run", |_| true).await;
        assert_eq!(ids(detail["requests"].as_array().expect("requests")), ["first", "second"]);
        run(&gateway, "run-1", 0..25).await;
        assert_eq!(gateway.kill("run-1").await.status, 200);
        gateway.answer_until("/control/history", |page| page["records"].get(1).is_some()).await;
        assert_eq!(ids(&kept(&gateway, "run-1", expected.len()).await), numbered(expected), "{legs}");

        // An older program that is being replaced still writes in its own way.
        let other = Connection::open(&file).expect("the file");
        other.execute("INSERT INTO legs (seq, body) VALUES (1, ?1)", [old_leg("third")]).expect("a leg");
        assert_eq!(ids(&paged(&gateway, "old-run", 10).await), ["first", "second", "third"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_wrote_is_answered_as_documented() {
    let demo = Demo::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("history.db");
    let older = Connection::open(&file).expect("a file");
    older.execute_batch(include_str!("../../older/history.sql")).expect("an older history");
    drop(older);
    let gateway = Gateway::with(yaml(&demo, "last", &format!(", file: {file:?}, retention: 10000d"))).await;
    let mut operator = gateway.operator().await;
    // Each answer is compared with docs/openapi.json.
    let page = operator.get("/control/history").await.json();
    assert_eq!(page["records"].as_array().map(Vec::len), Some(3), "{page}");
    assert_eq!(page["records"][0]["schema"], "elida.cdr/1");
    let detail = operator.get("/control/records/old-0").await.json();
    assert_eq!(
        (detail["requests"].as_array().map(Vec::len), detail["kills"].as_array().map(Vec::len)),
        (Some(1), Some(1))
    );
    for path in ["records/old-0/requests", "history/events", "usage", "history/series"] {
        assert_eq!(operator.get(&format!("/control/{path}")).await.status(), 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_keeps_the_requests_that_were_written() {
    let demo = Demo::start().await;
    let yaml = yaml(&demo, "all", "");
    let mut gateway = Gateway::with(&yaml).await;
    run(&gateway, "run-1", 0..60).await;
    kept(&gateway, "run-1", 60).await;
    gateway.crash_and_restart(&yaml).await;
    // There will never be a record; the event of its beginning names the principal.
    assert_eq!(gateway.operator().await.get("/control/records/run-1").await.status(), 404);
    assert_eq!(ids(&paged(&gateway, "run-1", 25).await), numbered(0..60));
    run(&gateway, "run-1", 60..70).await;
    assert_eq!(ids(&kept(&gateway, "run-1", 10).await), numbered(60..70), "its next incarnation");
    let lines = gateway.elida(&["cdr", "export", "--requests"]).await;
    assert_eq!(lines.lines().count(), 70, "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_neither_records_nor_the_requests_that_wait() {
    let demo = Demo::start().await;
    let gateway = Gateway::with_file_size(&yaml(&demo, "all", ""), 192).await;
    let mut runs = 0;
    while gateway.metric("elida_history_up").await > 0.0 {
        let id = format!("run-{runs}");
        run(&gateway, &id, 0..40).await;
        assert_eq!(gateway.kill(&id).await.status, 200);
        runs += 1;
        assert!(runs < 500, "the file never gets full");
    }
    run(&gateway, "late", 0..40).await;
    gateway.lift_file_size();
    within("room", async {
        while gateway.metric("elida_history_up").await < 1.0 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(ids(&kept(&gateway, "late", 40).await), numbered(0..40));
    let records = gateway.elida(&["cdr", "export"]).await;
    let records = records.lines().filter(|line| line.contains("\"elida.cdr/3\"")).count();
    assert_eq!(records, runs, "a record is missing");
    let lines = gateway.elida(&["cdr", "export", "--requests"]).await;
    assert_eq!(lines.lines().count(), (runs + 1) * 40);
    for kind in ["records", "events", "legs"] {
        let series = format!("elida_history_dropped_total{{kind=\"{kind}\"}}");
        assert_eq!(gateway.metric(&series).await, 0.0, "{kind}");
    }
}
