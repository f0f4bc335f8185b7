//! The model in a path: Azure, Vertex AI and Bedrock. Routing, policies, usage and the record see it.

use serde_json::{Value, json};

use crate::routing::failover::gateway;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Connection, Gateway, RawBackend, RawClient};

/// An answer with this body.
fn answer(body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A call, the model that its path names, and the answer of its backend, which counts 7 and 5 tokens.
fn calls() -> [(&'static str, Value, &'static str, Value); 8] {
    let chat = json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}});
    let anthropic = json!({"type": "message", "usage": {"input_tokens": 7, "output_tokens": 5}});
    [
        (
            "/openai/deployments/prod-4o/chat/completions?api-version=2024-10-21",
            json!({"messages": []}),
            "prod-4o",
            chat.clone(),
        ),
        (
            "/v1/projects/p/locations/l/publishers/anthropic/models/claude-sonnet-4@20250514:rawPredict",
            json!({"anthropic_version": "vertex-2023-10-16", "messages": []}),
            "claude-sonnet-4@20250514",
            anthropic.clone(),
        ),
        (
            "/v1/projects/p/locations/l/publishers/mistralai/models/codestral-2501:rawPredict",
            json!({"model": "codestral-2501", "messages": []}),
            "codestral-2501",
            chat,
        ),
        (
            "/v1/projects/p/locations/l/publishers/google/models/gemini-3-pro:generateContent",
            json!({"contents": []}),
            "gemini-3-pro",
            json!({"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 5}}),
        ),
        (
            "/model/us.anthropic.claude-sonnet-4-20250514-v1%3A0/invoke",
            json!({"anthropic_version": "bedrock-2023-05-31", "messages": []}),
            "us.anthropic.claude-sonnet-4-20250514-v1:0",
            anthropic,
        ),
        (
            "/model/amazon.nova-pro-v1:0/converse",
            json!({"messages": []}),
            "amazon.nova-pro-v1:0",
            json!({"stopReason": "end_turn", "usage": {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12}}),
        ),
        (
            "/model/amazon.nova-sonic-v1:0/invoke-with-bidirectional-stream",
            json!({}),
            "amazon.nova-sonic-v1:0",
            json!({"event": {"usageEvent": {"totalInputTokens": 7, "totalOutputTokens": 5}}}),
        ),
        (
            "/model/meta.llama3-70b-instruct-v1:0/invoke",
            json!({"prompt": "x"}),
            "meta.llama3-70b-instruct-v1:0",
            json!({"stop_reason": "stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 7, "outputTokenCount": 5}}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_in_the_path_is_routed_counted_and_recorded() {
    for (target, body, model, answered) in calls() {
        let [main, other] =
            [RawBackend::answering(answer(&answered)).await, RawBackend::answering(answer(&answered)).await];
        let models = format!("models: [{model:?}]");
        let backends = [("main", &*main.url(), ""), ("other", &*other.url(), &*models)];
        let gateway = gateway(&backends, "routing: { strict_models: true }").await;
        let sent = Call::post(target).json(&body).session("s").send(gateway.proxy()).await;
        assert_eq!(sent.status(), 200, "{target}: {}", sent.text());
        assert_eq!((main.requests().len(), other.requests().len()), (0, 1), "{target}");
        assert_eq!(other.heads()[0].target(), target, "the path stays");
        let session = gateway.session_until("s", |session| session["requests"][0]["status"] == 200).await;
        let request = &session["requests"][0];
        assert_eq!((&request["model"], &request["backend"]), (&json!(model), &json!("other")), "{target}");
        let usage = &session["usage"];
        assert_eq!(
            (&usage["input_tokens"], &usage["output_tokens"]),
            (&json!(7), &json!(5)),
            "{target}: {session}"
        );
        assert_eq!(session["models"], json!({model: 1}), "{target}");
        let unknown = target.replace(model, "unknown").replace(&model.replace(':', "%3A"), "unknown");
        let refused =
            Call::post(&unknown).json(&json!({"messages": []})).session("s").send(gateway.proxy()).await;
        assert_eq!(refused.status(), 404, "{unknown}: strict_models");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_model_is_blocked_in_every_path() {
    let main = RawBackend::answering(answer(&json!({}))).await;
    for (target, body, model, _) in calls() {
        let blocking = format!("routing: {{ blocked_models: [{model:?}] }}");
        let gateway = gateway(&[("main", &main.url(), "")], &blocking).await;
        for target in [target.to_owned(), target.replacen('/', "//", 1), target.replace('-', "%2D")] {
            let refused = Call::post(&target).json(&body).send(gateway.proxy()).await;
            assert_eq!(refused.status(), 403, "{target}: {}", refused.text());
        }
    }
    assert_eq!(main.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_in_the_body_counts_where_the_path_names_another() {
    let [main, other] =
        [RawBackend::answering(answer(&json!({}))).await, RawBackend::answering(answer(&json!({}))).await];
    let backends = [("main", &*main.url(), ""), ("other", &*other.url(), "models: ['gpt-*']")];
    let gateway = gateway(&backends, "routing: { blocked_models: ['*-secret'] }").await;
    let call = |model| {
        Call::post("/openai/deployments/prod/chat/completions").json(&json!({"messages": [], "model": model}))
    };
    assert_eq!(call("gpt-4o").send(gateway.proxy()).await.status(), 200);
    assert_eq!((main.requests().len(), other.requests().len()), (0, 1), "no pattern matches the deployment");
    assert_eq!(call("gpt-secret").send(gateway.proxy()).await.status(), 403, "the backend may obey it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_of_an_asynchronous_call_is_in_its_body() {
    let [main, other] =
        [RawBackend::answering(answer(&json!({}))).await, RawBackend::answering(answer(&json!({}))).await];
    let backends = [("main", &*main.url(), ""), ("other", &*other.url(), "models: ['amazon.nova-*']")];
    let policies = "routing: { strict_models: true, blocked_models: ['*-secret'] }";
    let strict = gateway(&backends, policies).await;
    let call = |model: &str| Call::post("/async-invoke").json(&json!({"modelInput": {}, "modelId": model}));
    for model in
        ["amazon.nova-reel-v1:0", "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-reel-v1:0"]
    {
        assert_eq!(call(model).session("s").send(strict.proxy()).await.status(), 200, "{model}");
        let blocked = model.replace("reel-v1:0", "secret");
        assert_eq!(call(&blocked).send(strict.proxy()).await.status(), 403, "{blocked}");
        let unknown = model.replace("nova", "sora");
        assert_eq!(call(&unknown).send(strict.proxy()).await.status(), 404, "{unknown}: strict_models");
    }
    assert_eq!((main.requests().len(), other.requests().len()), (0, 2));
    let session = strict.session_until("s", |session| session["requests"][1]["status"] == 200).await;
    assert_eq!(session["models"], json!({"amazon.nova-reel-v1:0": 2}), "{session}");
    let aliases = "aliases: { 'reel': 'amazon.nova-reel-v1:0' }, rewrite_model: true";
    let rewriting = gateway(&[("local", &main.url(), aliases)], "").await;
    let refused = call("reel").send(rewriting.proxy()).await;
    assert_eq!(refused.status(), 400, "{}", refused.text());
    assert!(refused.text().contains("name amazon.nova-reel-v1:0 yourself"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_bidirectional_stream_speak_at_once() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let backend = RawBackend::start(async |mut connection: Connection| {
        connection.request_head().await;
        connection.until("question").await;
        let _ = connection.send(format!("{HEAD}6\r\nanswer\r\n")).await;
        connection.until("thanks").await;
        let _ = connection.send("0\r\n\r\n").await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    let path = "/model/amazon.nova-sonic-v1:0/invoke-with-bidirectional-stream";
    let fields = "Content-Type: application/vnd.amazon.eventstream\r\nTransfer-Encoding: chunked";
    client
        .send(format!("POST {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n").as_bytes())
        .await
        .expect("send");
    client.send(b"8\r\nquestion\r\n").await.expect("send");
    client.until("answer").await;
    client.send(b"6\r\nthanks\r\n0\r\n\r\n").await.expect("send");
    assert!(client.message(Unframed::UntilEnd).await.expect("an answer").is_whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_in_a_path_is_refused_with_the_remedy() {
    let local = RawBackend::answering(answer(&json!({}))).await;
    let aliases = "aliases: { 'prod': 'prod-4o' }, rewrite_model: true";
    let gateway = gateway(&[("local", &local.url(), aliases)], "").await;
    let call =
        |name| Call::post(&format!("/openai/deployments/{name}/embeddings")).json(&json!({"input": "x"}));
    let refused = call("prod").send(gateway.proxy()).await;
    assert_eq!(refused.status(), 400, "{}", refused.text());
    assert!(refused.text().contains("name prod-4o yourself"), "{}", refused.text());
    assert_eq!(call("prod-4o").send(gateway.proxy()).await.status(), 200);
    assert_eq!(local.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployment_of_a_socket_is_its_model() {
    let backend = RawBackend::answering(answer(&json!({}))).await;
    let yaml = format!("backend: {:?}\nrouting: {{ blocked_models: ['prod-*'] }}\n", backend.url());
    let gateway = Gateway::with(yaml).await;
    let call = |target: &str| {
        Call::get(target)
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    };
    let refused = call("/openai/realtime?api-version=x&deployment=prod-rt").send(gateway.proxy()).await;
    assert_eq!(refused.status(), 403, "{}", refused.text());
    let both = call("/openai/realtime?model=a&deployment=b").send(gateway.proxy()).await;
    assert_eq!(both.status(), 400, "{}", both.text());
    assert_eq!(backend.connections(), 0);
}
