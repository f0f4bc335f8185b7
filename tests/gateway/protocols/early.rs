//! Answers that are sent before the request is complete, over HTTP/2.

use std::process::Command;

use crate::support::http2::{RawFrames, block, frame};
use crate::support::{Backend, Gateway, RawBackend, within};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

async fn refusing() -> (Gateway, RawBackend) {
    let backend = RawBackend::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
    let yaml = format!(
        "auth: {{ proxy: required }}\nbackends: {{ main: {{ url: {:?}, type: openai, default: true, auth: {{ mode: none }} }} }}\n",
        backend.url()
    );
    (Gateway::with(yaml).await, backend)
}

/// A request whose head has been sent; the answer is here, and its body is not.
async fn answered(gateway: &Gateway) -> RawFrames {
    let mut client = RawFrames::connect(gateway.proxy()).await;
    let head = block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/v1/chat/completions"),
        (":authority", "gateway"),
        ("content-type", "application/json"),
    ]);
    client.send(&frame(HEADERS, END_HEADERS, 1, &head)).await.expect("a head");
    client.frame(HEADERS).await;
    client.frame(DATA).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_refused_early_is_not_reset_while_its_request_arrives() {
    let (gateway, backend) = refusing().await;
    let mut client = answered(&gateway).await;
    client.send(&frame(DATA, END_STREAM, 1, b"{\"model\":\"m\"}")).await.expect("the rest");
    // The answer to a PING follows all that was sent before it.
    client.send(&frame(PING, 0, 0, &[7; 8])).await.expect("a ping");
    client.frame_without(PING, RST_STREAM).await;
    // A client that sends nothing more is told that the rest is not wanted (RFC 9113, 8.1).
    let mut client = answered(&gateway).await;
    assert_eq!(client.frame(RST_STREAM).await, 0_u32.to_be_bytes(), "NO_ERROR");
    assert!(backend.heads().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_reads_a_refusal_while_it_still_sends() {
    let (gateway, backend) = refusing().await;
    let url = format!("http://{}/v1/chat/completions", gateway.proxy());
    let folder = tempfile::tempdir().expect("a folder");
    let body = folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 3 << 20]).expect("a file");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for _ in 0..5 {
            let mut command = Command::new("curl");
            command.args([
                "-sS",
                version,
                "-w",
                "%{http_code}",
                "-o",
                "/dev/null",
                "-H",
                "content-type: application/json",
            ]);
            command.arg("--data-binary").arg(format!("@{}", body.display())).arg(&url);
            let asking = tokio::task::spawn_blocking(move || command.output().expect("curl"));
            let output = within("curl", asking).await.expect("a task");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(String::from_utf8_lossy(&output.stdout), "401", "{version}: {errors}");
        }
    }
    assert!(backend.heads().is_empty());
}
