use serde_json::{Value, json};

use crate::callers::keys::{auth, injected, key, with_key};
use crate::support::program::Program;
use crate::support::socket::handshake;
use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
const CODEX: &str = "codex_exec/0.169.0 (Linux; x86_64) unknown";

async fn mcp(gateway: &Gateway, key: &str, body: &Value) -> Message {
    let call = Call::post("/tools/mcp").header("accept", "application/json, text/event-stream").json(body);
    with_key(call, key).send(gateway.proxy()).await
}

fn call(id: Value, tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {"name": "echo"}}})
}

/// A gateway before an MCP server and a model, and a key that permits the tools `echo` and `get_*`.
struct House {
    gateway: Gateway,
    key: String,
    server: RawBackend,
    model: RawBackend,
}

impl House {
    async fn open(more: &str) -> Self {
        let (key, server, model) = (key(), RawBackend::answering(OK).await, RawBackend::answering(OK).await);
        let yaml = auth("required", &[("ci", &key, &format!("tools: [echo, 'get_*']{more}"))])
            + &injected(&[("main", &model.url(), "")])
            + &format!("  claude: {{ url: {:?}, type: anthropic, auth: {{ mode: none }} }}\n", model.url())
            + &format!("  google: {{ url: {:?}, type: gemini, auth: {{ mode: none }} }}\n", model.url())
            + &format!("  tools: {{ url: {:?}, type: mcp, auth: {{ mode: none }} }}\n", server.url());
        Self { gateway: Gateway::with(yaml).await, key, server, model }
    }

    async fn ask(&self, backend: &str, call: Call) -> Message {
        with_key(call, &self.key).header("x-backend", backend).send(self.gateway.proxy()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_is_not_permitted_is_never_called() {
    let house = House::open("").await;
    for tool in ["echo", "get_weather"] {
        assert_eq!(mcp(&house.gateway, &house.key, &call(json!(1), tool)).await.status(), 200);
    }
    let listed = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    assert_eq!(mcp(&house.gateway, &house.key, &listed).await.status(), 200);
    let prompt = json!({"jsonrpc": "2.0", "id": 1, "method": "prompts/get", "params": {"name": "rm"}});
    assert_eq!(mcp(&house.gateway, &house.key, &prompt).await.status(), 200, "a prompt is no tool");
    assert_eq!(house.server.heads().len(), 4);

    let refused = mcp(&house.gateway, &house.key, &call(json!("a"), "rm")).await;
    let body = refused.json();
    assert_eq!((refused.status(), &body["id"], &body["result"]["isError"]), (200, &json!("a"), &json!(true)));
    let text = body["result"]["content"][0]["text"].as_str().expect("a text");
    assert_eq!(text, "the key of key:ci does not permit the tool rm");
    assert_eq!(body["result"]["resultType"], "complete", "required from 2026-07-28 on");
    assert_eq!(body["result"]["_meta"]["elida/error"]["code"], "tool_denied");
    assert!(body["error"].is_null() && refused.head.field("x-should-retry") == Some("false"), "{body}");

    // A batch is refused whole, with an answer to each of its requests.
    let batch = json!([call(json!(1), "echo"), call(json!(2), "rm"), listed_as(3)]);
    let refused = mcp(&house.gateway, &house.key, &batch).await;
    let answers = refused.json();
    let ids: Vec<_> = answers.as_array().expect("answers").iter().map(|one| one["id"].clone()).collect();
    assert_eq!((refused.status(), ids), (200, vec![json!(1), json!(2), json!(3)]), "{answers}");
    assert!(
        answers.as_array().expect("answers").iter().all(|one| one["error"]["data"]["code"] == "tool_denied")
    );

    // What servers may read otherwise than this gateway.
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","name":"rm"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm","name":"echo"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"Method":"tools/call","method":"tools/list","params":{"Name":"rm"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"n\u0061me":"r\u006d"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"rm"}}]"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm"}"#,
    ] {
        let post = Call::post("/tools/mcp").header("content-type", "application/json").body(body);
        let refused = with_key(post, &house.key).send(house.gateway.proxy()).await;
        assert!(refused.text().contains("tool_denied"), "{body}: {} {}", refused.status(), refused.text());
    }
    let packed =
        Call::post("/tools/mcp").header("content-type", "application/json").header("content-encoding", "x");
    let refused = with_key(packed.session("one").body(call(json!(1), "rm").to_string()), &house.key)
        .send(house.gateway.proxy())
        .await;
    assert!(refused.text().contains("tool_denied"), "{}", refused.text());
    assert_eq!(house.server.heads().len(), 4, "none of them arrived");
    let line = house
        .gateway
        .log_until(|line| line["error_code"] == "tool_denied" || line["outcome"] == "tool_denied")
        .await;
    assert_eq!(line["principal"], "key:ci");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_method_or_form_of_a_body_hides_the_call_of_a_tool() {
    let house = House::open("").await;
    let evil = call(json!(1), "rm").to_string();
    let json = |call: Call, body: &str| call.header("content-type", "application/json").body(body);
    for path in [
        "messages",
        "chat/completions",
        "responses",
        "api/chat",
        "embeddings",
        "v1/messages",
        "models/x:generateContent",
    ] {
        for path in [format!("/tools/v1/{path}"), format!("/tools/{path}")] {
            let refused = house.ask("tools", json(Call::post(&path), &evil)).await;
            assert!(
                refused.text().contains("tool_denied"),
                "{path}: {} {}",
                refused.status(),
                refused.text()
            );
        }
    }
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for body in [
        format!("{ping}\n{evil}"),
        format!("[[{evil}]]"),
        format!("[{ping},[{evil}]]"),
        evil.replace("\"tools/call\"", "[\"tools/call\"]"),
        "{}".to_owned(),
    ] {
        let refused = house.ask("tools", json(Call::post("/tools/mcp"), &body)).await;
        assert!(refused.text().contains("tool_denied"), "{body}: {} {}", refused.status(), refused.text());
    }
    for method in ["GET", "DELETE"] {
        let refused = house.ask("tools", json(Call::new(method, "/tools/mcp"), &evil)).await;
        assert!(refused.text().contains("tool_denied"), "{method}: {} {}", refused.status(), refused.text());
    }
    let plain = Call::post("/tools/other").header("content-type", "text/plain").body(&*evil);
    assert!(house.ask("tools", plain).await.text().contains("tool_denied"), "a media type that is not read");
    assert_eq!(house.server.heads().len(), 0, "none of them arrived");
    // What a client has to say else.
    let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"action":"accept","content":{"method":["x"]}}}"#;
    for body in [ping, answer, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#] {
        let passed = house.ask("tools", json(Call::post("/tools/mcp"), body)).await;
        assert_eq!(passed.status(), 200, "{body}: {}", passed.text());
    }
    for method in ["GET", "DELETE"] {
        assert_eq!(house.ask("tools", Call::new(method, "/tools/mcp")).await.status(), 200, "{method}");
    }
}

