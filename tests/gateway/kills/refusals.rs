use serde_json::{Value, json};

use crate::support::wire::Unframed;
use crate::support::{Call, Demo, Gateway, RawClient};

const CLAUDE: &str = "claude-cli/2.1.197 (external, sdk-ts)";
const CODEX: &str = "codex_exec/0.169.0 (Linux; x86_64) unknown";
const SDK: &str = "Anthropic/Python 0.71.0";

#[tokio::test(flavor = "multi_thread")]
async fn each_program_gets_the_status_on_which_it_stops() {
    let demo = Demo::start().await;
    let yaml = format!(
        "routing: {{ blocked_models: [\"blocked-*\"] }}\nbackends:\n  only: {{ url: {:?}, type: openai, default: true }}\n",
        crate::support::Backend::url(&demo)
    );
    let gateway = Gateway::with(yaml).await;
    assert_eq!(Call::chat("hello").session("s").send(gateway.proxy()).await.status(), 200);
    assert_eq!(gateway.kill("s").await.status, 200);
    let reached = demo.ledger().arrived();
    for (agent, status) in
        [(CLAUDE, 403), (CODEX, 400), (SDK, 403), ("opencode/1.18.33", 403), ("curl/8.5.0", 403)]
    {
        let killed = Call::messages_stream("again").session("s").header("user-agent", agent);
        let blocked = Call::post("/v1/responses").json(&json!({"model": "blocked-1", "input": "x"}));
        let blocked = blocked.session("other").header("user-agent", agent);
        for (call, code) in [(killed, "session_killed"), (blocked, "policy_blocked")] {
            let answer = call.send(gateway.proxy()).await;
            assert_eq!((answer.status(), &answer.json()["error"]["code"]), (status, &json!(code)), "{agent}");
            assert_eq!(answer.head.field("x-should-retry"), Some("false"), "{agent}");
        }
    }
    // A library that names itself in another header only.
    let codex = Call::chat("again")
        .session("s")
        .header("user-agent", "reqwest/0.12")
        .header("originator", "codex_vscode");
    assert_eq!(codex.send(gateway.proxy()).await.status(), 400);
    assert_eq!(demo.ledger().arrived(), reached, "no refused request reaches the backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_refused_with_the_same_status() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    assert_eq!(Call::chat("hello").session("s").send(gateway.proxy()).await.status(), 200);
    assert_eq!(gateway.kill("s").await.status, 200);
    let reached = demo.ledger().arrived();
    for (agent, status) in [(CODEX, 400), (CLAUDE, 403), ("python-websockets/15", 403)] {
        let call = Call::get("/v1/responses").session("s").header("user-agent", agent);
        let call = call.header("Connection", "Upgrade").header("Upgrade", "websocket");
        let call = call
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        let answer = call.send(gateway.proxy()).await;
        assert_eq!(answer.status(), status, "{agent}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "session_killed");
        assert_eq!(answer.head.field("x-should-retry"), Some("false"));
    }
    assert_eq!(demo.ledger().arrived(), reached);
}

/// A client like Claude Code: streams, and when the stream breaks retries at once without streaming, over the
/// same connection if it is still open.
async fn repeat_unstreamed(
    gateway: &Gateway,
    over: Option<&mut RawClient>,
    body: &Value,
    headers: &[(&str, &str)],
) -> u16 {
    let mut body = body.clone();
    body["stream"] = json!(false);
    let call =
        headers.iter().fold(Call::post("/v1/messages?beta=true").json(&body), |call, (name, value)| {
            call.header(name, value)
        });
    match over {
        Some(client) => call.send_over(client, gateway.proxy()).await.status(),
        None => call.send(gateway.proxy()).await.status(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_cut_is_not_served_when_it_is_asked_for_unstreamed() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let text = "first second [[stall]]";
    let body = json!({"model": "claude-demo", "max_tokens": 100, "stream": true,
                      "messages": [{"role": "user", "content": text}]});
    let mut operator = gateway.operator().await;
    for (number, order) in
        [json!({"reason": "runaway"}), json!({"reason": "runaway", "agent": "one"})].iter().enumerate()
    {
        let id = format!("00000000-0000-4000-8000-00000000000{number}");
        let headers = [
            ("user-agent", CLAUDE),
            ("x-claude-code-session-id", id.as_str()),
            ("x-claude-code-agent-id", "one"),
        ];
        let call =
            headers.iter().fold(Call::post("/v1/messages?beta=true").json(&body), |call, (name, value)| {
                call.header(name, value)
            });
        let mut client = call.open(gateway.proxy()).await;
        client.until("first").await;
        let killed = operator.post(&format!("/control/sessions/{id}/kill"), order).await;
        assert_eq!(killed.json()["legs_cut"], 1, "{}", killed.text());
        let reached = demo.ledger().arrived();
        let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
        assert!(answer.text().contains("event: error\n") && !answer.text().contains("message_stop"));
        assert_eq!(repeat_unstreamed(&gateway, Some(&mut client), &body, &headers).await, 403);
        for _ in 0..4 {
            assert_eq!(repeat_unstreamed(&gateway, None, &body, &headers).await, 403);
        }
        assert_eq!(demo.ledger().arrived(), reached, "the repetition never reaches the backend");
    }
}
