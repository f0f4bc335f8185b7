use serde_json::{Value, json};

use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, RawClient};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// Two backends, `one` (the default) and `two` for `mistral-*`, and a gateway with these `routing`
/// keys in front of them.
struct Two {
    one: Demo,
    two: Demo,
    gateway: Gateway,
}

impl Two {
    async fn start(routing: &str) -> Self {
        let [one, two] = [Demo::start().await, Demo::start().await];
        let gateway = Gateway::with(format!(
            "routing: {{ {routing} }}\nbackends:\n  one: {{ url: {:?}, type: openai, default: true }}\n  \
             two: {{ url: {:?}, type: openai, models: [\"mistral-*\"] }}\n",
            one.url(),
            two.url()
        ))
        .await;
        Self { one, two, gateway }
    }

    /// Sends a call that must be answered; returns the backend that answered it.
    async fn served_by(&self, call: &Call) -> &'static str {
        let before = (self.one.ledger().arrived(), self.two.ledger().arrived());
        let answer = self.send(call).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        match (self.one.ledger().arrived() - before.0, self.two.ledger().arrived() - before.1) {
            (1, 0) => "one",
            (0, 1) => "two",
            counts => panic!("one request arrived {counts:?} times"),
        }
    }

    async fn send(&self, call: &Call) -> Message {
        call.send(self.gateway.proxy()).await
    }
}

