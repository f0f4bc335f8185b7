use std::io::Read;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::support::http2::{Client, End, H2Backend};
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Gateway, RawBackend, RawClient, sha256, within};

fn yaml(url: &str) -> String {
    format!(
        "backends:\n  web: {{ url: {url:?}, type: http, default: true }}\n  model: {{ url: {url:?}, type: openai }}\n\
         compression: {{ enabled: true }}\n"
    )
}

/// A text that compresses well, of 50,000 bytes.
fn text() -> String {
    (0..5000).fold(String::new(), |text, at| text + &format!("{at:05} line\n")[1..])
}

fn answer(kind: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// What curl got: the head in lower case, and the decoded body.
fn curl(gateway: &Gateway, arguments: &[&str]) -> (String, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("curl");
    command.args(["-sS", "--compressed", "-o"]).arg(folder.path().join("body")).arg("-D");
    command.arg(folder.path().join("head")).args(arguments).arg(format!("http://{}/file", gateway.proxy()));
    let output = command.output().expect("curl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("a file");
    (String::from_utf8_lossy(&read("head")).to_lowercase(), read("body"))
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_python_read_every_coding_over_both_protocols() {
    let body = text();
    let backend = RawBackend::answering(answer(
        "text/plain; charset=utf-8",
        "ETag: \"v1\"\r\nAccept-Ranges: bytes\r\nDigest: sha-256=x\r\n",
        &body,
    ))
    .await;
    let gateway = Gateway::with(yaml(&backend.url())).await;
    for version in ["--http1.1", "--http2-prior-knowledge", "--http1.0"] {
        for (accepted, coding) in [
            ("zstd", "zstd"),
            ("br", "br"),
            ("gzip", "gzip"),
            ("gzip, deflate, br, zstd", "zstd"),
            ("gzip;q=1, br;q=0.5", "gzip"),
        ] {
            let (head, got) = curl(&gateway, &[version, "-H", &format!("accept-encoding: {accepted}")]);
            assert!(
                head.contains(&format!("content-encoding: {coding}\r\n")),
                "{version} {accepted}: {head}"
            );
            assert!(
                head.contains("etag: w/\"v1\"\r\n") && head.contains("vary: accept-encoding\r\n"),
                "{head}"
            );
            for name in ["content-length", "accept-ranges", "digest"] {
                assert!(!head.contains(&format!("\r\n{name}:")), "{name}: {head}");
            }
            assert!(got == body.as_bytes(), "{version} {accepted}: {} bytes", got.len());
        }
        for accepted in ["identity", "gzip;q=0", "deflate"] {
            let (head, got) = curl(&gateway, &[version, "-H", &format!("accept-encoding: {accepted}")]);
            assert!(!head.contains("content-encoding") && head.contains("vary: accept-encoding"), "{head}");
            assert!(head.contains("etag: \"v1\"") && got == body.as_bytes(), "{head}");
        }
    }
    let script = "import gzip, sys, urllib.request as u\n\
                  r = u.urlopen(u.Request(sys.argv[1], headers={'Accept-Encoding': 'gzip'}))\n\
                  assert r.headers['Content-Encoding'] == 'gzip', r.headers\n\
                  print(len(gzip.decompress(r.read())))";
    let url = format!("http://{}/file", gateway.proxy());
    let output = Command::new("python3").args(["-c", script, &url]).output().expect("python3");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), body.len().to_string(), "{output:?}");
    let plain = gateway.metric("elida_compressed_bytes_total{algorithm=\"gzip\",side=\"in\"}").await;
    let sent = gateway.metric("elida_compressed_bytes_total{algorithm=\"gzip\",side=\"out\"}").await;
    assert!(sent > 0.0 && sent * 3.0 < plain, "{sent} of {plain}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_over_http2_is_compressed_too() {
    let body = Bytes::from(text());
    let backend = H2Backend::start(move |mut request| {
        let body = body.clone();
        async move {
            let mut sending = request.begin("text/plain");
            let _ = crate::support::http2::write(&mut sending, body, true).await;
        }
    })
    .await;
    let yaml = yaml(&backend.url()).replace("default: true", "default: true, pool: { http2: always }");
    let gateway = Gateway::with(yaml).await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let (head, got) = curl(&gateway, &[version, "-H", "accept-encoding: br"]);
        assert!(head.contains("content-encoding: br\r\n") && got == text().as_bytes(), "{version}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_text_arrives_as_it_comes() {
    let next = Arc::new(Notify::new());
    let go = Arc::clone(&next);
    let backend = RawBackend::start(move |mut connection| {
        let go = Arc::clone(&go);
        async move {
            while connection.request().await.is_some() {
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = connection.send(head).await;
                for _ in 0..3 {
                    let _ = connection.send("6\r\nhello\n\r\n").await;
                    go.notified().await;
                }
                let _ = connection.send("0\r\n\r\n").await;
            }
        }
    })
    .await;
    let gateway = Gateway::with(yaml(&backend.url())).await;
    for coding in ["gzip", "br", "zstd"] {
        let call = Call::get("/slow").header("accept-encoding", coding);
        let mut client = Client::connect(gateway.proxy()).await;
        let mut head = client.send(&call).await.head().await.expect("a head");
        let mut got = Vec::new();
        for count in 1..=3 {
            while decode(coding, &got).len() < 6 * count {
                let piece = within("a piece", head.body.data()).await.expect("more").expect("a piece");
                let _ = head.body.flow_control().release_capacity(piece.len());
                got.extend_from_slice(&piece);
            }
            next.notify_one();
        }
        assert_eq!(decode(coding, &got), b"hello\n".repeat(3), "{coding}");
    }
}

/// Decodes as much as there is.
fn decode(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut reader: Box<dyn Read + '_> = match coding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        "br" => Box::new(brotli::Decompressor::new(bytes, 4096)),
        _ => match zstd::stream::read::Decoder::new(bytes) {
            Ok(decoder) => Box::new(decoder),
            Err(_) => return Vec::new(),
        },
    };
    let (mut plain, mut piece) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = reader.read(&mut piece) {
        plain.extend_from_slice(&piece[..read]);
    }
    plain
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_and_no_answer_of_an_api_is_touched() {
    let body = text();
    let all = "zstd, br, gzip";
    for (kind, fields, path, status) in [
        ("text/event-stream", "", "/events", 200),
        ("application/x-ndjson", "", "/lines", 200),
        ("application/grpc", "", "/service.Name/Method", 200),
        ("application/json", "", "/v1/chat/completions", 200),
        ("application/json", "", "/model/v1/files", 200),
        ("application/json", "", "/mcp", 200),
        ("application/json", "Cache-Control: no-transform\r\n", "/a", 200),
        ("application/json", "Content-Encoding: gzip\r\n", "/a", 200),
        ("image/png", "", "/a", 200),
        ("text/plain", "Content-Range: bytes 0-49999/60000\r\n", "/a", 206),
    ] {
        let sent = answer(kind, fields, &body).replace("200 OK", &format!("{status} OK"));
        let backend = RawBackend::answering(sent).await;
        let gateway = Gateway::with(yaml(&backend.url())).await;
        let call = Call::get(path).header("accept-encoding", all);
        let got = call.send(gateway.proxy()).await;
        let seen = (got.status(), got.is_whole, sha256(&got.body));
        assert_eq!(seen, (status, true, sha256(body.as_bytes())), "{kind} {fields} {path}");
        assert_eq!(got.head.field("vary"), None, "{kind} {fields} {path}");
        let mut client = Client::connect(gateway.proxy()).await;
        let got = client.ask(&call).await;
        assert_eq!((sha256(&got.body), got.end), (sha256(body.as_bytes()), End::Whole), "{kind} {path}");
    }
    // Small ones, and the head alone, tell caches nevertheless that others differ.
    let backend = RawBackend::answering(answer("text/plain", "", "small")).await;
    let gateway = Gateway::with(yaml(&backend.url())).await;
    let got = Call::get("/a").header("accept-encoding", all).send(gateway.proxy()).await;
    assert_eq!((got.head.field("vary"), got.text().as_str()), (Some("Accept-Encoding"), "small"));
    let refusing =
        Call::get("/a").header("accept-encoding", "identity;q=0, gzip").send(gateway.proxy()).await;
    assert_eq!(decode("gzip", &refusing.body), b"small");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_or_a_broken_backend_cuts_the_compressed_answer() {
    let backend = RawBackend::start(|mut connection| async move {
        let Some(request) = connection.request().await else { return };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello\n\r\n";
        let _ = connection.send(head).await;
        if request.head.target().ends_with("silent") {
            connection.stay_silent().await;
        }
    })
    .await;
    let gateway = Gateway::with(yaml(&backend.url())).await;
    for coding in ["gzip", "br", "zstd"] {
        let of = |path: &str| Call::get(path).header("accept-encoding", coding);
        let broken = of("/broken").send(gateway.proxy()).await;
        assert!(!broken.is_whole && decode(coding, &broken.body) == b"hello\n", "{coding}: {broken:?}");
        let id = format!("one-{coding}");
        let mut client: RawClient = of("/silent").session(&id).open(gateway.proxy()).await;
        let head = client.head().await.expect("a head");
        assert_eq!(head.field("content-encoding"), Some(coding));
        client.until("\r\n").await;
        assert_eq!(gateway.kill(&id).await.status, 200);
        let cut = client.body(head, Unframed::UntilEnd).await;
        assert!(!cut.is_whole && decode(coding, &cut.body) == b"hello\n", "{coding}: {cut:?}");
        let id = format!("two-{coding}");
        let mut client = Client::connect(gateway.proxy()).await;
        let mut head = client.send(&of("/silent").session(&id)).await.head().await.expect("a head");
        // A reset discards what has not been written.
        head.first_piece().await;
        assert_eq!(gateway.kill(&id).await.status, 200);
        let cut = head.rest().await;
        assert!(cut.end != End::Whole && decode(coding, &cut.body) == b"hello\n", "{coding}: {cut:?}");
    }
}
