use serde_json::{Value, json};

use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, within};

fn yaml(demo: &Demo, policy: &str) -> String {
    format!("backend: {:?}\npolicy:\n{policy}\n", demo.url())
}

/// A conversation of an agent.
struct Agent {
    messages: Vec<Value>,
    turns: usize,
}

impl Agent {
    fn new() -> Self {
        Self { messages: vec![json!({"role": "user", "content": "mend it"})], turns: 0 }
    }

    /// Calls a tool, and brings its result to the model with the next request.
    fn turn(&mut self, command: &str, result: &str, is_error: bool) -> Call {
        self.turns += 1;
        let id = format!("toolu_{}", self.turns);
        // The order of members does not matter.
        let input = match self.turns % 2 {
            0 => json!({"command": command, "timeout": 5}),
            _ => serde_json::from_str(&format!("{{\"timeout\":5, \"command\":{command:?}}}")).expect("JSON"),
        };
        self.messages.push(json!({"role": "assistant", "content": [
            {"type": "text", "text": format!("step {}", self.turns)},
            {"type": "tool_use", "id": id, "name": "Bash", "input": input}]}));
        self.messages.push(json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": id, "content": result, "is_error": is_error}]}));
        self.ask()
    }

    fn ask(&self) -> Call {
        let body = json!({"model": "claude-demo", "max_tokens": 50, "messages": self.messages});
        Call::post("/v1/messages").header("anthropic-version", "2023-06-01").session("s").json(&body)
    }
}

async fn send(gateway: &Gateway, call: Call) -> Message {
    within("an answer", call.send(gateway.proxy())).await
}

fn notice(answer: &Message) -> Option<&str> {
    answer.head.field("x-elida-notice")
}

fn code(refusal: &Message) -> String {
    let body = refusal.json();
    body.pointer("/error/code").and_then(Value::as_str).unwrap_or_default().to_owned()
}

async fn found(gateway: &Gateway, rule: &str) -> f64 {
    let action = rule.trim_start_matches("loop-").replace("hint", "flag");
    let series =
        format!("elida_policy_decisions_total{{action=\"{action}\",mode=\"enforce\",rule=\"{rule}\"}}");
    gateway.metric(&series).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_is_flagged_then_hinted_and_what_gets_further_is_not() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "  loops: {}")).await;
    let mut agent = Agent::new();
    for count in 1..=10 {
        let answer = send(&gateway, agent.turn("make test", "1 failed", false)).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let expected = (count >= 8).then(|| format!("loop; signal=repeat; tool=Bash; count={count}"));
        assert_eq!(notice(&answer).map(str::to_owned), expected, "{count}");
    }
    assert_eq!((found(&gateway, "loop-flag").await, found(&gateway, "loop-hint").await), (1.0, 1.0));
    let line = gateway.log_until(|line| line["rule"] == "loop-hint").await;
    assert_eq!((&line["phase"], &line["count"]), (&json!("turn"), &json!(8)), "{line}");
    // Another session, each step another one.
    let mut busy = Agent::new();
    for count in 0..20 {
        let call = busy.turn(&format!("make {count}"), "ok", false).session("busy");
        assert_eq!(notice(&send(&gateway, call).await), None, "{count}");
    }
    // A person asks in between: no turn.
    agent.messages.push(json!({"role": "assistant", "content": "I give up"}));
    agent.messages.push(json!({"role": "user", "content": "why?"}));
    assert_eq!(notice(&send(&gateway, agent.ask()).await), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_is_held_until_somebody_lets_it_go_on_and_killed_in_the_end() {
    let demo = Demo::start().await;
    let policy = "  loops:\n    stall: { flag: 2, hint: 2, hold: 3, kill: 5 }";
    let gateway = Gateway::with(yaml(&demo, &format!("{policy}\napprovals: {{ wait: 20s }}"))).await;
    let mut agent = Agent::new();
    for count in 0..2 {
        let answer = send(&gateway, agent.turn(&format!("make {count}"), "failed", true)).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    let arrived = demo.ledger().arrived();
    let (call, proxy) = (agent.turn("make 3", "failed", true), gateway.proxy());
    let held = tokio::spawn(async move { call.send(proxy).await });
    let list = gateway
        .answer_until("/control/approvals", |list| !list["approvals"].as_array().is_none_or(Vec::is_empty))
        .await;
    let approval = &list["approvals"][0];
    assert_eq!((&approval["rule"], &approval["phase"]), (&json!("loop-hold"), &json!("turn")), "{approval}");
    assert_eq!(approval["message"], "all calls of 3 turns in a row have failed", "{approval}");
    assert_eq!(demo.ledger().arrived(), arrived);
    gateway.elida(&["approve", approval["id"].as_str().expect("an id")]).await;
    let answer = within("the held turn", held).await.expect("a task that ends");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    // It begins anew.
    assert_eq!(send(&gateway, agent.turn("make 4", "failed", true)).await.status(), 200);

    let policy = policy.replace("hold: 3", "hold: 0");
    let other = Gateway::with(yaml(&demo, &policy)).await;
    let mut agent = Agent::new();
    for count in 0..4 {
        assert_eq!(send(&other, agent.turn(&format!("make {count}"), "failed", true)).await.status(), 200);
    }
    let arrived = demo.ledger().arrived();
    for _ in 0..2 {
        let refused = send(&other, agent.turn("make", "failed", true)).await;
        assert_eq!(
            (refused.status(), code(&refused).as_str()),
            (403, "session_killed"),
            "{}",
            refused.text()
        );
    }
    assert_eq!(demo.ledger().arrived(), arrived);
    let killed = other.session_until("s", |session| session["state"] == "killed").await;
    assert!(killed.to_string().contains("policy:loop-kill"), "{killed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_body_again_and_rules_of_ones_own() {
    let demo = Demo::start().await;
    let policy = "  loops:\n    storm: { flag: 3, hint: 3 }\n  rules:\n    \
                  - { id: circle, on: turn, when: 'turn.repeat >= 3 && turn.new_results == 0', action: block, message: 'stop' }";
    let gateway = Gateway::with(yaml(&demo, policy)).await;
    let agent = Agent::new();
    for count in 1..=4 {
        let answer = send(&gateway, agent.ask()).await;
        let expected = (count >= 3).then(|| format!("loop; signal=storm; count={count}"));
        assert_eq!(notice(&answer).map(str::to_owned), expected, "{count}");
    }
    let mut agent = Agent::new();
    for count in 1..=3 {
        let answer = send(&gateway, agent.turn("make test", "1 failed", false)).await;
        match count {
            3 => {
                assert_eq!((answer.status(), code(&answer).as_str()), (403, "loop_detected"));
                assert!(answer.text().contains("stop"), "{}", answer.text());
            }
            _ => assert_eq!(answer.status(), 200, "{}", answer.text()),
        }
    }
}
