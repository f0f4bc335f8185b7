use std::process::Command;

use serde_json::{Value, json};

use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway};

/// A gateway in front of the demo provider with this section `policy`.
pub async fn ruled(demo: &Demo, policy: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\npolicy:\n{policy}\n", demo.url())).await
}

fn code(refusal: &Message) -> String {
    let body = refusal.json();
    body.pointer("/error/code").and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_about_facts_blocks_before_any_backend_sees_the_request() {
    let demo = Demo::start().await;
    let gateway = ruled(
        &demo,
        r#"  rules:
    - { id: no-claude, on: request, when: 'request.model.startsWith("claude")', action: block, message: "no such models here" }
    - { id: no-curl, on: connect, when: 'lower(request.headers["user-agent"]).startsWith("curl")', action: block }
    - { id: looks, on: request, when: 'request.path == "/v1/chat/completions"', severity: low, mark: seen }
    - { id: seen-before, on: request, when: 'session.saw["seen"] && session.requests > 1', action: flag }"#,
    )
    .await;
    let passes = Call::chat("hello").session("s").send(gateway.proxy()).await;
    assert_eq!(passes.status(), 200, "{}", passes.text());
    let arrived = demo.ledger().arrived();
    for (call, status) in [
        (Call::messages_stream("hello"), 403),
        (Call::messages_stream("hello").header("user-agent", "codex_exec/0.60.0"), 400),
    ] {
        let refusal = call.send(gateway.proxy()).await;
        assert_eq!(
            (refusal.status(), code(&refusal).as_str()),
            (status, "policy_blocked"),
            "{}",
            refusal.text()
        );
        assert!(refusal.text().contains("no such models here"), "{}", refusal.text());
        assert!(refusal.text().contains("\"rule\":\"no-claude\""), "{}", refusal.text());
        assert_eq!(refusal.head.field("x-should-retry"), Some("false"));
    }
    let refusal = Call::chat("hello").header("user-agent", "curl/8.5").send(gateway.proxy()).await;
    assert_eq!(code(&refusal), "policy_blocked");
    assert!(refusal.text().contains("the rule 'no-curl'"), "{}", refusal.text());
    assert_eq!(demo.ledger().arrived(), arrived, "no backend sees it");
    Call::chat("hello").session("s").send(gateway.proxy()).await;
    let series = |rule: &str, action: &str| {
        format!("elida_policy_decisions_total{{action=\"{action}\",mode=\"enforce\",rule=\"{rule}\"}}")
    };
    assert_eq!(gateway.metric(&series("no-claude", "block")).await, 2.0);
    assert_eq!(gateway.metric(&series("seen-before", "flag")).await, 1.0);
    let line =
        gateway.log_until(|line| line["message"] == "policy_finding" && line["rule"] == "no-claude").await;
    assert_eq!(
        (&line["action"], &line["phase"], &line["unknown"]),
        (&json!("block"), &json!("request"), &json!(false))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_kills_the_session_and_the_order_says_which() {
    let demo = Demo::start().await;
    let gateway = ruled(
        &demo,
        "  rules:\n    - { id: runaway, on: request, when: session.requests > 2, action: kill, severity: critical }",
    )
    .await;
    for _ in 0..2 {
        assert_eq!(Call::chat("hello").session("s").send(gateway.proxy()).await.status(), 200);
    }
    let arrived = demo.ledger().arrived();
    for _ in 0..2 {
        let refusal = Call::chat("hello").session("s").send(gateway.proxy()).await;
        assert_eq!(
            (refusal.status(), code(&refusal).as_str()),
            (403, "session_killed"),
            "{}",
            refusal.text()
        );
    }
    assert_eq!(demo.ledger().arrived(), arrived, "no backend sees it");
    gateway.session_until("s", |session| session["state"] == "killed").await;
    let kills = gateway.operator().await.get("/control/kills").await.json();
    assert_eq!(kills["kills"][0]["by"], "policy:runaway", "{kills}");
    assert_eq!(gateway.metric("elida_session_kills_total{source=\"policy\"}").await, 1.0);
    assert_eq!(Call::chat("hello").session("other").send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decided_blocks_and_audit_only_flags() {
    let demo = Demo::start().await;
    let gateway = ruled(
        &demo,
        r#"  rules:
    - { id: strict, on: request, when: 'request.headers["x-test"] == "1" && request.stream', action: block }
    - { id: lenient, on: request, when: 'request.headers["x-test"] == "2" && request.stream', action: block, unknown: skip }
    - { id: noted, on: request, when: 'request.stream', action: flag }
    - { id: tried, on: request, when: 'request.headers["x-test"] == "3"', action: block, mode: audit }"#,
    )
    .await;
    // Two values for `stream`: which of them the backend obeys is not known.
    let unreadable = |test: &str| {
        Call::post("/v1/chat/completions")
            .header("x-test", test)
            .header("content-type", "application/json")
            .body("{\"model\": \"gpt-demo\", \"stream")
    };
    let refusal = unreadable("1").send(gateway.proxy()).await;
    assert_eq!(code(&refusal), "policy_blocked", "{}", refusal.text());
    let passes = unreadable("2").send(gateway.proxy()).await;
    assert_ne!(code(&passes), "policy_blocked", "{}", passes.text());
    assert_eq!(Call::chat("hello").header("x-test", "3").send(gateway.proxy()).await.status(), 200);
    for (rule, times) in [("strict", 1.0), ("lenient", 1.0), ("noted", 2.0)] {
        assert_eq!(
            gateway.metric(&format!("elida_policy_unknown_total{{rule=\"{rule}\"}}")).await,
            times,
            "{rule}"
        );
    }
    let series = "elida_policy_decisions_total{action=\"block\",mode=\"audit\",rule=\"tried\"}";
    assert_eq!(gateway.metric(series).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_slowed_down_to_a_rate() {
    let demo = Demo::start().await;
    let gateway = ruled(
        &demo,
        "  rules:\n    - { id: slow, on: request, when: 'session.id == \"s\"', action: throttle, rate: 1/min }",
    )
    .await;
    assert_eq!(Call::chat("hello").session("s").send(gateway.proxy()).await.status(), 200);
    let refusal = Call::chat("hello").session("s").send(gateway.proxy()).await;
    assert_eq!((refusal.status(), code(&refusal).as_str()), (429, "rate_limited"), "{}", refusal.text());
    let wait: u64 = refusal.head.field("retry-after").and_then(|wait| wait.parse().ok()).expect("a time");
    assert!((55..=60).contains(&wait), "{wait}");
    assert_eq!(Call::chat("hello").session("other").send(gateway.proxy()).await.status(), 200);
}

#[test]
fn check_says_where_a_rule_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |policy: &str| {
        let file = folder.path().join("elida.yaml");
        std::fs::write(&file, policy).expect("the configuration");
        let mut check = Command::new(env!("CARGO_BIN_EXE_elida"));
        let output = check.args(["check", "-c"]).arg(&file).output().expect("it runs");
        assert!(!output.status.success(), "{policy}");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    for (policy, place, hint) in [
        (
            "policy:\n  rules:\n    - { id: a, on: connect, when: tool.args.path == 'x' }\n",
            "3:35",
            "it is known in: tool_call",
        ),
        (
            "policy:\n  rules:\n    - id: a\n      on: request\n      when: request.modle == 'x'\n",
            "5:13",
            "did you mean request.model?",
        ),
        ("policy:\n  presets: [standart]\n", "2:13", "did you mean standard?"),
        (
            "policy:\n  rules:\n    - { id: a, on: request, when: 'true', action: blok }\n",
            "3:",
            "did you mean block?",
        ),
        (
            "policy:\n  rules:\n    - { id: a, on: request, match: { any: [{ detector: private-kee }] } }\n",
            "3:",
            "did you mean private-key?",
        ),
    ] {
        let report = check(policy);
        assert!(report.contains(place) && report.contains(hint), "{policy}{report}");
    }
}
