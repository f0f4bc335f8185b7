use std::time::Duration;

use serde_json::{Value, json};

use crate::support::program::Program;
use crate::support::{Call, Demo, Gateway};

/// Runs a script in each mode and compares what it reports.
async fn served(script: &str, modes: &[(&str, &str)]) {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for (mode, stop) in modes {
        let session = format!("{}-{mode}", script.trim_end_matches(".py"));
        let outcome = Program::python(script, &gateway.url(), &[mode, &session]).outcome().await;
        assert_eq!(outcome.code, Some(0), "{mode}: {outcome:?}");
        let report = outcome.last();
        assert_eq!(report["stop"], *stop, "{mode}: {report}");
        if mode.contains("tools") {
            assert_eq!(report["tool"], "weather", "{mode}: {report}");
            assert_eq!(report["input"], json!({"city": "Zürich", "days": [1, 2, 3]}), "{mode}");
            assert_eq!(report["text"], "Weather?", "{mode}: {report}");
        } else {
            assert_eq!(
                (&report["text"], &report["output_tokens"]),
                (&json!("one two three"), &json!(3)),
                "{mode}"
            );
        }
        if mode.contains("streamed") {
            assert_eq!(report["pieces"], 3, "{mode}: {report}");
        }
        let state = gateway.session_until(&session, |session| session["open_legs"] == 0).await;
        let requests = if mode.contains("tools") { 2 } else { 1 };
        assert_eq!(
            (&state["request_count"], &state["error_count"]),
            (&json!(requests), &json!(0)),
            "{state}"
        );
        assert!(state["usage"]["output_tokens"].as_u64() >= Some(1), "{mode}: {state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_is_served() {
    let modes = [
        ("whole", "stop"),
        ("streamed", "stop"),
        ("tools", "tool_calls"),
        ("whole_tools", "tool_calls"),
        ("responses", "completed"),
        ("responses_streamed", "completed"),
    ];
    served("openai_sdk.py", &modes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_anthropic_sdk_is_served() {
    let modes =
        [("whole", "end_turn"), ("streamed", "end_turn"), ("tools", "tool_use"), ("whole_tools", "tool_use")];
    served("anthropic_sdk.py", &modes).await;
}

/// Kills a script in mid-stream; gives back its report.
async fn killed(script: &str, mode: &str) -> Value {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut program = Program::python(script, &gateway.url(), &[mode, "doomed"]);
    program.printed("event", 5).await;
    let killed = gateway.kill("doomed").await;
    assert_eq!(killed.status, 200, "{killed:?}");
    let reached = demo.ledger().arrived();
    let outcome = program.outcome().await;
    let report = outcome.last();
    assert_eq!(report["finished"], false, "the stream must not look whole: {report}");
    assert!(says_killed(&report["stopped_by"]), "{report}");
    assert_eq!(report["next"]["status"], 403, "{report}");
    assert_eq!(report["next"]["type"], "PermissionDeniedError", "{report}");
    assert!(says_killed(&report["next"]), "{report}");
    assert_eq!(demo.ledger().arrived(), reached, "no request after the kill reaches the backend");
    assert_eq!(demo.ledger().aborts().len(), 1);
    assert_eq!(gateway.resume("doomed").await, 200);
    let whole = if script.starts_with("openai") { "whole" } else { "streamed" };
    let outcome = Program::python(script, &gateway.url(), &[whole, "doomed"]).outcome().await;
    assert_eq!(outcome.last()["text"], "one two three", "resume lifts it: {outcome:?}");
    report
}

fn says_killed(failure: &Value) -> bool {
    let message = failure["message"].as_str().unwrap_or_default();
    message.contains("killed") && message.contains("runaway")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_stops_when_killed() {
    let report = killed("openai_sdk.py", "kill").await;
    let kinds = report["stopped_by"]["kinds"].as_array().cloned().unwrap_or_default();
    assert!(kinds.contains(&json!("APIError")), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_stops_a_response_when_killed() {
    let report = killed("openai_sdk.py", "kill_responses").await;
    let kinds = report["stopped_by"]["kinds"].as_array().cloned().unwrap_or_default();
    assert!(kinds.contains(&json!("APIError")), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_anthropic_sdk_stops_when_killed() {
    let report = killed("anthropic_sdk.py", "kill").await;
    let kinds = report["stopped_by"]["kinds"].as_array().cloned().unwrap_or_default();
    assert!(kinds.contains(&json!("APIStatusError")), "{report}");
}

const CLAUDE_SESSION: &str = "5b7a2c64-6d5c-4a8e-9c53-0f6f3f1a2b11";

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_is_served_and_seen_under_its_own_id() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let outcome =
        Program::claude(&gateway.url(), "say hello", &["--session-id", CLAUDE_SESSION]).outcome().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(
        (&outcome.last()["result"], &outcome.last()["is_error"]),
        (&json!("say hello"), &json!(false))
    );
    let session = gateway.session_until(CLAUDE_SESSION, |session| session["open_legs"] == 0).await;
    assert_eq!(session["identity"]["client"], "claude-code", "{session}");
    assert_eq!(session["identity"]["source"], "header:x-claude-code-session-id", "{session}");
    assert!(session["models"]["claude-sonnet-4-5"].as_u64() >= Some(1), "{session}");
    assert!(session["bytes_in"].as_u64() > Some(10_000), "{session}");
    assert_eq!(gateway.sessions().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_uses_tools_through_the_gateway() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let prompt = r#"go on [[tool Bash {"command":"echo tool-$((40+2))","description":"say"}]]"#;
    let outcome = Program::claude(&gateway.url(), prompt, &["--allowedTools", "Bash"]).outcome().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.text().contains("tool-42"), "{outcome:?}");
    assert_eq!(outcome.last()["result"], "go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_stops_when_killed() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let prompt = "[[words 5000]] [[pace 10ms]]";
    let arguments = ["--session-id", CLAUDE_SESSION, "--include-partial-messages"];
    let mut program = Program::claude(&gateway.url(), prompt, &arguments);
    program.printed("{\"type\":\"stream_event\"", 5).await;
    assert_eq!(gateway.kill(CLAUDE_SESSION).await.status, 200);
    let reached = demo.ledger().arrived();
    let outcome = program.outcome().await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.text().contains("runaway"), "the user reads why: {outcome:?}");
    assert_eq!(outcome.last()["is_error"], true, "{outcome:?}");
    // Claude Code tries again without streaming within milliseconds; give it time to have done so.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(demo.ledger().arrived(), reached, "no request after the kill reaches the backend");
    let call = Call::messages_stream("again").header("x-api-key", "sk-ant-test");
    let call = call.header("x-claude-code-session-id", CLAUDE_SESSION);
    assert_eq!(call.send(gateway.proxy()).await.status(), 403);
    assert_eq!(gateway.resume(CLAUDE_SESSION).await, 200);
    assert_eq!(call.send(gateway.proxy()).await.status(), 200);
}
