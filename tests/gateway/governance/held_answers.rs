use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use super::holds::{answer, decide, held, list, pending};
use crate::support::http2::Client;
use crate::support::wire::{Message, Unframed};
use crate::support::{Backend, Call, Demo, Gateway, within};

/// Holds a tool of answers.
const TOOL: &str =
    "policy:\n  rules:\n    - { id: pay, on: tool_call, when: 'tool.name == \"Pay\"', action: hold }\n";
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
    for (path, keep_alive, last) in [
        ("/v1/messages", PING, "content_block_stop"),
        ("/v1/chat/completions", COMMENT, "{\\\"amount\\\":5}"),
    ] {
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
        let answer = client.body(head, Unframed::Empty).await;
        let text = answer.text();
        assert!(answer.is_whole, "{text}");
        assert!(text.starts_with(&format!("{before}{keep_alive}")), "{path}: {text}");
        assert_eq!(text.replace(keep_alive, ""), direct, "{path}");
    }
    // Over HTTP/2, and exactly once: the same call again asks anew, another one for itself.
    let direct = pays("/v1/messages", true, 5).send(demo.address()).await;
    let mut http2 = Client::connect(gateway.proxy()).await;
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
    for (amount, path, error, complete) in [
        (5, "/v1/messages", "event: error", "\"type\":\"content_block_stop\""),
        (6, "/v1/chat/completions", "\"error\":", "\"finish_reason\":\"tool_calls\""),
    ] {
        let call = pays(path, true, amount);
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
        assert_eq!((again.status(), is_denial(&again)), (403, true), "{}", again.text());
        assert_eq!(demo.ledger().arrived(), arrived);
    }
}

fn is_denial(refusal: &Message) -> bool {
    refusal.text().contains("approval_denied")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_with_a_held_call_waits_with_its_head() {
    let demo = Demo::start().await;
    let gateway = holding(&demo, "").await;
    for (amount, path) in [(5, "/v1/messages"), (6, "/v1/chat/completions")] {
        let call = pays(path, false, amount);
        let direct = call.send(demo.address()).await;
        let approved = start(&gateway, &call);
        decide_all(&gateway, 1, "approve").await;
        let approved = answer(approved).await;
        assert_eq!((approved.status(), approved.text()), (200, direct.text()));
        let denied = start(&gateway, &call);
        decide_all(&gateway, 1, "deny").await;
        let denied = answer(denied).await;
        assert_eq!((denied.status(), is_denial(&denied), denied.is_whole), (403, true, true));
        assert!(!denied.text().contains("Pay\""), "{}", denied.text());
        assert_eq!(denied.head.field("x-should-retry"), Some("false"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_answer_ends_by_a_kill_and_its_approval_outlives_a_client_that_leaves() {
    let demo = Demo::start().await;
    let gateway = holding(&demo, "").await;
    for stream in [true, false] {
        let killed = start(&gateway, &pays("/v1/messages", stream, 1));
        held(&gateway, 1.0).await;
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
    assert!(
        late.contains("approval_timeout") && !late.contains("\"finish_reason\":\"tool_calls\""),
        "{late}"
    );
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
    let passed = client.body(head, Unframed::Empty).await.text();
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
        Gateway::with(format!("backends: {{ tools: {{ url: {:?}, type: mcp }} }}\n{rule}", demo.url())).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn padding_hides_nothing_from_approvers() {
    let demo = Demo::start().await;
    let gateway = holding(&demo, "").await;
    let blanks = " ".repeat(3000);
    let letters = "x".repeat(200_000);
    for (at, (note, begin, end)) in [
        (
            format!("ls \u{202e}{blanks}rm -rf /"),
            r#"{"note":"ls \u{202e} […3000 blanks…] rm"#,
            r#"rm -rf /"}"#,
        ),
        (format!("ls {letters}rm -rf /"), r#"{"note":"ls xxx"#, r#"xxxrm -rf /"}"#),
    ]
    .into_iter()
    .enumerate()
    {
        let messages = json!([{"role": "user", "content": format!("[[tool Pay {{\"note\": \"{note}\"}}]]")}]);
        let tools = json!([{"name": "Pay", "input_schema": {}}]);
        let body =
            json!({"model": "m", "max_tokens": 9, "stream": true, "messages": messages, "tools": tools});
        let call = Call::post("/v1/messages").json(&body).session(&format!("s{at}"));
        let waiting = start(&gateway, &call);
        let ids = pending(&gateway, 1).await;
        let shown = list(&gateway, "pending").await[0].clone();
        let text = shown["arguments"].as_str().unwrap_or_default();
        assert!(text.starts_with(begin) && text.ends_with(end) && text.len() < 5000, "{text}");
        let bytes = r#"{"note":""}"#.len() + note.len();
        assert_eq!(shown["arguments_bytes"], bytes, "{text}");
        let mut listing = std::process::Command::new(env!("CARGO_BIN_EXE_elida"));
        listing.args(["approvals", "--control", &format!("http://{}", gateway.control())]);
        let listing = tokio::task::spawn_blocking(move || listing.output());
        let printed = within("the list", listing).await.expect("it ends").expect("it runs").stdout;
        let printed = String::from_utf8_lossy(&printed).into_owned();
        assert!(printed.contains("rm -rf /") && printed.contains(&format!("{bytes} bytes")), "{printed}");
        decide(&gateway, &ids[0], "deny").await;
        assert_ne!(answer(waiting).await.status(), 0);
    }
}
