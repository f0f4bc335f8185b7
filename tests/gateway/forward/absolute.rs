use serde_json::json;

use crate::cache::hits::{answer, origin};
use crate::callers::keys::{auth, key};
use crate::support::tunnel::{HOST, basic, listen, open};
use crate::support::wire::{Message, Unframed};
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, RawClient};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";

/// A call of an absolute URL, as programs send it to a proxy.
pub fn call(method: &str, url: &str) -> Call {
    let host = url.split('/').nth(2).expect("a host").to_owned();
    Call::new(method, url).header("host", &host).header("proxy-connection", "keep-alive")
}

/// Gets an absolute URL.
pub async fn get(gateway: &Gateway, url: &str) -> Message {
    call("GET", url).send(gateway.proxy()).await
}

fn address(backend: &impl Backend) -> std::net::SocketAddr {
    backend.url().trim_start_matches("http://").parse().expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_goes_to_its_host_with_the_callers_own_credentials() {
    let backend = RawBackend::answering(OK).await;
    let key = key();
    let yaml = open(address(&backend), "").replace("require_auth: false, ", "")
        + &auth("optional", &[("ci", &key, "")]);
    let gateway = Gateway::with(yaml).await;
    let url = format!("http://{HOST}/a/../b?key=theirs&x=1");
    let refused = get(&gateway, &url).await;
    assert_eq!((refused.status(), refused.head.field("www-authenticate")), (407, None), "{}", refused.text());
    assert!(refused.head.field("proxy-authenticate").is_some_and(|asked| asked.starts_with("Basic ")));
    let call = call("GET", &url)
        .header("proxy-authorization", &basic("nightly-7", &key))
        .header("authorization", "Bearer theirs")
        .header("cookie", "a=b");
    let mut client = RawClient::connect(gateway.proxy()).await;
    for _ in 0..2 {
        let answer = call.send_over(&mut client, gateway.proxy()).await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.head.field("x-session-id"), Some("nightly-7"));
    }
    let head = backend.heads().pop().expect("a request");
    assert_eq!(head.line, "GET /a/../b?key=theirs&x=1 HTTP/1.1");
    assert_eq!(head.field("host"), Some(HOST));
    assert_eq!(head.field("authorization"), Some("Bearer theirs"));
    assert_eq!(head.field("cookie"), Some("a=b"));
    assert!(head.fields.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("proxy-")), "{head:?}");
    assert_eq!(backend.connections(), 1, "the connection to the host is kept");
    let line = gateway.log_until(|line| line["session_id"] == "nightly-7").await;
    assert_eq!(line["url"], format!("http://{HOST}/a/../b?key=***&x=***"), "{line}");
    assert_eq!((&line["backend"], &line["principal"]), (&"forward".into(), &"key:ci".into()));
    let shown = gateway
        .session_until("nightly-7", |view| view["requests"].as_array().is_some_and(|all| all.len() == 2))
        .await;
    assert_eq!(shown["requests"][0]["path"], format!("http://{HOST}/a/../b"), "{shown}");
    assert!(!gateway.log_text().contains(&key));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_url_is_refused() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::with(open(address(&backend), "")).await;
    for (line, host, status, word) in [
        ("GET https://host.test/", "host.test", 400, "CONNECT"),
        ("GET ftp://host.test/", "host.test", 400, "http URL"),
        ("OPTIONS *", "host.test", 405, "asterisk"),
        ("GET http://host.test/", "other.test", 400, ""),
        ("GET http://me@host.test/", "host.test", 400, ""),
        ("GET http://host.test:80:80/", "host.test:80:80", 400, ""),
        ("GET http:///x", "host.test", 400, ""),
        ("GET http://host.test:81/", "host.test:81", 403, "plain_ports"),
    ] {
        let mut client = RawClient::connect(gateway.proxy()).await;
        let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = client.exchange(head.as_bytes(), Unframed::UntilEnd).await;
        assert_eq!(answer.status(), status, "{line}: {}", answer.text());
        assert!(answer.text().contains(word), "{line}: {}", answer.text());
    }
    assert_eq!(backend.connections(), 0);
    // An empty path is that of the root.
    assert_eq!(get(&gateway, "http://host.test").await.status(), 200);
    assert_eq!(backend.heads()[0].line, "GET / HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_paths_of_the_gateway_itself_are_those_of_the_host_here() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::with(open(address(&backend), "") + "models: { discovery: merged }\n").await;
    for path in ["/health", "/health/liveness", "/v1/models", "/.well-known/oauth-protected-resource"] {
        assert_eq!(get(&gateway, &format!("http://{HOST}{path}")).await.text(), "ok", "{path}");
    }
    assert_eq!(backend.heads().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_or_a_backend_that_has_the_host_takes_it() {
    let demo = Demo::start().await;
    let other = RawBackend::answering(OK).await;
    let yaml = format!(
        "forward_proxy: {{ enabled: true, require_auth: false, plain_ports: [80, {}] }}\n\
         backends:\n  own: {{ url: {:?}, type: openai, auth: {{ mode: inject, api_key: sk-house }} }}\n  \
         ruled: {{ url: {:?}, type: http }}\n\
         routing: {{ rules: [{{ when: 'request.host == \"api.internal\"', forward: {{ backend: ruled }} }}] }}\n",
        address(&demo).port(),
        demo.url(),
        other.url(),
    );
    let gateway = Gateway::with(yaml).await;
    let url = format!("{}/v1/chat/completions", demo.url());
    let body = json!({"model": "gpt-demo", "messages": [{"role": "user", "content": "one two"}]});
    let answer = call("POST", &url).json(&body).session("chat").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let asked = demo.ledger().requests();
    assert_eq!(asked[0].header("authorization"), Some("Bearer sk-house"), "the backend gets its own key");
    let shown = gateway
        .session_until("chat", |view| view["requests"].as_array().is_some_and(|all| all.len() == 1))
        .await;
    assert!(shown["usage"]["output_tokens"].as_u64() > Some(0), "its API is read: {shown}");
    // The name of the rule need not have an address.
    assert_eq!(get(&gateway, "http://api.internal/things?a=b").await.text(), "ok");
    assert_eq!(other.heads()[0].line, "GET /things?a=b HTTP/1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_sockets_pass_and_are_killed() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(open(address(&demo), "")).await;
    let url = format!("http://{HOST}/v1/chat/completions");
    let body = json!({"model": "gpt-demo", "stream": true, "messages": [{"role": "user", "content": "one [[stall]]"}]});
    let mut stream = call("POST", &url).json(&body).session("stream").open(gateway.proxy()).await;
    stream.until("one").await;
    assert_eq!(gateway.kill("stream").await.body["legs_cut"], 1);
    let answer = stream.message(Unframed::UntilEnd).await;
    assert!(answer.is_none_or(|answer| !answer.is_whole), "it does not end as if it were whole");
    let refused = call("POST", &url).json(&body).session("stream").send(gateway.proxy()).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (403, &"session_killed".into()));

    let handshake = call("GET", &format!("http://{HOST}/v1/realtime?model=gpt-realtime"))
        .session("socket")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut socket = handshake.open(gateway.proxy()).await;
    socket.until("session.created").await;
    let shown = gateway.session_until("socket", |_| true).await;
    assert_eq!(shown["legs"][0]["kind"], "socket", "{shown}");
    assert_eq!(gateway.kill("socket").await.body["legs_cut"], 1);
    socket.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_hosts_do_not_share_connections_or_names() {
    let (listener, address) = listen().await;
    drop(listener);
    let (one, two) = (RawBackend::answering(OK).await, RawBackend::answering(OK.replace("ok", "no")).await);
    let hosts =
        format!("hosts: {{ one.test: '{}', two.test: '{}',", self::address(&one), self::address(&two));
    let gateway = Gateway::with(open(address, "").replace("hosts: {", &hosts)).await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    for (host, text) in [("one.test", "ok"), ("two.test", "no"), ("one.test", "ok")] {
        let answer = call("GET", &format!("http://{host}/")).send_over(&mut client, gateway.proxy()).await;
        assert_eq!(answer.text(), text, "{host}");
    }
    let gone = get(&gateway, &format!("http://{HOST}/")).await;
    assert_eq!((gone.status(), &gone.json()["error"]["code"]), (502, &"backend_unavailable".into()));
    assert!(gone.text().contains(HOST), "{}", gone.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_hosts_are_cached_apart_and_a_killed_session_gets_none() {
    let backend = origin(|request, number| {
        let host = request.head.field("host").unwrap_or_default();
        answer(200, "Cache-Control: max-age=60\r\n", &format!("{number} of {host}"))
    })
    .await;
    let address = address(&backend);
    let hosts = format!("{HOST}: '{address}', other.test: '{address}' }}");
    let yaml = open(address, "").replace(&format!("{HOST}: '{address}' }}"), &hosts);
    let gateway = Gateway::with(yaml + "cache: { enabled: true }\n").await;
    let [one, other] = [format!("http://{HOST}/a"), "http://other.test/a".to_owned()];
    for (url, text) in [(&one, format!("0 of {HOST}")), (&other, "1 of other.test".into())] {
        assert_eq!(get(&gateway, url).await.text(), text);
        let hit = get(&gateway, url).await;
        assert_eq!(hit.text(), text);
        let status = hit.head.field("cache-status").unwrap_or_default();
        assert!(status.starts_with("elida; hit"), "{:?}", hit.head);
    }
    assert_eq!(call("GET", &one).session("dead").send(gateway.proxy()).await.status(), 200);
    assert_eq!(gateway.kill("dead").await.status, 200);
    let refused = call("GET", &one).session("dead").send(gateway.proxy()).await;
    assert_eq!(refused.status(), 403, "{}", refused.text());
}
