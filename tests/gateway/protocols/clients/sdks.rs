//! SDKs, each driven once through all scenarios of `tests/clients/scenarios.json`.

use std::process::Command;
use std::time::Duration;

use elida::demo::Seen;
use serde_json::{Value, json};

use super::page::{Table, hold, quoted};
use super::{refused, requests_of, sends};
use crate::support::forward_proxy::ForwardProxy;
use crate::support::program::{Home, Outcome, Program, node, python};
use crate::support::{Demo, Gateway};

/// SDKs wait between retries, and a dozen conversations run at once.
const LIMIT: Duration = Duration::from_secs(90);
/// The header that names the session; a default header in every SDK.
const SESSION: &str = "x-session-id";
const STATUSES: [&str; 5] = ["400", "401", "429", "500", "529"];

/// What one program did in all scenarios, and what the gateway counted meanwhile.
struct Played {
    program: &'static str,
    reports: Vec<Value>,
    requests: Vec<Value>,
    seen: Vec<Seen>,
    records: Vec<Value>,
}

/// One scenario.
struct Scene<'a> {
    name: &'a str,
    /// What the SDK returned to its caller.
    report: &'a Value,
    /// The gateway's access lines.
    requests: Vec<&'a Value>,
    /// What the backend received.
    seen: Vec<&'a Seen>,
    /// The session's record.
    record: &'a Value,
}

impl Played {
    fn scene<'a>(&'a self, name: &'a str) -> Scene<'a> {
        let id = format!("{}-{name}", self.program);
        let report = self.reports.iter().find(|report| report["scenario"] == name);
        let record = self.records.iter().find(|record| record["session_id"] == *id);
        Scene {
            name,
            report: report.unwrap_or_else(|| panic!("no report of {name}: {:?}", self.reports)),
            requests: self.requests.iter().filter(|line| line["session_id"] == *id).collect(),
            seen: self.seen.iter().filter(|seen| seen.header(SESSION) == Some(&id)).collect(),
            record: record.unwrap_or_else(|| panic!("no record of {id}")),
        }
    }
}

impl Scene<'_> {
    /// Asserts that this many requests reached the gateway, and each of them reached the backend once.
    fn counts(&self, requests: usize) {
        let counts = (self.requests.len(), self.seen.len());
        assert_eq!(counts, (requests, requests), "{}: {}", self.name, self.report);
    }

    /// The caller got the whole answer, streamed or not, and the gateway counts the same tokens.
    fn is_served(&self) {
        let report = self.report;
        assert_eq!((&report["text"], &report["tokens"]), (&json!("one two three"), &json!(3)), "{report}");
        assert!(report["stop"].is_string() && report["failure"].is_null(), "{report}");
        assert_eq!(self.record["usage"]["output_tokens"], report["tokens"], "{}", self.record);
        self.counts(1);
    }

    fn has_called_the_tool(&self) {
        let report = self.report;
        assert_eq!(report["tool"], "weather", "{report}");
        assert_eq!(report["input"], json!({"city": "Zürich", "days": [1, 2, 3]}), "{report}");
        assert_eq!(report["text"], "Weather?", "{report}");
        self.counts(2);
    }

    /// The provider's status and message reach the caller, however often it retried.
    fn failed_with(&self) {
        let failure = &self.report["failure"];
        assert_eq!(failure["status"].to_string(), self.name, "{}", self.report);
        assert!(says(failure, provider_says(self.name)), "{}", self.report);
        self.counts(self.requests.len());
    }

    /// A truncated stream is not reported as a whole answer.
    fn was_cut(&self) {
        let report = self.report;
        assert_eq!((&report["text"], &report["stop"]), (&json!("one two"), &Value::Null), "{report}");
        assert!(says(&report["failure"], "broke off"), "{report}");
        self.counts(1);
    }

    /// The stream ends with the reason, the next request is refused with it and not retried, nothing of it
    /// reaches the backend; after the resume requests are served again.
    fn was_killed(&self) {
        let report = self.report;
        assert_eq!(report["stop"], Value::Null, "the stream must not look whole: {report}");
        assert!(says(&report["failure"], "Session killed by operator: runaway"), "{report}");
        assert_eq!(report["next"]["status"], 403, "{report}");
        assert!(says(&report["next"], "Session killed by operator: runaway"), "{report}");
        assert_eq!(report["again"], "one two three", "{report}");
        // The access line of a cut stream may come after that of the refusal.
        let said = |line: &&Value| format!("{} {}", line["status"], line["outcome"]);
        let mut outcomes: Vec<_> = self.requests.iter().map(said).collect();
        outcomes.sort_unstable();
        assert_eq!(outcomes, ["200 \"ok\"", "200 \"session_killed\"", "403 \"session_killed\""]);
        assert_eq!(self.seen.len(), 2, "the stream, and the request after the resume");
        assert_eq!(refused(self.requests.iter().copied()), 1);
    }
}

