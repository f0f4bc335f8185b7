use std::time::Duration;

use serde_json::{Value, json};

use crate::support::wire::Message;
use crate::support::{Backend, Call, Connection, Demo, Gateway, RawBackend, RawClient, sha256};

const OK: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"ok\":true}";

/// An address without a listener.
pub fn nobody() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", port.local_addr().expect("an address"))
}

/// An error with the provider's own body and header fields.
pub fn error(status: u16, fields: &str) -> String {
    let body =
        format!(r#"{{"type":"error","error":{{"type":"overloaded_error","message":"from {status}"}}}}"#);
    format!(
        "HTTP/1.1 {status} Sorry\r\nContent-Type: application/json\r\nrequest-id: req_{status}\r\n{fields}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A gateway with backends of type `openai`: name, URL, further keys. The first one is the default.
pub async fn gateway(backends: &[(&str, &str, &str)], more: &str) -> Gateway {
    Gateway::with(configuration(backends, more)).await
}

pub fn configuration(backends: &[(&str, &str, &str)], more: &str) -> String {
    let mut yaml = format!("{more}\nbackends:\n");
    for (at, (name, url, keys)) in backends.iter().enumerate() {
        yaml += &format!("  {name}: {{ url: {url:?}, type: openai, default: {}, {keys} }}\n", at == 0);
    }
    yaml
}

/// The last request in its session's detail, once the request has ended.
async fn request_line(gateway: &Gateway, session: &str) -> Value {
    let detail =
        gateway.session_until(session, |session| session["requests"][0]["status"] != Value::Null).await;
    detail["requests"][0].clone()
}

async fn reads_then_breaks(mut connection: Connection) {
    connection.request().await;
    connection.reset();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_refuses_connections_is_replaced() {
    let demo = Demo::start().await;
    let gateway = gateway(&[("dead", &nobody(), "fallback: live"), ("live", &demo.url(), "")], "").await;
    let direct = Call::chat("hello").send(demo.address()).await;
    let answer = Call::chat("hello").session("one").send(gateway.proxy()).await;
    assert_eq!((answer.status(), answer.text()), (200, direct.text()));
    let streamed = Call::chat_stream("hello [[words 20]]").session("two").send(gateway.proxy()).await;
    assert_eq!(streamed.status(), 200);
    assert!(streamed.text().ends_with("data: [DONE]\n\n"), "{}", streamed.text());
    let seen = demo.ledger().last().expect("a request");
    assert_eq!(seen.header("host"), Some(&*demo.address().to_string()), "each has its own Host");
    let line = gateway.access_line("/v1/chat/completions").await;
    assert_eq!(
        (&line["backend"], &line["failover_from"], &line["attempts"]),
        (&json!("live"), &json!("dead"), &json!(2))
    );
    let line = request_line(&gateway, "one").await;
    assert_eq!(
        (&line["backend"], &line["failover_from"], &line["attempts"]),
        (&json!("live"), &json!("dead"), &json!(2))
    );
    let detail = gateway.session_until("one", |_| true).await;
    assert_eq!(detail["backends"], json!({"live": 1}), "{detail}");
    assert_eq!(
        gateway.metric("elida_failovers_total{backend=\"dead\",reason=\"connect_failure\"}").await,
        2.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_one_provider_is_answered_by_another() {
    for (status, reason) in
        [(500, "server_error"), (503, "server_error"), (529, "server_error"), (429, "rate_limited")]
    {
        let sick = RawBackend::answering(error(status, "")).await;
        let well = Demo::start().await;
        let both = [("sick", &*sick.url(), "models: ['gpt-*'], fallback: well"), ("well", &well.url(), "")];
        let gateway = gateway(&both, "").await;
        let long = "x".repeat(300_000);
        for call in [
            Call::chat("hello"),
            Call::chat_stream("hello"),
            Call::chat(&long),
            Call::chat(&long).chunked(7000),
        ] {
            let answer = call.send(gateway.proxy()).await;
            assert_eq!(answer.status(), 200, "{}", answer.text());
            let got = well.ledger().last().expect("a request");
            let sent = sick.requests().pop().expect("a request");
            assert_eq!(got.body_sha256, sha256(&sent.body), "both got the same bytes");
        }
        let asked = sick.requests().len();
        assert!((3..=4).contains(&asked), "a backend that fails three times rests: asked {asked} times");
        let series = format!("elida_failovers_total{{backend=\"sick\",reason=\"{reason}\"}}");
        assert!(gateway.metric(&series).await >= 3.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_backend_is_asked_at_its_own_path() {
    let sick = RawBackend::answering(error(503, "")).await;
    let well = RawBackend::answering(OK).await;
    let (first, second) = (sick.url() + "/a", well.url() + "/b/c");
    let gateway = gateway(&[("sick", &first, "fallback: well"), ("well", &second, "")], "").await;
    let answer = Call::post("/sick/v1/chat/completions?beta=true").body("{}").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(sick.heads()[0].target(), "/a/v1/chat/completions?beta=true");
    assert_eq!(well.heads()[0].target(), "/b/c/v1/chat/completions?beta=true");
}

/// Sends a chat to backends `a`, `b` and `c`; each is the fallback of the previous one.
async fn through(urls: [&str; 3], keys: &str, call: Call) -> Message {
    let [a, b, c] = urls;
    let keys_of_a = format!("fallback: b, {keys}");
    let backends = [("a", a, &*keys_of_a), ("b", b, "fallback: c"), ("c", c, "")];
    call.send(gateway(&backends, "").await.proxy()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_fail_the_last_answer_passes_as_it_came() {
    let a = RawBackend::answering(error(503, "")).await;
    let b = RawBackend::answering(error(529, "")).await;
    let c =
        RawBackend::answering(error(429, "retry-after: 17\r\nanthropic-ratelimit-tokens-remaining: 0\r\n"))
            .await;
    let urls = [a.url(), b.url(), c.url()];
    let answer =
        through([&urls[0], &urls[1], &urls[2]], "retries: { attempts: 5 }", Call::chat("hello")).await;
    assert_eq!(answer.status(), 429);
    assert!(answer.text().contains("from 429"), "{}", answer.text());
    for (field, value) in
        [("retry-after", "17"), ("anthropic-ratelimit-tokens-remaining", "0"), ("request-id", "req_429")]
    {
        assert_eq!(answer.head.field(field), Some(value));
    }
    assert_eq!((a.requests().len(), b.requests().len(), c.requests().len()), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_backends_are_asked_than_configured() {
    for (attempts, asked, status) in [(0, (1, 0, 0), 500), (1, (1, 1, 0), 502), (2, (1, 1, 1), 200)] {
        let a = RawBackend::answering(error(500, "")).await;
        let b = RawBackend::answering(error(502, "")).await;
        let c = RawBackend::answering(OK).await;
        let urls = [a.url(), b.url(), c.url()];
        let keys = format!("retries: {{ attempts: {attempts} }}");
        let answer = through([&urls[0], &urls[1], &urls[2]], &keys, Call::chat("hello")).await;
        assert_eq!(
            (answer.status(), (a.requests().len(), b.requests().len(), c.requests().len())),
            (status, asked)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_others_cannot_be_reached_the_provider_s_own_error_is_told() {
    let a = RawBackend::answering(error(529, "retry-after: 3\r\n")).await;
    let (url, b, c) = (a.url(), nobody(), nobody());
    let answer = through([&url, &b, &c], "retries: { attempts: 2 }", Call::chat("hello")).await;
    assert_eq!((answer.status(), answer.head.field("retry-after")), (529, Some("3")));
    assert!(answer.text().contains("from 529"), "{}", answer.text());
    assert_eq!(a.requests().len(), 2, "it was asked once more for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_does_not_name_is_not_repeated() {
    let cases = [
        ("retries: { on: [connect_failure] }", error(503, ""), 503),
        ("retries: { on: [server_error] }", error(429, ""), 429),
        ("", error(400, ""), 400),
        ("", error(401, ""), 401),
        ("", error(503, "x-should-retry: false\r\n"), 503),
    ];
    for (keys, answer, status) in cases {
        let a = RawBackend::answering(answer).await;
        let b = RawBackend::answering(OK).await;
        let urls = [a.url(), b.url()];
        let answer = through([&urls[0], &urls[1], &urls[1]], keys, Call::chat("hello")).await;
        assert_eq!((answer.status(), b.heads().len()), (status, 0), "{keys}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_may_have_been_worked_on_is_repeated_only_when_told_so() {
    for (keys, status, asked) in [("", 502, 0), ("retries: { on: [broken] }", 200, 1)] {
        let a = RawBackend::start(reads_then_breaks).await;
        let b = RawBackend::answering(OK).await;
        let urls = [a.url(), b.url()];
        let answer = through([&urls[0], &urls[1], &urls[1]], keys, Call::chat("hello")).await;
        assert_eq!((answer.status(), a.requests().len(), b.requests().len()), (status, 1, asked), "{keys}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_stays_silent_is_replaced_when_told_so() {
    for (keys, status) in [("", 504), ("retries: { on: [first_byte_timeout] }", 200)] {
        let silent = RawBackend::start(async |mut connection: Connection| {
            connection.request().await;
            connection.stay_silent().await;
        })
        .await;
        let b = RawBackend::answering(OK).await;
        let keys = format!("fallback: b, {keys}");
        let backends = [("a", &*silent.url(), &*keys), ("b", &b.url(), "")];
        let gateway = gateway(&backends, "server: { timeouts: { upstream_first_byte: 300ms } }").await;
        let answer = Call::chat("hello").send(gateway.proxy()).await;
        assert_eq!(answer.status(), status, "{}", answer.text());
        silent.until("the silent one is left", |silent| silent.closed().len() == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_repeated_after_the_first_byte_of_an_answer() {
    let a = RawBackend::start(async |mut connection: Connection| {
        connection.request().await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection.send(format!("{head}f\r\ndata: {{\"a\":1}}\n\n\r\n")).await.expect("send");
        connection.reset();
    })
    .await;
    let b = RawBackend::answering(OK).await;
    let urls = [a.url(), b.url()];
    let keys = "retries: { on: [connect_failure, server_error, rate_limited, first_byte_timeout, broken] }";
    let answer = through([&urls[0], &urls[1], &urls[1]], keys, Call::chat_stream("hello")).await;
    assert_eq!((answer.status(), b.heads().len()), (200, 0));
    assert!(!answer.text().contains("[DONE]") && !answer.text().contains("\"ok\""), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_handshakes_that_fail_are_failures_to_connect() {
    let plain = RawBackend::answering(OK).await;
    let no_tls = plain.url().replace("http://", "https://");
    let well = RawBackend::answering(OK).await;
    let urls = ["http://no-such-host.invalid".to_owned(), no_tls, well.url()];
    let backends = [
        ("a", &*urls[0], "fallback: b, retries: { attempts: 2 }"),
        ("b", &urls[1], "fallback: c"),
        ("c", &urls[2], ""),
    ];
    let gateway = gateway(&backends, "server: { timeouts: { upstream_connect: 1s } }").await;
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
    assert_eq!(well.requests().len(), 1);
    let readable = |backend: &RawBackend| backend.heads().iter().any(|head| head.line.contains("POST"));
    assert!(!readable(&plain), "what is meant for TLS is never sent without");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_held_is_not_sent_twice() {
    let upload = |size: usize| {
        let call = Call::post("/files").header("content-type", "application/octet-stream");
        call.body(vec![7; size]).chunked(10_000)
    };
    let b = RawBackend::answering(OK).await;
    let reads = RawBackend::answering(error(503, "")).await;
    let urls = [reads.url(), b.url(), nobody()];
    let refused = through([&urls[0], &urls[1], &urls[1]], "", upload(300_000)).await;
    assert_eq!((refused.status(), b.heads().len()), (503, 0));
    let sent = through([&urls[2], &urls[1], &urls[1]], "", upload(300_000)).await;
    assert_eq!(sent.status(), 200, "{}", sent.text());
    assert_eq!(b.requests()[0].body, vec![7; 300_000], "nothing had been read when the connection failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_session_goes_to_no_other_backend() {
    let silent = RawBackend::start(async |mut connection: Connection| {
        connection.request().await;
        connection.stay_silent().await;
    })
    .await;
    let b = RawBackend::answering(OK).await;
    let keys = "fallback: b, retries: { on: [connect_failure, server_error, first_byte_timeout, broken] }";
    let gateway = gateway(&[("a", &silent.url(), keys), ("b", &b.url(), "")], "").await;
    let mut waiting = Call::chat("hello").session("doomed").open(gateway.proxy()).await;
    silent.until("the request", |silent| silent.requests().len() == 1).await;
    assert_eq!(gateway.kill("doomed").await.status, 200);
    assert_eq!(waiting.head().await.expect("a head").status(), 403);
    silent.until("the cut", |silent| silent.closed().len() == 1).await;
    assert_eq!(Call::chat("hello").session("doomed").send(gateway.proxy()).await.status(), 403);
    assert_eq!(b.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_a_request_on_its_way_to_another_backend() {
    let sick = RawBackend::answering(error(503, "")).await;
    let [stuck, third] = [RawBackend::not_accepting().await, RawBackend::answering(OK).await];
    let (a, b, c) = (sick.url(), stuck.url(), third.url());
    let backends =
        [("a", &*a, "fallback: b, retries: { attempts: 2 }"), ("b", &b, "fallback: c"), ("c", &c, "")];
    let gateway = gateway(&backends, "server: { timeouts: { upstream_connect: 20s } }").await;
    let mut waiting: RawClient = Call::chat("hello").session("doomed").open(gateway.proxy()).await;
    gateway.log_until(|line| line["message"] == "the request goes to another backend").await;
    let killed = gateway.kill("doomed").await;
    assert_eq!(killed.status, 200);
    let ended = waiting.end().await.at();
    assert!(ended.saturating_duration_since(killed.sent) < Duration::from_secs(5));
    gateway
        .session_until("doomed", |session| session["open_legs"] == 0 || session["legs"] == json!([]))
        .await;
    assert_eq!((sick.requests().len(), third.connections()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_of_a_session_tells_its_failovers() {
    let well = Demo::start().await;
    let gateway = gateway(&[("dead", &nobody(), "fallback: well"), ("well", &well.url(), "")], "").await;
    for _ in 0..2 {
        assert_eq!(Call::chat("hello").session("told").send(gateway.proxy()).await.status(), 200);
    }
    assert_eq!(gateway.kill("told").await.status, 200);
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    assert_eq!(
        (&record["failovers"], &record["backends"]),
        (&json!(2), &json!([{"name": "well", "requests": 2}]))
    );
    assert_eq!(record["error_count"], 0, "{record}");
}
