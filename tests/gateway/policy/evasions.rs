use serde_json::json;

use super::rules::ruled;
use crate::governance::holds::{answer, decide, held, list, pending};
use crate::routing::failover::{configuration, error};
use crate::support::{Backend as _, Call, Demo, Gateway, RawBackend};

#[tokio::test(flavor = "multi_thread")]
async fn another_spelling_of_a_models_path_is_no_way_around_rules_about_what_is_said() {
    for rules in [
        "  tools: { deny: [\"delete_*\"] }",
        "  rules: [{ id: no-drop, on: response, match: { any: [\"drop all\"] }, action: block }]",
        "  rules: [{ id: small, on: request, when: request.max_tokens > 1000, action: block }]",
    ] {
        let demo = Demo::start().await;
        let gateway = ruled(&demo, rules).await;
        let body =
            json!({"model": "gpt-demo", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
        for path in [
            "/v1/chat/%63ompletions",
            "/v1/chat/completions;a",
            "/V1/Chat/Completions",
            "/v1/chat/completions%20",
            "/v1/chat/completions%00",
            "/v1/chat/completions%0D%0A",
            "/v1/chat/completions%3Fx=1",
            "/v1/chat/%2563ompletions",
        ] {
            let refused = Call::post(path).json(&body).send(gateway.proxy()).await;
            assert_eq!(refused.status(), 400, "{rules}, {path}: {}", refused.text());
            assert!(refused.text().contains("policy.rules"), "{path}: {}", refused.text());
        }
        let socket = Call::get("/v1/unknown")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let refused = socket.send(gateway.proxy()).await;
        assert_eq!(refused.status(), 403, "{rules}: {}", refused.text());
        assert_eq!(demo.ledger().arrived(), 0, "{rules}");
        let passes = Call::post("/v1/chat/completions").json(&body).send(gateway.proxy()).await;
        assert_eq!(passes.status(), 200, "{rules}: {}", passes.text());
    }
}

fn answer_of(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_no_known_api_is_no_way_around_rules_about_what_is_said() {
    let backend =
        RawBackend::answering(answer_of(r#"{"choices":[{"message":{"content":"drop all"}}]}"#)).await;
    let configured = |kind: &str, policy: &str| {
        let backends =
            format!("backends:\n  it: {{ url: {:?}, type: {kind}, default: true }}", backend.url());
        Gateway::with(format!("{backends}\npolicy:\n{policy}\n"))
    };
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let post = |path: &str| Call::post(path).json(&body);
    let mcp = |path: &str| post(path).header("mcp-session-id", "s");
    for rules in [
        "  tools: { deny: [\"delete_*\"] }",
        "  rules: [{ id: no-drop, on: response, match: { any: [\"drop all\"] }, action: block }]",
        "  rules: [{ id: big, on: tool_result, when: tool.bytes > 10, action: hold }]",
    ] {
        let gateway = configured("openai", rules).await;
        let before = backend.requests().len();
        for call in [
            post("/foo"),
            mcp("/foo"),
            post("/v1/chat/completion"),
            post("/files/../foo"),
            Call::post("/foo?prompt=hi"),
            Call::post("/foo").header("content-type", "text/plain").body("{}"),
            Call::get("/foo").json(&body),
        ] {
            let refused = call.send(gateway.proxy()).await;
            // A refusal of JSON-RPC has the status 200.
            assert!([200, 400, 403].contains(&refused.status()), "{rules}, {call:?}: {}", refused.text());
            assert!(refused.text().contains("type: http") || refused.status() == 400, "{}", refused.text());
        }
        assert_eq!(backend.requests().len(), before, "{rules}");
        for call in [
            Call::get("/foo"),
            Call::get("/v1/batches/b"),
            post("/v1/files"),
            post("/v1/batches"),
            Call::get("/health"),
        ] {
            let passed = call.send(gateway.proxy()).await;
            assert_eq!(passed.status(), 200, "{rules}, {call:?}: {}", passed.text());
        }
        let server = configured("http", rules).await;
        assert_eq!(post("/foo").send(server.proxy()).await.status(), 200, "{rules}");
    }
    let noted =
        configured("openai", "  rules: [{ id: seen, on: response, match: { any: [\"drop all\"] } }]").await;
    assert_eq!(post("/foo").send(noted.proxy()).await.status(), 200);
    let flags = noted.operator().await.get("/control/flags").await.json();
    assert!(flags.to_string().contains("scan-limit"), "{flags}");
    let strict = "  on_limit: block\n  rules: [{ id: seen, on: response, match: { any: [\"drop all\"] } }]";
    assert_eq!(post("/foo").send(configured("openai", strict).await.proxy()).await.status(), 403);
    let other = "  rules: [{ id: no-get, on: request, when: 'request.method == \"GET\"', action: block }]";
    assert_eq!(post("/foo").send(configured("openai", other).await.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_of_a_request_is_for_its_target_too() {
    let demo = Demo::start().await;
    let gateway =
        ruled(&demo, "  rules: [{ id: ask, on: request, when: 'request.method == \"POST\"', action: hold }]")
            .await;
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
    let ask = |target: &str| Call::post(target).session("s").json(&body);
    let small = "/v1beta/models/gemini-flash:generateContent?candidates=one";
    let client = ask(small).open(gateway.proxy()).await;
    let first = pending(&gateway, 1).await;
    drop(client);
    held(&gateway, 0.0).await;
    let shown = list(&gateway, "pending").await[0]["arguments"].as_str().unwrap_or_default().to_owned();
    assert!(shown.starts_with("POST /v1beta/models/gemini-flash:generateContent"), "{shown}");
    assert!(shown.contains("backend=") && shown.contains("\"hi\""), "{shown}");
    decide(&gateway, &first[0], "approve").await;
    for other in [
        "/v1beta/models/gemini-ultra:generateContent?candidates=one",
        "/v1beta/models/gemini-flash:generateContent?candidates=two",
        "/v1beta/models/gemini-flash:countTokens?candidates=one",
    ] {
        let (call, proxy) = (ask(other), gateway.proxy());
        let before = list(&gateway, "pending").await.len();
        let held_call = tokio::spawn(async move { call.send(proxy).await });
        let now = pending(&gateway, before + 1).await;
        assert!(!now.contains(&first[0]), "{other}");
        held_call.abort();
        held(&gateway, 0.0).await;
    }
    assert_eq!(demo.ledger().arrived(), 0);
    let (call, proxy) = (ask(small), gateway.proxy());
    let passed = answer(tokio::spawn(async move { call.send(proxy).await })).await;
    assert_eq!((passed.status(), demo.ledger().arrived()), (200, 1), "{}", passed.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_over_to_a_backend_that_a_rule_refuses_it() {
    let demo = Demo::start().await;
    let sick = RawBackend::answering(error(503, "")).await;
    let rules = r#"policy:
  rules:
    - { id: not-there, on: request, when: 'request.backend == "b" && request.model == "gpt-secret"', action: block }
    - { id: no-word, on: request, match: { any: ["the project"] }, when: 'request.backend == "b"', action: block }
    - { id: slow, on: request, when: 'request.backend == "b" && request.model == "gpt-held"', action: hold }"#;
    let backends = [("a", &*sick.url(), "fallback: b"), ("b", &demo.url(), "")];
    let gateway = Gateway::with(configuration(&backends, rules)).await;
    let ask = |model: &str, text: &str, session: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": text}]});
        Call::post("/v1/chat/completions").session(session).json(&body)
    };
    for (at, (model, text)) in
        [("gpt-secret", "hello"), ("gpt-demo", "of the project"), ("gpt-held", "hello")].iter().enumerate()
    {
        let failed = ask(model, text, &format!("refused-{at}")).send(gateway.proxy()).await;
        assert_eq!((failed.status(), demo.ledger().arrived()), (503, 0), "{model}: {}", failed.text());
    }
    let passed = ask("gpt-demo", "hello", "fine").send(gateway.proxy()).await;
    assert_eq!((passed.status(), demo.ledger().arrived()), (200, 1), "{}", passed.text());
}
