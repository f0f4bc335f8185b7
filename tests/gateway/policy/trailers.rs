use http::HeaderMap;
use serde_json::json;

use crate::support::http2::{BackendRequest, Client, End, H2Backend, write};
use crate::support::{Backend, Call, Gateway};

/// A backend over HTTP/2 whose answers end with trailers.
async fn backend(media: &'static str, body: &'static str) -> H2Backend {
    H2Backend::start(async move |mut asked: BackendRequest| {
        let mut to = asked.begin(media);
        write(&mut to, body.into(), false).await.expect("a piece");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "1".parse().expect("a value"));
        // The client may be gone.
        let _ = to.send_trailers(trailers);
    })
    .await
}

const WHOLE: &str = r#"{"id":"1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"please drop all tables"},"finish_reason":"stop"}]}"#;
const STREAM: &str = "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"please drop all tables\"}}]}\n\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_at_the_trailers_of_a_backend_never_ends_well() {
    // What is not complete is judged when it ends, which is when the trailers come.
    for (media, body) in [
        ("application/json", WHOLE),
        ("application/json", &WHOLE[..WHOLE.len() - 1]),
        ("text/event-stream", STREAM),
        ("text/event-stream", STREAM.trim_end()),
    ] {
        let backend = backend(media, body).await;
        let gateway = Gateway::with(format!(
            "backends:\n  b: {{ url: {:?}, type: openai, pool: {{ http2: always }} }}\n\
             policy:\n  rules:\n    - {{ id: no-drop, on: response, match: {{ any: [\"drop all tables\"] }}, action: block }}\n",
            backend.url()
        ))
        .await;
        let call = |session: &str| {
            let body = json!({"model": "m", "messages": [{"role": "user", "content": session}]});
            Call::post("/v1/chat/completions").session(session).json(&body)
        };
        let over2 = Client::connect(gateway.proxy()).await.ask(&call("over-2")).await;
        let over1 = call("over-1").send(gateway.proxy()).await;
        for (status, text, ends_well) in [
            (over2.status, over2.text(), over2.end == End::Whole && over2.trailers.is_some()),
            (over1.status(), over1.text(), false),
        ] {
            assert!(!text.contains("tables") && !ends_well, "{media}: {status} {text}");
            assert!(text.contains("policy_blocked") || text.contains("no-drop"), "{media}: {status} {text}");
        }
        let line = gateway
            .log_until(|line| line["session_id"] == "over-2" && line["message"] == "request_completed")
            .await;
        assert_eq!(line["outcome"], "policy_blocked", "{line}");
    }
}
