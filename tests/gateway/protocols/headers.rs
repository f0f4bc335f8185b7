//! Which header fields are forwarded in each direction, and how hostile ones appear in the log.

use serde_json::Value;

use crate::support::wire::{Head, Unframed};
use crate::support::{Backend, Call, Gateway, RawBackend, RawClient};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
/// Fields that name the origin of a request.
const ORIGIN: [(&str, &str); 6] = [
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "public.example"),
    ("X-Forwarded-Port", "443"),
    ("X-Real-IP", "203.0.113.9"),
    ("Forwarded", "for=203.0.113.9;proto=https"),
];
/// Fields in which content delivery networks and load balancers name the client's address.
const ADDRESSES: [(&str, &str); 18] = [
    ("X-Client-IP", "203.0.113.9"),
    ("X-Cluster-Client-IP", "203.0.113.9"),
    ("True-Client-IP", "203.0.113.9"),
    ("CF-Connecting-IP", "203.0.113.9"),
    ("CF-Connecting-IPv6", "2001:db8::9"),
    ("CF-IPCountry", "CH"),
    ("CF-Region", "Bern"),
    ("X-NF-Geo", "e30="),
    ("Fastly-Client-IP", "203.0.113.9"),
    ("X-Envoy-External-Address", "203.0.113.9"),
    ("X-Original-Forwarded-For", "203.0.113.9"),
    ("CloudFront-Viewer-Address", "203.0.113.9:4711"),
    ("X-Azure-ClientIP", "203.0.113.9"),
    ("X-AppEngine-User-IP", "203.0.113.9"),
    ("Fly-Client-IP", "203.0.113.9"),
    ("X-Vercel-IP-City", "Bern"),
    ("X_Real_IP", "203.0.113.9"),
    ("cf_connecting_ip", "203.0.113.9"),
];
/// Fields that name the user or its certificate.
const USER: [(&str, &str); 7] = [
    ("X-Forwarded-User", "ada"),
    ("X-Auth-Request-Email", "ada@house.example"),
    ("X-Forwarded-Client-Cert", "Subject=\"CN=ada\""),
    ("X-Amzn-Oidc-Data", "e30.e30.x"),
    ("CF-Access-Authenticated-User-Email", "ada@house.example"),
    ("Remote_User", "ada"),
    ("X-SSL-Client-CN", "ada"),
];

async fn with_server(backend: &impl Backend, server: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\nserver: {{ {server} }}\n", backend.url())).await
}

fn call_with(fields: &[(&str, &str)]) -> Call {
    fields.iter().fold(Call::chat("hello"), |call, (name, value)| call.header(name, value))
}

