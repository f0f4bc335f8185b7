//! Services that decide besides the rules: over TLS, about WebSockets, and where a request fails over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::rules::ruled;
use crate::support::authority::Authority;
use crate::support::socket::Socket;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend};

/// A service that lets everything pass but what has this text.
async fn service(refused: &'static str) -> RawBackend {
    RawBackend::start(move |mut connection| async move {
        while let Some(question) = connection.request().await {
            let body = json!({ "result": !question.text().contains(refused) }).to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            if connection.send(head + &body).await.is_err() {
                return;
            }
        }
    })
    .await
}

fn inputs(service: &RawBackend) -> Vec<Value> {
    service.requests().iter().map(|question| question.json()["input"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_socket_is_asked_about_and_may_be_refused() {
    let (demo, opa) = (Demo::start().await, service("plums").await);
    let section = format!(
        "  external:\n    - {{ name: opa, url: '{}/v1', on: [response], on_error: closed, send: [facts, text] }}",
        opa.url()
    );
    let gateway = ruled(&demo, &section).await;
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime?model=gpt-realtime-demo", "voice").await;
    socket.until("session.created").await;
    for (asked, text) in [(1, "one pear"), (2, "two pears")] {
        socket.ask(text).await;
        socket.until("response.done").await;
        let inputs = inputs(&opa);
        assert_eq!(inputs.len(), asked, "{inputs:?}");
        assert_eq!(inputs[asked - 1]["phase"], "response");
        assert!(inputs[asked - 1]["text"].as_str().is_some_and(|said| said.contains("pear")), "{inputs:?}");
    }
    socket.ask("purple plums").await;
    let (events, ended) = socket.end().await;
    assert_eq!(ended.map(|(code, _)| code), Some(1008), "{events:?}");
    assert!(events.iter().all(|event| event["type"] != "response.done"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_fails_over_is_asked_about_once_with_where_it_may_go() {
    let (demo, opa) = (Demo::start().await, service("\0").await);
    let sick = RawBackend::answering("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").await;
    let gateway = Gateway::with(format!(
        "backends:\n  sick: {{ url: {:?}, type: openai, default: true, fallback: live }}\n  live: {{ url: {:?}, type: openai }}\n\
         policy:\n  external:\n    - {{ name: opa, url: '{}/v1', on: [request], on_error: closed }}\n",
        sick.url(),
        demo.url(),
        opa.url()
    ))
    .await;
    let answer = Call::chat("hello").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let inputs = inputs(&opa);
    assert_eq!(inputs.len(), 1, "{inputs:?}");
    assert_eq!(
        (&inputs[0]["request"]["backend"], &inputs[0]["request"]["failover"]),
        (&json!("sick"), &json!(["live"]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_asked_over_tls_and_only_if_its_certificate_is_trusted() {
    let demo = Demo::start().await;
    let authority = Authority::new();
    let name = SanType::IpAddress([127, 0, 0, 1].into());
    let (leaf, key) = authority.issue(vec![name], ExtendedKeyUsagePurpose::ServerAuth);
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key);
    let acceptor = TlsAcceptor::from(Arc::new(config.expect("a TLS configuration")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the certificate ends the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut text = Vec::new();
            while !text.ends_with(b"}}") {
                let mut part = [0; 4096];
                let Ok(read @ 1..) = stream.read(&mut part).await else { break };
                text.extend_from_slice(&part[..read]);
            }
            counted.fetch_add(1, Ordering::SeqCst);
            let answer =
                "HTTP/1.1 200 OK\r\nContent-Length: 16\r\nConnection: close\r\n\r\n{\"result\": true}";
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let yaml = format!(
        "backend: {:?}\npolicy:\n  external:\n    - {{ name: opa, url: 'https://127.0.0.1:{port}/v1', on: [request], on_error: closed, timeout: 5s }}\n",
        demo.url()
    );
    let trusted = authority.file("ca.pem");
    let gateway = Gateway::with_variables(&yaml, &[("SSL_CERT_FILE", trusted.as_os_str())]).await;
    let answer = Call::chat("hello").send(gateway.proxy()).await;
    assert_eq!((answer.status(), asked.load(Ordering::SeqCst)), (200, 1), "{}", answer.text());
    // Nobody trusts this authority otherwise.
    let gateway = Gateway::with(&yaml).await;
    let answer = Call::chat("hello").send(gateway.proxy()).await;
    assert_eq!((answer.status(), asked.load(Ordering::SeqCst)), (403, 1), "{}", answer.text());
}
