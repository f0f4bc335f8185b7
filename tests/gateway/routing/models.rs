use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Backend, Call, Demo, Gateway, RawBackend};

const LIST: &str = r#"{"data":[{"type":"model","id":"claude-demo"},{"type":"model","id":"claude-own","display_name":"Own"}]}"#;

fn answering(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().expect("a list").iter().filter_map(|entry| entry["id"].as_str()).collect()
}

fn entry<'v>(list: &'v Value, id: &str) -> &'v Value {
    let mut entries = list["data"].as_array().expect("a list").iter();
    entries.find(|entry| entry["id"] == id).unwrap_or_else(|| panic!("no {id} in {list}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_list_of_all_backends_without_their_keys() {
    let demo = Demo::start().await;
    let anthropic = RawBackend::answering(answering("200 OK", LIST)).await;
    let broken = RawBackend::answering(answering("500 Oops", "{}")).await;
    let garbage = RawBackend::answering(answering("200 OK", "[1,2")).await;
    let tools = Demo::start().await;
    let gateway = Gateway::with(format!(
        "models: {{ discovery: merged }}\n\
         routing: {{ blocked_models: ['mistral-*'] }}\n\
         backends:\n  openai: {{ url: {:?}, type: openai, default: true }}\n  \
         anthropic: {{ url: '{}/base', type: anthropic }}\n  broken: {{ url: {:?}, type: mistral }}\n  \
         garbage: {{ url: {:?}, type: openai }}\n  tools: {{ url: {:?}, type: mcp }}\n",
        demo.url(),
        anthropic.url(),
        broken.url(),
        garbage.url(),
        tools.url()
    ))
    .await;
    let call = Call::get("/v1/models").header("authorization", "Bearer sk-secret").session("listed");
    let answer = call.send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let list = answer.json();
    assert_eq!(list["object"], "list");
    assert!(ids(&list).contains(&"gpt-demo") && !ids(&list).contains(&"mistral-demo"), "{list}");
    assert_eq!(ids(&list).iter().filter(|id| **id == "claude-demo").count(), 1, "{list}");
    assert_eq!(entry(&list, "claude-demo")["owned_by"], "demo");
    assert_eq!(entry(&list, "claude-own")["owned_by"], "anthropic");

    // The caller's key reaches only the backend that its request would have been sent to.
    assert_eq!(demo.ledger().last().expect("a request").header("authorization"), Some("Bearer sk-secret"));
    for other in [&anthropic, &broken, &garbage] {
        let heads = other.heads();
        assert_eq!(heads.len(), 1);
        let has_secret = heads[0].fields.iter().any(|(_, value)| value.contains("sk-secret"));
        assert!(!has_secret, "{heads:?}");
    }
    assert_eq!(anthropic.heads()[0].target(), "/base/v1/models?limit=1000");
    assert_eq!(tools.ledger().arrived(), 0, "an MCP server has no models");
    for name in ["broken", "garbage"] {
        gateway.log_until(|line| line["backend"] == name && line["level"] == "WARN").await;
    }
    let session = gateway.session_until("listed", |session| session["open_legs"] == 0).await;
    assert_eq!(session["request_count"], 1, "{session}");

    // Anthropic's clients get their shape; a client that names a backend gets that backend's list.
    let theirs =
        Call::get("/v1/models").header("anthropic-version", "2023-06-01").send(gateway.proxy()).await;
    let theirs = theirs.json();
    assert_eq!((&theirs["has_more"], &theirs["first_id"]), (&Value::from(false), &theirs["data"][0]["id"]));
    assert_eq!(entry(&theirs, "claude-own")["display_name"], "Own");
    let own = Call::get("/anthropic/v1/models").send(gateway.proxy()).await;
    assert_eq!(own.text(), LIST);
    let own = Call::get("/v1/models").header("X-Backend", "anthropic").send(gateway.proxy()).await;
    assert_eq!(own.text(), LIST);

    // A killed session gets no list.
    gateway.kill("listed").await;
    let arrived = demo.ledger().arrived();
    assert_eq!(call.send(gateway.proxy()).await.status(), 403);
    assert_eq!(demo.ledger().arrived(), arrived);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_backend_is_left_out_in_time() {
    let demo = Demo::start().await;
    let silent = RawBackend::start(|connection| connection.freeze()).await;
    let gateway = Gateway::with(format!(
        "models: {{ discovery: merged }}\n\
         backends:\n  silent: {{ url: {:?}, type: openai }}\n  demo: {{ url: {:?}, type: openai }}\n",
        silent.url(),
        demo.url()
    ))
    .await;
    let begun = Instant::now();
    let list = Call::get("/v1/models").send(gateway.proxy()).await.json();
    assert!(ids(&list).contains(&"gpt-demo"), "{list}");
    assert!(begun.elapsed() < Duration::from_secs(3), "Claude Code waits three seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_list_the_answer_is_502_and_by_default_the_backend_answers() {
    let broken = RawBackend::answering(answering("401 Unauthorized", "{}")).await;
    let yaml = format!("backends:\n  one: {{ url: {:?}, type: openai }}\n", broken.url());
    let gateway = Gateway::with(format!("models: {{ discovery: merged }}\n{yaml}")).await;
    let answer = Call::get("/v1/models").send(gateway.proxy()).await;
    assert_eq!(
        (answer.status(), &answer.json()["error"]["code"]),
        (502, &Value::from("backend_unavailable"))
    );
    let gateway = Gateway::with(yaml).await;
    assert_eq!(Call::get("/v1/models").send(gateway.proxy()).await.status(), 401);
}
