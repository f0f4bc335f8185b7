use std::time::Duration;

use serde_json::{Value, json};

use crate::support::program::Program;
use crate::support::wire::{Message, Unframed};
use crate::support::{Backend, Call, Demo, Gateway};

/// A POST to the MCP endpoint.
fn post(message: &Value) -> Call {
    Call::post("/mcp").header("accept", "application/json, text/event-stream").json(message)
}

fn request(id: u32, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn say(id: u32, text: &str) -> Value {
    request(id, "tools/call", json!({"name": "echo", "arguments": {"text": text}}))
}

/// Initializes a session at the demo server; returns its id and the answer.
async fn initialize(gateway: &Gateway) -> (String, Message) {
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let answer = post(&request(0, "initialize", hello)).send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let id = answer.head.field("mcp-session-id").expect("a session").to_owned();
    let done = post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    let done = done.header("mcp-session-id", &id).send(gateway.proxy()).await;
    assert_eq!(done.status(), 202, "{}", done.text());
    (id, answer)
}

/// The last event of a stream.
fn last_event(text: &str) -> Value {
    let last = text.trim_end().rsplit("data: ").next().expect("an event");
    serde_json::from_str(last).expect(last)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_that_the_server_names_begins_with_the_request_that_made_it() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let (id, answer) = initialize(&gateway).await;
    assert_eq!(answer.head.field("x-session-id"), Some(id.as_str()));
    let call = post(&say(1, "one two")).header("mcp-session-id", &id);
    let answer = call.send(gateway.proxy()).await;
    assert_eq!(last_event(&answer.text())["result"]["content"][0]["text"], "one two", "{}", answer.text());
    let session = gateway.session_until(&id, |session| session["open_legs"] == 0).await;
    assert_eq!(session["request_count"], 3, "{session}");
    assert_eq!(session["backends"], json!({"default": 3}), "{session}");
    assert_eq!(session["identity"]["client"], "mcp", "{session}");
    assert_eq!(session["error_count"], 0, "{session}");
    let lines = session["requests"].as_array().expect("requests").iter();
    let mut operations: Vec<_> = lines.filter_map(|line| line["operation"].as_str()).collect();
    // They end in any order: each came over a connection of its own.
    operations.sort_unstable();
    assert_eq!(operations, ["initialize", "notifications/initialized", "tools/call echo"]);
    gateway.log_until(|line| line["operation"] == "tools/call echo").await;
    // The session of the first request contains none of it.
    for other in gateway.sessions().await.iter().filter(|other| other["id"] != id.as_str()) {
        assert_eq!((&other["request_count"], &other["bytes_in"]), (&json!(0), &json!(0)), "{other}");
    }
    // A session that the caller names keeps its name.
    let hello = request(0, "initialize", json!({}));
    let named = post(&hello).session("mine").send(gateway.proxy()).await;
    assert_eq!(named.head.field("x-session-id"), Some("mine"));
    let end = Call::new("DELETE", "/mcp").header("mcp-session-id", &id).send(gateway.proxy()).await;
    assert_eq!(end.status(), 200);
    assert_eq!(call.send(gateway.proxy()).await.status(), 404, "the server's own word passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_every_stream_of_the_session_in_json_rpc() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let (id, _) = initialize(&gateway).await;
    let listen = Call::get("/mcp").header("accept", "text/event-stream").header("mcp-session-id", &id);
    let mut server_stream = listen.open(gateway.proxy()).await;
    server_stream.until("listening").await;
    let call = post(&say(7, "[[words 100000]] [[pace 5ms]]")).header("mcp-session-id", &id);
    let mut tool = call.open(gateway.proxy()).await;
    tool.until("word3").await;
    assert_eq!(gateway.kill(&id).await.body["legs_cut"], 2);
    for (mut client, rpc_id) in [(tool, json!(7)), (server_stream, Value::Null)] {
        let last = last_event(&client.message(Unframed::UntilEnd).await.expect("an answer").text());
        assert_eq!((&last["jsonrpc"], &last["id"]), (&json!("2.0"), &rpc_id), "{last}");
        assert_eq!(last["error"]["data"]["code"], "session_killed", "{last}");
        assert!(last["error"]["message"].as_str().is_some_and(|message| message.contains("runaway")));
    }
    demo.until("both streams gone", |ledger| ledger.aborts().len() == 2).await;
    let reached = demo.ledger().arrived();
    for call in [call, listen, Call::new("DELETE", "/mcp").header("mcp-session-id", &id)] {
        let refused = call.send(gateway.proxy()).await;
        assert_eq!(refused.status(), 403);
        assert_eq!(refused.head.field("x-should-retry"), Some("false"));
        let refused = refused.json();
        assert_eq!(
            (&refused["jsonrpc"], &refused["error"]["code"]),
            (&json!("2.0"), &json!(403)),
            "{refused}"
        );
        assert_eq!(refused["error"]["data"]["session_id"], id.as_str(), "{refused}");
    }
    assert_eq!(demo.ledger().arrived(), reached);
    // Another session of the same caller goes on.
    initialize(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_stream_lives_as_long_as_its_session() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\nserver: {{ timeouts: {{ stream_idle: 300ms }} }}\n", demo.url());
    let gateway = Gateway::with(yaml).await;
    let (id, _) = initialize(&gateway).await;
    let mut stream = Call::get("/mcp").header("mcp-session-id", &id).open(gateway.proxy()).await;
    stream.until("listening").await;
    // A tool's answer may not be silent for that long.
    let stalled = post(&say(1, "[[stall]] x y")).header("mcp-session-id", &id).send(gateway.proxy()).await;
    assert_eq!(last_event(&stalled.text())["error"]["data"]["code"], "backend_timeout");
    tokio::time::sleep(Duration::from_millis(600)).await;
    gateway.kill(&id).await;
    let last = last_event(&stream.message(Unframed::UntilEnd).await.expect("an answer").text());
    assert_eq!(last["error"]["data"]["code"], "session_killed", "{last}");
}

/// A call of protocol version 2026-07-28.
fn modern(tool: &str, fields: &[(&str, &str)]) -> Call {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let params = json!({"name": tool, "arguments": {"text": "hi"}, "_meta": meta});
    fields
        .iter()
        .fold(post(&request(3, "tools/call", params)), |call, (name, value)| call.header(name, value))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sessions_header_and_body_must_agree() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let all = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo")];
    let answer = modern("echo", &all).send(gateway.proxy()).await;
    assert_eq!(last_event(&answer.text())["result"]["content"][0]["text"], "hi", "{}", answer.text());
    let reached = demo.ledger().arrived();
    let refused = [
        modern("delete_all", &all),
        modern("echo", &all[..2]),
        modern("echo", &all[1..]),
        modern("echo", &[all[0], ("Mcp-Method", "tools/list"), all[2]]),
        modern("echo", &[all[0], all[1], all[2], ("Mcp-Name", "other")]),
        modern("echo", &[("MCP-Protocol-Version", "2025-11-25"), all[1], all[2]]),
        modern("echo", &[all[0], all[1], ("Mcp-Name", "=?base64?ZGVsZXRl?=")]),
    ];
    for call in refused {
        let answer = call.send(gateway.proxy()).await;
        assert_eq!(answer.status(), 400, "{call:?}: {}", answer.text());
        let error = answer.json();
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(3), &json!(-32020)), "{error}");
        assert_eq!(error["error"]["data"]["code"], "header_mismatch", "{error}");
    }
    assert_eq!(demo.ledger().arrived(), reached);
    let encoded = [all[0], all[1], ("Mcp-Name", "=?base64?ZWNobw==?=")];
    assert_eq!(modern("echo", &encoded).send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_passes_as_it_is() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let (id, _) = initialize(&gateway).await;
    let batch = json!([request(1, "tools/list", json!({})), request(2, "ping", json!({}))]);
    let call = post(&batch).header("mcp-session-id", &id).header("mcp-protocol-version", "2025-03-26");
    let answers = call.send(gateway.proxy()).await.json();
    assert_eq!((&answers[0]["id"], &answers[1]["id"]), (&json!(1), &json!(2)), "{answers}");
    let seen = demo.ledger().last().expect("a request").body.expect("its body");
    assert_eq!(seen, batch.to_string());
    gateway.log_until(|line| line["operation"] == "batch").await;
    gateway.kill(&id).await;
    assert_eq!(call.send(gateway.proxy()).await.json()["error"]["data"]["code"], "session_killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_elsewhere_may_not_call() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!(
        "server: {{ cors: {{ allow_origins: ['https://tools.example'] }} }}\n\
         backends:\n  tools: {{ url: {:?}, type: mcp, default: true }}\n",
        demo.url()
    ))
    .await;
    let hello = post(&request(4, "initialize", json!({})));
    for origin in ["https://tools.example", "http://localhost:6274"] {
        assert_eq!(hello.clone().header("origin", origin).send(gateway.proxy()).await.status(), 200);
    }
    let reached = demo.ledger().arrived();
    for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
        let answer = hello.clone().header("origin", origin).send(gateway.proxy()).await;
        assert_eq!((answer.status(), &answer.json()["id"]), (403, &json!(4)), "{origin}");
        assert_eq!(answer.json()["error"]["data"]["code"], "origin_refused", "{origin}");
        let listen = Call::get("/mcp").header("origin", origin).send(gateway.proxy()).await;
        assert_eq!(listen.status(), 403, "{origin}");
        // With a backend of this type every path is MCP.
        let elsewhere =
            Call::post("/anywhere").header("origin", origin).json(&json!({"method": "ping", "id": 1}));
        assert_eq!(elsewhere.send(gateway.proxy()).await.status(), 403, "{origin}");
    }
    assert_eq!(demo.ledger().arrived(), reached);
    // Model APIs still answer web pages.
    let chat = Call::chat("hi").header("origin", "https://evil.example");
    assert_eq!(chat.send(gateway.proxy()).await.status(), 200);
}

