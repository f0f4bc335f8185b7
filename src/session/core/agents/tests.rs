//! Trees of agents, and kills of subtrees.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::session::core::kill::{KillError, KillRequest, ResumeError};
use crate::session::core::leg::Leg;
use crate::session::core::request::Denied;
use crate::session::testing::{TestManager, agent_arrival, arrival, leg_start};
use crate::summary::RequestSummary;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

impl TestManager {
    /// A request of an agent of the session `s-1`; "" means the main agent or an unknown parent.
    async fn speak(&self, agent: &str, parent: &str) -> Result<Leg, Denied> {
        self.manager.admit(agent_arrival("s-1", agent, parent), leg_start()).await
    }

    /// A finished request of an agent.
    async fn spoke(&self, agent: &str, parent: &str) {
        self.speak(agent, parent).await.unwrap().settle(&RequestSummary::default());
    }

    async fn kill_agent(&self, agent: &str) -> Result<crate::session::Killed, KillError> {
        let request = KillRequest {
            reason: "runaway".to_owned(),
            by: "user:sec".to_owned(),
            agent: Some(AgentId::new(agent)),
            ..KillRequest::default()
        };
        self.manager.kill("s-1", request).await
    }

    async fn agents(&self) -> Vec<AgentView> {
        self.manager.get("s-1").await.remove(0).agents.unwrap()
    }

