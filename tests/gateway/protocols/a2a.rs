use serde_json::json;

use crate::support::wire::Unframed;
use crate::support::{Call, Demo, Gateway};

fn send(method: &str, text: &str, context: &str) -> Call {
    let message = json!({"role": "user", "messageId": "m", "contextId": context,
        "parts": [{"kind": "text", "text": text}]});
    Call::post("/a2a").header("a2a-version", "1.0").json(&json!({"jsonrpc": "2.0", "id": "r-1",
        "method": method, "params": {"message": message}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_context_of_a_task_is_its_session() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let answer = send("message/send", "hello there", "ctx-1").send(gateway.proxy()).await;
    assert_eq!(answer.json()["result"]["parts"][0]["text"], "hello there", "{}", answer.text());
    // The HTTP binding has no envelope.
    let message = json!({"message": {"contextId": "ctx-1", "parts": [{"text": "again"}]}});
    let answer = Call::post("/message:send").json(&message).send(gateway.proxy()).await;
    assert_eq!(answer.json()["message"]["parts"][0]["text"], "again", "{}", answer.text());
    let session = gateway.session_until("ctx-1", |session| session["open_legs"] == 0).await;
    assert_eq!(session["request_count"], 2, "{session}");
    assert_eq!(session["identity"]["source"], "body:params.message.contextId", "{session}");
    assert_eq!(session["identity"]["client"], "a2a", "{session}");
    let line = gateway.access_line("/a2a").await;
    assert_eq!(line["operation"], "message/send", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_task_ends_in_json_rpc() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let call = send("message/stream", "[[words 100000]] [[pace 5ms]]", "ctx-2");
    let mut client = call.open(gateway.proxy()).await;
    client.until("word3").await;
    assert_eq!(gateway.kill("ctx-2").await.body["legs_cut"], 1);
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer").text();
    let last = answer.trim_end().rsplit("data: ").next().expect("an event");
    let last: serde_json::Value = serde_json::from_str(last).expect(last);
    assert_eq!((&last["id"], &last["error"]["data"]["code"]), (&json!("r-1"), &json!("session_killed")));
    let reached = demo.ledger().arrived();
    let refused = call.send(gateway.proxy()).await;
    assert_eq!(refused.status(), 403);
    assert_eq!((&refused.json()["id"], &refused.json()["jsonrpc"]), (&json!("r-1"), &json!("2.0")));
    assert_eq!(demo.ledger().arrived(), reached);
}
