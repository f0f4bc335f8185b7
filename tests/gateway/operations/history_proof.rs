use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::program::python;
use crate::support::{Backend, Call, Demo, Gateway, within};

/// Runs `elida`; returns its exit code and what it printed on either pipe.
async fn elida(gateway: &Gateway, words: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
    command.args(words).env_clear().env("ELIDA_CONTROL", format!("http://{}", gateway.control()));
    let run = tokio::task::spawn_blocking(move || command.output().expect("the binary runs"));
    let output = within("the command", run).await.expect("the command");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

fn path(file: &Path) -> &str {
    file.to_str().expect("a plain path")
}

/// Sessions that are served and killed; the history has their records afterwards.
async fn records(gateway: &Gateway, of: &str, count: usize) {
    for number in 0..count {
        let id = format!("{of}-{number}");
        assert_eq!(Call::chat("hello").session(&id).send(gateway.proxy()).await.status(), 200);
        assert_eq!(gateway.kill(&id).await.status, 200);
        gateway.answer_until(&format!("/control/records/{id}"), |_| true).await;
    }
}

/// Exports everything and verifies it with the gateway's own key.
async fn verified(gateway: &Gateway, folder: &Path) -> (i32, String) {
    let (file, key) = (folder.join("records.ndjson"), gateway.data().join("cdr-key.pub"));
    let (code, printed) = elida(gateway, &["cdr", "export", "-o", path(&file)]).await;
    assert_eq!(code, 0, "{printed}");
    elida(gateway, &["cdr", "verify", path(&file), "--key", path(&key)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_was_changed_while_running_is_not_signed_until_it_is_accepted() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let folder = tempfile::tempdir().expect("a folder");
    records(&gateway, "run", 6).await;
    let (code, printed) = verified(&gateway, folder.path()).await;
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("signed from the beginning until 20"), "{printed}");
    assert!((gateway.metric("elida_history_intact").await - 1.0).abs() < f64::EPSILON);

    let file = Connection::open(gateway.data().join("history.db")).expect("the history");
    file.execute_batch(
        "PRAGMA foreign_keys = OFF; DELETE FROM heads; DELETE FROM records WHERE seq = 5;
         UPDATE records SET seq = 5 WHERE seq = 6;",
    )
    .expect("SQL without the key");
    let (code, printed) = verified(&gateway, folder.path()).await;
    assert_eq!(code, 1, "{printed}");
    assert!(printed.contains("not in order"), "{printed}");
    gateway
        .log_until(|line| {
            line["level"] == "ERROR"
                && line["message"].as_str().is_some_and(|text| text.contains("cdr accept"))
        })
        .await;
    assert!(gateway.metric("elida_history_intact").await.abs() < f64::EPSILON);
    let ready = gateway.operator().await.get("/health/readiness").await;
    assert_eq!(ready.status(), 200, "traffic goes on");
    assert!(ready.json()["warning"].as_str().is_some_and(|text| text.contains("the history was changed")));
    records(&gateway, "later", 2).await;
    assert_eq!(verified(&gateway, folder.path()).await.0, 1);

    let config = gateway.data().parent().expect("a folder").join("elida.yaml");
    let accept = ["cdr", "accept", "--config", path(&config)];
    let (code, printed) = elida(&gateway, &accept).await;
    assert_eq!(code, 0, "{printed}");
    assert!(
        printed.contains("does not lead to what was signed") && printed.contains("--reason"),
        "{printed}"
    );
    assert_eq!(verified(&gateway, folder.path()).await.0, 1, "a look accepts nothing");
    let (code, printed) = elida(&gateway, &[&accept[..], &["--reason", "a test"]].concat()).await;
    assert_eq!(code, 0, "{printed}");
    records(&gateway, "after", 2).await;
    let (code, printed) = verified(&gateway, folder.path()).await;
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("NOT vouched for up to record 7") && printed.contains("a test"), "{printed}");
    assert!((gateway.metric("elida_history_intact").await - 1.0).abs() < f64::EPSILON);
    let ready = gateway.operator().await.get("/health/readiness").await;
    assert_eq!(ready.json()["warning"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_was_changed_while_down_is_told_at_the_start() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\n", demo.url());
    let mut gateway = Gateway::with(&yaml).await;
    let folder = tempfile::tempdir().expect("a folder");
    records(&gateway, "run", 3).await;
    assert_eq!(verified(&gateway, folder.path()).await.0, 0);
    fs::remove_file(gateway.data().join("history.db")).expect("the history");
    gateway.crash_and_restart(&yaml).await;
    gateway
        .log_until(|line| {
            line["level"] == "ERROR"
                && line["what"].as_str().is_some_and(|text| text.contains("records 1 to 3"))
        })
        .await;
    let (code, printed) = verified(&gateway, folder.path()).await;
    assert_eq!(code, 1, "{printed}");
    assert!(printed.contains("did not sign this export"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_implementation_of_rfc_8785_finds_the_records_in_order() {
    let demo = Demo::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    // The older form was wrong for costs: 0.0, and small fractions.
    let prices = folder.path().join("prices.yaml");
    let row = "{ model: 'dear-*', input: 0.007, output: 0.0123 }";
    let free = "{ model: '*', input: 0, output: 0 }";
    fs::write(&prices, format!("version: 1\nprices:\n  - {row}\n  - {free}\n")).expect("prices");
    let gateway =
        Gateway::with(format!("backend: {:?}\nusage: {{ prices_file: {prices:?} }}\n", demo.url())).await;
    records(&gateway, "plain", 2).await;
    for id in ["one", "two"] {
        let call = Call::post("/v1/chat/completions").session(id);
        let call = call.json(&json!({"model": "dear-1", "messages": [{"role": "user", "content": "hello"}]}));
        assert_eq!(call.send(gateway.proxy()).await.status(), 200);
        let priced = |session: &Value| session["usage"]["cost_usd"].as_f64().is_some_and(|cost| cost > 0.0);
        gateway.session_until(id, priced).await;
        let order = json!({"reason": "\u{20ac}\u{1f600} \"quoted\"\n\u{7f}\u{1}"});
        let mut operator = gateway.operator().await;
        assert_eq!(operator.post(&format!("/control/sessions/{id}/kill"), &order).await.status(), 200);
        gateway.answer_until(&format!("/control/records/{id}"), |_| true).await;
    }
    let (code, printed) = verified(&gateway, folder.path()).await;
    assert_eq!(code, 0, "{printed}");
    let file = folder.path().join("records.ndjson");
    let text = fs::read_to_string(&file).expect("the export");
    assert!(text.contains("\"cost_usd\":0,") || text.contains("\"cost_usd\":0}"), "{text}");
    assert!(text.contains("\"cost_usd\":1.93e-8"), "a fraction: {text}");
    let mut check = python("verify_records.py");
    check.arg(&file);
    let run = tokio::task::spawn_blocking(move || check.output().expect("python"));
    let output = within("python", run).await.expect("python");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(printed.trim(), "in order: 4 records", "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_cut_at_a_head_is_told_and_a_time_or_a_head_says_how_far_it_reaches() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("records.ndjson");
    // Each export signs a head.
    for part in ["one", "two"] {
        records(&gateway, part, 2).await;
        assert_eq!(verified(&gateway, folder.path()).await.0, 0);
    }
    let text = fs::read_to_string(&file).expect("the export");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.last().is_some_and(|line| line.contains("\"kind\":\"export\"")), "{text}");
    let at = lines.iter().position(|line| line.contains("cdr-head/1")).expect("a head");
    let cut = folder.path().join("cut.ndjson");
    fs::write(&cut, lines[..=at].join("\n") + "\n").expect("the cut export");
    let head = folder.path().join("head.json");
    fs::write(&head, lines[at]).expect("the head");
    let signed: Value = serde_json::from_str(lines[at]).expect("a head");
    let signed = signed["at"].as_str().expect("a time");

    let verify = async |file: &Path, words: &[&str]| {
        elida(&gateway, &[&["cdr", "verify", path(file)], words].concat()).await
    };
    for (file, words, expected, part) in [
        (&cut, vec![], 1, "it was cut off"),
        (&cut, vec!["--until", signed], 0, "2 records (1 to 2)"),
        (&cut, vec!["--until", "0s"], 1, "it is signed only until"),
        (&cut, vec!["--head", path(&head)], 0, "2 records"),
        (&cut, vec!["--head", path(&file)], 1, "ends with record 2"),
        (&file, vec!["--head", path(&head)], 0, "4 records (1 to 4)"),
        (&file, vec!["--until", "yesterday"], 1, "--until yesterday is not a time"),
        (&file, vec!["--head", path(&gateway.data().join("cdr-head-history.db.json"))], 0, "4 records"),
    ] {
        let (code, printed) = verify(file, &words).await;
        assert_eq!(code, expected, "{words:?}: {printed}");
        assert!(printed.contains(part), "{words:?}: {printed}");
    }
    let (code, printed) =
        elida(&gateway, &["cdr", "export", "--from", "2999-01-01T00:00:00Z", "-o", path(&cut)]).await;
    assert_eq!(code, 0, "{printed}");
    let (code, printed) = verify(&cut, &[]).await;
    assert_eq!(code, 0, "{printed}");
    assert!(printed.starts_with("in order: no records"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_told_and_exports_that_span_it_verify() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\n", demo.url());
    let mut gateway = Gateway::with(&yaml).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut keys = Vec::new();
    for (round, announced) in [(0, false), (1, true), (2, false)] {
        if round > 0 {
            let key = gateway.data().join("cdr-key.p8");
            match announced {
                true => fs::rename(&key, gateway.data().join("cdr-key.old.p8")).expect("the former key"),
                false => fs::remove_file(&key).expect("the key"),
            }
            gateway.crash_and_restart(&yaml).await;
            gateway
                .log_until(|line| {
                    line["level"] == "WARN"
                        && line["message"].as_str().is_some_and(|text| text.contains("another signing key"))
                })
                .await;
        }
        records(&gateway, &format!("run-{round}"), 2).await;
        let (code, printed) = verified(&gateway, folder.path()).await;
        assert_eq!(code, 0, "the newest key has signed over all: {printed}");
        let key = fs::read_to_string(gateway.data().join("cdr-key.pub")).expect("the key");
        keys.push(key.trim().to_owned());
    }
    let file = folder.path().join("records.ndjson");
    for (given, expected) in
        [(vec![0], 1), (vec![0, 1], 1), (vec![0, 2], 0), (vec![0, 1, 2], 0), (vec![2], 0)]
    {
        let words = given.iter().flat_map(|key: &usize| ["--key", keys[*key].as_str()]).collect::<Vec<_>>();
        let (code, printed) = elida(&gateway, &[&["cdr", "verify", path(&file)], &words[..]].concat()).await;
        assert_eq!(code, expected, "{given:?}: {printed}");
        assert!(code == 0 || printed.contains("one more --key"), "{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_replaces_no_link_no_device_and_no_draft_of_another() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    records(&gateway, "run", 1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (link, target) = (folder.path().join("link.ndjson"), folder.path().join("target.ndjson"));
    let draft = folder.path().join("link.part");
    fs::write(&target, "older").expect("the target");
    fs::write(&draft, "another's").expect("the draft");
    symlink(&target, &link).expect("a link");
    for out in [link.as_path(), Path::new("/dev/null")] {
        let (code, printed) = elida(&gateway, &["cdr", "export", "-o", path(out)]).await;
        assert_eq!(code, 0, "{printed}");
    }
    assert!(link.is_symlink());
    assert!(fs::read_to_string(&target).expect("the target").contains("elida.cdr/3"));
    assert_eq!(fs::read_to_string(&draft).expect("the draft"), "another's");
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 3);
    let device = fs::metadata("/dev/null").expect("the device");
    assert!(!device.is_file());
    let (code, out) = elida(&gateway, &["cdr", "export", "-o", "/dev/stdout"]).await;
    assert!(code == 0 && out.contains("\"kind\":\"export\""), "{out}");
}