    /// The tree as text, each agent indented below its parent.
    async fn tree(&self) -> String {
        let line = |agent: &AgentView| format!("{}{}", " ".repeat(agent.depth), agent.id);
        self.agents().await.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

fn refused(admitted: Result<Leg, Denied>) -> String {
    match admitted {
        Err(Denied::Killed { order }) => order.notice(),
        other => panic!("must be refused: {other:?}"),
    }
}

#[tokio::test]
async fn the_tree_is_built_from_what_agents_tell() {
    let fixture = TestManager::new("{}");
    fixture.spoke("", "").await;
    assert_eq!(fixture.tree().await, "main");
    fixture.spoke("a", "").await;
    fixture.spoke("a1", "a").await;
    fixture.spoke("b", "").await;
    // Its parent sends a request later, and then names its own parent.
    fixture.spoke("c11", "c1").await;
    assert_eq!(fixture.tree().await, "main\n a\n  a1\n b\n c1\n  c11");
    fixture.spoke("c1", "c").await;
    assert_eq!(fixture.tree().await, "main\n a\n  a1\n b\n c\n  c1\n   c11");
    let agents = fixture.agents().await;
    let requests = |id: &str| agents.iter().find(|agent| agent.id.as_str() == id).unwrap().requests;
    assert_eq!((requests("main"), requests("c"), requests("c1")), (1, 0, 1));
    let parents: Vec<Option<&str>> =
        agents.iter().map(|agent| agent.parent.as_ref().map(AgentId::as_str)).collect();
    assert_eq!(parents[..3], [None, Some("main"), Some("a")]);
}

#[tokio::test]
async fn rings_and_second_parents_change_nothing() {
    let fixture = TestManager::new("{}");
    for (agent, parent) in
        [("a", "a"), ("b", "a"), ("a", "b"), ("c", "b"), ("a", "c"), ("c", "a"), ("x", "main")]
    {
        fixture.spoke(agent, parent).await;
    }
    assert_eq!(fixture.tree().await, "main\n a\n  b\n   c\n x");
    // A parent without an agent is ignored.
    fixture.spoke("", "ghost").await;
    assert!(!fixture.tree().await.contains("ghost"));
}

#[tokio::test]
async fn each_agent_is_counted_by_itself() {
    let fixture = TestManager::new("{}");
    let usage = |tokens| Some(Usage { input_tokens: tokens, ..Usage::default() });
    fixture
        .speak("", "")
        .await
        .unwrap()
        .settle(&RequestSummary { usage: usage(7), ..RequestSummary::default() });
    let mut open = fixture.speak("", "").await.unwrap();
    fixture.clock.advance(SECOND);
    let mut first = fixture.speak("a", "").await.unwrap();
    let second = fixture.speak("a", "").await.unwrap();
    fixture.clock.advance(SECOND);
    first.settle(&RequestSummary { usage: usage(5), ..RequestSummary::default() });
    drop(second);
    let agents = fixture.agents().await;
    let [main, a] = &agents[..] else { panic!("{agents:?}") };
    assert_eq!((main.requests, main.open_legs, main.usage.input_tokens), (2, 1, 7));
    assert_eq!((a.requests, a.open_legs, a.usage.input_tokens), (2, 0, 5));
    assert_eq!(a.last_seen.duration_since(a.first_seen).as_secs(), 1);
    open.settle(&RequestSummary { usage: usage(1), ..RequestSummary::default() });
    let session = fixture.manager.get("s-1").await.remove(0);
    assert_eq!((session.usage.input_tokens, session.request_count), (13, 4));
    assert_eq!(fixture.agents().await[0].usage.input_tokens, 8);
    let lines = session.requests.unwrap();
    let by_a = lines.iter().filter(|line| line.agent == Some(AgentId::new("a"))).count();
    assert_eq!((by_a, lines.len()), (2, 4));
    let json = serde_json::to_value(&agents[1]).unwrap();
    assert_eq!(
        (&json["state"], &json["parent"], &json["depth"]),
        (&json!("active"), &json!("main"), &json!(1))
    );
}

#[tokio::test]
async fn a_kill_takes_the_agent_and_all_below_it_and_nobody_else() {
    let fixture = TestManager::new("{}");
    for (agent, parent) in [("", ""), ("a", ""), ("a1", "a"), ("a11", "a1"), ("b", "")] {
        fixture.spoke(agent, parent).await;
    }
    let mut cuts = Vec::new();
    let mut legs = Vec::new();
    for agent in ["", "a", "a1", "a11", "b", "a"] {
        let start = leg_start();
        cuts.push((agent, start.cut.clone()));
        legs.push(fixture.manager.admit(agent_arrival("s-1", agent, ""), start).await.unwrap());
    }
    let killed = fixture.kill_agent("a").await.unwrap();
    assert_eq!((killed.state, killed.legs_cut), (SessionState::Active, 4));
    assert_eq!(json!(killed.descendants), json!(["a1", "a11"]));
    for (agent, cut) in &cuts {
        let expected = agent.starts_with('a').then_some(crate::session::CutReason::AgentKilled);
        assert_eq!(cut.reason(), expected, "{agent}");
    }
    assert_eq!(legs[3].kill_order().unwrap().agent, Some(AgentId::new("a")));
    assert_eq!((legs[0].kill_order(), legs[4].kill_order()), (None, None));
    drop(legs);
    for agent in ["a", "a1", "a11"] {
        assert_eq!(refused(fixture.speak(agent, "").await), "Agent a killed by operator: runaway", "{agent}");
    }
    // Later agents, including descendants of one that was refused before it was ever admitted.
    for (agent, parent) in [("a2", "a"), ("a21", "a2"), ("a111", "a11"), ("a1111", "a111")] {
        refused(fixture.speak(agent, parent).await);
        refused(fixture.speak(agent, "").await);
    }
    for (agent, parent) in [("", ""), ("b", ""), ("b1", "b"), ("d", "")] {
        fixture.spoke(agent, parent).await;
    }
    let states: Vec<String> =
        fixture.agents().await.iter().map(|a| format!("{} {}", a.id, a.state)).collect();
    assert!(
        states.contains(&"a21 killed".to_owned()) && states.contains(&"b1 active".to_owned()),
        "{states:?}"
    );
    assert!(states.contains(&"main active".to_owned()), "{states:?}");
    assert_eq!(fixture.names()[1], "agent_killed");
    assert_eq!(fixture.manager.stats().kills_in_force, 1);
    // A known agent that now names a killed one as its parent.
    refused(fixture.speak("b1", "a1").await);
}

#[tokio::test]
async fn a_killed_agent_can_be_resumed_alone() {
    let fixture = TestManager::new("{}");
    for (agent, parent) in [("a", ""), ("a1", "a"), ("b", "")] {
        fixture.spoke(agent, parent).await;
    }
    fixture.kill_agent("a1").await.unwrap();
    fixture.kill_agent("a").await.unwrap();
    let resume = async |agent: Option<&str>| fixture.manager.resume("s-1", agent, "user:sec").await;
    let agents = vec![AgentId::new("a1"), AgentId::new("a")];
    assert_eq!(resume(None).await.unwrap_err(), ResumeError::NotKilled { agents: agents.clone() });
    assert_eq!(resume(Some("b")).await.unwrap_err(), ResumeError::NotKilled { agents });
    assert_eq!(resume(Some("a")).await.unwrap().order.agent, Some(AgentId::new("a")));
    fixture.spoke("a", "").await;
    assert_eq!(refused(fixture.speak("a1", "a").await), "Agent a1 killed by operator: runaway");
    resume(Some("a1")).await.unwrap();
    fixture.spoke("a1", "a").await;
    assert!(fixture.manager.kills().is_empty());
    assert_eq!(fixture.names().last(), Some(&"agent_resumed"));
    fixture.clock.advance(48 * HOUR);
    fixture.manager.reap().await;
    fixture.clock.advance(SECOND);
    fixture.manager.reap().await;
    let record = serde_json::to_value(&*fixture.records()[0]).unwrap();
    assert_eq!(record["agents"], json!(["a", "a1", "b"]));
    let kills = record["agent_kills"].as_array().unwrap();
    assert_eq!((kills.len(), &kills[1]["agent"], &kills[1]["descendants"]), (2, &json!("a"), &json!(["a1"])));
    assert_eq!(record["kill"], json!(null));
}

#[tokio::test]
async fn an_order_outlives_the_session_and_ends_by_the_clock() {
    let fixture = TestManager::new("{idle_timeout: 1h, kill_block: {mode: duration, duration: 5h}}");
    for (agent, parent) in [("a", ""), ("a1", "a")] {
        fixture.spoke(agent, parent).await;
    }
    fixture.kill_agent("a").await.unwrap();
    fixture.clock.advance(2 * HOUR);
    fixture.manager.reap().await;
    assert_eq!(fixture.manager.active(), 0);
    // The tree is gone; the order remains, and a refusal creates no session.
    refused(fixture.speak("a", "").await);
    refused(fixture.speak("a1", "").await);
    refused(fixture.speak("a2", "a1").await);
    assert_eq!(fixture.manager.active(), 0);
    fixture.spoke("b", "").await;
    refused(fixture.speak("a1", "").await);
    assert_eq!(fixture.manager.get("s-1").await[0].incarnation, 2);
    fixture.clock.advance(3 * HOUR);
    fixture.spoke("a", "").await;
    fixture.spoke("a1", "a").await;
}

#[tokio::test]
async fn what_is_not_there_cannot_be_killed() {
    let fixture = TestManager::new("{}");
    assert_eq!(fixture.kill_agent("a").await.unwrap_err(), KillError::Unknown);
    fixture.spoke("a", "").await;
    let known = vec![AgentId::new(MAIN_AGENT), AgentId::new("a")];
    assert_eq!(fixture.kill_agent("b").await.unwrap_err(), KillError::UnknownAgent { known });
    assert_eq!(fixture.kill_agent("main").await.unwrap_err(), KillError::MainAgent);
    assert!(fixture.manager.kills().is_empty());
    fixture.manager.kill("s-1", KillRequest::default()).await.unwrap();
    assert!(matches!(fixture.kill_agent("a").await.unwrap_err(), KillError::AlreadyEnded { .. }));
    let request = KillRequest { agent: Some(AgentId::new("a")), force: true, ..KillRequest::default() };
    fixture.manager.kill("s-1", request).await.unwrap();
    fixture.manager.resume("s-1", None, "user:sec").await.unwrap();
    refused(fixture.speak("a", "").await);
    fixture.spoke("b", "").await;
}

#[tokio::test]
async fn a_crowd_of_agents_takes_bounded_memory_and_keeps_the_living() {
    let fixture = TestManager::new("{}");
    let held = fixture.speak("held", "").await.unwrap();
    fixture.spoke("killed", "").await;
    fixture.spoke("parent", "").await;
    fixture.spoke("child", "parent").await;
    fixture.kill_agent("killed").await.unwrap();
    for number in 0..1000 {
        fixture.clock.advance(SECOND);
        fixture.spoke(&format!("agent-{number}"), "").await;
    }
    let agents = fixture.agents().await;
    assert_eq!(agents.len(), MOST + 1);
    let has = |id: &str| agents.iter().any(|agent| agent.id.as_str() == id);
    assert!(has("held") && has("killed") && has("agent-999") && !has("agent-0"));
    let other = agents.last().unwrap();
    let told_apart: u64 = agents.iter().map(|agent| agent.requests).sum();
    assert_eq!((other.id.as_str(), told_apart), (OTHER_AGENTS, 1004));
    assert_eq!(held.session().requests(), 1004);
    refused(fixture.speak("killed", "").await);
    assert!(matches!(fixture.kill_agent(OTHER_AGENTS).await, Err(KillError::UnknownAgent { .. })));

    // All indexes are taken by agents with open requests: a further one counts with the others, and is still
    // refused if it names a killed parent.
    let mut legs = Vec::new();
    for number in 0..MOST {
        legs.push(fixture.speak(&format!("open-{number}"), "").await.unwrap());
    }
    fixture.spoke("late", "late-parent").await;
    refused(fixture.speak("later", "killed").await);
    drop(legs);
    assert_eq!(fixture.agents().await.iter().map(|agent| agent.open_legs).sum::<u32>(), 1);
}

#[tokio::test]
async fn a_long_line_is_walked_and_shown_to_its_end() {
    let fixture = TestManager::new("{}");
    fixture.spoke("n0", "").await;
    for number in 1..MOST - 1 {
        fixture.spoke(&format!("n{number}"), &format!("n{}", number - 1)).await;
    }
    let agents = fixture.agents().await;
    assert_eq!(agents.last().unwrap().depth, MOST - 1);
    fixture.kill_agent("n1").await.unwrap();
    refused(fixture.speak(&format!("n{}", MOST - 2), "").await);
    fixture.spoke("n0", "").await;
}

#[tokio::test]
async fn one_agent_alone_keeps_no_tree() {
    let fixture = TestManager::new("{}");
    let leg = fixture.manager.admit(arrival("s-1"), leg_start()).await.unwrap();
    assert!(leg.session().inner().agents.is_none());
    assert_eq!(fixture.agents().await[0].open_legs, 1);
}
