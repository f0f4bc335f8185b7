use serde_json::{Value, json};

use crate::routing::failover;
use crate::routing::packed::{CODINGS, packed};
use crate::support::http2::Client as Http2;
use crate::support::wire::Message;
use crate::support::{Backend, Call, Gateway, RawBackend};

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
pub const PHRASE: &str = "launch the missiles";

/// A rule that refuses a phrase in requests.
pub const BLOCK: &str =
    "    - { id: no-missiles, on: request, match: { any: [launch the missiles] }, action: block }";

/// A gateway before a backend that answers everything, with these rules.
pub async fn governed(rules: &str) -> (RawBackend, Gateway) {
    governed_with("", rules).await
}

pub async fn governed_with(policy: &str, rules: &str) -> (RawBackend, Gateway) {
    let backend = RawBackend::answering(OK).await;
    let yaml = format!("backend: {:?}\npolicy:\n{policy}  rules:\n{rules}\n", backend.url());
    (backend, Gateway::with(yaml).await)
}

fn user(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "model": "m"})
}

fn messages(turns: Value) -> Call {
    Call::post("/v1/messages").json(&json!({"model": "m", "max_tokens": 9, "messages": turns}))
}

/// One request of each API, in which a user says the text.
fn requests(text: &str) -> Vec<(&'static str, Value)> {
    let user = json!([{"role": "user", "content": text}]);
    vec![
        ("/v1/messages", json!({"model": "m", "max_tokens": 1, "messages": user})),
        ("/v1/chat/completions", json!({"model": "m", "messages": user})),
        ("/v1/responses", json!({"model": "m", "input": text})),
        (
            "/v1beta/models/g:generateContent",
            json!({"contents": [{"role": "user", "parts": [{"text": text}]}]}),
        ),
        ("/v2/chat", json!({"model": "m", "messages": user})),
        ("/api/chat", json!({"model": "m", "messages": user})),
        ("/api/generate", json!({"model": "m", "prompt": text})),
        ("/model/amazon.nova/converse", json!({"messages": [{"role": "user", "content": [{"text": text}]}]})),
        ("/model/us.anthropic.claude/invoke", json!({"max_tokens": 1, "messages": user})),
        ("/v1/publishers/mistralai/models/m:rawPredict", json!({"model": "m", "messages": user})),
        ("/v1/embeddings", json!({"model": "m", "input": [text]})),
        (
            "/build/mcp",
            json!({"jsonrpc": "2.0", "id": 1, "method": "prompts/get", "params": {"name": "p", "arguments": {"a": text}}}),
        ),
        ("/a/message:send", json!({"message": {"role": "ROLE_USER", "parts": [{"text": text}]}})),
        ("/anything", json!({"some": [{"thing": text}]})),
    ]
}

