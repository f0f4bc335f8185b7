use serde_json::json;

use crate::support::http2::Client;
use crate::support::socket::Socket;
use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway};

async fn limited(demo: &Demo, more: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\n{more}\n", demo.url())).await
}

fn refused(answer: &Message, text: &str) {
    assert_eq!(answer.status(), 429, "{}", answer.text());
    assert!(answer.text().contains("rate_limited") && answer.text().contains(text), "{}", answer.text());
    assert!(answer.head.field("retry-after").is_some(), "{:?}", answer.head);
}

/// The head of an MCP request.
fn mcp(id: u64, method: &str) -> Call {
    let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    Call::post("/mcp").header("accept", "application/json, text/event-stream").json(&body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_so_many_live_sessions_on_every_path_and_known_ones_go_on() {
    let demo = Demo::start().await;
    let gateway = limited(&demo, "limits: [{ name: live, by: client.addr, sessions: 2 }]").await;
    for id in ["one", "two"] {
        let answer = Call::chat("hello").session(id).send(gateway.proxy()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    let remedy = "the limit 'live' allows 2 live sessions; send the id of one of them";
    let before = demo.ledger().arrived();
    for call in [Call::chat("hello"), Call::chat_stream("hello"), Call::messages_stream("hello")] {
        refused(&call.session("three").send(gateway.proxy()).await, remedy);
    }
    // Without an id in the head, the session is found after the body was read.
    refused(&Call::chat("hello").send(gateway.proxy()).await, remedy);
    refused(&mcp(1, "initialize").send(gateway.proxy()).await, remedy);
    let mut http2 = Client::connect(gateway.proxy()).await;
    let answer = http2.ask(&Call::chat("hello").session("three")).await;
    assert!(answer.text().contains("2 live sessions"), "{}", answer.text());
    let socket = "/v1/realtime?model=gpt-realtime-demo";
    assert!(Socket::connect(gateway.proxy(), socket, &[("x-session-id", "three")]).await.is_err());
    assert_eq!(demo.ledger().arrived(), before, "no backend sees any of them");
    // What lives goes on.
    for call in [Call::chat("hello"), Call::chat_stream("hello")] {
        assert_eq!(call.session("one").send(gateway.proxy()).await.status(), 200);
    }
    drop(Socket::connect(gateway.proxy(), socket, &[("x-session-id", "two")]).await.expect("a socket"));
    let series = "elida_rate_limited_total{scope=\"live\",unit=\"sessions\"}";
    assert_eq!(gateway.metric(series).await, 7.0);

    assert_eq!(gateway.kill("one").await.status, 200);
    assert_eq!(Call::chat("hello").session("three").send(gateway.proxy()).await.status(), 200);
    refused(&Call::chat("hello").session("four").send(gateway.proxy()).await, remedy);
    assert_eq!(Call::chat("hello").session("one").send(gateway.proxy()).await.status(), 403, "it is killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_time_out_make_room_and_starts_have_a_rate() {
    let demo = Demo::start().await;
    let more = "session: { idle_timeout: 1s }\n\
                limits: [{ name: live, by: client.addr, sessions: 1, session_starts: 3/min }]";
    let gateway = limited(&demo, more).await;
    let ask = async |id: &str| Call::chat("hello").session(id).send(gateway.proxy()).await;
    let first = ask("one").await;
    assert_eq!(first.head.field("ratelimit-policy"), Some("\"live sessions\";q=3;qu=\"sessions\";w=60"));
    assert_eq!(first.head.field("ratelimit"), Some("\"live sessions\";r=2;t=20"));
    for id in ["two", "three"] {
        refused(&ask(id).await, "allows 1 live session");
        crate::support::within("room for a session", async {
            while ask(id).await.status() != 200 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    assert_eq!(gateway.kill("three").await.status, 200);
    let fourth = ask("four").await;
    refused(&fourth, "the limit 'live' allows 3 new sessions per minute; send the id of a live session");
    let wait: u64 = fourth.head.field("retry-after").and_then(|wait| wait.parse().ok()).expect("seconds");
    assert!((10..=20).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_that_an_mcp_server_names_takes_one_place_and_one_start() {
    let demo = Demo::start().await;
    let limit = "limits: [{ by: client.addr, sessions: 1, session_starts: 1/min }]";
    let gateway = limited(&demo, limit).await;
    let answer = mcp(0, "initialize").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let id = answer.head.field("mcp-session-id").expect("a session").to_owned();
    let list = mcp(1, "tools/list").header("mcp-session-id", &id).send(gateway.proxy()).await;
    assert_eq!(list.status(), 200, "{}", list.text());
    let other = mcp(2, "tools/list").header("mcp-session-id", "another").send(gateway.proxy()).await;
    refused(&other, "allows 1 live session");
    assert_eq!(other.json()["jsonrpc"], "2.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_new_sessions_at_once_never_pass_the_limit() {
    let demo = Demo::start().await;
    let gateway = limited(&demo, "limits: [{ by: client.addr, sessions: 20 }]").await;
    let calls: Vec<_> = (0..300)
        .map(|number| {
            let proxy = gateway.proxy();
            // Five requests of each session.
            let call = Call::chat("one").session(&format!("s-{}", number / 5));
            tokio::spawn(async move { (number / 5, call.send(proxy).await.status()) })
        })
        .collect();
    let mut begun = std::collections::HashMap::<usize, Vec<u16>>::new();
    for call in calls {
        let (session, status) = call.await.expect("a status");
        begun.entry(session).or_default().push(status);
    }
    let live = begun.values().filter(|all| all.contains(&200)).count();
    assert_eq!(live, 20);
    assert_eq!(gateway.sessions().await.len(), 20);
}
