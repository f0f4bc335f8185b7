use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use serde_json::json;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support::http2::{BackendRequest, Client, End, H2Backend, short_wait, write};
use crate::support::program::Program;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Gateway, RawBackend, within};

/// A certificate for localhost whose server offers these protocols.
fn config(alpn: &[&str]) -> ServerConfig {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a TLS configuration");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// A gateway with this backend only, with these keys for the backend and the server.
async fn gateway(backend: &impl Backend, keys: &str, server: &str) -> Gateway {
    let url = backend.url();
    let tls = if url.starts_with("https") { ", tls: { insecure_skip_verify: true }" } else { "" };
    Gateway::with(format!(
        "server: {{ {server} }}\nbackends:\n  b: {{ url: {url:?}, type: openai{tls}{keys} }}\n"
    ))
    .await
}

const ALWAYS: &str = ", pool: { http2: always }";

/// Answers `/now…` at once; starts a stream for other paths and waits until it is reset.
async fn serve(asked: BackendRequest) {
    if asked.path.starts_with("/now") {
        return asked.answer("ok").await;
    }
    asked.stream_until_reset("text/event-stream", "data: {\"choices\":[]}\n\n".into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_spoken_when_the_backend_chooses_it() {
    let chosen = H2Backend::secure(config(&["h2", "http/1.1"]), serve).await;
    let through = gateway(&chosen, "", "forwarded_headers: true").await;
    let body = "{\"model\":\"m\",\"pad\":\"".to_owned() + &"x".repeat(2 << 20) + "\"}";
    for number in 0..20 {
        let call = Call::post(&format!("/now/{number}?a=b"))
            .header("content-type", "application/json")
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("x-kept", "1")
            .header("host", "gateway.example")
            .body(body.clone());
        let answer = call.send(through.proxy()).await;
        assert_eq!((answer.status(), answer.text().as_str(), answer.is_whole), (200, "ok", true));
    }
    assert_eq!(chosen.connections(), 1, "one connection carries them all");
    let request = chosen.requests().remove(19);
    assert_eq!(request.uri().to_string(), format!("{}/now/19?a=b", chosen.url()));
    assert!(request.body() == body.as_bytes());
    let field = |name: &str| request.headers().get(name).map(|value| value.to_str().expect("text"));
    assert_eq!((field("x-kept"), field("x-forwarded-host")), (Some("1"), Some("gateway.example")));
    for name in ["host", "connection", "x-hop", "keep-alive", "transfer-encoding"] {
        assert_eq!(field(name), None, "{name}");
    }
    // The server does not select HTTP/2, or does not negotiate.
    let plain = Gateway::with(format!(
        "backends:\n  b: {{ url: {:?}, type: openai, tls: {{ insecure_skip_verify: true }}, pool: {{ http2: never }} }}\n",
        chosen.url()
    ))
    .await;
    let answer = Call::get("/now").send(plain.proxy()).await;
    assert_eq!(answer.status(), 502, "the backend speaks nothing else: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_it_is_spoken_when_the_key_says_so() {
    let backend = H2Backend::start(serve).await;
    let through = gateway(&backend, ALWAYS, "").await;
    let mut client = Client::connect(through.proxy()).await;
    let mut exchanges = Vec::new();
    for number in 0..50 {
        exchanges.push(client.send(&Call::get(&format!("/now/{number}"))).await);
    }
    for exchange in exchanges {
        let answer = exchange.answer().await;
        assert_eq!((answer.status, answer.text().as_str(), answer.end), (200, "ok", End::Whole));
    }
    let whole = Call::get("/now").send(through.proxy()).await;
    assert_eq!((whole.status(), whole.text().as_str(), whole.is_whole), (200, "ok", true));
    let old = b"GET /now HTTP/1.0\r\n\r\n";
    let mut client = crate::support::RawClient::connect(through.proxy()).await;
    client.send(old).await.expect("send");
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_or_a_client_that_leaves_gives_up_the_stream_and_not_the_connection() {
    let backend = H2Backend::start(serve).await;
    let through = gateway(&backend, ALWAYS, "").await;
    let call = |path: &str, id: &str| {
        Call::post(path).header("content-type", "application/json").body("{\"stream\":true}").session(id)
    };
    let mut client = Client::connect(through.proxy()).await;
    let mut other =
        client.send(&call("/v1/chat/completions?other", "other")).await.head().await.expect("a head");
    other.until("data:").await;
    let mut killed =
        client.send(&call("/v1/chat/completions?killed", "killed")).await.head().await.expect("a head");
    killed.until("data:").await;
    let asked = Instant::now();
    through.kill("killed").await;
    assert!(killed.rest().await.text().contains("session_killed"));
    backend.until("the reset", |backend| backend.resets().len() == 1).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    let mut leaves = call("/v1/chat/completions?left", "left").open(through.proxy()).await;
    leaves.until("data:").await;
    drop(leaves);
    backend.until("the second reset", |backend| backend.resets().len() == 2).await;
    let exchange = client.send(&call("/v1/chat/completions?reset", "reset")).await;
    backend.until("the request", |backend| backend.requests().len() == 4).await;
    exchange.reset();
    backend.until("the third reset", |backend| backend.resets().len() == 3).await;
    for (path, reason) in backend.resets() {
        assert_eq!(reason, Some(Reason::CANCEL), "{path}");
        assert!(!path.contains("other"));
    }
    assert_eq!(client.ask(&Call::get("/now")).await.status, 200);
    assert_eq!((backend.connections(), backend.ended()), (1, 0));
    through.kill("other").await;
    assert!(other.rest().await.text().contains("session_killed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_goes_away_is_gone_round() {
    let backend = H2Backend::start(async |asked: BackendRequest| {
        if asked.path == "/now/last" {
            asked.close.send_replace(true);
        }
        serve(asked).await;
    })
    .await;
    let through = gateway(&backend, ALWAYS, "").await;
    for path in ["/now/first", "/now/last", "/now/again", "/now/last", "/now/again"] {
        let call = Call::post(path).header("content-type", "application/json").body("{}");
        let answer = call.send(through.proxy()).await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "{path}");
    }
    assert_eq!(backend.connections(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_given_back_is_sent_again_and_no_other() {
    let backend = H2Backend::start(async |mut asked: BackendRequest| match asked.path.as_str() {
        "/refused" if asked.number == 0 => asked.reset(Reason::REFUSED_STREAM),
        "/always" => asked.reset(Reason::REFUSED_STREAM),
        "/broken" => asked.reset(Reason::INTERNAL_ERROR),
        "/half" => {
            let mut to = asked.begin("application/json");
            write(&mut to, "{\"half".into(), false).await.expect("a piece");
            short_wait().await;
            asked.reset(Reason::INTERNAL_ERROR);
        }
        _ => asked.answer("ok").await,
    })
    .await;
    let through = gateway(&backend, ALWAYS, "").await;
    let ask = async |path: &str| {
        let call = Call::post(path).header("content-type", "application/json").body("{\"a\":1}");
        call.send(through.proxy()).await
    };
    let answer = ask("/refused").await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "it was not parsed");
    let sent = backend.requests();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|request| request.body() == b"{\"a\":1}"));
    let answer = ask("/always").await;
    assert_eq!((answer.status(), &answer.json()["error"]["code"]), (502, &json!("backend_unavailable")));
    assert_eq!(backend.requests().len(), 5, "three times");
    assert_eq!(ask("/broken").await.status(), 502);
    assert_eq!(backend.requests().len(), 6, "it may have been done");
    let answer = ask("/half").await;
    assert!(answer.status() == 200 && !answer.is_whole, "{answer:?}");
    assert_eq!(ask("/now").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_to_those_who_can_take_them() {
    let backend = H2Backend::start(async |mut asked: BackendRequest| {
        let mut to = asked.begin("application/grpc");
        write(&mut to, "body".into(), false).await.expect("a piece");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a value"));
        to.send_trailers(trailers).expect("trailers");
    })
    .await;
    let through = gateway(&backend, ALWAYS, "").await;
    let answer = Client::connect(through.proxy()).await.ask(&Call::get("/grpc")).await;
    assert_eq!((answer.text().as_str(), answer.end), ("body", End::Whole));
    assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "0");
    let answer = Call::get("/grpc").send(through.proxy()).await;
    assert_eq!((answer.text().as_str(), answer.is_whole), ("body", true));
}

/// Sends a body in pieces, and trailers.
async fn send_with_trailers(upload: &mut SendStream<Bytes>, pieces: &[&'static str]) {
    for piece in pieces {
        write(upload, Bytes::from_static(piece.as_bytes()), false).await.expect("a piece");
        short_wait().await;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", "1".parse().expect("a value"));
    upload.send_trailers(trailers).expect("trailers");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_request_do_not_harm_it() {
    let answering = async |asked: BackendRequest| asked.answer("ok").await;
    let backend = H2Backend::start(answering).await;
    let through = gateway(&backend, ALWAYS, "").await;
    let mut client = Client::connect(through.proxy()).await;
    for pieces in [&["a", "b", "c"][..], &["one"], &[]] {
        let request = http::Request::post(format!("http://{}/now", through.proxy()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("trailer", "x-checksum")
            .body(())
            .expect("a head");
        let (answer, mut upload) = client.begin(request, false).await;
        send_with_trailers(&mut upload, pieces).await;
        let answer = within("an answer", answer).await.expect("a head");
        assert_eq!(answer.status(), 200);
        let seen = backend.requests().pop().expect("a request");
        assert_eq!(seen.body(), pieces.concat().as_bytes(), "the body is whole, without its trailers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_request_do_not_harm_it_at_a_backend_of_http1() {
    let backend = RawBackend::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let through = Gateway::start(&backend).await;
    let mut client = Client::connect(through.proxy()).await;
    for (kind, pieces) in [
        ("application/grpc", &["a", "b"][..]),
        ("application/json", &["{\"model\":", "\"m\"}"]),
        ("application/json", &[]),
    ] {
        let request = http::Request::post(format!("http://{}/echo", through.proxy()))
            .header("content-type", kind)
            .body(())
            .expect("a head");
        let (answer, mut upload) = client.begin(request, false).await;
        send_with_trailers(&mut upload, pieces).await;
        within("an answer", answer).await.expect("a head");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_does_not_read_does_not_stop_the_others_of_the_connection() {
    let backend = H2Backend::start(async |mut asked: BackendRequest| {
        if asked.path == "/now" {
            return asked.answer("ok").await;
        }
        let mut to = asked.begin("application/octet-stream");
        let _ = write(&mut to, Bytes::from(vec![b'x'; 64 << 20]), true).await;
    })
    .await;
    let through = gateway(&backend, ALWAYS, "").await;
    let before = through.resident_bytes();
    let mut slow = Vec::new();
    for number in 0..20 {
        slow.push(Call::get("/large").open(through.proxy()).await);
        // In sequence: concurrent ones would open a connection each.
        backend.until("the request", |backend| backend.requests().len() == number + 1).await;
    }
    short_wait().await;
    assert_eq!(Call::get("/now").send(through.proxy()).await.text(), "ok");
    let grown = through.resident_bytes().saturating_sub(before);
    println!("20 slow readers: {} KiB", grown >> 10);
    assert!(grown < 32 << 20, "{grown} bytes for 20 who do not read");
    let answer = slow.remove(0).message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.is_whole && answer.body.len() == 64 << 20);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_goes_over_http11() {
    // HTTP/2 is negotiated for other requests but has no upgrade; the handshake then offers HTTP/1.1 only.
    let offered = RawBackend::answering("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").await;
    let through = gateway(&offered, ALWAYS, "").await;
    let call = Call::get("/socket").header("Connection", "Upgrade").header("Upgrade", "websocket");
    let answer = call.send(through.proxy()).await;
    assert_eq!(answer.status(), 426);
    assert_eq!(offered.heads()[0].field("upgrade"), Some("websocket"));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_passes_with_its_trailers_in_both_directions() {
    let mut server = Program::python("grpc_echo.py", "-", &["serve"]);
    let port = server.line("port ").await;
    let yaml = format!(
        "server: {{ h2c: true }}\nbackends:\n  b: {{ url: 'http://127.0.0.1:{port}', type: http{ALWAYS} }}\n"
    );
    let through = Gateway::with(yaml).await;
    let outcome = Program::python("grpc_echo.py", &through.url(), &["call"]).outcome().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let expected = json!({
        "unary": [100_005, "unary", "OK"],
        "down": [["n 0", "n 1", "n 2"], "down", "OK"],
        "up": "a, b, c",
        "both": ["echo 0", "echo 1", "echo 2"],
        "fail": ["FAILED_PRECONDITION", "not now"],
    });
    assert_eq!(outcome.last(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_are_asked_for_only_where_they_can_pass() {
    let backend = H2Backend::start(serve).await;
    let through = gateway(&backend, ALWAYS, "").await;
    let plain = RawBackend::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let old = gateway(&plain, "", "").await;
    for (te, asked) in [("trailers", Some("trailers")), ("gzip, Trailers;q=1", None), ("gzip", None)] {
        let call = Call::get("/now").header("te", te);
        // The crate refuses other values than `trailers` in a client.
        if te == "trailers" {
            assert_eq!(Client::connect(through.proxy()).await.ask(&call).await.status, 200);
            let seen = backend.requests().pop().expect("a request");
            assert_eq!(seen.headers().get("te").and_then(|te| te.to_str().ok()), asked);
            assert_eq!(Client::connect(old.proxy()).await.ask(&call).await.status, 200);
        }
        assert_eq!(call.send(through.proxy()).await.status(), 200);
        let seen = backend.requests().pop().expect("a request");
        assert!(!seen.headers().contains_key("te"), "an HTTP/1.1 client gets no trailers: {te}");
        assert_eq!(call.send(old.proxy()).await.status(), 200);
    }
    assert!(plain.heads().iter().all(|head| head.field("te").is_none()));
}
