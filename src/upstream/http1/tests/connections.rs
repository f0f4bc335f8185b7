//! Connections: writing, reuse, and backends that close, stay silent or do not read.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method};
use pingora_core::Error;
use pingora_core::connectors::http::custom::{Connection as Connected, Connector as _};
use pingora_core::protocols::http::custom::client::Session as _;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::upstream::http1::session::Http1Session;
use crate::upstream::http1::{Http1Connector, RequestWriter, Room, request_writer};
use crate::upstream::peer::ended_unanswered;

const KEPT: Option<Duration> = Some(Duration::from_secs(60));

struct Backend {
    listener: TcpListener,
    peer: HttpPeer,
}

impl Backend {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, peer: HttpPeer::new(address, false, String::new()) }
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }
}

async fn session(connector: &Http1Connector, peer: &HttpPeer) -> (Http1Session, bool) {
    if let Some(session) = connector.reused_http_session(peer).await {
        return (session, true);
    }
    match connector.get_http_session(peer).await.unwrap() {
        (Connected::Session(session), _) => (session, false),
        (Connected::Stream(_), _) => unreachable!("it makes sessions only"),
    }
}

fn head(method: Method, fields: &[(&'static str, &str)]) -> Box<RequestHeader> {
    let mut head = RequestHeader::build(method, b"/v1?q", None).unwrap();
    head.insert_header("Host", "backend").unwrap();
    for (name, value) in fields {
        head.insert_header(*name, *value).unwrap();
    }
    Box::new(head)
}

fn writer(session: &Http1Session) -> RequestWriter {
    request_writer(session.digest().unwrap()).unwrap()
}

/// Reads a request up to this end.
async fn received(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "closed after {}", read.escape_ascii());
    }
    String::from_utf8(read).unwrap()
}

/// Reads the response; returns its content.
async fn answer(session: &mut Http1Session) -> Result<Vec<u8>, Box<Error>> {
    session.read_response_header().await?;
    let mut content = Vec::new();
    while let Some(data) = session.read_response_body().await? {
        content.extend_from_slice(&data);
    }
    Ok(content)
}

/// Sends GET and reads what this stream answers.
async fn exchange(session: &mut Http1Session, stream: &mut TcpStream, response: &str) -> Vec<u8> {
    session.write_request_header(head(Method::GET, &[]), true).await.unwrap();
    received(stream, "\r\n\r\n").await;
    stream.write_all(response.as_bytes()).await.unwrap();
    answer(session).await.unwrap()
}