fn chat(model: &str) -> Call {
    let body = json!({"messages": [{"role": "user", "content": "hello"}], "model": model});
    Call::post("/v1/chat/completions").json(&body)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_goes_before_everything_and_is_not_passed_on() {
    let two = Two::start("").await;
    assert_eq!(two.served_by(&chat("mistral-small").header("X-Backend", "one")).await, "one");
    let seen = two.one.ledger().last().expect("a request");
    assert_eq!(seen.header("x-backend"), None);
    assert_eq!(two.served_by(&chat("gpt-demo").header("x-backend", "two")).await, "two");
    let line = two.gateway.access_line("/v1/chat/completions").await;
    assert_eq!(line["backend"], "one", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_decides_on_the_backend_before_the_model_does() {
    let two = Two::start(
        "rules: [{ when: 'request.headers[\"x-team\"] == \"research\"', forward: { backend: two } }, \
         { when: 'request.model == \"mistral-large\" && request.stream', forward: { backend: one } }]",
    )
    .await;
    assert_eq!(two.served_by(&chat("gpt-demo").header("x-team", "research")).await, "two");
    assert_eq!(two.served_by(&chat("gpt-demo")).await, "one");
    let stream =
        json!({"messages": [{"role": "user", "content": "hello"}], "model": "mistral-large", "stream": true});
    assert_eq!(two.served_by(&Call::post("/v1/chat/completions").json(&stream)).await, "one");
    assert_eq!(two.served_by(&chat("mistral-large")).await, "two", "the model decides where no rule does");
    assert_eq!(
        two.served_by(&chat("gpt-demo").header("x-team", "research").header("x-backend", "one")).await,
        "one"
    );
    // What a rule asks for must be readable.
    let unreadable =
        Call::post("/v1/chat/completions").header("content-type", "application/json").body("{\"model\": ");
    let refused = two.send(&unreadable).await;
    assert_eq!(refused.status(), 415, "{}", refused.text());
    assert!(refused.text().contains("routing.rules[1]"), "{}", refused.text());
    assert!(two.gateway.metrics().await.contains("route=\"rule\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_backend_is_refused_with_the_remedy() {
    let two = Two::start("").await;
    let refused = two.send(&chat("gpt-demo").header("X-Backend", "three")).await;
    assert_eq!(refused.status(), 400, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "unknown_backend");
    let message = refused.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    for part in ["'three'", "x-backend", "leave it out"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!((two.one.ledger().arrived(), two.two.ledger().arrived()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_is_found_wherever_it_stands() {
    let two = Two::start("").await;
    let messages = json!([{"role": "user", "content": "x".repeat(100_000)}]).to_string();
    let nested = r#"{"model":"gpt-demo","deep":[{"model":"gpt-demo"}]}"#;
    let bodies = [
        format!(r#"{{"model":"mistral-small","messages":{messages}}}"#),
        format!(r#"{{"messages":{messages},"model":"mistral-small"}}"#),
        format!(r#"{{ "metadata" : {nested}, "messages":{messages} , "model" : "mistral-small" }}"#),
        format!(r#"{{"messages":{messages},"mod\u0065l":"mistral-small"}}"#),
        format!(r#"{{"messages":{messages},"model":"mistr\u0061l-small"}}"#),
        r#"{"messages":[{"role":"user","content":"\"model\":\"gpt\""}],"model":"mistral-small"}"#.to_owned(),
    ];
    for body in &bodies {
        let call = Call::post("/v1/chat/completions").header("content-type", "application/json");
        let call = call.body(body.as_bytes());
        assert_eq!(two.served_by(&call).await, "two", "{}", &body[body.len() - 40..]);
        for size in [1000, 65_537] {
            assert_eq!(two.served_by(&call.clone().chunked(size)).await, "two", "in chunks of {size}");
            let seen = two.two.ledger().last().expect("a request");
            assert_eq!(seen.body_sha256, crate::support::sha256(body.as_bytes()), "byte for byte");
        }
    }
    assert_eq!(two.served_by(&chat("gpt-demo")).await, "one");
}

/// The targets that a backend with this base path receives, as the default backend named `house`.
async fn targets_seen(base: &str, targets: &[&str]) -> Vec<String> {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::with(format!(
        "backends:\n  house: {{ url: {:?}, type: openai, default: true }}\n",
        backend.url() + base
    ))
    .await;
    for target in targets {
        assert_eq!(Call::get(target).send(gateway.proxy()).await.status(), 200, "{target}");
    }
    backend.heads().iter().map(|head| head.target().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_stripped_and_the_rest_kept_byte_for_byte() {
    let cases = [
        ("/house/v1/models", "/v1/models"),
        ("/house", "/"),
        ("/house?a=b", "/?a=b"),
        ("/house/", "/"),
        ("/house/house/x", "/house/x"),
        ("/houses/x", "/houses/x"),
        ("/v1/models?b=2&a=1&a=%20+&x=/?&empty=&%zz", "/v1/models?b=2&a=1&a=%20+&x=/?&empty=&%zz"),
        ("/house/v1/a%2Fb/%7Ec;p=1//d/../e?q=%E2%82%AC", "/v1/a%2Fb/%7Ec;p=1//d/../e?q=%E2%82%AC"),
    ];
    let targets = cases.map(|(target, _)| target);
    let expected = |base: &str| cases.map(|(_, seen)| base.to_owned() + seen).to_vec();
    assert_eq!(targets_seen("", &targets).await, expected(""));
    assert_eq!(targets_seen("/base/path", &targets).await, expected("/base/path"));
    assert_eq!(targets_seen("/base/path/", &targets).await, expected("/base/path"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_names_another_backend_than_the_chosen_one_is_kept_whole() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    let (openai, azure) = (RawBackend::answering(answer).await, RawBackend::answering(answer).await);
    let gateway = Gateway::with(format!(
        "backends:\n  openai: {{ url: '{}', type: openai, default: true }}\n\
         \x20 azure: {{ url: '{}', type: openai, models: [house-gpt] }}\n",
        openai.url(),
        azure.url()
    ))
    .await;
    let target = "/openai/deployments/house/chat/completions?api-version=2024-10-21";
    let body = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "x"}]});
    let by_header = Call::post(target).json(&body("gpt-x")).header("X-Backend", "azure");
    for call in [by_header, Call::post(target).json(&body("house-gpt"))] {
        assert_eq!(call.send(gateway.proxy()).await.status(), 200);
        assert_eq!(azure.heads().pop().expect("a request").target(), target);
    }
    assert_eq!(openai.heads().len(), 0);
    for call in [Call::get("/openai/v1/models"), Call::get("/openai/v1/models").header("X-Backend", "openai")]
    {
        assert_eq!(call.send(gateway.proxy()).await.status(), 200);
        assert_eq!(openai.heads().pop().expect("a request").target(), "/v1/models");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_models_have_no_default() {
    let two = Two::start("strict_models: true").await;
    let refused = two.send(&chat("gpt-demo")).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (404, &json!("no_route")));
    assert_eq!(two.served_by(&chat("mistral-small")).await, "two");
    assert_eq!(two.served_by(&Call::get("/v1/models")).await, "one", "what names no model has a default");
    assert_eq!(two.served_by(&chat("gpt-demo").header("X-Backend", "one")).await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_models_are_refused_whoever_is_asked() {
    let two = Two::start("blocked_models: [\"*-preview\"]").await;
    for call in [chat("gpt-preview"), chat("Mistral-Preview").header("X-Backend", "two")] {
        let refused = two.send(&call).await;
        assert_eq!(refused.status(), 403, "{}", refused.text());
        assert_eq!(refused.json()["error"]["code"], "policy_blocked");
        let message = refused.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.to_lowercase().contains("-preview' is blocked"), "{message}");
    }
    assert_eq!((two.one.ledger().arrived(), two.two.ledger().arrived()), (0, 0));
    assert_eq!(two.served_by(&chat("gpt-demo")).await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_cannot_be_read_does_not_slip_past_the_blocked_models() {
    let packed = Call::post("/v1/chat/completions")
        .header("Content-Encoding", "gzip")
        .body(b"\x1f\x8b\x08\x00\x00\x00\x00\x00".to_vec());
    let two = Two::start("blocked_models: [\"*-preview\"]").await;
    let refused = two.send(&packed).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (403, &json!("policy_blocked")));
    assert_eq!((two.one.ledger().arrived(), two.two.ledger().arrived()), (0, 0));
    let free = Two::start("").await;
    assert_ne!(free.send(&packed).await.status(), 403, "where nothing is blocked it passes as it is");
    assert_eq!(free.one.ledger().arrived(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_order_decides() {
    // The model selects `two`, the path `one`.
    let call = |target: &str| {
        Call::post(target)
            .json(&json!({"model": "mistral-small", "messages": [{"role": "user", "content": "x"}]}))
    };
    let both = call("/one/v1/chat/completions");
    assert_eq!(Two::start("").await.served_by(&both).await, "two");
    let path_first = Two::start("methods: [path, model, header, default]").await;
    assert_eq!(path_first.served_by(&both).await, "one");
    let header = call("/v1/chat/completions").header("X-Backend", "one");
    assert_eq!(path_first.served_by(&header).await, "two", "the model goes before the header here");
    let no_header = Two::start("methods: [model, default]").await;
    assert_eq!(no_header.served_by(&chat("gpt-demo").header("X-Backend", "two")).await, "one");
    assert_eq!(no_header.one.ledger().last().expect("a request").header("x-backend"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_backend_has_its_own_connections() {
    let [one, two] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let gateway = Gateway::with(format!(
        "backends:\n  one: {{ url: {:?}, type: openai, default: true }}\n  \
         two: {{ url: {:?}, type: openai }}\n  again: {{ url: {:?}, type: openai }}\n",
        one.url(),
        two.url(),
        two.url()
    ))
    .await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    for _ in 0..10 {
        for name in ["one", "two"] {
            let call = chat("gpt-demo").header("X-Backend", name);
            assert_eq!(call.send_over(&mut client, gateway.proxy()).await.status(), 200);
        }
    }
    assert_eq!((one.connections(), two.connections()), (1, 1), "each is used again");
    assert_eq!((one.requests().len(), two.requests().len()), (10, 10));
    // The same address under another name is a different backend.
    let again = chat("gpt-demo").header("X-Backend", "again");
    assert_eq!(again.send_over(&mut client, gateway.proxy()).await.status(), 200);
    assert_eq!((one.connections(), two.connections()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_paths_of_ollama_pass() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let posted = json!({"model": "llama3.2", "prompt": "hello", "input": "hello", "name": "llama3.2",
        "messages": [{"role": "user", "content": "hello"}], "stream": false});
    let calls = [
        (Call::get("/api/tags"), "models"),
        (Call::get("/api/ps"), "models"),
        (Call::get("/api/version"), "version"),
        (Call::post("/api/show").json(&posted), "model_info"),
        (Call::post("/api/chat").json(&posted), "message"),
        (Call::post("/api/generate").json(&posted), "response"),
        (Call::post("/api/embed").json(&posted), "embeddings"),
    ];
    for (call, key) in &calls {
        let answer = call.send(gateway.proxy()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert_ne!(answer.json()[key], Value::Null, "{key} in {}", answer.text());
        assert_eq!(answer.body, call.send(demo.address()).await.body, "the same bytes as without the proxy");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_here() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    let head = Call::new("HEAD", "/").send(gateway.proxy()).await;
    assert_eq!((head.status(), head.head.field("content-length")), (200, Some("0")));
    for path in ["/health", "/health/liveness", "/health/readiness", "/health/startup"] {
        let answer = Call::get(path).send(gateway.proxy()).await;
        assert_eq!((answer.status(), &answer.json()["status"]), (200, &json!("ok")), "{path}");
        assert_eq!(Call::new("HEAD", path).send(gateway.proxy()).await.status(), 200, "{path}");
    }
    assert_eq!(backend.connections(), 0);
    assert!(gateway.sessions().await.is_empty(), "a probe is no agent's work");
    assert_eq!(Call::get("/").send(gateway.proxy()).await.status(), 200);
    assert_eq!(Call::get("/healthy").send(gateway.proxy()).await.status(), 200);
    assert_eq!(backend.requests().len(), 2, "everything else passes");
}
