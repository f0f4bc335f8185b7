//! A panic in a phase of the proxy, over a real connection.

use std::io::Write;
use std::net::SocketAddr;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::app::components::Components;
use crate::config::{Flags, Sources};
use crate::proxy::downstream::{self, ConnectionPermits, DescriptorBudget, Downstream, UnparsedRequests};
use crate::proxy::gateway::Gateway;
use crate::proxy::http_proxy::http_proxy;
use crate::proxy::request_ctx::RequestCtx;

/// A gateway that panics when it selects a backend.
struct Faulty(Gateway);

#[async_trait]
impl ProxyHttp for Faulty {
    type CTX = Box<RequestCtx>;

    fn new_ctx(&self) -> Self::CTX {
        self.0.new_ctx()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> pingora_core::Result<bool> {
        self.0.request_filter(session, ctx).await
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut Self::CTX,
    ) -> pingora_core::Result<Box<HttpPeer>> {
        panic!("no such thing as a backend")
    }
}

/// Collects the log output.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_panic_ends_one_request_and_is_counted_told_and_settled() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("data_dir: {:?}\nbackend: \"http://127.0.0.1:1\"\n", folder.path());
    let config = Sources::of_text(text, Flags::default()).load().unwrap();
    let (shared, _guard) = Components::build(&config).unwrap();
    let written = Written::default();
    let (log, guard) = Log::to(written.clone(), &config.logging);
    report(log, Arc::clone(&shared.metrics));

    let proxy = http_proxy(&Arc::default(), Faulty(Gateway::new(shared.proxy_state()))).unwrap();
    let budget = DescriptorBudget { descriptors: usize::MAX, per_request: 1 };
    let permits = ConnectionPermits::new(&shared.metrics, budget);
    let unparsed = UnparsedRequests::new(Arc::clone(&shared.log), &shared.metrics);
    let downstream = Downstream::new(proxy, Arc::clone(&shared.live), permits, unparsed);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (draining, drained) = watch::channel(false);
    tokio::spawn(downstream::serve(listener, downstream, drained));

    let body = r#"{"model":"m","messages":[]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Session-ID: unlucky\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut beside = TcpStream::connect(address).await.unwrap();
    let answer = ask(address, &request).await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(answer.contains(r#""code":"internal""#), "{answer}");
    assert!(!answer.contains("no such thing"), "its words are not for the caller: {answer}");

    beside.write_all(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut healthy = String::new();
    beside.read_to_string(&mut healthy).await.unwrap();
    assert!(healthy.starts_with("HTTP/1.1 200"), "another connection lives on: {healthy}");
    draining.send_replace(true);
    draining.closed().await;

    let numbers = shared.metrics.encode();
    for line in ["elida_panics_total 1", r#"elida_open_legs{kind="request"} 0"#, "elida_connections 0"] {
        assert!(numbers.lines().any(|found| found == line), "no {line} in {numbers}");
    }
    assert!(numbers.contains(r#"elida_http_requests_total{backend="default",code="500""#), "{numbers}");
    drop(guard);
    let text = String::from_utf8(written.0.lock().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [line] = &lines[..] else { panic!("told once: {lines:?}") };
    assert_eq!((&line["message"], &line["level"]), (&"panic".into(), &"ERROR".into()), "{line}");
    assert_eq!(line["words"], "no such thing as a backend");
    assert!(line["location"].as_str().unwrap().contains("panics/tests.rs:"), "{line}");
}
