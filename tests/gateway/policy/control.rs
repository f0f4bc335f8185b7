use std::process::Command;

use serde_json::{Value, json};

use super::rules::ruled;
use crate::support::{Call, Demo, Gateway};

const RULES: &str = r#"  rules:
    - { id: named, on: request, when: 'request.headers["x-test"] == "1"', severity: high, message: "no" }
    - { id: stops, on: request, when: 'request.headers["x-test"] == "2"', action: block }"#;

async fn flags(gateway: &Gateway, query: &str) -> Value {
    gateway.operator().await.get(&format!("/control/flags{query}")).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_shown_with_their_counts_and_findings_are_listed() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    for test in ["1", "1", "2"] {
        Call::chat("hello").session("s").header("x-test", test).send(gateway.proxy()).await;
    }
    let policy = gateway.operator().await.get("/control/policy").await.json();
    let counts: Vec<(&str, u64)> = policy["rules"]
        .as_array()
        .expect("rules")
        .iter()
        .map(|rule| (rule["id"].as_str().expect("an id"), rule["findings"].as_u64().expect("a count")))
        .collect();
    assert_eq!(counts, [("named", 2), ("stops", 1)], "{policy}");
    let all = flags(&gateway, "").await;
    let found = |page: &Value| -> Vec<String> {
        let rule = |flag: &Value| flag["rule"].as_str().expect("a rule").to_owned();
        page["flags"].as_array().expect("flags").iter().map(rule).collect()
    };
    assert_eq!(found(&all), ["stops", "named", "named"], "{all}");
    assert_eq!((&all["flags"][0]["session_id"], &all["flags"][0]["phase"]), (&json!("s"), &json!("request")));
    assert_eq!(found(&flags(&gateway, "?action=block").await), ["stops"]);
    assert_eq!(found(&flags(&gateway, "?severity=high&session=s").await), ["named", "named"]);
    assert!(found(&flags(&gateway, "?session=other").await).is_empty());
    let first = flags(&gateway, "?limit=2").await;
    let rest = flags(&gateway, &format!("?limit=2&cursor={}", first["next_cursor"])).await;
    assert_eq!(
        (found(&first), found(&rest)),
        (vec!["stops".into(), "named".into()], vec!["named".to_owned()])
    );
    assert_eq!(rest["next_cursor"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_tried_on_what_is_given_and_say_why() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    let mut operator = gateway.operator().await;
    let report = operator
        .post("/control/policy/test", &json!({"facts": {"request.headers": {"x-test": "2"}}}))
        .await
        .json();
    assert_eq!((&report["action"], &report["rule"]), (&json!("block"), &json!("stops")), "{report}");
    assert_eq!(report["rules"][0]["result"], "no");
    assert_eq!(report["rules"][1]["facts"]["request.headers"], json!({"x-test": "2"}));
    let report = operator.post("/control/policy/test", &json!({"unknown": ["request.headers"]})).await.json();
    assert_eq!(
        (&report["rules"][1]["result"], &report["rules"][1]["holds"]),
        (&json!("unknown"), &json!(true))
    );
    assert_eq!(
        (&report["rules"][0]["result"], &report["rules"][0]["holds"]),
        (&json!("unknown"), &json!(false))
    );
    let other = json!({"policy": {"presets": ["minimal"]}, "text": "AKIAIOSFODNN7EXAMPLE"});
    let report = operator.post("/control/policy/test", &other).await.json();
    assert_eq!(
        (&report["rule"], &report["rules"][0]["found"]),
        (&json!("secret-in-request"), &json!(1)),
        "{report}"
    );
    for (wrong, why) in [
        (json!({"facts": {"request.modle": "x"}}), "did you mean request.model?"),
        (json!({"facts": {"request.bytes": "x"}}), "request.bytes is a int"),
        (json!({"policy": {"rules": [{"id": "a", "on": "request", "when": "nope"}]}}), "nope is not known"),
        (json!({"fakts": {}}), "fakts"),
    ] {
        let refused = operator.post("/control/policy/test", &wrong).await;
        assert_eq!(refused.status(), 400, "{}", refused.text());
        assert!(refused.text().contains(why), "{why}: {}", refused.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suppressed_finding_counts_for_nothing_until_it_is_taken_back() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\npolicy:\n{RULES}\n", crate::support::Backend::url(&demo));
    let mut gateway = Gateway::with(&yaml).await;
    let call = || Call::chat("hello").session("s").header("x-test", "2");
    assert_eq!(call().send(gateway.proxy()).await.status(), 403);
    let body = json!({"rule": "stops", "session": "s", "until": "1h", "reason": "it is a test"});
    let made = gateway.operator().await.post("/control/policy/suppressions", &body).await;
    assert_eq!(made.status(), 201, "{}", made.text());
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(call().send(gateway.proxy()).await.status(), 200);
    let other = Call::chat("hello").session("other").header("x-test", "2");
    assert_eq!(other.send(gateway.proxy()).await.status(), 403);
    let audit = gateway.operator().await.get("/control/audit").await.text();
    assert!(audit.contains("addSuppression") && audit.contains("it is a test"), "{audit}");
    for (wrong, why) in [
        (json!({"rule": "nope", "until": "1h", "reason": "x"}), "no rule is called 'nope'"),
        (json!({"rule": "stops", "until": "1h"}), "reason"),
        (json!({"rule": "stops", "until": "yesterday", "reason": "x"}), "until"),
    ] {
        let refused = gateway.operator().await.post("/control/policy/suppressions", &wrong).await;
        assert_eq!(refused.status(), 400);
        assert!(refused.text().contains(why), "{}", refused.text());
    }
    gateway.crash_and_restart(&yaml).await;
    assert_eq!(call().send(gateway.proxy()).await.status(), 200, "it holds after a restart");
    let mut operator = gateway.operator().await;
    let all = operator.get("/control/policy/suppressions").await.json();
    assert_eq!(all["suppressions"][0]["id"], id.as_str(), "{all}");
    let path = format!("/control/policy/suppressions/{id}");
    assert_eq!(operator.delete(&path).await.status(), 200);
    assert_eq!(operator.delete(&path).await.status(), 404);
    assert_eq!(call().send(gateway.proxy()).await.status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_score_blocks_the_session_and_the_same_text_is_counted_once() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, &format!("  score: {{ block: 15 }}\n{RULES}")).await;
    let call = |test: &str| Call::chat("hello").session("s").header("x-test", test);
    for expected in [200, 403] {
        assert_eq!(call("1").send(gateway.proxy()).await.status(), expected);
    }
    let refusal = call("0").send(gateway.proxy()).await;
    assert_eq!(refusal.status(), 403, "{}", refusal.text());
    assert!(refusal.text().contains("score-block"), "{}", refusal.text());
    assert_eq!(Call::chat("hello").session("other").send(gateway.proxy()).await.status(), 200);
}

#[test]
fn cases_that_are_not_as_expected_end_with_exit_code_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("cases.yaml");
    let test = |text: &str| {
        std::fs::write(&file, text).expect("the cases");
        let mut test = Command::new(env!("CARGO_BIN_EXE_elida"));
        let output = test.args(["policy", "test"]).arg(&file).output().expect("it runs");
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let rule = "policy: { rules: [{ id: a, on: request, when: 'request.model == \"x\"', action: block }] }\n";
    let (code, text) = test(&format!(
        "{rule}cases: [{{ name: one, facts: {{ request.model: y }}, expect: {{ holds: [a] }} }}]"
    ));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("FAIL  one") && text.contains("a does not hold (request.model: \"y\")"), "{text}");
    let (code, text) =
        test(&format!("{rule}cases: [{{ name: one, fakts: {{}}, expect: {{ action: pass }} }}]"));
    assert!(code == Some(1) && text.contains("fakts"), "{code:?} {text}");
    let (code, text) = test("policy: { rules: [{ id: a, on: request, when: nope }] }\ncases: []\n");
    assert!(code == Some(2) && text.contains("nope is not known"), "{code:?} {text}");
    let shown = Command::new(env!("CARGO_BIN_EXE_elida"))
        .args(["policy", "show", "strikt"])
        .output()
        .expect("it runs");
    assert!(String::from_utf8_lossy(&shown.stderr).contains("did you mean strict?"));
}

#[tokio::test(flavor = "multi_thread")]
async fn views_and_records_name_what_rules_found() {
    let demo = Demo::start().await;
    let gateway = ruled(
        &demo,
        "  rules:\n    - { id: plums, on: request, match: { any: [purple plums] }, action: flag, severity: low }\n    \
         - { id: post, on: request, when: 'request.method == \"POST\"', action: flag }",
    )
    .await;
    for text in ["two purple plums", "one pear", "two purple plums"] {
        assert_eq!(Call::chat(text).session("s").send(gateway.proxy()).await.status(), 200);
    }
    let flags = json!([
        {"rule": "plums", "action": "flag", "severity": "low", "count": 1},
        {"rule": "post", "action": "flag", "severity": "medium", "count": 3},
    ]);
    let view = gateway.operator().await.get("/control/sessions/s").await.json();
    assert_eq!(view["flags"], flags, "the same text counts once: {view}");
    assert_eq!(gateway.kill("s").await.status, 200);
    let detail = gateway.answer_until("/control/records/s", |detail| detail["record"].is_object()).await;
    assert_eq!(detail["record"]["flags"], flags, "{detail}");
}

#[test]
fn services_are_shown_beside_the_rules() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let text = "backend: http://localhost:9100\npolicy:\n  external:\n    - { name: opa, url: 'http://127.0.0.1:8181/v1', on: [request, tool_call], on_error: closed }\n";
    std::fs::write(&file, text).expect("the configuration");
    let show = Command::new(env!("CARGO_BIN_EXE_elida")).args(["policy", "show", "-c"]).arg(&file).output();
    let text = String::from_utf8_lossy(&show.expect("it runs").stdout).into_owned();
    let row = text.lines().find(|line| line.starts_with("opa ")).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>(),
        ["opa", "request,", "tool_call", "enforce", "closed"]
    );
}
