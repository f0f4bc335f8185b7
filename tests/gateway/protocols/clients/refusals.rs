//! How each program takes the refusals of the gateway: no backend sees the request, the program does not repeat what is
//! final, and its user reads why.

use std::process::Command;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};

use super::page::{Table, hold};
use super::{AI_SDKS, PYTHON_SDKS, requests_of};
use crate::callers::keys::key;
use crate::support::agent::Agent;
use crate::support::program::{Home, Program, node, python};
use crate::support::{Backend, Call, Demo, Gateway, RawClient, sha256};

/// Programs wait between the attempts of what they repeat.
const LIMIT: Duration = Duration::from_secs(120);
/// Concurrent programs in one test.
const AT_ONCE: usize = 3;

/// A refusal, and what its user reads of it.
struct Case {
    code: &'static str,
    says: &'static str,
    /// Whether the same request would be refused again.
    is_final: bool,
    /// Whether it concerns only requests that make a model write.
    is_of_models: bool,
}

const CASES: [Case; 7] = [
    case("key_required", "requires a key of its own"),
    case("key_expired", "has expired on"),
    Case { is_final: true, ..case("key_unknown", "not known to this gateway") },
    Case { is_final: true, is_of_models: true, ..case("model_denied", "does not permit the model") },
    Case { is_final: true, is_of_models: true, ..case("budget_exceeded", "the budget 'small' of 1 tokens") },
    Case { is_final: true, ..case("quota_exceeded", "the limit 'daily' allows 1 request per day") },
    case("rate_limited", "the limit 'open' allows 1 open request"),
];

const fn case(code: &'static str, says: &'static str) -> Case {
    Case { code, says, is_final: false, is_of_models: false }
}

/// A gateway whose callers are refused, each for a reason of its own.
struct Stage {
    demo: Demo,
    gateway: Gateway,
    keys: Vec<(&'static str, String)>,
    /// Takes the only place of `rate_limited`.
    open: Option<RawClient>,
    /// Requests of the test itself that have reached the provider.
    own: u64,
}

impl Stage {
    async fn set() -> Self {
        let demo = Demo::start().await;
        let keys: Vec<_> = CASES.iter().map(|case| (case.code, key())).collect();
        let more = |code| match code {
            "key_expired" => ", expires: 2026-01-01",
            "model_denied" => ", models: ['other-*']",
            _ => "",
        };
        let principals: String = keys
            .iter()
            .filter(|(code, _)| *code != "key_unknown")
            .map(|(code, key)| {
                format!("    - {{ id: {code}, key_sha256: '{}'{} }}\n", sha256(key.as_bytes()), more(code))
            })
            .collect();
        let gateway = Gateway::with(format!(
            "auth:\n  proxy: required\n  principals:\n{principals}\
             backends: {{ demo: {{ url: {:?}, type: openai, default: true, auth: {{ mode: inject, api_key: sk-house }} }} }}\n\
             limits:\n\
             \x20 - {{ name: daily, by: principal.id, when: principal.id == 'key:quota_exceeded', requests: 1/day }}\n\
             \x20 - {{ name: open, by: principal.id, when: principal.id == 'key:rate_limited', in_flight: 1 }}\n\
             budgets:\n\
             \x20 - {{ name: small, by: principal.id, when: principal.id == 'key:budget_exceeded', period: total, limit: 1 tokens }}\n",
            demo.url()
        ))
        .await;
        let mut stage = Self { demo, gateway, keys, open: None, own: 0 };
        let first = Call::get("/v1/models").header("x-elida-key", stage.key("quota_exceeded"));
        assert_eq!(first.send(stage.gateway.proxy()).await.status(), 200);
        let held =
            Call::chat_stream("[[words 2]] [[stall]]").header("x-elida-key", stage.key("rate_limited"));
        stage.open = Some(held.open(stage.gateway.proxy()).await);
        stage.demo.until("the open request", |ledger| ledger.open() == 1).await;
        stage.own = stage.demo.ledger().arrived();
        stage
    }