#[tokio::test]
async fn head_and_body_arrive_as_written_in_each_framing() {
    let (backend, connector) = (Backend::start().await, Http1Connector::new(8));
    for (fields, parts, expected) in [
        (&[("Content-Length", "5")][..], &["hel", "lo"][..], "Content-Length: 5\r\n\r\nhello"),
        (&[("Content-Length", "5")], &["hello, and more"], "Content-Length: 5\r\n\r\nhello"),
        (&[], &["hello", "", "x"], "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\nx\r\n0\r\n\r\n"),
        (&[("Transfer-Encoding", "chunked")], &[], "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        let (mut session, _) = session(&connector, &backend.peer).await;
        session.write_request_header(head(Method::POST, fields), false).await.unwrap();
        let mut body = session.take_request_body_writer().unwrap();
        for part in parts {
            body.write_all_buf(&mut Bytes::copy_from_slice(part.as_bytes())).await.unwrap();
        }
        body.finish().await.unwrap();
        let writer = writer(&session);
        poll_fn(|cx| if writer.poll(cx) == Room::Free { Poll::Ready(()) } else { Poll::Pending }).await;
        let mut stream = backend.accept().await;
        let request = received(&mut stream, expected).await;
        assert_eq!(request, format!("POST /v1?q HTTP/1.1\r\nHost: backend\r\n{expected}"));
    }
}

#[tokio::test]
async fn unchanged_fields_keep_the_clients_spelling() {
    let (backend, connector) = (Backend::start().await, Http1Connector::new(8));
    let client =
        Bytes::from_static(b"GET /v1?q HTTP/1.1\r\nhOST: a\r\nX-One:  1\r\nX-Two: 2\r\nX-Empty:\r\n\r\n");
    let value = |text: &[u8]| {
        let at = client.windows(text.len()).rposition(|part| part == text).unwrap();
        HeaderValue::from_maybe_shared(client.slice(at..at + text.len())).unwrap()
    };
    let mut head = RequestHeader::build_no_case(Method::GET, b"/v1?q", None).unwrap();
    for (name, value) in [
        ("host", HeaderValue::from_static("b")),
        ("x-one", value(b"1")),
        ("x-two", value(b"2")),
        ("x-empty", HeaderValue::from_static("")),
        ("via", value(b"2")),
    ] {
        head.append_header(name, value).unwrap();
    }
    let (mut session, _) = session(&connector, &backend.peer).await;
    writer(&session).spell_as(client);
    session.write_request_header(Box::new(head), true).await.unwrap();
    let seen = received(&mut backend.accept().await, "\r\n\r\n").await;
    assert_eq!(seen, "GET /v1?q HTTP/1.1\r\nHost: b\r\nX-One: 1\r\nX-Two: 2\r\nX-Empty: \r\nvia: 2\r\n\r\n");
}

#[tokio::test]
async fn a_connection_is_used_again_until_its_backend_closes_it() {
    let (backend, connector) = (Backend::start().await, Http1Connector::new(8));
    let (mut first, reused) = session(&connector, &backend.peer).await;
    assert!(!reused);
    let mut stream = backend.accept().await;
    let answered = exchange(&mut first, &mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(answered, b"ok");
    connector.release_http_session(first, &backend.peer, KEPT).await;

    let (mut second, reused) = session(&connector, &backend.peer).await;
    assert!(reused);
    exchange(&mut second, &mut stream, "HTTP/1.1 204 No Content\r\n\r\n").await;
    connector.release_http_session(second, &backend.peer, KEPT).await;

    drop(stream);
    // The end of the connection arrives with the next turn of the driver.
    while connector.reused_http_session(&backend.peer).await.is_some() {
        tokio::task::yield_now().await;
    }
    assert!(!session(&connector, &backend.peer).await.1);
}

#[tokio::test]
async fn what_is_doubtful_is_not_used_again() {
    let (backend, connector) = (Backend::start().await, Http1Connector::new(8));
    for (response, limit) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok, and more", KEPT),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", KEPT),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", KEPT),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Some(Duration::ZERO)),
    ] {
        let (mut first, _) = session(&connector, &backend.peer).await;
        let mut stream = backend.accept().await;
        assert_eq!(exchange(&mut first, &mut stream, response).await, b"ok");
        connector.release_http_session(first, &backend.peer, limit).await;
        assert!(connector.reused_http_session(&backend.peer).await.is_none(), "{response:?}");
        let closed = timeout(Duration::from_secs(5), stream.read(&mut [0; 8])).await.unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)), "the connection is closed at once");
    }
    // The request was not written to its end.
    let (mut first, _) = session(&connector, &backend.peer).await;
    let mut stream = backend.accept().await;
    first.write_request_header(head(Method::POST, &[("Content-Length", "5")]), false).await.unwrap();
    stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    answer(&mut first).await.unwrap();
    connector.release_http_session(first, &backend.peer, KEPT).await;
    assert!(connector.reused_http_session(&backend.peer).await.is_none());
}