fn is_refusal(answer: &Message) {
    let text = answer.text();
    assert!(text.contains("policy_blocked"), "{} {text}", answer.status());
    assert!(text.contains("no-missiles"), "{text}");
    assert!(!text.contains(PHRASE), "what was found is not told: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phrase_is_refused_in_every_dialect_and_all_else_passes_unchanged() {
    let (backend, gateway) = governed(BLOCK).await;
    let mut passed = 0;
    for (path, body) in requests(&format!("please {PHRASE} now")) {
        let refused = Call::post(path).json(&body).send(gateway.proxy()).await;
        is_refusal(&refused);
        // JSON-RPC has its errors in answers that succeed.
        let status = if ["/build/mcp", "/a/message:send"].contains(&path) { 200 } else { 403 };
        assert_eq!(refused.status(), status, "{path}: {}", refused.text());
        assert_eq!(backend.requests().len(), passed, "{path}: no backend sees it");
        let mut http2 = Http2::connect(gateway.proxy()).await;
        let refused = http2.ask(&Call::post(path).json(&body)).await.text();
        assert!(refused.contains("policy_blocked"), "{path} over HTTP/2: {refused}");
        // Streamed, and in chunks.
        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        is_refusal(&Call::post(path).json(&streamed).chunked(7).send(gateway.proxy()).await);
    }
    for (path, body) in requests("please\u{a0}launch \"the\" rockets \u{1f680}\\n") {
        // Spaces that only an exact copy keeps.
        let sent = format!(" {} \n", body.to_string().replacen(':', " :  ", 2));
        let call = Call::post(path).header("content-type", "application/json").body(sent.clone());
        assert_eq!(call.send(gateway.proxy()).await.status(), 200, "{path}");
        passed += 1;
        let seen = backend.requests();
        assert_eq!((seen.len(), seen[passed - 1].text()), (passed, sent), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phrase_does_not_hide() {
    let (backend, gateway) = governed(BLOCK).await;
    let nested =
        (0..2).fold(json!({"x": PHRASE.replace(' ', "\n")}), |inner, _| json!({"x": inner.to_string()}));
    let bodies = [
        // Doubled, unknown and renamed members; names; other letters; escapes.
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{PHRASE}","content":"hi"}}]}}"#),
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{PHRASE}"}}],"messages":[]}}"#),
        format!(r#"{{"model":"m","Messages":[{{"Role":"user","Content":"{PHRASE}"}}]}}"#),
        format!(r#"{{"model":"m","messages":[],"unknown":[[[{{"a":"{PHRASE}"}}]]]}}"#),
        format!(r#"{{"model":"m","messages":[{{"{PHRASE}":1}}]}}"#),
        format!(r#"{{"model":"m","{PHRASE}":1}}"#),
        r#"{"model":"m","messages":[{"role":"user","content":"\u006cAUNCH   the\n\tMissiles"}]}"#.to_owned(),
        // JSON in a string in a string; blocks that divide the phrase.
        user(&nested.to_string()).to_string(),
        json!({"model": "m", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "please launch the"}, {"type": "text", "text": "missiles"}]}]})
        .to_string(),
        json!({"model": "m", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "please launch the miss"}, {"type": "text", "text": "iles"}]}]})
        .to_string(),
        // Results, definitions, instructions.
        json!({"model": "m", "messages": [{"role": "tool", "tool_call_id": "c", "content": PHRASE}]})
            .to_string(),
        json!({"model": "m", "messages": [], "tools": [{"function": {"name": "f", "description": PHRASE}}]})
            .to_string(),
        json!({"model": "m", "messages": [{"role": "system", "content": PHRASE}]}).to_string(),
        user(&format!("<system-reminder>{PHRASE}</system-reminder>")).to_string(),
        // No JSON.
        format!(r#"{{'model':'m','messages':[{{'content':'{PHRASE}'}}]}}"#),
        format!(r#"{{"model":"m","messages":[]}} {PHRASE}"#),
        format!("\u{feff}{}", user(PHRASE)),
    ];
    for body in bodies {
        let call = Call::post("/v1/chat/completions").header("content-type", "application/json");
        is_refusal(&call.body(body.clone()).send(gateway.proxy()).await);
        for coding in CODINGS {
            let call = Call::post("/v1/chat/completions").header("content-encoding", coding);
            let packed =
                call.header("content-type", "application/json").body(packed(coding, body.as_bytes()));
            is_refusal(&packed.send(gateway.proxy()).await);
        }
    }
    assert!(backend.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_noted_or_refused() {
    for (policy, status, action) in
        [("  on_limit: block\n", 403, "block"), ("  on_limit: flag\n", 200, "flag")]
    {
        let (backend, gateway) = governed_with(policy, BLOCK).await;
        let call = Call::post("/v1/chat/completions").header("content-type", "application/json").session("s");
        let answer =
            call.clone().header("content-encoding", "gzip").body("no gzip").send(gateway.proxy()).await;
        assert_eq!(answer.status(), status, "{}", answer.text());
        let wide: Vec<u8> = user(PHRASE).to_string().encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(call.clone().body(wide).send(gateway.proxy()).await.status(), status);
        let unknown = call.header("content-encoding", "rot13").body(user("hi").to_string());
        assert_eq!(unknown.send(gateway.proxy()).await.status(), status);
        assert_eq!(backend.requests().len(), if status == 200 { 3 } else { 0 });
        let series = format!(
            "elida_policy_decisions_total{{action=\"{action}\",mode=\"enforce\",rule=\"scan-limit\"}}"
        );
        assert!(gateway.metric(&series).await >= 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_it_counts() {
    let rules = "    - { id: no-missiles, on: request, when: 'text.role == \"user\"', match: { any: [launch the missiles] }, action: block }";
    let (_backend, gateway) = governed(rules).await;
    let said_by = async |role: &str| {
        let turns = json!([{"role": role, "content": PHRASE}, {"role": "user", "content": "hi"}]);
        messages(turns).send(gateway.proxy()).await.status()
    };
    assert_eq!((said_by("user").await, said_by("assistant").await, said_by("critic").await), (403, 200, 403));
    let result = json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": PHRASE}]}]);
    assert_eq!(messages(result).send(gateway.proxy()).await.status(), 200, "a tool says it");
    let system = json!({"model": "m", "max_tokens": 1, "system": PHRASE, "messages": []});
    assert_eq!(Call::post("/v1/messages").json(&system).send(gateway.proxy()).await.status(), 200);
}

/// A call of a tool, and its result.
fn tool_turns(id: &str, tool: &str, result: &str, is_error: bool) -> [Value; 2] {
    [
        json!({"role": "assistant", "content": [{"type": "tool_use", "id": id, "name": tool, "input": {}}]}),
        json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": result, "is_error": is_error}]}),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_judged_with_the_tool_that_gave_them() {
    let rules = "    - { id: reads-the-web, on: tool_result, when: 'tool.name == \"WebFetch\"', mark: untrusted, severity: info }\n    \
        - { id: no-missiles, on: tool_result, when: 'tool.name == \"WebFetch\" && !tool.is_error', match: { any: [launch the missiles] }, action: block }\n    \
        - { id: no-egress, on: request, when: 'session.saw[\"untrusted\"] && request.model == \"egress\"', action: block }";
    let (backend, gateway) = governed(rules).await;
    let send = async |turns: Vec<Value>| messages(json!(turns)).session("s").send(gateway.proxy()).await;
    let limited =
        json!({"model": "egress", "max_tokens": 7, "messages": [{"role": "user", "content": "hi"}]});
    let limited = Call::post("/v1/messages").json(&limited).session("s");
    assert_eq!(limited.send(gateway.proxy()).await.status(), 200, "nothing was read yet");
    assert_eq!(send(tool_turns("a", "Read", PHRASE, false).to_vec()).await.status(), 200);
    assert_eq!(send(tool_turns("b", "WebFetch", PHRASE, true).to_vec()).await.status(), 200);
    assert_eq!(limited.send(gateway.proxy()).await.status(), 403, "the web was read");
    is_refusal(&send(tool_turns("c", "WebFetch", PHRASE, false).to_vec()).await);
    // The turn with the call is known already, and is not read again.
    let [call, result] = tool_turns("d", "WebFetch", PHRASE, false);
    assert_eq!(send(vec![call.clone()]).await.status(), 200);
    let seen = backend.requests().len();
    is_refusal(&send(vec![call, result]).await);
    assert_eq!(backend.requests().len(), seen);
    let chat = json!({"model": "m", "messages": [
        {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "WebFetch", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": PHRASE}]});
    is_refusal(&Call::post("/v1/chat/completions").json(&chat).send(gateway.proxy()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_read_once_and_a_finding_counts_once() {
    let rules = "    - { id: missiles, on: request, match: { any: [launch the missiles] } }\n    \
        - { id: web, on: tool_result, when: 'tool.name == \"WebFetch\"' }";
    let (_backend, gateway) = governed(rules).await;
    let scanned = async |outcome: &str| {
        gateway.metric(&format!("elida_scan_bytes_total{{outcome=\"{outcome}\"}}")).await
    };
    let found = async |rule: &str| {
        gateway
            .metric(&format!(
                "elida_policy_decisions_total{{action=\"flag\",mode=\"enforce\",rule=\"{rule}\"}}"
            ))
            .await
    };
    let mut turns: Vec<Value> = vec![json!({"role": "user", "content": format!("do not {PHRASE}")})];
    turns.extend(tool_turns("w", "WebFetch", "a page", false));
    for turn in 0..40 {
        turns.push(
            json!({"role": "assistant", "content": format!("answer {turn} {}", "a word ".repeat(300))}),
        );
        turns.push(json!({"role": "user", "content": format!("question {turn}")}));
        let read = if turn == 0 { 0.0 } else { scanned("read").await };
        assert_eq!(messages(json!(turns)).session("s").send(gateway.proxy()).await.status(), 200);
        let read = scanned("read").await - read;
        assert!(read < 3000.0, "turn {turn} reads {read} bytes: what is new, and the elements with findings");
    }
    assert!(scanned("judged").await > 1e6, "{}", scanned("judged").await);
    assert_eq!((found("missiles").await, found("web").await), (1.0, 1.0));
    turns.push(json!({"role": "user", "content": format!("again: {PHRASE}")}));
    messages(json!(turns)).session("s").send(gateway.proxy()).await;
    assert_eq!(found("missiles").await, 2.0);
    messages(json!(turns)).session("other").send(gateway.proxy()).await;
    assert_eq!(found("missiles").await, 4.0, "another session has findings of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_meets_the_order() {
    let rules =
        "    - { id: no-streams, on: request, when: 'request.stream', action: block }\n".to_owned() + BLOCK;
    let (backend, gateway) = governed(&rules).await;
    let ask = async |text: &str, stream: bool, session: &str| {
        let body = json!({"model": "m", "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": text}]});
        Call::post("/v1/messages").json(&body).session(session).send(gateway.proxy()).await
    };
    assert_eq!(ask("hello", false, "s").await.status(), 200);
    let refused = ask("good morning", true, "s").await;
    assert!(refused.status() == 403 && refused.text().contains("no-streams"), "{}", refused.text());
    assert_eq!(refused.head.field("x-should-retry"), Some("false"));
    // As Claude Code repeats it.
    let repeated = ask("good morning", false, "s").await;
    assert!(repeated.status() == 403 && repeated.text().contains("no-streams"), "{}", repeated.text());
    assert_eq!(ask("good morning", false, "another").await.status(), 200);
    assert_eq!(ask("good evening", false, "s").await.status(), 200);
    // Another model may be asked the same.
    let body =
        json!({"model": "n", "max_tokens": 9, "messages": [{"role": "user", "content": "good morning"}]});
    let other = Call::post("/v1/messages").json(&body).session("s").send(gateway.proxy()).await;
    assert_eq!((other.status(), backend.requests().len()), (200, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_fails_over_is_judged_once() {
    let broken = RawBackend::answering("HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    let whole = RawBackend::answering(OK).await;
    let rules = "policy:\n  rules:\n    - { id: counted, on: request, match: { any: [launch the missiles] } }\n    - { id: facts, on: request, when: 'request.model == \"m\"' }";
    let urls = [("main", &*broken.url(), "fallback: other"), ("other", &*whole.url(), "")];
    let gateway = failover::gateway(&urls, rules).await;
    assert_eq!(
        Call::post("/v1/chat/completions").json(&user(PHRASE)).send(gateway.proxy()).await.status(),
        200
    );
    assert_eq!((broken.requests().len(), whole.requests().len()), (1, 1));
    for rule in ["counted", "facts"] {
        let series =
            format!("elida_policy_decisions_total{{action=\"flag\",mode=\"enforce\",rule=\"{rule}\"}}");
        assert_eq!(gateway.metric(&series).await, 1.0, "{rule}");
    }
    assert_eq!(broken.requests()[0].text(), whole.requests()[0].text());
}
