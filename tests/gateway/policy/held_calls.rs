use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::rules::ruled;
use crate::support::http2::Client;
use crate::support::wire::Message;
use crate::support::{Call, Demo, Gateway, within};

const RULES: &str = r#"  rules:
    - { id: ask-first, on: tool_call, when: 'tool.name == "deploy"', action: hold, message: "ask first" }"#;

fn call(session: &str, stream: bool) -> Call {
    Call::post("/v1/messages").session(session).json(&json!({"model": "m", "max_tokens": 9, "stream": stream,
        "messages": [{"role": "user", "content": "sure [[tool deploy {\"to\": \"production\"}]]"}],
        "tools": [{"name": "deploy", "input_schema": {}}]}))
}

fn send(gateway: &Gateway, session: &str, stream: bool) -> JoinHandle<Message> {
    let (call, proxy) = (call(session, stream), gateway.proxy());
    tokio::spawn(async move { call.send(proxy).await })
}

/// Waits for a pending approval and returns it.
async fn pending(gateway: &Gateway) -> Value {
    within("a pending approval", async {
        loop {
            let list = gateway.operator().await.get("/control/approvals?state=pending").await.json();
            if let Some(one) = list["approvals"].as_array().and_then(|list| list.first()) {
                return one.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

async fn decide(gateway: &Gateway, decision: &str) {
    let id = pending(gateway).await["id"].as_str().expect("an id").to_owned();
    let answer = gateway
        .operator()
        .await
        .post(&format!("/control/approvals/{id}"), &json!({"decision": decision}))
        .await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

/// The end of the only block, which is the call.
const COMPLETES: &str = "event: content_block_stop";

#[tokio::test(flavor = "multi_thread")]
async fn the_event_that_completes_a_call_leaves_when_it_is_approved() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    let direct = call("s", true).send(demo.address()).await;
    for is_http2 in [false, true] {
        let body = if is_http2 {
            let mut http2 = Client::connect(gateway.proxy()).await;
            let mut answer = http2.send(&call("two", true)).await.head().await.expect("a head");
            answer.until("partial_json").await;
            decide(&gateway, "approve").await;
            answer.rest().await.body
        } else {
            let mut client = call("one", true).open(gateway.proxy()).await;
            client.until("partial_json").await;
            let approval = pending(&gateway).await;
            assert_eq!(
                (&approval["tool"], &approval["rule"]),
                (&json!("deploy"), &json!("ask-first")),
                "{approval}"
            );
            let seen = String::from_utf8_lossy(client.rest()).into_owned();
            assert!(!seen.contains(COMPLETES) && !seen.contains("message_stop"), "{seen}");
            decide(&gateway, "approve").await;
            let call = send(&gateway, "again", true);
            client.until("message_stop").await;
            decide(&gateway, "approve").await;
            within("an answer", call).await.expect("a task that ends").body
        };
        assert_eq!(String::from_utf8_lossy(&body), direct.text(), "no byte is changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_denied_never_completes_and_its_repeat_reaches_no_backend() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    let answer = send(&gateway, "s", true);
    decide(&gateway, "deny").await;
    let answer = within("an answer", answer).await.expect("a task that ends");
    let text = answer.text();
    assert!(answer.is_whole && text.contains("event: error") && text.contains("approval_denied"), "{text}");
    assert!(!text.contains(COMPLETES) && !text.contains("message_stop"), "{text}");
    let arrived = demo.ledger().arrived();
    let repeat = call("s", false).send(gateway.proxy()).await;
    assert_eq!((repeat.status(), demo.ledger().arrived()), (403, arrived), "{}", repeat.text());
    let whole = send(&gateway, "whole", false);
    decide(&gateway, "deny").await;
    let whole = within("an answer", whole).await.expect("a task that ends");
    assert_eq!(whole.status(), 403, "before the head, it is a status: {}", whole.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_and_a_client_that_leaves_end_the_wait() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    let held = send(&gateway, "killed", true);
    pending(&gateway).await;
    assert_eq!(gateway.kill("killed").await.status, 200);
    let text = within("an answer", held).await.expect("a task that ends").text();
    assert!(text.contains("session_killed") && !text.contains("message_stop"), "{text}");
    for is_http2 in [false, true] {
        let session = if is_http2 { "left-2" } else { "left" };
        if is_http2 {
            let mut http2 = Client::connect(gateway.proxy()).await;
            let mut answer = http2.send(&call(session, true)).await.head().await.expect("a head");
            answer.until("partial_json").await;
            gateway.session_until(session, |session| session["open_legs"] == 1).await;
            drop(answer);
            http2.abort_connection();
        } else {
            let mut client = call(session, true).open(gateway.proxy()).await;
            client.until("partial_json").await;
            gateway.session_until(session, |session| session["open_legs"] == 1).await;
            client.reset();
        }
        let ended = gateway.session_until(session, |session| session["open_legs"] == 0).await;
        assert_eq!(ended["requests"][0]["outcome"], "client_gone", "{ended}");
    }
}
