use serde_json::json;

use crate::support::http2::Client;
use crate::support::{Backend, Call, Gateway, RawBackend, RawClient, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

fn yaml(backend: &RawBackend, acl: &str) -> String {
    format!(
        "backends: {{ main: {{ url: {:?}, type: openai, default: true }} }}\n\
         server: {{ trusted_proxies: [127.0.0.1] }}\nsecurity: {{ acl: {{ {acl} }} }}\n",
        backend.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_behind_trusted_proxies_decides_on_every_path() {
    let backend = RawBackend::answering(OK).await;
    let gateway =
        Gateway::with(yaml(&backend, "allow: [10.0.0.0/8, '2001:db8::/32'], deny: [10.66.0.0/16]")).await;
    for (forwarded, status) in [
        (Some("10.1.2.3"), 200),
        (Some("2001:db8::1"), 200),
        (Some("::ffff:10.1.2.3"), 200),
        (Some("10.66.0.1"), 403),
        (Some("::ffff:10.66.0.1"), 403),
        (Some("192.0.2.1"), 403),
        // What the client itself wrote does not count.
        (Some("10.1.2.3, 192.0.2.1"), 403),
        (None, 403),
    ] {
        for call in [Call::chat("x"), Call::get("/health")] {
            let call = forwarded.iter().fold(call, |call, from| call.header("x-forwarded-for", from));
            assert_eq!(call.send(gateway.proxy()).await.status(), status, "{forwarded:?}");
            let mut client = Client::connect(gateway.proxy()).await;
            assert_eq!(client.ask(&call).await.status, status, "{forwarded:?} over HTTP/2");
        }
    }
    assert_eq!(backend.heads().len(), 6, "the refused ones reach no backend");
    let socket =
        Call::get("/v1/realtime?model=m").header("upgrade", "websocket").header("connection", "upgrade");
    let socket =
        socket.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(socket.header("x-forwarded-for", "192.0.2.1").send(gateway.proxy()).await.status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_refused_in_its_dialect_before_its_body_and_before_a_session() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::with(yaml(&backend, "deny: [192.0.2.0/24]")).await;
    let call = Call::messages_stream("x").session("stranger").header("x-forwarded-for", "192.0.2.7");
    let mut client = RawClient::connect(gateway.proxy()).await;
    // The body never comes.
    client.send(&call.head("localhost")).await.expect("send");
    let head = client.head().await.expect("a head");
    let answer = client.body(head, crate::support::wire::Unframed::UntilEnd).await;
    assert_eq!((answer.status(), answer.is_whole), (403, true));
    let body = answer.json();
    assert_eq!(
        (&body["type"], &body["error"]["type"]),
        (&json!("error"), &json!("permission_error")),
        "{body}"
    );
    assert_eq!(answer.head.field("x-should-retry"), Some("false"));
    within("the end", client.end()).await;
    assert!(gateway.sessions().await.is_empty());
    let line = gateway.access_line("/v1/messages").await;
    assert_eq!((&line["client_ip"], &line["outcome"]), (&json!("192.0.2.7"), &json!("address_denied")));
    assert_eq!(gateway.metric("elida_filtered_total{reason=\"acl\"}").await, 1.0);
    let body = call.send(gateway.proxy()).await.json();
    assert!(body.to_string().contains("security.acl"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_applies_to_the_next_request_of_an_open_connection() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::with(yaml(&backend, "")).await;
    let mut kept = RawClient::connect(gateway.proxy()).await;
    assert_eq!(Call::chat("x").send_over(&mut kept, gateway.proxy()).await.status(), 200);
    gateway.rewrite(&yaml(&backend, "deny: [127.0.0.0/8]"));
    gateway.hangup();
    gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(Call::chat("x").send_over(&mut kept, gateway.proxy()).await.status(), 403);
    assert_eq!(backend.heads().len(), 1);
}
