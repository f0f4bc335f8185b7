use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::program::Program;
use crate::support::wire::Unframed;
use crate::support::{Call, Demo, Gateway, RawClient, within};

pub(crate) const SESSION: &str = "5b7a2c64-6d5c-4a8e-9c53-0f6f3f1a2b77";

/// A request as Claude Code sends it; "" stands for the main agent and for an unknown parent.
fn by(agent: &str, parent: &str, call: Call) -> Call {
    let mut call = call.header("x-claude-code-session-id", SESSION);
    for (name, value) in [("x-claude-code-agent-id", agent), ("x-claude-code-parent-agent-id", parent)] {
        if !value.is_empty() {
            call = call.header(name, value);
        }
    }
    call
}

pub(crate) async fn spoke(gateway: &Gateway, agent: &str, parent: &str) -> u16 {
    by(agent, parent, Call::messages_stream("hello")).send(gateway.proxy()).await.status()
}

/// A stream of an agent that goes on until it is cut.
pub(crate) async fn stalled(gateway: &Gateway, agent: &str, parent: &str) -> RawClient {
    let call = by(agent, parent, Call::messages_stream("first [[stall]]"));
    let mut client = call.open(gateway.proxy()).await;
    client.until("first").await;
    client
}

pub(crate) async fn order(gateway: &Gateway, what: &str, body: &Value) -> (u16, Value) {
    let target = format!("/control/sessions/{SESSION}/{what}");
    let answer = gateway.operator().await.post(&target, body).await;
    (answer.status(), answer.json())
}

fn agent<'a>(session: &'a Value, id: &str) -> &'a Value {
    let agents = session["agents"].as_array().unwrap_or_else(|| panic!("no agents: {session}"));
    agents.iter().find(|agent| agent["id"] == id).unwrap_or_else(|| panic!("no {id}: {session}"))
}

fn tree(session: &Value) -> Vec<(String, u64)> {
    let agents = session["agents"].as_array().unwrap_or_else(|| panic!("no agents: {session}"));
    let line = |agent: &Value| (agent["id"].as_str()?.to_owned(), agent["depth"].as_u64()?).into();
    agents.iter().filter_map(line).collect()
}

