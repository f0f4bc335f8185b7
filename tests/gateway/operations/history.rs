use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::json_schema::fits;
use crate::support::{Backend, Call, Demo, Gateway, within};

/// Runs `elida` against this gateway; returns its exit code and what it printed on either pipe.
async fn elida(gateway: &Gateway, words: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
    command.args(words).env_clear().env("ELIDA_CONTROL", format!("http://{}", gateway.control()));
    let run = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
    let output = within("the command", run).await.expect("the command");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn has(key: &'static str, count: usize) -> impl Fn(&Value) -> bool {
    move |answer| answer[key].as_array().is_some_and(|list| list.len() == count)
}

fn path(file: &Path) -> &str {
    file.to_str().expect("a plain path")
}

/// Exports everything with the command.
async fn exported(gateway: &Gateway, folder: &Path) -> PathBuf {
    let file = folder.join("records.ndjson");
    let (code, _, error) = elida(gateway, &["cdr", "export", "--output", path(&file)]).await;
    assert_eq!(code, 0, "{error}");
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_session_is_found_afterwards_with_all_that_happened() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for _ in 0..2 {
        assert_eq!(Call::chat("hello").session("run-1").send(gateway.proxy()).await.status(), 200);
    }
    assert_eq!(gateway.kill("run-1").await.status, 200);
    assert_eq!(gateway.resume("run-1").await, 200);
    let page = gateway.answer_until("/control/history?state=killed", has("records", 1)).await;
    let record = &page["records"][0];
    assert_eq!((&record["session_id"], &record["request_count"]), (&"run-1".into(), &2.into()), "{record}");
    assert_eq!(record["chain"]["seq"], 1, "{record}");

    let lifted = |answer: &Value| answer["kills"][0]["lifted_by"].is_string();
    let detail = gateway.answer_until("/control/records/run-1", lifted).await;
    assert_eq!(detail["requests"].as_array().map(Vec::len), Some(2), "{detail}");
    assert_eq!(detail["kills"][0]["order"]["reason"], "runaway", "{detail}");
    let happened: Vec<_> =
        detail["events"].as_array().expect("events").iter().map(|event| &event["type"]).collect();
    for what in ["session_started", "session_killed", "session_ended", "session_resumed"] {
        assert!(happened.iter().any(|event| *event == what), "{what} in {happened:?}");
    }
    let usage = gateway.answer_until("/control/usage?by=model", has("usage", 1)).await;
    assert_eq!(usage["usage"][0]["requests"], 2, "{usage}");
    assert_eq!(usage["usage"][0]["input_tokens"], record["usage"]["input_tokens"], "{usage}");
    let series = gateway.answer_until("/control/history/series?step=day", has("points", 1)).await;
    assert_eq!((&series["points"][0]["sessions"], &series["points"][0]["killed"]), (&1.into(), &1.into()));
    let mut operator = gateway.operator().await;
    assert_eq!(
        operator.get("/control/history?from=1h&to=30m").await.json()["records"],
        serde_json::json!([])
    );
    assert_eq!(operator.get("/control/history?limit=0").await.status(), 400);
    assert_eq!(operator.get("/control/records/nobody").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_verifies_offline_and_a_changed_one_does_not() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for number in 0..8 {
        let id = format!("run-{number}");
        assert_eq!(Call::chat("hello").session(&id).send(gateway.proxy()).await.status(), 200);
        assert_eq!(gateway.kill(&id).await.status, 200);
    }
    gateway.answer_until("/control/history", has("records", 8)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = exported(&gateway, folder.path()).await;
    let key = gateway.data().join("cdr-key.pub");
    let verify = ["cdr", "verify", path(&file), "--key", path(&key)];
    let (code, out, error) = elida(&gateway, &verify).await;
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("in order: 8 records (1 to 8)"), "{out}");

    let text = std::fs::read_to_string(&file).expect("the export");
    let lines: Vec<&str> = text.lines().collect();
    let swapped = [lines[1], lines[0]].iter().chain(&lines[2..]).copied().collect::<Vec<_>>();
    let changes = [
        (text.replacen("\"request_count\":1", "\"request_count\":2", 1), "was changed"),
        ([&lines[..3], &lines[4..]].concat().join("\n") + "\n", "was removed"),
        (swapped.join("\n") + "\n", "record"),
        (lines[..6].join("\n") + "\n", "its end was cut off"),
    ];
    for (changed, message) in changes {
        std::fs::write(&file, changed).expect("the changed export");
        let (code, _, error) = elida(&gateway, &verify).await;
        assert_eq!(code, 1, "{error}");
        assert!(error.contains(message), "{message} in {error}");
    }
    let (code, out, _) = elida(&gateway, &["cdr", "export", "--format", "csv"]).await;
    assert_eq!((code, out.lines().count()), (0, 9), "{out}");
    assert!(out.starts_with("seq,uid,session_id,"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_leaves_a_history_that_goes_on_and_verifies() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\n", demo.url());
    let mut gateway = Gateway::with(&yaml).await;
    let mut ended = 0;
    for round in 0..3 {
        let load = async {
            for number in 0..40 {
                let id = format!("run-{round}-{number}");
                assert_eq!(Call::chat("hello").session(&id).send(gateway.proxy()).await.status(), 200);
                assert_eq!(gateway.kill(&id).await.status, 200);
            }
        };
        load.await;
        ended += 40;
        gateway.crash_and_restart(&yaml).await;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = exported(&gateway, folder.path()).await;
    let (code, out, error) = elida(&gateway, &["cdr", "verify", path(&file), "--json"]).await;
    assert_eq!(code, 0, "{error}");
    let records = crate::support::json(out.as_bytes())["report"]["records"].as_u64().expect("a number");
    // The requests of the last milliseconds before each crash are lost here; the log has them.
    assert!((ended - 30..=ended).contains(&records), "{records} of {ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_holds_nobody_up_and_loses_nothing_once_there_is_room() {
    let demo = Demo::start().await;
    let gateway = Gateway::with_file_size(&format!("backend: {:?}\n", demo.url()), 128).await;
    let mut slowest = Duration::ZERO;
    let mut ended = 0;
    while gateway.metric("elida_history_up").await > 0.0 {
        for _ in 0..20 {
            let id = format!("run-{ended}");
            let begun = Instant::now();
            assert_eq!(Call::chat("hello").session(&id).send(gateway.proxy()).await.status(), 200);
            slowest = slowest.max(begun.elapsed());
            assert_eq!(gateway.kill(&id).await.status, 200);
            ended += 1;
        }
        assert!(ended < 5000, "the file never gets full");
    }
    gateway
        .log_until(|line| {
            line["level"] == "ERROR" && line["message"].as_str().is_some_and(|text| text.contains("history"))
        })
        .await;
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    gateway.lift_file_size();
    within("room", async {
        while gateway.metric("elida_history_up").await < 1.0 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = exported(&gateway, folder.path()).await;
    let (code, out, error) = elida(&gateway, &["cdr", "verify", path(&file), "--json"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(crate::support::json(out.as_bytes())["report"]["records"], ended);
    assert_eq!(gateway.metric("elida_history_dropped_total{kind=\"records\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_usable_file_traffic_goes_on_and_the_answer_says_why() {
    let demo = Demo::start().await;
    let gateway =
        Gateway::with(format!("backend: {:?}\nhistory: {{ file: /dev/null/no }}\n", demo.url())).await;
    gateway
        .log_until(|line| line["message"].as_str().is_some_and(|text| text.contains("history.file")))
        .await;
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    let answer = gateway.operator().await.get("/control/history").await;
    assert_eq!(
        (answer.status(), &answer.json()["code"]),
        (404, &"history_disabled".into()),
        "{}",
        answer.text()
    );
    let (code, _, error) = elida(&gateway, &["cdr", "export"]).await;
    assert_eq!(code, 1);
    assert!(error.contains("history.enabled"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_fits_its_schema() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let proxy = gateway.proxy();
    assert_eq!(Call::chat("hello").session("plain").send(proxy).await.status(), 200);
    assert_eq!(Call::get("/nowhere").session("failed").send(proxy).await.status(), 404);
    for agent in ["one", "two"] {
        let call = Call::messages_stream("hello").header("x-claude-code-session-id", "agents");
        assert_eq!(call.header("x-claude-code-agent-id", agent).send(proxy).await.status(), 200);
    }
    let mut operator = gateway.operator().await;
    let order = json!({"reason": "runaway", "agent": "one"});
    assert_eq!(operator.post("/control/sessions/agents/kill", &order).await.status(), 200);
    for id in ["plain", "failed", "agents"] {
        assert_eq!(gateway.kill(id).await.status, 200);
    }
    // A second incarnation.
    assert_eq!(gateway.resume("plain").await, 200);
    assert_eq!(Call::chat("hello").session("plain").send(proxy).await.status(), 200);
    assert_eq!(gateway.kill("plain").await.status, 200);
    gateway.answer_until("/control/history", has("records", 4)).await;
    gateway.log_until(|line| line["message"] == "session_record" && line["incarnation"] == 2).await;

    let schema: Value =
        serde_json::from_str(include_str!("../../../docs/cdr.schema.json")).expect("a schema");
    let export = gateway.elida(&["cdr", "export"]).await;
    let lines = export.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let exported: Vec<Value> = lines.filter(|line: &Value| line["schema"] == "elida.cdr/3").collect();
    let logged = gateway.log_lines().into_iter().filter(|line| line["message"] == "session_record");
    let records: Vec<Value> = exported.into_iter().chain(logged).collect();
    assert_eq!(records.len(), 8, "{records:?}");
    let described = schema["properties"].as_object().expect("properties");
    for record in &records {
        fits(&schema, &schema, record).unwrap_or_else(|fault| panic!("{fault}: {record}"));
        let own = ["timestamp", "level", "message"];
        let mut keys = record.as_object().expect("a record").keys();
        assert!(keys.all(|key| described.contains_key(key) || own.contains(&&**key)), "{record}");
    }
    for (at, value, message) in [
        ("/uid", json!("s_1"), "does not match"),
        ("/state", json!("gone"), "not a known word"),
        ("/started_at", json!("yesterday"), "is no time"),
        ("/usage/input_tokens", json!("7"), "is not"),
        ("/kill/uid", Value::Null, "is not"),
    ] {
        let mut changed = records[0].clone();
        *changed.pointer_mut(at).expect(at) = value;
        let fault = fits(&schema, &schema, &changed).expect_err(at);
        assert!(fault.contains(message), "{at}: {fault}");
    }
}

/// The permissions of a file or folder.
fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_hold_keys_or_prompts_are_for_their_owner_only() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\ncapture: {{ mode: all }}\n", demo.url());
    let mut gateway = Gateway::with(&yaml).await;
    assert_eq!(Call::chat("hello").session("run-1").send(gateway.proxy()).await.status(), 200);
    assert_eq!(gateway.kill("run-1").await.status, 200);
    gateway.answer_until("/control/history", has("records", 1)).await;
    let private = |gateway: &Gateway| -> Vec<String> {
        assert_eq!(mode(&gateway.data()), 0o700);
        let files =
            std::fs::read_dir(gateway.data()).expect("the folder").map(|entry| entry.expect("a file").path());
        let files: Vec<PathBuf> =
            files.filter(|file| file.extension().is_none_or(|ending| ending != "pub")).collect();
        for file in &files {
            assert_eq!(mode(file), 0o600, "{}", file.display());
        }
        files
            .iter()
            .filter_map(|file| file.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    };
    let files = private(&gateway);
    for name in
        ["history.db", "history.db-wal", "history.db-shm", "cdr-key.p8", "state.db", "audit-head.json"]
    {
        assert!(files.iter().any(|file| file == name), "{name} in {files:?}");
    }
    // An older program made them readable for everybody.
    for name in &files {
        std::fs::set_permissions(gateway.data().join(name), Permissions::from_mode(0o644))
            .expect("the owner");
    }
    let configuration = gateway.data().with_file_name("elida.yaml");
    let check = ["check", "-c", path(&configuration)];
    let (code, out, error) = elida(&gateway, &check).await;
    assert_eq!(code, 0, "{out}{error}");
    assert!(format!("{out}{error}").contains("other users can read files in"), "{out}{error}");
    gateway.crash_and_restart(&yaml).await;
    private(&gateway);
    let (code, out, error) = elida(&gateway, &check).await;
    assert!(code == 0 && !format!("{out}{error}").contains("others may"), "{out}{error}");
    std::fs::set_permissions(gateway.data(), Permissions::from_mode(0o755)).expect("the owner");
    for words in [check.as_slice(), &["doctor", "-c", path(&configuration)]] {
        let (_, out, error) = elida(&gateway, words).await;
        assert!(format!("{out}{error}").contains("other users can look into"), "{out}{error}");
    }
}
