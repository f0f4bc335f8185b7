//! How each program takes a rule that blocks an answer while it streams: no event that completes the phrase or the call
//! reaches the program, no repeat reaches the backend, and its user reads why.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};

use super::page::{Table, hold};
use super::{AI_SDKS, PYTHON_SDKS, requests_of};
use crate::support::agent::Agent;
use crate::support::program::{Home, Program, node, python};
use crate::support::{Backend, Demo, Gateway};

/// Programs wait between the attempts of what they repeat.
const LIMIT: Duration = Duration::from_secs(120);
/// Concurrent programs in one test.
const AT_ONCE: usize = 3;
/// The last word completes the phrase.
const WORDS: &str = "the plan is to drop the tables [[pace 5ms]]";
const PHRASE: &str = "drop the tables";
const MESSAGE: &str = "Ask the owners of the data first";

/// Begins with a gateway that blocks the phrase, and the call of each of these tools.
async fn stage() -> (Demo, Gateway) {
    let demo = Demo::start().await;
    let tools = r#"["weather", "Bash", "bash", "exec_command"]"#;
    let gateway = Gateway::with(format!(
        "backends: {{ demo: {{ url: {:?}, type: openai, default: true }} }}\n\
         policy:\n  presets: []\n  rules:\n\
         \x20   - {{ id: words, on: response, match: {{ any: [\"{PHRASE}\"] }}, action: block, message: \"{MESSAGE}\" }}\n\
         \x20   - {{ id: results, on: tool_result, match: {{ any: [\"{PHRASE}\"] }}, action: block, message: \"{MESSAGE}\" }}\n\
         \x20   - {{ id: calls, on: tool_call, when: 'tool.name in {tools}', action: block, message: \"{MESSAGE}\" }}\n",
        demo.url()
    ))
    .await;
    (demo, gateway)
}

/// How often it was asked, how often the backend was, and whether its user reads why.
fn cell(requests: usize, reads: bool, class: &str) -> String {
    let told = if reads { "" } else { ", not told why" };
    format!("{requests} ×{class}{told}")
}

/// Runs an agent once for the phrase and once for the call.
async fn agent_is_blocked(agent: Agent) {
    let run = async |(prompt, rule): (&'static str, &'static str)| {
        let (demo, mut gateway) = stage().await;
        let command = agent.command(&gateway.url(), prompt, None);
        let outcome = Program::start(command, &Home::new()).outcome_in(LIMIT).await;
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let shown = agent.shown(&outcome);
        assert!(!outcome.text().contains("tool-42"), "the call is never made: {outcome:?}");
        let lines = requests_of(&mut gateway).await;
        let blocked: Vec<&Value> = lines.iter().filter(|line| line["outcome"] == "policy_blocked").collect();
        // opencode asks for a title as well.
        let cut: Vec<_> = blocked.iter().filter(|line| line["status"] == 200).collect();
        let bodies: BTreeSet<String> = cut.iter().map(|line| line["bytes_in"].to_string()).collect();
        assert!(!cut.is_empty() && bodies.len() == cut.len(), "{rule}: its repeats are refused: {lines:?}");
        let reached = lines.len() - blocked.len() + cut.len();
        assert_eq!(demo.ledger().requests().len(), reached, "{rule}: no repeat reaches the backend");
        cell(blocked.len(), shown.contains(MESSAGE), "")
    };
    let prompts = [(WORDS, "words"), (agent.tool_prompt(), "calls")];
    let cells: Vec<String> = stream::iter(prompts).map(run).buffered(AT_ONCE).collect().await;
    hold(Table::Blocks, agent.name(), &cells);
}

/// Runs an SDK with both at once, each in a session of its own.
async fn sdk_is_blocked(program: &'static str, mut driver: Command) {
    let (demo, mut gateway) = stage().await;
    let call = r#"Weather? [[tool weather {"city": "Zürich", "days": [1, 2, 3]}]]"#;
    let scenarios = match program {
        // Its words come in notifications, and its user is told in the result.
        "mcp" => json!([{"name": "words", "asks": "tools", "streamed": true, "text": WORDS}]),
        _ => json!([
            {"name": "words", "asks": "streamed", "text": WORDS},
            {"name": "calls", "asks": "tools", "streamed": true, "text": call},
        ]),
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), scenarios.to_string()).expect("the scenarios");
    driver.args([program, &gateway.url(), &format!("http://{}", gateway.control())]);
    driver.env("SCENARIOS", file.path());
    let outcome = Program::start(driver, &Home::new()).outcome_in(LIMIT).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let reports = outcome.values();
    let lines = requests_of(&mut gateway).await;
    let reached = demo.ledger().requests();
    let cell = |name: &str| {
        if name == "calls" && program == "mcp" {
            return "–".to_owned();
        }
        let report = reports.iter().find(|report| report["scenario"] == name).expect("a report");
        let text = report["text"].as_str().unwrap_or_default();
        assert!(!text.contains("tables") && (program == "mcp" || report["tool"].is_null()), "{report}");
        let failure = &report["failure"];
        let says = |part: &str| failure[part].as_str().is_some_and(|text| text.contains(MESSAGE));
        let id = format!("{program}-{name}");
        let of = |line: &&Value| line["session_id"] == *id && line["outcome"] == "policy_blocked";
        let blocked = lines.iter().filter(of).count();
        let seen = reached.iter().filter(|seen| seen.header("x-session-id") == Some(&id));
        // The client of MCP also begins a session and lists its tools.
        assert!(program == "mcp" || seen.count() == 1, "{report}");
        match failure["class"].as_str() {
            Some(class) => cell(blocked, says("message") || says("body"), &format!(" `{class}`")),
            None => cell(blocked, text.contains(MESSAGE), ", in the result"),
        }
    };
    hold(Table::Blocks, program, &["words", "calls"].map(cell));
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_is_blocked_in_mid_stream() {
    agent_is_blocked(Agent::Claude).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_is_blocked_in_mid_stream() {
    agent_is_blocked(Agent::Codex).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opencode_is_blocked_in_mid_stream() {
    agent_is_blocked(Agent::Opencode).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdks_in_python_are_blocked_in_mid_stream() {
    let runs = PYTHON_SDKS.map(|program| sdk_is_blocked(program, python("drive.py")));
    stream::iter(runs).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ai_sdk_is_blocked_in_mid_stream() {
    let runs = AI_SDKS.map(|program| sdk_is_blocked(program, node("drive.mjs")));
    stream::iter(runs).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
}