/// Runs the official SDK in one mode.
async fn sdk(gateway: &Gateway, mode: &str) -> Value {
    let outcome = Program::python("mcp_sdk.py", &gateway.url(), &[mode]).outcome().await;
    assert_eq!(outcome.code, Some(0), "{mode}: {outcome:?}");
    outcome.last()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mcp_sdk_is_served_with_and_without_sessions() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for (mode, version) in [("legacy", "2025-11-25"), ("auto", "2026-07-28"), ("2026-07-28", "2026-07-28")] {
        let report = sdk(&gateway, mode).await;
        assert_eq!(report["tools"], json!(["echo"]), "{mode}: {report}");
        assert_eq!((&report["text"], &report["version"]), (&json!("one two"), &json!(version)), "{report}");
    }
    let mut named = gateway.sessions().await;
    named.retain(|session| session["id"].as_str().is_some_and(|id| id.starts_with("mcp-")));
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0]["request_count"].as_u64() >= Some(5), "{named:?}");
    assert_eq!(named[0]["error_count"], 0, "{named:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mcp_sdk_stops_when_killed() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut program = Program::python("mcp_sdk.py", &gateway.url(), &["kill"]);
    program.printed("word", 3).await;
    let sessions = gateway.sessions().await;
    let id = sessions.iter().filter_map(|session| session["id"].as_str()).find(|id| id.starts_with("mcp-"));
    let id = id.expect("a session that the server has named");
    assert_eq!(gateway.kill(id).await.status, 200);
    let outcome = program.outcome().await;
    let report = outcome.last();
    for failure in [&report["stopped_by"], &report["next"]] {
        assert!(failure["message"].as_str().is_some_and(|text| text.contains("runaway")), "{outcome:?}");
        assert_eq!(failure["data"]["code"], "session_killed", "{report}");
    }
    let calls = demo
        .ledger()
        .requests()
        .iter()
        .filter(|seen| {
            seen.body.as_deref().is_some_and(|body| String::from_utf8_lossy(body).contains("tools/call"))
        })
        .count();
    assert_eq!(calls, 1, "no call after the kill reaches the backend");
}
