//! An endpoint that an MCP server announces in a stream through one instance is reached through every other one.

use std::time::{Duration, Instant};

use serde_json::json;

use super::shared::store_is_up;
use crate::protocols::mcp_paths::old_server;
use crate::support::redis::Redis;
use crate::support::{Backend, Call, Gateway, RawBackend, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_through_one_instance_is_reached_through_all() {
    let (redis, provider) = (Redis::start().await, RawBackend::answering(OK).await);
    let tools = old_server("/messages?sessionId=a").await;
    let other = old_server("/messages?sessionId=b").await;
    let yaml = format!(
        "session: {{ store: redis, redis: {{ url: {:?} }} }}\nbackends:\n\
         \x20 openai: {{ url: {:?}, type: openai, default: true }}\n\
         \x20 tools: {{ url: {:?}, type: mcp }}\n\x20 other: {{ url: {:?}, type: mcp }}\n",
        redis.url(),
        provider.url(),
        tools.url(),
        other.url()
    );
    let [first, second] = [Gateway::with(&yaml).await, Gateway::with(&yaml).await];
    for gateway in [&first, &second] {
        store_is_up(gateway, true).await;
    }
    let stream = Call::get("/tools/sse").header("accept", "text/event-stream");
    let mut stream = stream.header("authorization", "Bearer mine").open(first.proxy()).await;
    stream.until("event: endpoint\ndata: /messages?sessionId=a\n\n").await;
    let announced = Instant::now();
    let message = |caller: &str| {
        Call::post("/messages?sessionId=a")
            .header("authorization", caller)
            .json(&json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}))
    };
    within("the other instance", async {
        while message("Bearer mine").send(second.proxy()).await.status() != 202 {}
    })
    .await;
    assert!(announced.elapsed() < Duration::from_secs(1), "{:?}", announced.elapsed());
    assert_ne!(message("Bearer other").send(second.proxy()).await.status(), 202, "it is its caller's own");
    // One that joins later learns it when it is repeated.
    let late = Gateway::with(&yaml).await;
    store_is_up(&late, true).await;
    within("the instance that came later", async {
        while message("Bearer mine").send(late.proxy()).await.status() != 202 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let targets =
        |backend: &RawBackend| backend.heads().iter().filter(|head| head.line.starts_with("POST")).count();
    assert!(targets(&tools) >= 2);
    assert_eq!((targets(&other), targets(&provider)), (0, 0), "no message goes elsewhere");
}