fn last(backend: &RawBackend) -> Head {
    backend.heads().pop().expect("a request")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_one_hop_only_stays_there() {
    let backend = RawBackend::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Hop, Content-Length\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: keep-alive\r\nX-Kept: 1\r\n\r\n{}",
    )
    .await;
    let gateway = Gateway::start(&backend).await;
    let hop = [
        ("Connection", "keep-alive, X-Hop, X-Other-Hop, Content-Length"),
        ("connection", "x-third-hop"),
        ("X-Hop", "1"),
        ("X-Other-Hop", "1"),
        ("X-Third-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("Proxy-Authenticate", "Basic"),
        ("TE", "trailers, deflate"),
        ("Trailer", "X-Hop"),
        ("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
        ("X-Backend", "default"),
        ("X-Elida-Principal", "root"),
        ("X_Elida_Principal", "root"),
        ("Elida-Role", "admin"),
    ];
    let answer = call_with(&hop).header("X-Elidable", "kept").send(gateway.proxy()).await;
    assert_eq!((answer.status(), answer.is_whole), (200, true), "{}", answer.text());
    let seen = last(&backend);
    for (name, _) in hop {
        assert!(name.eq_ignore_ascii_case("connection") || seen.field(name).is_none(), "{name}: {seen:?}");
    }
    assert_eq!(seen.field("x-elidable"), Some("kept"));
    // `Connection: Content-Length` removes the length, not the body.
    let request = backend.requests().pop().expect("a request");
    assert!(request.is_whole && String::from_utf8_lossy(&request.body).contains("gpt-demo"));
    for name in ["x-hop", "keep-alive", "proxy-authenticate", "proxy-connection"] {
        assert_eq!(answer.head.field(name), None, "{name}");
    }
    assert_eq!(answer.head.field("x-kept"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_learn_nothing_of_who_asks_by_default() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    let call = USER
        .iter()
        .chain(&ADDRESSES)
        .fold(call_with(&ORIGIN), |call, (name, value)| call.header(name, value));
    let call = call.header("Via", "1.1 corporate");
    assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    let seen = last(&backend);
    for (name, _) in ORIGIN.iter().chain(&USER).chain(&ADDRESSES) {
        assert_eq!(seen.field(name), None, "{name}");
    }
    let via: Vec<_> = seen.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("via")).collect();
    let via: Vec<_> = via.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(via, ["1.1 corporate", "1.1 elida"]);
    let line = gateway.access_line("/v1/chat/completions").await;
    assert_eq!(line["client_ip"], "127.0.0.1", "an untrusted client does not say who it is");
    assert_eq!(line["principal"], "anon:127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_says_who_the_client_is() {
    let backend = RawBackend::answering(OK).await;
    let gateway = with_server(&backend, "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]").await;
    let call = Call::chat("hello").header("X-Forwarded-For", "6.6.6.6, 203.0.113.9, 10.1.1.1");
    let first = call.send(gateway.proxy()).await;
    let line = gateway.access_line("/v1/chat/completions").await;
    assert_eq!((&line["client_ip"], &line["principal"]), (&"203.0.113.9".into(), &"anon:203.0.113.9".into()));
    // Another client behind the same proxy has another session.
    let other = Call::chat("hello").header("X-Forwarded-For", "203.0.113.10");
    let other = other.send(gateway.proxy()).await;
    assert_ne!(first.head.field("x-session-id"), other.head.field("x-session-id"));
    assert_eq!(last(&backend).field("x-forwarded-for"), None, "trusted, but not forwarded");
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_are_told_who_asks_when_the_operator_wants_it() {
    let backend = RawBackend::answering(OK).await;
    let gateway = with_server(&backend, "forwarded_headers: true").await;
    assert_eq!(call_with(&ORIGIN).header("Host", "gw.example").send(gateway.proxy()).await.status(), 200);
    let seen = last(&backend);
    let origin = |head: &Head| ORIGIN.map(|(name, _)| head.field(name).map(str::to_owned));
    let own = [
        Some("127.0.0.1"),
        Some("http"),
        Some("gw.example"),
        None,
        None,
        Some("for=127.0.0.1;host=\"gw.example\""),
    ];
    assert_eq!(origin(&seen), own.map(|value| value.map(str::to_owned)), "nothing of the client's own words");
    let gateway = with_server(&backend, "forwarded_headers: true, trusted_proxies: [127.0.0.1]").await;
    assert_eq!(call_with(&ORIGIN).send(gateway.proxy()).await.status(), 200);
    let seen = last(&backend);
    assert_eq!(seen.field("x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.field("x-forwarded-host"), Some("public.example"));
    let forwarded = "for=203.0.113.9, for=127.0.0.1;host=\"public.example\"";
    assert_eq!(seen.field("forwarded"), Some(forwarded));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_request_breaks_a_line_of_the_log() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    let evil = "a\"}\\\t\u{1b}[31m\u{2028}\u{0}\n{\"message\":\"forged\"}\r\nend";
    // The body can contain anything; it is logged as the model.
    let body = serde_json::json!({"model": evil, "messages": []}).to_string();
    let call = Call::post("/v1/chat/completions").body(body);
    assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    // In the head, everything that the parser accepts.
    let mut client = RawClient::connect(gateway.proxy()).await;
    let mut head =
        b"GET /v1/models/%22}%0a{%22message%22:%22forged%22}?a%0d%0a=%22x HTTP/1.1\r\nHost: a\r\n".to_vec();
    for name in
        ["User-Agent", "X-Session-ID", "X-Request-ID", "x-claude-code-session-id", "Authorization", "baggage"]
    {
        head.extend(format!("{name}: \"}}\t\\u000a\u{ad}").as_bytes());
        head.extend([0xff, 0xfe, 0x80, b'\r', b'\n']);
    }
    head.extend(b"\r\n");
    client.send(&head).await.expect("send");
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    // Values that the parser rejects, and a very long one.
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[31m\xff\r\n \"}\r\n\r\n".to_vec(),
        b"\x1b]0;evil\x07\xff\xfe\"}\n{\"message\":\"forged\"}\r\n\r\n".to_vec(),
        format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\nUser-Agent: {}\r\n\r\n",
            "%22".repeat(2000),
            "\"".repeat(9000)
        )
        .into_bytes(),
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: {\"message\":\"forged\"}\r\n\r\n".to_vec(),
    ] {
        let mut client = RawClient::connect(gateway.proxy()).await;
        let _ = client.send(&bytes).await;
        let _ = client.message(Unframed::UntilEnd).await;
    }
    let unknown = Call::chat("hello").header("X-Backend", "\"}\\ \u{1b}[0m");
    let _ = unknown.send(gateway.proxy()).await;
    assert_eq!(Call::get("/v1/last").send(gateway.proxy()).await.status(), 200);
    gateway.access_line("/v1/last").await;
    assert_eq!(gateway.noise(), "", "every line is one JSON object");
    let lines = gateway.log_lines();
    assert!(lines.iter().all(|line| line["message"] != "forged"), "{lines:?}");
    assert!(lines.iter().any(|line| line["model"] == evil), "the model is logged as sent: {lines:?}");
    let longest = lines.iter().map(|line: &Value| line.to_string().len()).max();
    assert!(longest.is_some_and(|longest| longest < 16 << 10), "{longest:?}");
}
