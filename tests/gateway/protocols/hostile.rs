use std::time::Duration;

use serde_json::json;

use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawClient};

/// Sends bytes as they are; returns the status of each answer, until the connection ends.
async fn statuses(gateway: &Gateway, bytes: &str) -> Vec<u16> {
    let mut client = RawClient::connect(gateway.proxy()).await;
    let _ = client.send(bytes.as_bytes()).await;
    let mut statuses = Vec::new();
    let quiet = Duration::from_millis(300);
    while let Ok(Some(answer)) = tokio::time::timeout(quiet, client.message(Unframed::UntilEnd)).await {
        statuses.push(answer.status());
    }
    statuses
}

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_inside_another_ones_body_stays_hidden() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let heads = [
        // Two framings, two lengths, duplicate and unknown codings, lengths that are not numbers.
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked", HIDDEN.len() + 5),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}", HIDDEN.len() + 5),
        "Content-Length: 5\r\nContent-Length: 0".to_owned(),
        "Content-Length: 0\r\nContent-Length: 5".to_owned(),
        "Content-Length: 0, 5".to_owned(),
        "Content-Length: +0".to_owned(),
        "Content-Length: 0x0".to_owned(),
        "Content-Length : 0".to_owned(),
        "Transfer-Encoding: identity, chunked".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity".to_owned(),
        "Transfer-Encoding: xchunked".to_owned(),
        "Transfer-Encoding:\u{b}chunked".to_owned(),
        "X: y\r\n Transfer-Encoding: chunked".to_owned(),
    ];
    for head in heads {
        let bytes = format!("POST /echo HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n0\r\n\r\n{HIDDEN}");
        let hidden = demo.ledger().count("/hidden");
        let statuses = statuses(&gateway, &bytes).await;
        // Bytes that the proxy does not parse as a request, the backend must not either.
        let reached = demo.ledger().count("/hidden") - hidden;
        let own = statuses.len().saturating_sub(1) as u64;
        assert!(reached <= own, "{head}: {statuses:?}, and the backend saw {reached}");
        let two_framings = demo.ledger().requests().iter().any(|seen| {
            seen.headers.contains_key("content-length") && seen.headers.contains_key("transfer-encoding")
        });
        assert!(!two_framings, "{head}: two framings reached the backend");
        assert!(statuses.iter().all(|status| [200, 400, 404, 501].contains(status)), "{head}: {statuses:?}");
    }
    assert_eq!(Call::chat("still there").send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_none_is_refused_in_peace() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let heads = [
        "GARBAGE\r\n\r\n",
        "GET /v1/models?x={\"a\"} HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ": empty\r\n\r\n",
        "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    ];
    for head in heads {
        let statuses = statuses(&gateway, head).await;
        assert!(statuses.iter().all(|status| (400..=505).contains(status)), "{head:?}: {statuses:?}");
        let reached = demo.ledger().last().map(|seen| (seen.method, seen.path));
        assert_eq!(reached, None, "{head:?} reached the backend");
    }
    // A panic in the gateway fails this test when the gateway is dropped.
}

#[tokio::test(flavor = "multi_thread")]
async fn two_session_ids_that_differ_are_refused() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let answer = Call::chat("hello").session("one").session("two").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 400, "{}", answer.text());
    assert_eq!(demo.ledger().arrived(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_session_ids_become_harmless() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for odd in ["../../etc/passwd", "a b", "<script>", "\u{e9}", "x\u{1}y", &"x".repeat(200)] {
        let answer = Call::chat("hello").session(odd).send(gateway.proxy()).await;
        if answer.status() == 400 {
            continue;
        }
        assert_eq!(answer.status(), 200, "{odd:?}: {}", answer.text());
        let id = answer.head.field("x-session-id").unwrap_or_default();
        assert!(!id.is_empty() && id != odd && id.len() <= 128, "{odd:?} became {id:?}");
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte)), "{id:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_models_in_one_body_cannot_confuse_the_route() {
    let [cheap, dear] = [Demo::start().await, Demo::start().await];
    let gateway = Gateway::with(format!(
        "backends:\n  cheap: {{ url: {:?}, type: openai, default: true, models: [\"gpt-*\"] }}\n  \
         dear: {{ url: {:?}, type: openai, models: [\"opus-*\"] }}\n",
        cheap.url(),
        dear.url()
    ))
    .await;
    let body = r#"{"model":"gpt-demo","messages":[{"role":"user","content":"hi"}],"model":"opus-1"}"#;
    let answer = Call::post("/v1/chat/completions").body(body).send(gateway.proxy()).await;
    assert_eq!(answer.status(), 400, "{}", answer.text());
    assert_eq!((cheap.ledger().arrived(), dear.ledger().arrived()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_inside_the_messages_is_not_the_model() {
    let [chosen, other] = [Demo::start().await, Demo::start().await];
    let gateway = Gateway::with(format!(
        "backends:\n  chosen: {{ url: {:?}, type: openai, default: true, models: [\"gpt-*\"] }}\n  \
         other: {{ url: {:?}, type: openai, models: [\"opus-*\"] }}\n",
        chosen.url(),
        other.url()
    ))
    .await;
    let inner = json!([{"role": "user", "content": "{\"model\":\"opus-1\"}", "model": "opus-1"}]);
    let body =
        format!("{{\"messages\":{inner},\"metadata\":{{\"model\":\"opus-1\"}},\"model\":\"gpt-demo\"}}");
    let answer = Call::post("/v1/chat/completions").body(body).send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!((chosen.ledger().arrived(), other.ledger().arrived()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_of_a_request_chooses_nothing() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for host in ["169.254.169.254", "x/#@y", "localhost:1", "[::1]:1"] {
        let answer = Call::chat("hello").header("Host", host).send(gateway.proxy()).await;
        if answer.status() == 200 {
            let seen = demo.ledger().last().expect("a request");
            assert_eq!(seen.header("host"), Some(demo.address().to_string().as_str()), "{host}");
            assert_eq!(seen.path, "/v1/chat/completions", "{host}");
        } else {
            assert_eq!(answer.status(), 400, "{host}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_json_is_carried_and_not_followed() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let deep = "[".repeat(1 << 20);
    let answer = Call::post("/v1/chat/completions").body(deep).send(gateway.proxy()).await;
    assert_eq!(answer.status(), 400, "the backend's own answer");
    assert_eq!(demo.ledger().last().map(|seen| seen.body_len), Some(1 << 20));
    assert_eq!(Call::chat("still there").send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_cannot_kill() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    assert_eq!(Call::chat("hello").session("wanted").send(gateway.proxy()).await.status(), 200);
    let kill = Call::post("/control/sessions/wanted/kill");
    let from_page = kill.clone().header("Origin", "http://evil.example").send(gateway.control()).await;
    assert_eq!(from_page.status(), 403, "{}", from_page.text());
    let rebound = kill.clone().header("Host", "evil.example").send(gateway.control()).await;
    assert!(matches!(rebound.status(), 400 | 403 | 421), "{}", rebound.text());
    assert_eq!(Call::chat("hello").session("wanted").send(gateway.proxy()).await.status(), 200);
    assert_eq!(kill.send(gateway.control()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_from_the_wire_cannot_forge_log_lines() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let target = "/v1/models?x=%0a%7b%22message%22:%22listening%22%7d";
    let call = Call::get(target).header("user-agent", "a\"},{\"message\":\"session killed\"");
    call.send(gateway.proxy()).await;
    gateway.access_line("/v1/models").await;
    let listening = gateway.log_lines().iter().filter(|line| line["message"] == "listening").count();
    assert_eq!(listening, 2);
    assert!(!gateway.log_lines().iter().any(|line| line["message"] == "session killed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_session_ids_keeps_metrics_small() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    for number in 0..150 {
        let messages = json!([{"role": "user", "content": "hi"}]);
        let body = json!({"model": format!("model-{number}"), "messages": messages});
        let call = Call::post("/v1/chat/completions").session(&format!("flood-{number}")).json(&body);
        assert_eq!(call.send_over(&mut client, gateway.proxy()).await.status(), 200);
    }
    let metrics = Call::get("/metrics").send(gateway.control()).await;
    assert_eq!(metrics.status(), 200);
    assert!(!metrics.text().contains("flood-"), "no session id in a metric");
    assert!(metrics.text().contains("elida_sessions_active"));
}