fn listed_as(id: u32) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"})
}

#[tokio::test(flavor = "multi_thread")]
async fn no_model_is_offered_a_tool_that_is_not_permitted() {
    let house = House::open("").await;
    let chat = |tools: Value| {
        Call::post("/v1/chat/completions").json(&json!({"model": "gpt-demo", "messages": [], "tools": tools}))
    };
    let function = |name: &str| json!({"type": "function", "function": {"name": name}});
    let responses =
        |tools: Value| Call::post("/v1/responses").json(&json!({"model": "gpt-demo", "tools": tools}));
    let messages = |tools: Value| {
        let body = json!({"model": "claude-demo", "max_tokens": 9, "messages": [], "tools": tools});
        Call::post("/v1/messages").json(&body)
    };
    let gemini = |tools: Value| {
        let body = json!({"contents": [], "tools": tools});
        Call::post("/v1beta/models/gemini-demo:generateContent").json(&body)
    };
    let permitted = [
        ("main", chat(json!([function("echo"), function("get_time")]))),
        ("main", chat(json!([]))),
        (
            "main",
            responses(json!([{"type": "function", "name": "echo"}, {"type": "custom", "name": "get_x"}])),
        ),
        ("claude", messages(json!([{"name": "echo", "input_schema": {"name": "rm"}}]))),
        ("google", gemini(json!([{"functionDeclarations": [{"name": "echo"}]}]))),
        ("main", Call::get("/v1/models")),
        ("main", Call::post("/v1/embeddings").json(&json!({"model": "e", "input": "rm"}))),
    ];
    for (backend, call) in &permitted {
        let answer = house.ask(backend, clone(call)).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    assert_eq!(house.model.heads().len(), permitted.len());
    let many: Vec<Value> = (0..129).map(|n| function(&format!("get_{n}"))).collect();
    for (backend, call) in [
        ("main", chat(json!([function("echo"), function("rm")]))),
        ("main", chat(json!(many))),
        ("main", chat(json!([function(&format!("get_{}", "x".repeat(200)))]))),
        (
            "main",
            Call::post("/v1/chat/completions")
                .json(&json!({"model": "gpt-demo", "functions": [{"name": "rm"}]})),
        ),
        (
            "main",
            Call::post("/v1/chat/completions").json(&json!({"model": "gpt-demo", "web_search_options": {}})),
        ),
        (
            "main",
            Call::post("/v1/chat/completions").body(
                r#"{"model":"gpt-demo","Tools":[{"type":"function","function":{"name":"rm"}}],"tools":[]}"#,
            ),
        ),
        ("main", responses(json!([{"type": "web_search"}]))),
        ("main", responses(json!([{"type": "mcp", "server_label": "x", "server_url": "https://x.example"}]))),
        ("claude", messages(json!([{"name": "rm", "input_schema": {}}]))),
        ("claude", messages(json!([{"type": "bash_20250124", "name": "echo"}]))),
        ("google", gemini(json!([{"functionDeclarations": [{"name": "rm"}]}]))),
        ("google", gemini(json!([{"function_declarations": [{"name": "rm"}]}]))),
        ("google", gemini(json!([{"googleSearch": {}}]))),
        ("google", gemini(json!([{"somethingNew": {}}]))),
        ("main", Call::post("/v1/unknown/api").json(&json!({"tools": [{"name": "echo"}]}))),
        ("main", Call::post("/v1/files").json(&json!({"purpose": "batch"}))),
        (
            "claude",
            Call::post("/v1/messages/batches").json(&json!({"requests": [{"custom_id": "1",
            "params": {"model": "claude-demo", "tools": [{"name": "rm"}]}}]})),
        ),
        ("main", handshake("/v1/realtime?model=gpt-realtime")),
    ] {
        let refused = house.ask(backend, call).await;
        let (status, text) = (refused.status(), refused.text());
        assert!(status == 403 && text.contains("tool_denied"), "{status} {text}");
    }
    let refused = house
        .ask("main", responses(json!([{"type": "function", "name": "rm"}])).header("user-agent", CODEX))
        .await;
    assert_eq!(
        (refused.status(), refused.head.field("x-should-retry")),
        (400, Some("false")),
        "{}",
        refused.text()
    );
    let refused = house.ask("claude", messages(json!([{"name": "rm"}]))).await.json();
    assert_eq!((&refused["type"], &refused["error"]["code"]), (&json!("error"), &json!("tool_denied")));
    assert_eq!(house.model.heads().len(), permitted.len(), "none of them arrived");
}

fn clone(call: &Call) -> Call {
    call.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_api_and_people_have_tools_too_and_others_may_use_all() {
    let demo = Demo::start().await;
    let fixed = key();
    let yaml = auth("required", &[("all", &fixed, "")])
        + "  people: { login: true }\n  roles: [{ role: admin, principals: ['key:all'] }]\n"
        + &injected(&[("main", &demo.url(), "")])
        + &format!("  tools: {{ url: {:?}, type: mcp, auth: {{ mode: none }} }}\n", demo.url());
    let gateway = Gateway::with(yaml).await;
    let post = async |target: &str, body: Value| {
        with_key(Call::post(target).json(&body), &fixed).send(gateway.control()).await
    };
    let made = post("/control/keys", json!({"id": "ci", "tools": ["get_*"]})).await.json();
    assert_eq!(made["tools"], json!(["get_*"]), "{made}");
    let password =
        post("/api/admin/users", json!({"name": "ada", "tools": ["get_*"]})).await.json()["password"].clone();
    let login = post("/auth/login", json!({"username": "ada", "password": password})).await.json();
    for credential in [&made["key"], &login["access_token"]] {
        let refused =
            mcp(&gateway, credential.as_str().expect("a credential"), &call(json!(1), "echo")).await;
        assert_eq!(refused.json()["result"]["isError"], true, "{}", refused.text());
    }
    let answer = mcp(&gateway, &fixed, &call(json!(1), "echo")).await;
    assert!(!answer.text().contains("tool_denied"), "{}", answer.text());
    let fault = post("/control/keys", json!({"id": "x", "tools": ["["]})).await;
    assert_eq!((fault.status(), &fault.json()["code"]), (400, &json!("bad_request")), "{}", fault.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mcp_sdk_reads_the_refusal_of_a_tool_and_goes_on() {
    let (demo, key) = (Demo::start().await, key());
    let yaml = auth("required", &[("ci", &key, "tools: ['get_*']")])
        + &format!(
            "backends:\n  tools: {{ url: {:?}, type: mcp, default: true, auth: {{ mode: none }} }}\n",
            demo.url()
        );
    let gateway = Gateway::with(yaml).await;
    let outcome = Program::python("mcp_sdk.py", &gateway.url(), &["denied", &key]).outcome().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let report = outcome.last();
    assert_eq!((&report["is_error"], &report["tools"]), (&json!(true), &json!(["echo"])), "{report}");
    assert_eq!(report["text"], "the key of key:ci does not permit the tool echo");
    let is_call = |body: &[u8]| String::from_utf8_lossy(body).contains("tools/call");
    assert!(!demo.ledger().requests().iter().any(|seen| seen.body.as_deref().is_some_and(is_call)));
}
