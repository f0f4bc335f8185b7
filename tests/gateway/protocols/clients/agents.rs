//! Claude Code, Codex and opencode: each scenario has its own process, home folder, gateway and provider.
//! The programs wait long before they retry, so several run at once.

use std::time::Duration;

use elida::demo::Seen;
use futures::StreamExt;
use futures::stream;
use serde_json::Value;

use super::page::{Table, hold, quoted};
use super::{refused, requests_of, sends};
use crate::support::agent::Agent;
use crate::support::forward_proxy::ForwardProxy;
use crate::support::program::{Home, Outcome, Program};
use crate::support::{Demo, Gateway, within_time};

/// The longest run observed is 76 s: opencode, which waits five times for a stream that is cut each time.
const LIMIT: Duration = Duration::from_secs(180);
/// Concurrent programs in one test.
const AT_ONCE: usize = 3;
/// Providers send `retry-after` with most of these statuses; here it is one second.
const FAILURES: [(&str, &str); 6] = [
    ("cut", "one two three four [[cut]]"),
    ("400", "fail [[error 400]]"),
    ("401", "fail [[error 401]]"),
    ("429", "fail [[error 429 1]]"),
    ("500", "fail [[error 500 1]]"),
    ("529", "fail [[error 529 1]]"),
];

/// What one run did, and what was counted meanwhile.
struct Run {
    name: &'static str,
    outcome: Outcome,
    requests: Vec<Value>,
    seen: Vec<Seen>,
}

/// One agent with a gateway.
struct Stage {
    agent: Agent,
    demo: Demo,
    gateway: Gateway,
    home: Home,
    forward_proxy: ForwardProxy,
}

impl Stage {
    async fn set(agent: Agent) -> Self {
        let demo = Demo::start().await;
        let gateway = Gateway::start(&demo).await;
        Self { agent, demo, gateway, home: Home::new(), forward_proxy: ForwardProxy::start().await }
    }

    fn run(&self, prompt: &str, resume: Option<&str>) -> Program {
        let mut command = self.agent.command(&self.gateway.url(), prompt, resume);
        self.forward_proxy.set_for(&mut command);
        Program::start(command, &self.home)
    }

    async fn strike(mut self, name: &'static str, outcome: Outcome) -> (Run, ForwardProxy) {
        let requests = requests_of(&mut self.gateway).await;
        (Run { name, outcome, requests, seen: self.demo.ledger().requests() }, self.forward_proxy)
    }
}

/// A turn that succeeds, recorded under the program's own session; and one with a tool.
async fn is_served(agent: Agent) -> (Run, ForwardProxy) {
    let stage = Stage::set(agent).await;
    let outcome = stage.run("one two three", None).outcome_in(LIMIT).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(agent.shown(&outcome).trim_matches('"'), "one two three", "{outcome:?}");
    let id = agent.session(&outcome);
    let session = stage.gateway.session_until(&id, |session| session["open_legs"] == 0).await;
    assert_eq!(session["identity"]["client"], agent.client(), "{session}");
    assert_eq!(stage.gateway.sessions().await.len(), 1);
    let outcome = stage.run(agent.tool_prompt(), Some(&id)).outcome_in(LIMIT).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.text().contains("tool-42"), "{outcome:?}");
    assert_eq!(stage.gateway.sessions().await.len(), 1, "the second run goes on with the session");
    let (run, outside) = stage.strike("turn", outcome).await;
    assert_eq!(run.requests.len(), run.seen.len());
    (run, outside)
}

/// A turn that fails: the program exits by itself, with an error.
async fn fails(agent: Agent, name: &'static str, prompt: &'static str) -> Run {
    let stage = Stage::set(agent).await;
    let outcome = stage.run(prompt, None).outcome_in(LIMIT).await;
    assert_eq!(outcome.code, Some(1), "{name}: {outcome:?}");
    let (run, _) = stage.strike(name, outcome).await;
    assert_eq!(run.requests.len(), run.seen.len(), "{name}: the gateway itself never asks again");
    run
}

/// A killed turn: nothing more reaches the backend, the user reads the reason, the program exits;
/// after the resume the same session continues.
async fn is_killed(agent: Agent) -> Run {
    let stage = Stage::set(agent).await;
    // After a first turn, because opencode begins a session with a request of its own.
    let first = stage.run("one two three", None).outcome_in(LIMIT).await;
    let id = agent.session(&first);
    let session = stage.gateway.session_until(&id, |session| session["open_legs"] == 0).await;
    let (sent, arrived) = (session["bytes_out"].as_u64(), stage.demo.ledger().arrived());
    let program = stage.run("[[words 5000]] [[pace 20ms]]", Some(&id));
    within_time(LIMIT, "the turn", stage.demo.ledger().until(|ledger| ledger.arrived() > arrived)).await;
    let is_streaming = |session: &Value| session["bytes_out"].as_u64() > sent.map(|sent| sent + 4_000);
    stage.gateway.session_until(&id, is_streaming).await;
    assert_eq!(stage.gateway.kill(&id).await.status, 200);
    let reached = stage.demo.ledger().arrived();
    let outcome = program.outcome_in(LIMIT).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let shown = agent.shown(&outcome);
    assert!(shown.contains("killed") && shown.contains("runaway"), "the user reads why: {outcome:?}");
    assert_eq!(stage.demo.ledger().arrived(), reached, "no request after the kill reaches the backend");
    assert_eq!(stage.gateway.resume(&id).await, 200);
    let again = stage.run("one two three", Some(&id)).outcome_in(LIMIT).await;
    assert_eq!(again.code, Some(0), "resume lifts it: {again:?}");
    assert_eq!(agent.shown(&again).trim_matches('"'), "one two three", "{again:?}");
    let (run, _) = stage.strike("kill", outcome).await;
    assert!(refused(&run.requests) <= 1, "a program that ELIDA knows stops at once: {:?}", run.requests);
    run
}

async fn is_served_refused_and_killed(agent: Agent) {
    let (turn, forward_proxy) = is_served(agent).await;
    let failing = FAILURES.map(|(name, prompt)| fails(agent, name, prompt));
    let failing = stream::iter(failing).buffered(AT_ONCE).collect::<Vec<_>>();
    let (killed, failed) = futures::future::join(is_killed(agent), failing).await;
    hold(Table::Sends, agent.name(), &sends(&turn.seen, None, &forward_proxy));
    let run = |name: &str| failed.iter().find(|run| run.name == name).expect("a scenario");
    let asked = ["400", "401", "429", "500", "529", "cut"].map(|name| run(name).requests.len());
    let asked = asked.into_iter().chain([1, refused(&killed.requests)]);
    hold(Table::Errors, agent.name(), &asked.map(|count| format!("{count} ×, exit 1")).collect::<Vec<_>>());
    let ends = [run("529"), run("cut"), &killed].map(|run| quoted(&agent.shown(&run.outcome)));
    hold(Table::Reads, agent.name(), &[&ends[..], &["the same".to_owned()]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_is_served_refused_and_killed() {
    is_served_refused_and_killed(Agent::Claude).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_is_served_refused_and_killed() {
    is_served_refused_and_killed(Agent::Codex).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opencode_is_served_refused_and_killed() {
    is_served_refused_and_killed(Agent::Opencode).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_shows_words_as_they_come() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let prompt = "[[words 5000]] [[pace 20ms]]";
    let mut program = Program::claude(&gateway.url(), prompt, &["--include-partial-messages"]);
    program.printed("{\"type\":\"stream_event\"", 5).await;
    assert_eq!((demo.ledger().open(), demo.ledger().finished()), (1, 0), "the answer is still under way");
}
