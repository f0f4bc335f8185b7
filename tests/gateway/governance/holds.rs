use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fleet::shared::{fleet_with, store_is_up};
use crate::support::redis::Redis;
use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, within};

/// Holds every chat of the demo model.
const RULE: &str = "policy:\n  rules:\n    - { id: ask, on: request, when: 'request.model == \"gpt-demo\"', \
                    action: hold, message: 'Ask first' }\n";

fn yaml(demo: &Demo, more: &str) -> String {
    format!("backend: {:?}\n{RULE}{more}", demo.url())
}

/// Sends a chat that is held, as a task.
fn send(gateway: &Gateway, text: &str) -> JoinHandle<Message> {
    let (call, proxy) = (Call::chat(text).session("s"), gateway.proxy());
    tokio::spawn(async move { call.send(proxy).await })
}

fn code(refusal: &Message) -> String {
    let body = refusal.json();
    body.pointer("/error/code").and_then(Value::as_str).unwrap_or_default().to_owned()
}

async fn list(gateway: &Gateway, state: &str) -> Vec<Value> {
    let list = gateway.operator().await.get(&format!("/control/approvals?state={state}")).await.json();
    list["approvals"].as_array().cloned().expect("a list")
}

/// Waits until so many calls are pending; returns their ids, the newest first.
async fn pending(gateway: &Gateway, count: usize) -> Vec<String> {
    within(&format!("{count} pending approvals"), async {
        loop {
            let found = list(gateway, "pending").await;
            if found.len() == count {
                return found.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

async fn decide(gateway: &Gateway, id: &str, decision: &str) -> Value {
    let body = json!({"decision": decision, "reason": "said so"});
    let answer = gateway.operator().await.post(&format!("/control/approvals/{id}"), &body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()
}

async fn held(gateway: &Gateway, count: f64) {
    within(&format!("{count} held calls"), async {
        while gateway.metric("elida_held_calls").await != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn answer(call: JoinHandle<Message>) -> Message {
    within("an answer", call).await.expect("a task that ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_held_until_it_is_approved_and_each_approval_is_for_one() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "")).await;
    let first = send(&gateway, "one");
    let ids = pending(&gateway, 1).await;
    assert_eq!(demo.ledger().arrived(), 0);
    // The session goes on meanwhile.
    let other = Call::messages_stream("hello").session("s").send(gateway.proxy()).await;
    assert_eq!(other.status(), 200, "{}", other.text());
    let arrived = demo.ledger().arrived();
    let shown = &list(&gateway, "pending").await[0];
    assert_eq!(
        (&shown["rule"], &shown["phase"], &shown["session_id"]),
        (&json!("ask"), &json!("request"), &json!("s"))
    );
    assert!(shown["arguments"].as_str().is_some_and(|text| text.contains("\"one\"")), "{shown}");
    assert_eq!(decide(&gateway, &ids[0], "approve").await["state"], "approved");
    let passed = answer(first).await;
    assert_eq!(passed.status(), 200, "{}", passed.text());
    assert_eq!(demo.ledger().arrived(), arrived + 1);
    assert_eq!(list(&gateway, "used").await.len(), 1);

    // The same again asks anew, and what differs by a letter asks for itself.
    let (again, more) = (send(&gateway, "one"), send(&gateway, "one!"));
    let ids = pending(&gateway, 2).await;
    for id in &ids {
        decide(&gateway, id, "deny").await;
    }
    for call in [again, more] {
        let refused = answer(call).await;
        assert_eq!((refused.status(), code(&refused).as_str()), (403, "approval_denied"));
        let text = refused.text();
        assert!(text.contains("said so") && text.contains("\"approval_id\":\"appr_"), "{text}");
        assert_eq!(refused.head.field("x-should-retry"), Some("false"));
    }
    // A denial stands.
    assert_eq!(code(&answer(send(&gateway, "one")).await), "approval_denied");
    assert_eq!((demo.ledger().arrived(), list(&gateway, "pending").await.len()), (arrived + 1, 0));
    assert_eq!(gateway.metric("elida_hold_seconds_count{outcome=\"approved\"}").await, 1.0);
    // The third was refused before it was held: it repeats what was denied.
    assert_eq!(gateway.metric("elida_hold_seconds_count{outcome=\"denied\"}").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_and_comes_back_asks_nobody_twice() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "")).await;
    let call = Call::chat("one").session("s");
    let client = call.open(gateway.proxy()).await;
    let ids = pending(&gateway, 1).await;
    drop(client);
    held(&gateway, 0.0).await;
    assert_eq!(pending(&gateway, 1).await, ids);
    let again = send(&gateway, "one");
    held(&gateway, 1.0).await;
    assert_eq!(pending(&gateway, 1).await, ids);
    again.abort();
    held(&gateway, 0.0).await;
    decide(&gateway, &ids[0], "approve").await;
    assert_eq!(answer(send(&gateway, "one")).await.status(), 200, "approved meanwhile");
    // Two that wait for the same approval: one goes on, the other asks anew.
    let both = [send(&gateway, "two"), send(&gateway, "two")];
    held(&gateway, 2.0).await;
    let first = pending(&gateway, 1).await;
    decide(&gateway, &first[0], "approve").await;
    let second = pending(&gateway, 1).await;
    assert_ne!(first, second);
    assert_eq!((gateway.metric("elida_held_calls").await, demo.ledger().arrived()), (1.0, 2));
    decide(&gateway, &second[0], "deny").await;
    let mut statuses = Vec::new();
    for call in both {
        statuses.push(answer(call).await.status());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_in_time_and_the_same_call_finds_its_approval_later() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "approvals: { wait: 1s }\n")).await;
    let begun = Instant::now();
    let refused = answer(send(&gateway, "one")).await;
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!((refused.status(), code(&refused).as_str()), (403, "approval_timeout"));
    assert!(
        refused.text().contains("Ask first: nobody has approved this request in time"),
        "{}",
        refused.text()
    );
    let ids = pending(&gateway, 1).await;
    decide(&gateway, &ids[0], "approve").await;
    assert_eq!((answer(send(&gateway, "one")).await.status(), demo.ledger().arrived()), (200, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_a_held_call_at_once_and_a_reload_makes_it_no_hole() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(yaml(&demo, "")).await;
    let call = send(&gateway, "one");
    let ids = pending(&gateway, 1).await;
    let begun = Instant::now();
    assert_eq!(gateway.kill("s").await.status, 200);
    let refused = answer(call).await;
    assert_eq!(code(&refused), "session_killed", "{}", refused.text());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    decide(&gateway, &ids[0], "approve").await;
    assert_eq!(
        (code(&answer(send(&gateway, "one")).await).as_str(), demo.ledger().arrived()),
        ("session_killed", 0)
    );
    assert_eq!(gateway.resume("s").await, 200);

    // While it is held, the rules begin to block it.
    let call = send(&gateway, "two");
    let ids = pending(&gateway, 1).await;
    gateway.rewrite(&yaml(&demo, "").replace("action: hold", "action: block"));
    let reload = gateway.operator().await.post("/control/config/reload", &Value::Null).await;
    assert_eq!(reload.status(), 200, "{}", reload.text());
    decide(&gateway, &ids[0], "approve").await;
    let refused = answer(call).await;
    assert_eq!(
        (code(&refused).as_str(), demo.ledger().arrived()),
        ("policy_blocked", 0),
        "{}",
        refused.text()
    );
    assert_eq!(code(&answer(send(&gateway, "two")).await), "policy_blocked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_and_answered_survives_a_crash() {
    let demo = Demo::start().await;
    let config = yaml(&demo, "");
    let mut gateway = Gateway::with(&config).await;
    let calls = [send(&gateway, "one"), send(&gateway, "two"), send(&gateway, "three")];
    let ids = pending(&gateway, 3).await;
    let of = async |text: &str| {
        let all = list(&gateway, "all").await;
        let found = all.iter().find(|one| one["arguments"].as_str().is_some_and(|args| args.contains(text)));
        found.expect("an approval")["id"].as_str().expect("an id").to_owned()
    };
    let (one, two) = (of("\"one\"").await, of("\"two\"").await);
    assert!(ids.contains(&one) && ids.contains(&two));
    decide(&gateway, &one, "approve").await;
    for (at, call) in calls.into_iter().enumerate() {
        if at == 0 {
            assert_eq!(answer(call).await.status(), 200);
        } else {
            call.abort();
        }
    }
    held(&gateway, 0.0).await;
    decide(&gateway, &two, "approve").await;
    gateway.crash_and_restart(&config).await;
    assert_eq!(pending(&gateway, 1).await.len(), 1, "three is pending");
    assert_eq!(answer(send(&gateway, "two")).await.status(), 200, "two is approved");
    let again = send(&gateway, "one");
    assert_eq!(pending(&gateway, 2).await.len(), 2, "one was used, and asks anew");
    again.abort();
    assert_eq!(demo.ledger().arrived(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_two_instances_one_approval_is_one_call() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet_with(&demo, &redis, 2, RULE).await;
    let call = send(&gateways[0], "one");
    let ids = pending(&gateways[1], 1).await;
    decide(&gateways[1], &ids[0], "approve").await;
    assert_eq!(answer(call).await.status(), 200, "an answer elsewhere releases it");

    // The same call at both: whichever comes second asks anew.
    let first = send(&gateways[0], "two");
    let ids = pending(&gateways[1], 1).await;
    let second = send(&gateways[1], "two");
    held(&gateways[1], 1.0).await;
    assert_eq!(pending(&gateways[0], 1).await, ids);
    decide(&gateways[0], &ids[0], "approve").await;
    let rest = pending(&gateways[0], 1).await;
    assert_ne!(rest, ids);
    decide(&gateways[1], &rest[0], "deny").await;
    let mut statuses = [answer(first).await.status(), answer(second).await.status()];
    statuses.sort_unstable();
    assert_eq!((statuses, demo.ledger().arrived()), ([200, 403], 2));

    // While Redis does not answer, nobody knows whether it was used elsewhere.
    let call = send(&gateways[0], "three");
    let ids = pending(&gateways[0], 1).await;
    redis.stop();
    store_is_up(&gateways[0], false).await;
    decide(&gateways[0], &ids[0], "approve").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((gateways[0].metric("elida_held_calls").await, demo.ledger().arrived()), (1.0, 2));
    redis.run().await;
    assert_eq!((answer(call).await.status(), demo.ledger().arrived()), (200, 3));
}

/// Holds a tool of answers.
const TOOL: &str = "policy:\n  rules:\n    - { id: pay, on: tool_call, when: 'tool.name == \"Pay\"', action: hold }\n";
/// What keeps an answer of the Messages API alive; the demo provider writes its own otherwise.
const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
const COMMENT: &str = ": keep-alive\n\n";

async fn holding(demo: &Demo, more: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\n{TOOL}{more}", demo.url())).await
}

/// A chat whose answer calls `Pay` with this amount.
fn pays(path: &str, stream: bool, amount: u32) -> Call {
    let text = format!("[[tool Pay {{\"amount\": {amount}}}]]");
    let tools = match path {
        "/v1/messages" => json!([{"name": "Pay", "input_schema": {}}]),
        _ => json!([{"type": "function", "function": {"name": "Pay"}}]),
    };
    let messages = json!([{"role": "user", "content": text}]);
    let body = json!({"model": "m", "max_tokens": 9, "stream": stream, "messages": messages, "tools": tools});
    Call::post(path).json(&body).session("s")
}

fn start(gateway: &Gateway, call: &Call) -> JoinHandle<Message> {
    let (call, proxy) = (call.clone(), gateway.proxy());
    tokio::spawn(async move { call.send(proxy).await })
}

/// Answers all that are pending as soon as there are so many.
async fn decide_all(gateway: &Gateway, count: usize, decision: &str) {
    for id in pending(gateway, count).await {
        decide(gateway, &id, decision).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_call_in_a_stream_is_held_with_pings_and_passes_unchanged() {
    let demo = Demo::start().await;
    let gateway = holding(&demo, "").await;
    for (path, keep_alive, last) in
        [("/v1/messages", PING, "content_block_stop"), ("/v1/chat/completions", COMMENT, "\"tool_calls\",")]
    {
        let call = pays(path, true, 5);
        let direct = call.send(demo.address()).await.text();
        let (held_part, _) = direct.split_once(last).expect("the event that completes the call");
        let (before, _) = held_part.rsplit_once("\n\n").expect("events before it");
        let before = format!("{before}\n\n");
        let mut client = call.open(gateway.proxy()).await;
        let head = client.head().await.expect("a head");
        assert_eq!(head.status(), 200);
        let ids = pending(&gateway, 1).await;
        let shown = &list(&gateway, "pending").await[0];
        assert_eq!(
            (&shown["rule"], &shown["phase"], &shown["tool"], &shown["arguments"]),
            (&json!("pay"), &json!("tool_call"), &json!("Pay"), &json!("{\"amount\":5}"))
        );
        // The model goes on waiting, its client is told so: behind a whole event.
        client.until(keep_alive).await;
        decide(&gateway, &ids[0], "approve").await;
        let answer = client.body(head, crate::support::wire::Unframed::Empty).await;
        let text = answer.text();
        assert!(answer.is_whole, "{text}");
        assert!(text.starts_with(&format!("{before}{keep_alive}")), "{path}: {text}");
        assert_eq!(text.replace(keep_alive, ""), direct, "{path}");
    }
    // Over HTTP/2, and exactly once: the same call again asks anew, another one for itself.
    let direct = pays("/v1/messages", true, 5).send(demo.address()).await;
    let mut http2 = crate::support::http2::Client::connect(gateway.proxy()).await;
    let again = http2.send(&pays("/v1/messages", true, 5)).await;
    let other = start(&gateway, &pays("/v1/messages", true, 6));
    decide_all(&gateway, 2, "approve").await;
    let again = within("the answer", again.answer()).await;
    assert_eq!((again.status, again.body == direct.body), (200, true), "{}", again.text());
    assert!(answer(other).await.text().contains("message_stop"));
    assert_eq!(list(&gateway, "used").await.len(), 4);
    assert_eq!(gateway.metric("elida_hold_seconds_count{outcome=\"approved\"}").await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_tool_call_never_leaves_and_ends_its_stream_natively() {
    let demo = Demo::start().await;
    let gateway = holding(&demo, "").await;
    for (path, error, complete) in [
        ("/v1/messages", "event: error", "\"type\":\"content_block_stop\""),
        ("/v1/chat/completions", "\"error\":", "\"finish_reason\":\"tool_calls\""),
    ] {
        let call = pays(path, true, 5);
        assert!(call.send(demo.address()).await.text().contains(complete));
        let denied = start(&gateway, &call);
        decide_all(&gateway, 1, "deny").await;
        let denied = answer(denied).await;
        let text = denied.text();
        assert!(denied.status() == 200 && denied.is_whole, "{text}");
        assert!(text.contains("approval_denied") && text.contains("said so"), "{text}");
        assert!(text.contains(error) && !text.contains(complete), "{text}");
        let line = gateway.access_line(path).await;
        assert_eq!(line["outcome"], "approval_denied", "{line}");
        // Its repetition is refused before the model is asked again.
        let arrived = demo.ledger().arrived();
        let again = answer(start(&gateway, &call)).await;
        assert_eq!((again.status(), code_of(&again)), (403, true), "{}", again.text());
        assert_eq!(demo.ledger().arrived(), arrived);
    }
}

fn code_of(refusal: &Message) -> bool {
    refusal.text().contains("approval_denied")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_with_a_held_call_waits_with_its_head() {
    let demo = Demo::start().await;
    let gateway = holding(&demo, "").await;
    for path in ["/v1/messages", "/v1/chat/completions"] {
        let call = pays(path, false, 5);
        let direct = call.send(demo.address()).await;
        let approved = start(&gateway, &call);
        decide_all(&gateway, 1, "approve").await;
        let approved = answer(approved).await;
        assert_eq!((approved.status(), approved.text()), (200, direct.text()));
        let denied = start(&gateway, &call);
        decide_all(&gateway, 1, "deny").await;
        let denied = answer(denied).await;
        assert_eq!((denied.status(), code_of(&denied), denied.is_whole), (403, true, true));
        assert!(!denied.text().contains("Pay\""), "{}", denied.text());
        assert_eq!(denied.head.field("x-should-retry"), Some("false"));
        // That denial does not concern the other API.
        let ids = list(&gateway, "denied").await;
        assert_eq!(ids.len(), if path == "/v1/messages" { 1 } else { 2 });
        if path == "/v1/messages" {
            assert_eq!(gateway.kill("s").await.status, 200);
            assert_eq!(gateway.resume("s").await, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_answer_ends_by_a_kill_and_its_approval_outlives_a_client_that_leaves() {
    let demo = Demo::start().await;
    let gateway = holding(&demo, "").await;
    for stream in [true, false] {
        let killed = start(&gateway, &pays("/v1/messages", stream, 1));
        pending(&gateway, 1).await;
        let begun = Instant::now();
        assert_eq!(gateway.kill("s").await.status, 200);
        let text = answer(killed).await.text();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(text.contains("session_killed") && !text.contains("content_block_stop"), "{text}");
        held(&gateway, 0.0).await;
        assert_eq!(gateway.resume("s").await, 200);
    }
    decide_all(&gateway, 1, "deny").await;

    let call = pays("/v1/messages", true, 2);
    let mut client = call.open(gateway.proxy()).await;
    client.until("input_json_delta").await;
    let ids = pending(&gateway, 1).await;
    drop(client);
    held(&gateway, 0.0).await;
    // It comes back, and finds the same approval.
    let again = start(&gateway, &call);
    held(&gateway, 1.0).await;
    assert_eq!(pending(&gateway, 1).await, ids);
    again.abort();
    held(&gateway, 0.0).await;
    decide(&gateway, &ids[0], "approve").await;
    let passed = answer(start(&gateway, &call)).await;
    assert!(passed.text().contains("message_stop"), "{}", passed.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_answer_that_nobody_answers_may_come_again() {
    let demo = Demo::start().await;
    let gateway = holding(&demo, "approvals: { wait: 1s }\n").await;
    let call = pays("/v1/chat/completions", true, 3);
    let late = answer(start(&gateway, &call)).await.text();
    assert!(late.contains("approval_timeout") && !late.contains("\"finish_reason\":\"tool_calls\""), "{late}");
    decide_all(&gateway, 1, "approve").await;
    let direct = call.send(demo.address()).await.text();
    assert_eq!(answer(start(&gateway, &call)).await.text(), direct, "approved meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_held_before_its_last_word_and_a_compressed_stream_gets_no_comments() {
    let demo = Demo::start().await;
    let rule = "policy:\n  rules:\n    - { id: text, on: response, match: { any: [\"drop all tables\"] }, action: hold }\n";
    let gateway = Gateway::with(format!("backend: {:?}\n{rule}", demo.url())).await;
    let ask = |text: &str| Call::chat_stream(text).session("s");
    let call = ask("please drop all tables quickly");
    let direct = call.send(demo.address()).await.text();
    let mut client = call.open(gateway.proxy()).await;
    client.until("drop").await;
    let ids = pending(&gateway, 1).await;
    assert!(!String::from_utf8_lossy(client.rest()).contains("tables"));
    let shown = &list(&gateway, "pending").await[0];
    assert!(
        shown["arguments"].as_str().is_some_and(|text| text.ends_with("please drop all tables")),
        "{shown}"
    );
    decide(&gateway, &ids[0], "approve").await;
    let head = client.head().await.expect("a head");
    let passed = client.body(head, crate::support::wire::Unframed::Empty).await.text();
    assert_eq!(passed.replace(COMMENT, ""), direct);

    let call = ask("[[gzip]]please drop all tables quickly");
    let direct = call.send(demo.address()).await;
    let packed = start(&gateway, &call);
    let ids = pending(&gateway, 1).await;
    // Longer than the time between two comments.
    tokio::time::sleep(Duration::from_secs(11)).await;
    decide(&gateway, &ids[0], "approve").await;
    let packed = answer(packed).await;
    assert!(packed.is_whole && packed.body == direct.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_a_tool_is_held_and_is_approved_by_what_it_says() {
    let demo = Demo::start().await;
    let rule = "policy:\n  rules:\n    - { id: result, on: tool_result, when: 'tool.name == \"echo\"', action: hold }\n";
    let gateway =
        Gateway::with(format!("backends: {{ tools: {{ url: {:?}, kind: mcp }} }}\n{rule}", demo.url())).await;
    let call = |id: u32, text: &str| {
        let params = json!({"name": "echo", "arguments": {"text": text, "stream": false}, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {}}});
        Call::post("/mcp")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/call")
            .header("mcp-name", "echo")
            .session("s")
            .json(&json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}))
    };
    let first = start(&gateway, &call(1, "one two"));
    let ids = pending(&gateway, 1).await;
    let shown = &list(&gateway, "pending").await[0];
    assert_eq!((&shown["phase"], &shown["tool"]), (&json!("tool_result"), &json!("echo")), "{shown}");
    assert!(shown["arguments"].as_str().is_some_and(|text| text.contains("one two")), "{shown}");
    first.abort();
    held(&gateway, 0.0).await;
    decide(&gateway, &ids[0], "approve").await;
    // The same result of the call with another id.
    let passed = answer(start(&gateway, &call(2, "one two"))).await;
    assert!(passed.status() == 200 && passed.text().contains("one two"), "{}", passed.text());
    let other = start(&gateway, &call(3, "three"));
    decide_all(&gateway, 1, "deny").await;
    let other = answer(other).await;
    assert!(other.text().contains("denied") && !other.text().contains("three\""), "{}", other.text());
}