/// The demo provider's message for a status.
fn provider_says(status: &str) -> &'static str {
    match status {
        "429" => "Rate limited by the demo provider",
        "529" => "Overloaded",
        _ => "An error the request asked for",
    }
}

/// Whether the caller can find `words` in the error.
fn says(failure: &Value, words: &str) -> bool {
    ["message", "body"].iter().any(|part| failure[part].as_str().is_some_and(|text| text.contains(words)))
}

/// Runs the driver with a gateway in front of the provider.
async fn play(program: &'static str, mut driver: Command) -> (Played, ForwardProxy) {
    let demo = Demo::start().await;
    let mut gateway = Gateway::start(&demo).await;
    let forward_proxy = ForwardProxy::start().await;
    driver.args([program, &gateway.url(), &format!("http://{}", gateway.control())]);
    forward_proxy.set_for(&mut driver);
    let outcome: Outcome = Program::start(driver, &Home::new()).outcome_in(LIMIT).await;
    assert_eq!(outcome.code, Some(0), "is all installed (`sh .ci/setup --tests`)? {outcome:?}");
    let requests = requests_of(&mut gateway).await;
    let is_record = |line: &Value| line["message"] == "session_record";
    let records = gateway.log_lines().into_iter().filter(is_record).collect();
    let played =
        Played { program, reports: outcome.values(), requests, seen: demo.ledger().requests(), records };
    (played, forward_proxy)
}

async fn is_served_refused_and_killed(program: &'static str, driver: Command) {
    let (played, forward_proxy) = play(program, driver).await;
    played.scene("whole").is_served();
    let streamed = played.scene("streamed");
    streamed.is_served();
    assert_eq!(streamed.report["pieces"], 3, "{}", streamed.report);
    played.scene("tools").has_called_the_tool();
    played.scene("whole_tools").has_called_the_tool();
    for status in STATUSES {
        played.scene(status).failed_with();
    }
    played.scene("cut").was_cut();
    played.scene("kill").was_killed();
    hold(Table::Sends, program, &sends(&played.seen, Some(SESSION), &forward_proxy));
    hold(Table::Errors, program, &errors(&played));
    hold(Table::Reads, program, &reads(&played));
}

/// How many times the SDK sent the failing request, and the error that its caller got.
fn errors(played: &Played) -> Vec<String> {
    let scenes = STATUSES.iter().chain(&["cut", "kill"]).map(|name| played.scene(name));
    let has_failed = |line: &&&Value| {
        line["method"] == "POST" && (line["status"].as_u64() >= Some(400) || line["outcome"] != "ok")
    };
    let cells = scenes.map(|scene| {
        let class = scene.report["failure"]["class"].as_str().unwrap_or_default();
        let requests = scene.requests.iter().filter(|line| line["status"] != 403);
        format!("{} × `{class}`", requests.filter(has_failed).count())
    });
    let next = played.scene("kill").report["next"]["class"].as_str().unwrap_or_default().to_owned();
    cells.chain([format!("1 × `{next}`")]).collect()
}

