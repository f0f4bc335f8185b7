use serde_json::json;

use crate::support::{Backend, Call, Demo, Gateway, RawBackend};

#[tokio::test(flavor = "multi_thread")]
async fn basic_request() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let call = Call::chat("hello there");
    let answer = call.send(gateway.proxy()).await;
    assert_eq!((answer.status(), answer.is_whole), (200, true), "{}", answer.text());
    assert_eq!(answer.body, call.send(demo.address()).await.body, "the same bytes as without the proxy");
    assert!(answer.head.field("x-session-id").is_some_and(|id| !id.is_empty()));
    assert!(answer.head.field("x-request-id").is_some_and(|id| !id.is_empty()));
    let line = gateway.access_line("/v1/chat/completions").await;
    assert_eq!(
        (&line["method"], &line["status"], &line["stream"]),
        (&json!("POST"), &json!(200), &json!(false))
    );
    assert_eq!(line["model"], "gpt-demo");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_answers_locally() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    assert_eq!(Call::new("HEAD", "/").send(gateway.proxy()).await.status(), 200);
    assert_eq!(demo.ledger().arrived(), 0, "Claude Code's probe costs the backend nothing");
    let tags = Call::get("/api/tags").send(gateway.proxy()).await;
    assert_eq!(tags.json()["models"][0]["model"], "llama-demo:latest");
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_session_id() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for _ in 0..3 {
        let answer = Call::chat("hello").session("my-session").send(gateway.proxy()).await;
        assert_eq!(answer.head.field("x-session-id"), Some("my-session"));
    }
    let session = gateway.session_until("my-session", |session| session["request_count"] == 3).await;
    assert_eq!((&session["id"], &session["state"]), (&json!("my-session"), &json!("active")));
    assert_eq!(gateway.sessions().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_an_id_share_a_derived_session() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let send = async || {
        let answer = Call::chat("hello").header("authorization", "Bearer sk-one").send(gateway.proxy()).await;
        answer.head.field("x-session-id").map(str::to_owned)
    };
    let first = send().await;
    assert!(first.is_some());
    assert_eq!(first, send().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_session_rejected() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let call = Call::chat("hello").session("doomed");
    assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    let killed = gateway.kill("doomed").await;
    assert_eq!((killed.status, &killed.body["state"]), (200, &json!("killed")), "{killed:?}");
    let reached = demo.ledger().arrived();
    for _ in 0..5 {
        let refused = call.send(gateway.proxy()).await;
        assert_eq!(refused.status(), 403);
        assert_eq!(refused.head.field("x-should-retry"), Some("false"));
        let body = refused.json();
        assert_eq!((&body["type"], &body["session_id"]), (&json!("error"), &json!("doomed")), "{body}");
        assert_eq!(body["error"]["code"], "session_killed");
        let message = body["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("runaway"), "{body}");
    }
    assert_eq!(demo.ledger().arrived(), reached, "a refused request never reaches the backend");
    assert_eq!(gateway.resume("doomed").await, 200);
    assert_eq!(call.send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_does_not_touch_another_principals_session_of_the_same_id() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let ada = Call::chat("hello").session("shared").header("x-api-key", "sk-ada");
    let bob = Call::chat("hello").session("shared").header("x-api-key", "sk-bob");
    assert_eq!(ada.send(gateway.proxy()).await.status(), 200);
    assert_eq!(bob.send(gateway.proxy()).await.status(), 200);
    let sessions = gateway.sessions().await;
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    let uid = sessions[0]["uid"].as_str().expect("a uid").to_owned();
    assert_eq!(gateway.kill(&uid).await.status, 200);
    let mut answers = [ada.send(gateway.proxy()).await.status(), bob.send(gateway.proxy()).await.status()];
    answers.sort_unstable();
    assert_eq!(answers, [200, 403]);
}

#[tokio::test(flavor = "multi_thread")]
async fn backend_error() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let call = Call::messages_stream("[[error 529]]").session("unlucky");
    let answer = call.send(gateway.proxy()).await;
    assert_eq!(answer.status(), 529);
    assert_eq!(answer.body, call.send(demo.address()).await.body, "errors pass byte for byte");
    let session = gateway.session_until("unlucky", |session| session["open_legs"] == 0).await;
    assert_eq!(session["error_count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_not_there_gives_502() {
    let backend = RawBackend::answering("").await;
    let gone = format!("backend: {:?}\n", backend.url());
    drop(backend);
    // The task that owned the listener is aborted, not awaited.
    tokio::task::yield_now().await;
    let gateway = Gateway::with(gone).await;
    let answer = Call::chat("hello").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 502, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "backend_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn streaming_detection() {
    let backend = RawBackend::start(async |mut connection| {
        let Some(_) = connection.request().await else { return };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = connection.send(head).await;
        let _ = connection.send("d\r\ndata: first\n\n\r\n").await;
        // The second event waits for a second request, which the client sends when it has the first event.
        let _ = connection.stay_silent().await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let mut client = Call::chat_stream("hello").session("flow").open(gateway.proxy()).await;
    client.until("data: first\n\n").await;
    let session = gateway.session_until("flow", |session| session["open_legs"] == 1).await;
    assert_eq!(session["state"], "active", "the event came through while the answer is open");
    drop(client);
    let line = gateway.access_line("/v1/chat/completions").await;
    assert_eq!(line["stream"], true, "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_tracking() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let text = "word ".repeat(2000) + "[[words 500]]";
    let call = Call::chat_stream(&text).session("counted");
    let answer = call.send(gateway.proxy()).await;
    let session = gateway
        .session_until("counted", |session| session["request_count"] == 1 && session["open_legs"] == 0)
        .await;
    let (sent, got) = (demo.ledger().last().expect("a request").body_len as u64, answer.body.len() as u64);
    let [bytes_in, bytes_out] = ["bytes_in", "bytes_out"].map(|key| session[key].as_u64().expect("a number"));
    assert!((sent..sent + 2048).contains(&bytes_in), "{bytes_in} for a body of {sent}");
    assert!((got..got + 2048).contains(&bytes_out), "{bytes_out} for a body of {got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_forwarded() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!(
        "backends:\n  main: {{ url: {:?}, type: anthropic, default: true }}\n",
        demo.url()
    ))
    .await;
    let kept = [
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "oauth-2025-04-20,interleaved-thinking-2025-05-14"),
        ("OpenAI-Organization", "org-1"),
        ("authorization", "Bearer sk-secret-credential"),
        ("user-agent", "claude-cli/2.1.328 (external, cli)"),
        ("x-stainless-timeout", "600"),
    ];
    let dropped = [
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("TE", "trailers"),
        ("X-Backend", "main"),
    ];
    let call =
        kept.iter().chain(&dropped).fold(Call::chat("hello"), |call, (name, value)| call.header(name, value));
    let answer = call.session("headers").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let seen = demo.ledger().last().expect("a request");
    for (name, value) in kept {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    for (name, _) in dropped.iter().filter(|(name, _)| *name != "Connection") {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert!(!seen.header("connection").unwrap_or_default().contains("X-Hop"));
    assert_eq!(seen.header("host"), Some(demo.address().to_string().as_str()));
    assert_eq!(seen.header("x-request-id"), answer.head.field("x-request-id"));
    assert_eq!(answer.head.field("x-demo-provider"), Some("elida"), "the backend's own fields come back");
    gateway.access_line("/v1/chat/completions").await;
    assert!(!gateway.log_text().contains("sk-secret-credential"), "no credential in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_where_header_model_and_path_say() {
    let [one, two] = [Demo::start().await, Demo::start().await];
    let gateway = Gateway::with(format!(
        "backends:\n  one: {{ url: {:?}, type: openai, default: true }}\n  \
         two: {{ url: {:?}, type: mistral, models: [\"mistral-*\"] }}\n",
        one.url(),
        two.url() + "/base"
    ))
    .await;
    let send = async |call: Call| assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    send(Call::chat("default")).await;
    assert_eq!((one.ledger().arrived(), two.ledger().arrived()), (1, 0));
    send(Call::chat("header").header("X-Backend", "two")).await;
    let messages = json!([{"role": "user", "content": "x".repeat(100_000)}]);
    let body = format!("{{\"messages\":{messages},\"model\":\"mistral-small\"}}");
    send(Call::post("/v1/chat/completions").body(body)).await;
    send(Call::post("/two/v1/chat/completions").json(&json!({"messages": messages}))).await;
    assert_eq!((one.ledger().arrived(), two.ledger().arrived()), (1, 3));
    assert_eq!(
        two.ledger().count("/base/v1/chat/completions"),
        3,
        "the base path is kept, the prefix stripped"
    );
}