#[tokio::test]
async fn no_more_connections_are_kept_than_there_is_capacity() {
    let (backend, connector) = (Backend::start().await, Http1Connector::new(2));
    let mut open = Vec::new();
    for _ in 0..3 {
        let (mut session, _) = session(&connector, &backend.peer).await;
        let mut stream = backend.accept().await;
        exchange(&mut session, &mut stream, "HTTP/1.1 204 No Content\r\n\r\n").await;
        open.push((session, stream));
    }
    for (session, _) in &mut open.iter_mut() {
        // Kept by the vector's streams only.
        let session = std::mem::replace(session, self::session(&connector, &backend.peer).await.0);
        connector.release_http_session(session, &backend.peer, KEPT).await;
    }
    let mut kept = 0;
    while connector.reused_http_session(&backend.peer).await.is_some() {
        kept += 1;
    }
    assert!(kept <= 2, "{kept}");
}

#[tokio::test(start_paused = true)]
async fn idle_connections_expire() {
    let (backend, connector) = (Backend::start().await, Http1Connector::new(8));
    let (mut first, _) = session(&connector, &backend.peer).await;
    let mut stream = backend.accept().await;
    exchange(&mut first, &mut stream, "HTTP/1.1 204 No Content\r\n\r\n").await;
    connector.release_http_session(first, &backend.peer, Some(Duration::from_millis(1))).await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "closed by the sweep, which needs no request");
}

#[tokio::test]
async fn a_backend_that_does_not_read_fills_the_queue_but_can_answer() {
    let (backend, connector) = (Backend::start().await, Http1Connector::new(8));
    let (mut session, _) = session(&connector, &backend.peer).await;
    let mut stream = backend.accept().await;
    let body = vec![b'x'; 32 << 20];
    let length = body.len().to_string();
    session.write_request_header(head(Method::POST, &[("Content-Length", &length)]), false).await.unwrap();
    let mut upload = session.take_request_body_writer().unwrap();
    upload.write_all_buf(&mut Bytes::from(body)).await.unwrap();
    upload.finish().await.unwrap();
    let writer = writer(&session);
    assert_eq!(poll_fn(|cx| Poll::Ready(writer.poll(cx))).await, Room::Full);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(answer(&mut session).await.unwrap(), b"ok", "while the request waits");
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        while !all.ends_with(&[b'x'; 1 << 10]) || all.len() < 32 << 20 {
            stream.read_buf(&mut all).await.unwrap();
        }
        (all.len(), stream)
    });
    poll_fn(|cx| if writer.poll(cx) == Room::Free { Poll::Ready(()) } else { Poll::Pending }).await;
    let (read, _stream) = reading.await.unwrap();
    assert!(read >= 32 << 20);
    connector.release_http_session(session, &backend.peer, KEPT).await;
    assert_eq!(poll_fn(|cx| Poll::Ready(writer.poll(cx))).await, Room::Failed, "its request has ended");
    assert!(connector.reused_http_session(&backend.peer).await.is_some());
}

#[tokio::test]
async fn a_backend_that_closes_before_it_answers_is_an_error_that_says_so() {
    let (backend, connector) = (Backend::start().await, Http1Connector::new(8));
    for (sent, is_unanswered) in [("", true), ("HTTP/1.1 200", false)] {
        let (mut session, _) = session(&connector, &backend.peer).await;
        session.write_request_header(head(Method::GET, &[]), true).await.unwrap();
        let mut stream = backend.accept().await;
        received(&mut stream, "\r\n\r\n").await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        drop(stream);
        let error = answer(&mut session).await.unwrap_err();
        assert_eq!(ended_unanswered(&error), is_unanswered, "{error}");
    }
}

#[tokio::test]
async fn a_dropped_session_closes_its_connection_though_its_writer_lives() {
    let (backend, connector) = (Backend::start().await, Http1Connector::new(8));
    let (session, _) = session(&connector, &backend.peer).await;
    let mut stream = backend.accept().await;
    let writer = writer(&session);
    drop(session);
    assert_eq!(timeout(Duration::from_secs(5), stream.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    assert_eq!(poll_fn(|cx| Poll::Ready(writer.poll(cx))).await, Room::Failed);
}