fn reads(played: &Played) -> Vec<String> {
    let kill = played.scene("kill").report;
    let overloaded = &played.scene("529").report["failure"];
    let cut = &played.scene("cut").report["failure"];
    [overloaded, cut, &kill["failure"], &kill["next"]].map(sentence).to_vec()
}

/// The error's message, or where the reason is when the message does not contain it.
fn sentence(failure: &Value) -> String {
    let part = |name: &str| failure[name].as_str().unwrap_or_default();
    let is_elsewhere = !part("message").contains("killed") && part("body").contains("killed");
    let body = if is_elsewhere { format!("; in `body`: {}", quoted(part("body"))) } else { String::new() };
    quoted(part("message")) + &body
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_is_served_refused_and_killed() {
    is_served_refused_and_killed("openai", python("drive.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_with_responses_is_served_refused_and_killed() {
    is_served_refused_and_killed("openai-responses", python("drive.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_anthropic_sdk_is_served_refused_and_killed() {
    is_served_refused_and_killed("anthropic", python("drive.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mistral_sdk_is_served_refused_and_killed() {
    is_served_refused_and_killed("mistralai", python("drive.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ollama_sdk_is_served_refused_and_killed() {
    is_served_refused_and_killed("ollama", python("drive.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn langchain_with_openai_is_served_refused_and_killed() {
    is_served_refused_and_killed("langchain-openai", python("drive.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn langchain_with_anthropic_is_served_refused_and_killed() {
    is_served_refused_and_killed("langchain-anthropic", python("drive.py")).await;
}

/// One MCP session per call: initialize, its notification, the server's own stream, the list of
/// tools, the call, and DELETE.
#[tokio::test(flavor = "multi_thread")]
async fn the_mcp_sdk_is_served_refused_and_killed() {
    const MESSAGES: usize = 6;
    let (played, forward_proxy) = play("mcp", python("drive.py")).await;
    for name in ["whole", "streamed", "tools", "whole_tools"] {
        let scene = played.scene(name);
        let text = if name.ends_with("tools") { "Weather?" } else { "one two three" };
        assert_eq!((&scene.report["text"], &scene.report["stop"]), (&json!(text), &json!("result")));
        scene.counts(MESSAGES);
    }
    assert_eq!(played.scene("streamed").report["pieces"], 3);
    assert_eq!(played.scene("tools").report["tool"], "echo");
    for status in STATUSES {
        let scene = played.scene(status);
        assert!(says(&scene.report["failure"], provider_says(status)), "{}", scene.report);
        scene.counts(MESSAGES);
    }
    let cut = played.scene("cut");
    assert!(says(&cut.report["failure"], "broke off"), "{}", cut.report);
    cut.counts(MESSAGES);
    let kill = played.scene("kill");
    for part in ["failure", "next"] {
        assert!(says(&kill.report[part], "Session killed by operator: runaway"), "{}", kill.report);
    }
    assert_eq!(kill.report["again"], "one two three", "{}", kill.report);
    assert_eq!(
        refused(kill.requests.iter().copied()),
        2,
        "the DELETE of the killed session, and the next call"
    );
    assert_eq!(kill.seen.len(), 2 * MESSAGES - 1, "none of them, and all after the resume");
    hold(Table::Sends, "mcp", &sends(&played.seen, Some(SESSION), &forward_proxy));
    hold(Table::Errors, "mcp", &errors(&played));
    hold(Table::Reads, "mcp", &reads(&played));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ai_sdk_with_openai_is_served_refused_and_killed() {
    is_served_refused_and_killed("ai-sdk-openai", node("drive.mjs")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ai_sdk_with_openai_chat_is_served_refused_and_killed() {
    is_served_refused_and_killed("ai-sdk-openai-chat", node("drive.mjs")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ai_sdk_with_anthropic_is_served_refused_and_killed() {
    is_served_refused_and_killed("ai-sdk-anthropic", node("drive.mjs")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ai_sdk_with_any_openai_compatible_is_served_refused_and_killed() {
    is_served_refused_and_killed("ai-sdk-openai-compatible", node("drive.mjs")).await;
}