    /// The key of the caller who is refused with this code; `key_required` shows none of the gateway's.
    fn key(&self, code: &str) -> &str {
        let found = self.keys.iter().find(|(of, _)| *of == code);
        found.map(|(_, key)| key.as_str()).expect("a case")
    }

    /// Asserts that the provider saw nothing of the programs; returns how often each code was the answer.
    async fn strike(mut self) -> impl Fn(&Case) -> usize {
        assert_eq!(self.demo.ledger().arrived(), self.own, "no refused request reaches the provider");
        // The gateway would wait for it.
        drop(self.open.take());
        let lines = requests_of(&mut self.gateway).await;
        let log = self.gateway.log_text();
        assert!(self.keys.iter().all(|(_, key)| !log.contains(key)), "no key is in the log");
        move |case| lines.iter().filter(|line| line["outcome"] == case.code).count()
    }
}

/// Runs an agent once for each refusal.
async fn agent_is_refused(agent: Agent) {
    let run = async |case: &'static Case| {
        let stage = Stage::set().await;
        let key = if case.code == "key_required" { "sk-test" } else { stage.key(case.code) };
        let command = agent.command_with_key(&stage.gateway.url(), key, "one two three", None);
        let outcome = Program::start(command, &Home::new()).outcome_in(LIMIT).await;
        assert_eq!(outcome.code, Some(1), "{}: {outcome:?}", case.code);
        let shown = agent.shown(&outcome);
        let count = stage.strike().await(case);
        let reads = if shown.contains(case.says) { "" } else { ", not told why" };
        // How often opencode asks depends on how busy the machine is.
        let times =
            if agent == Agent::Opencode && count > 1 { "several".to_owned() } else { count.to_string() };
        format!("{times} ×{reads}")
    };
    let cells: Vec<String> = stream::iter(&CASES).map(run).buffered(AT_ONCE).collect().await;
    hold(Table::Refusals, agent.name(), &cells);
}

/// Runs an SDK with all refusals at once, each in a session of its own.
async fn sdk_is_refused(program: &'static str, mut driver: Command) {
    let stage = Stage::set().await;
    let cases = || CASES.iter().filter(|case| program != "mcp" || !case.is_of_models);
    let scenarios: Vec<Value> = cases()
        .map(|case| {
            let headers = match case.code {
                "key_required" => json!({}),
                code => json!({"x-elida-key": stage.key(code)}),
            };
            json!({"name": case.code, "asks": "whole", "text": "one two three", "headers": headers})
        })
        .collect();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), json!(scenarios).to_string()).expect("the scenarios");
    driver.args([program, &stage.gateway.url(), &format!("http://{}", stage.gateway.control())]);
    driver.env("SCENARIOS", file.path());
    let outcome = Program::start(driver, &Home::new()).outcome_in(LIMIT).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let reports = outcome.values();
    let count = stage.strike().await;
    let cell = |case: &Case| {
        if cases().all(|other| other.code != case.code) {
            return "–".to_owned();
        }
        let report = reports.iter().find(|report| report["scenario"] == case.code);
        let failure = &report.unwrap_or_else(|| panic!("no report of {}", case.code))["failure"];
        let text = |part: &str| failure[part].as_str().unwrap_or_default();
        assert!(["message", "body"].iter().any(|part| text(part).contains(case.says)), "{failure}");
        assert!(!case.is_final || count(case) == 1, "it is repeated: {failure}");
        format!("{} × `{}`", count(case), text("class"))
    };
    hold(Table::Refusals, program, &CASES.iter().map(cell).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_is_refused() {
    agent_is_refused(Agent::Claude).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_is_refused() {
    agent_is_refused(Agent::Codex).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opencode_is_refused() {
    agent_is_refused(Agent::Opencode).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdks_in_python_are_refused() {
    let runs = PYTHON_SDKS.map(|program| sdk_is_refused(program, python("drive.py")));
    stream::iter(runs).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ai_sdk_is_refused() {
    let runs = AI_SDKS.map(|program| sdk_is_refused(program, node("drive.mjs")));
    stream::iter(runs).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
}