fn names(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(id, depth)| ((*id).to_owned(), *depth)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_one_agent_takes_its_subtree_and_nobody_else() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut main = stalled(&gateway, "", "").await;
    let mut one = stalled(&gateway, "one", "").await;
    let mut below = stalled(&gateway, "below", "one").await;
    let mut other = stalled(&gateway, "other", "").await;
    let session = gateway.session_until(SESSION, |session| session["open_legs"] == 4).await;
    assert_eq!(tree(&session), names(&[("main", 0), ("one", 1), ("below", 2), ("other", 1)]));
    assert_eq!(
        (&agent(&session, "below")["parent"], &agent(&session, "below")["open_legs"]),
        (&json!("one"), &json!(1))
    );
    assert_eq!(session["legs"][1]["agent"], "one", "{session}");

    let (status, killed) = order(&gateway, "kill", &json!({"reason": "runaway", "agent": "one"})).await;
    assert_eq!(
        (status, &killed["legs_cut"], &killed["state"]),
        (200, &json!(2), &json!("active")),
        "{killed}"
    );
    assert_eq!((&killed["agent"], &killed["descendants"]), (&json!("one"), &json!(["below"])), "{killed}");
    let reached = demo.ledger().arrived();
    for cut in [&mut one, &mut below] {
        let text = cut.message(Unframed::UntilEnd).await.expect("an answer").text();
        assert!(text.contains("event: error\n") && text.contains("\"code\":\"agent_killed\""), "{text}");
        assert!(
            text.contains("Agent one killed by operator: runaway") && !text.contains("message_stop"),
            "{text}"
        );
    }
    demo.until("the aborts", |ledger| ledger.aborts().len() == 2).await;

    // The same again, with and without streaming, then later ones.
    for (agent, parent) in [("one", ""), ("below", "one"), ("new", "one"), ("newer", "new"), ("newer", "")] {
        for call in [Call::messages_stream("again"), Call::post("/v1/messages").json(&json!({"model": "m"}))]
        {
            let answer = by(agent, parent, call).send(gateway.proxy()).await;
            assert_eq!(answer.status(), 403, "{agent}: {}", answer.text());
            assert_eq!(answer.head.field("x-should-retry"), Some("false"));
            let error = answer.json()["error"].clone();
            assert_eq!(
                (&error["code"], &error["type"]),
                (&json!("agent_killed"), &json!("permission_error"))
            );
            assert_eq!(error["message"], "Agent one killed by operator: runaway");
        }
    }
    assert_eq!(demo.ledger().arrived(), reached, "no request of the subtree reaches the backend");
    for (agent, parent) in [("", ""), ("other", ""), ("other-1", "other"), ("late", "")] {
        assert_eq!(spoke(&gateway, agent, parent).await, 200, "{agent}");
    }
    let session = gateway.session_until(SESSION, |session| session["open_legs"] == 2).await;
    assert_eq!(
        (&agent(&session, "newer")["state"], &agent(&session, "other")["state"]),
        (&json!("killed"), &json!("active"))
    );
    assert_eq!(agent(&session, "newer")["requests"], 0, "{session}");
    assert_eq!(session["state"], "active");

    assert_eq!(gateway.kill(SESSION).await.body["legs_cut"], 2);
    for cut in [&mut main, &mut other] {
        assert!(cut.message(Unframed::UntilEnd).await.expect("an answer").text().contains("session_killed"));
    }
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    assert_eq!(record["agents"], json!(["main", "one", "below", "other", "other-1", "late"]), "{record}");
    let kill = &record["agent_kills"][0];
    assert_eq!((&kill["agent"], &kill["reason"]), (&json!("one"), &json!("runaway")), "{record}");
    assert_eq!(record["kill"]["agent"], Value::Null, "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_resumed_by_itself_and_the_feed_tells_of_it() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    assert_eq!(spoke(&gateway, "one", "").await, 200);
    let mut feed = Call::get("/control/events").open(gateway.control()).await;
    feed.until("connected").await;
    assert_eq!(order(&gateway, "kill", &json!({"agent": "one"})).await.0, 200);
    feed.until("event: agent.killed").await;
    assert_eq!(spoke(&gateway, "one", "").await, 403);
    let kills = gateway.operator().await.get("/control/kills").await.json();
    assert_eq!((&kills["kills"][0]["agent"], &kills["kills"][1]), (&json!("one"), &Value::Null), "{kills}");
    let (status, problem) = order(&gateway, "resume", &Value::Null).await;
    assert_eq!(
        (status, &problem["code"], &problem["agents"]),
        (404, &json!("not_killed"), &json!(["one"])),
        "{problem}"
    );
    let (status, resumed) = order(&gateway, "resume", &json!({"agent": "one"})).await;
    assert_eq!((status, &resumed["order"]["agent"]), (200, &json!("one")), "{resumed}");
    feed.until("event: agent.resumed").await;
    assert_eq!(spoke(&gateway, "one", "").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_known_agents_can_be_killed() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    assert_eq!(spoke(&gateway, "one", "").await, 200);
    let (status, problem) = order(&gateway, "kill", &json!({"agent": "nobody"})).await;
    assert_eq!((status, &problem["code"]), (404, &json!("agent_not_found")), "{problem}");
    assert_eq!(problem["agents"], json!(["main", "one"]), "{problem}");
    let (status, problem) = order(&gateway, "kill", &json!({"agent": "main"})).await;
    assert_eq!(status, 400, "{problem}");
    assert_eq!(spoke(&gateway, "one", "").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn codex_tells_its_threads() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let thread = |id: &str, parent: &str| {
        let call = Call::post("/v1/responses").json(&json!({"model": "m", "input": "hello"}));
        let call = call.header("session-id", SESSION).header("thread-id", id);
        if parent.is_empty() { call } else { call.header("x-codex-parent-thread-id", parent) }
    };
    for (id, parent) in [(SESSION, ""), ("t-1", SESSION), ("t-2", "t-1")] {
        assert_eq!(thread(id, parent).send(gateway.proxy()).await.status(), 200);
    }
    let session = gateway.session_until(SESSION, |session| session["open_legs"] == 0).await;
    assert_eq!(tree(&session), names(&[("main", 0), ("t-1", 1), ("t-2", 2)]));
    let tokens = &agent(&session, "t-2")["usage"]["output_tokens"];
    assert!(tokens.as_u64() >= Some(1), "{session}");
    assert_eq!(order(&gateway, "kill", &json!({"agent": "t-1"})).await.0, 200);
    let refused = thread("t-2", "t-1").header("user-agent", "codex_exec/0.169.0").send(gateway.proxy()).await;
    assert_eq!(refused.status(), 400, "the status on which Codex stops: {}", refused.text());
    assert_eq!(thread(SESSION, "").send(gateway.proxy()).await.status(), 200);
}

/// Minimum number of requests of an agent after the kill.
const LATE: usize = 3;

/// Sends an agent's requests until a few of them came after the kill; returns when each was sent, its mark and its
/// status.
async fn ask_on(
    address: SocketAddr,
    agent: String,
    parent: &'static str,
    killed: Arc<AtomicBool>,
) -> Vec<(Instant, String, u16)> {
    let mut runs = Vec::new();
    let mut late = 0;
    while late < LATE {
        late += usize::from(killed.load(Ordering::SeqCst));
        let mark = format!("{agent}-{}", runs.len());
        let body =
            json!({"model": "claude-demo", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
        let call = by(&agent, parent, Call::post(&format!("/v1/messages?mark={mark}")).json(&body));
        let sent = Instant::now();
        let status = call.send(address).await.status();
        runs.push((sent, mark, status));
    }
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_subtree_racing_its_kill_nobody_is_served_after_the_answer() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    assert_eq!(spoke(&gateway, "one", "").await, 200);
    let killed = Arc::new(AtomicBool::new(false));
    let start =
        |agent: String, parent| tokio::spawn(ask_on(gateway.proxy(), agent, parent, Arc::clone(&killed)));
    let racers: Vec<_> = (0..40).map(|number| start(format!("child-{number}"), "one")).collect();
    let others: Vec<_> = (0..5).map(|number| start(format!("free-{number}"), "")).collect();
    demo.until("some requests", |ledger| ledger.arrived() > 20).await;
    let mut operator = gateway.operator().await;
    let answer = operator.post(&format!("/control/sessions/{SESSION}/kill"), &json!({"agent": "one"})).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    killed.store(true, Ordering::SeqCst);
    for racer in racers {
        let runs = within("a racer", racer).await.expect("a racer");
        let late: Vec<_> = runs.iter().filter(|(sent, ..)| *sent > answer.ended).collect();
        assert!(late.len() >= LATE, "{runs:?}");
        for (_, mark, status) in late {
            assert_eq!(*status, 403, "{mark}");
            let mark = format!("mark={mark}");
            let reached = demo.ledger().requests().iter().any(|seen| seen.query.as_deref() == Some(&mark));
            assert!(!reached, "{mark} reached the backend");
        }
    }
    for other in others {
        let runs = within("another", other).await.expect("another");
        assert!(runs.iter().all(|(_, _, status)| *status == 200), "{runs:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_show_and_kill_agents() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for (agent, parent) in [("", ""), ("one", ""), ("below", "one")] {
        assert_eq!(spoke(&gateway, agent, parent).await, 200);
    }
    let shown = gateway.elida(&["session", SESSION]).await;
    let (session, agents) = shown.split_once("\n\n").unwrap_or_else(|| panic!("two tables: {shown}"));
    assert!(session.contains(SESSION) && session.contains("active"), "{shown}");
    let lines: Vec<&str> = agents.lines().collect();
    assert!(
        lines[1].starts_with("main ") && lines[2].starts_with("  one ") && lines[3].starts_with("    below "),
        "{shown}"
    );
    let killed = gateway.elida(&["kill", SESSION, "--agent", "one", "--reason", "too dear"]).await;
    assert_eq!(killed, format!("agent one and 1 below it of {SESSION} killed: 0 open requests cut\n"));
    assert_eq!((spoke(&gateway, "below", "").await, spoke(&gateway, "", "").await), (403, 200));
    assert!(gateway.elida(&["session", SESSION]).await.contains("killed"));
    assert!(gateway.elida(&["kills"]).await.contains("one"));
    let resumed = gateway.elida(&["resume", SESSION, "--agent", "one"]).await;
    assert_eq!(resumed, format!("agent one of {SESSION} resumed: its next request is accepted\n"));
    assert_eq!(spoke(&gateway, "below", "").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subagent_of_claude_code_is_killed_and_claude_code_goes_on() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let prompt = r#"[[tool Agent {"description":"look","prompt":"busy [[stall]]","subagent_type":"general-purpose"}]]"#;
    let arguments = ["--session-id", SESSION, "--allowedTools", "Agent", "Task"];
    let program = Program::claude(&gateway.url(), prompt, &arguments);
    let is_busy = |session: &Value| {
        session["agents"].as_array().is_some_and(|agents| agents.len() > 1) && session["open_legs"] == 1
    };
    let session = gateway.session_until(SESSION, is_busy).await;
    let sub = session["agents"][1]["id"].as_str().expect("a name").to_owned();
    let (status, killed) = order(&gateway, "kill", &json!({"agent": sub, "reason": "too dear"})).await;
    assert_eq!((status, &killed["legs_cut"]), (200, &json!(1)), "{killed}");
    let outcome = program.outcome().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let session = gateway.session_until(SESSION, |session| session["open_legs"] == 0).await;
    assert_eq!(
        (&session["state"], &agent(&session, &sub)["state"]),
        (&json!("active"), &json!("killed")),
        "{session}"
    );
    assert!(outcome.text().contains("too dear"), "the main agent sees the reason: {outcome:?}");
}
