//! The same bytes through Pingora's session and through ours: the same heads, bodies, responses and reuse of the
//! connection, or the same rejection. Where ours is stricter, a test says so.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use http::{HeaderName, HeaderValue, Version};
use pingora_core::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::{ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{Connection, Exchange, Unread, Wire};
use crate::protocol::wire::http1::spelling;

/// What a connection came to.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    requests: Vec<Request>,
    /// A head or a body was rejected.
    rejected: bool,
    /// What the client received, without the dates.
    received: String,
}

#[derive(Debug, PartialEq)]
struct Request {
    line: String,
    version: Version,
    fields: Vec<(String, Vec<u8>)>,
    raw: Bytes,
    is_upgrade: bool,
    is_empty: bool,
    body: Option<Vec<u8>>,
}

/// How each request is answered.
#[derive(Clone, Debug)]
struct Reply {
    status: u16,
    interim: bool,
    framing: Option<&'static str>,
    /// Pieces of the body.
    pieces: Vec<usize>,
}

impl Reply {
    fn head(&self) -> Box<ResponseHeader> {
        let mut head = ResponseHeader::build(self.status, None).unwrap();
        match self.framing {
            Some("length") => {
                head.insert_header("content-length", self.pieces.iter().sum::<usize>()).unwrap()
            }
            Some("chunked") => head.insert_header("Transfer-Encoding", "chunked").unwrap(),
            _ => {}
        }
        head.append_header("X-Mixed-Case", "Value").unwrap();
        head.append_header("x-mixed-CASE", "other").unwrap();
        Box::new(head)
    }

    fn pieces(&self) -> impl Iterator<Item = Bytes> {
        self.pieces.iter().map(|size| Bytes::from(vec![b'x'; *size]))
    }
}

fn request(head: &RequestHeader, raw: Bytes, is_upgrade: bool, is_empty: bool) -> Request {
    // Pingora's head has a second map for the spelling of names; ours has the bytes.
    let mut spelled: Vec<&[u8]> = head.case_header_iter().map(|(name, _)| name.as_slice()).collect();
    if !head.has_case() {
        let spelling = |(name, value): (&HeaderName, &HeaderValue)| {
            let name = name.as_str().as_bytes();
            &spelling::line(&raw, name, value.as_bytes()).expect("the line of an unchanged field")
                [..name.len()]
        };
        spelled = head.headers.iter().map(spelling).collect();
    }
    let fields = spelled.into_iter().zip(head.headers.values());
    let fields = fields
        .map(|(name, value)| {
            let name = String::from_utf8_lossy(name);
            // Of several lines without a value the first one is found.
            let name = if value.is_empty() { name.to_ascii_lowercase() } else { name.into_owned() };
            (name, value.as_bytes().to_vec())
        })
        .collect();
    let line = format!("{} {} {}", head.method, String::from_utf8_lossy(head.raw_path()), head.uri);
    Request { line, version: head.version, fields, raw, is_upgrade, is_empty, body: None }
}

/// Sends pieces one by one, then ends the client's side; returns what it receives.
fn client(mut client: DuplexStream, pieces: Vec<Vec<u8>>) -> tokio::task::JoinHandle<String> {
    tokio::spawn(async move {
        for piece in pieces {
            let _ = client.write_all(&piece).await;
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
        let _ = client.shutdown().await;
        let mut received = Vec::new();
        let _ = client.read_to_end(&mut received).await;
        let text = String::from_utf8(received).unwrap();
        text.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
    })
}

/// Runs a server over these bytes.
async fn run<S: Future<Output = Seen>>(pieces: Vec<Vec<u8>>, server: impl FnOnce(DuplexStream) -> S) -> Seen {
    let (theirs, ours) = duplex(1 << 20);
    let received = client(theirs, pieces);
    let mut seen = server(ours).await;
    seen.received = received.await.unwrap();
    seen
}

async fn pingora(stream: DuplexStream, reply: &Reply) -> Seen {
    let mut seen = Seen::default();
    let mut session = ServerSession::new_http1(Box::new(stream));
    session.set_keepalive(Some(0));
    loop {
        match session.read_request().await {
            Ok(true) => {}
            Ok(false) => return seen,
            Err(error) => {
                seen.rejected = *error.etype() == ErrorType::InvalidHTTPHeader;
                return seen;
            }
        }
        session.set_pipelining_enabled(true);
        let is_empty = session.is_body_empty();
        let (raw, is_upgrade) = (session.to_h1_raw(), session.is_upgrade_req());
        seen.requests.push(request(session.req_header(), raw, is_upgrade, is_empty));
        let Ok(body) = whole(async || session.read_request_body().await).await else {
            seen.rejected = true;
            return seen;
        };
        seen.requests.last_mut().unwrap().body = Some(body);
        if reply.interim {
            session.write_response_header(Box::new(ResponseHeader::build(103, None).unwrap())).await.unwrap();
        }
        session.write_response_header(reply.head()).await.unwrap();
        for piece in reply.pieces() {
            session.write_response_body(piece, false).await.unwrap();
        }
        session.finish_body().await.unwrap();
        let settings = HttpPersistentSettings::for_session(&session);
        let Some(stream) = session.finish().await.unwrap() else { return seen };
        let (stream, settings) = ReusedHttpStream::from_reusable_stream(stream, settings).consume();
        session = ServerSession::new_http1(stream);
        settings.unwrap().apply_to_session(&mut session);
    }
}

/// Reads a body part by part to its end.
async fn whole(
    mut next: impl AsyncFnMut() -> pingora_core::Result<Option<Bytes>>,
) -> pingora_core::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(part) = next().await? {
        body.extend_from_slice(&part);
    }
    Ok(body)
}

async fn ours(stream: DuplexStream, reply: &Reply) -> Seen {
    let mut seen = Seen::default();
    let mut connection = Connection::new(Wire::Memory(stream), BytesMut::new());
    loop {
        let head = match connection.read_request(None).await {
            Ok(head) => head,
            Err(unread) => {
                seen.rejected = unread != Unread::Closed;
                return seen;
            }
        };
        let mut exchange = Box::new(Exchange::new(connection, head));
        let (head, is_upgrade) = (exchange.head(), exchange.is_upgrade_request());
        seen.requests.push(request(&head.header, head.raw.clone(), is_upgrade, exchange.is_body_empty()));
        let Ok(body) = whole(async || poll_fn(|cx| exchange.poll_body(cx)).await).await else {
            seen.rejected = true;
            return seen;
        };
        seen.requests.last_mut().unwrap().body = Some(body);
        if reply.interim {
            exchange.add_head(Box::new(ResponseHeader::build(103, None).unwrap())).unwrap();
        }
        exchange.add_head(reply.head()).unwrap();
        reply.pieces().for_each(|piece| exchange.add_body(piece));
        exchange.end_body().unwrap();
        poll_fn(|cx| exchange.poll_send(cx)).await.unwrap();
        match exchange.finish().await {
            Some(open) => connection = open,
            None => return seen,
        }
    }
}

/// Runs both over the same bytes, cut at these places.
fn both(stream: &[u8], sizes: &[usize], reply: &Reply) -> (Seen, Seen) {
    let (mut pieces, mut rest) = (Vec::new(), stream);
    for size in sizes.iter().cycle().copied() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(size.min(rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let theirs = run(pieces.clone(), |stream| pingora(stream, reply)).await;
        (theirs, run(pieces, |stream| ours(stream, reply)).await)
    })
}

fn plain() -> Reply {
    Reply { status: 200, interim: false, framing: Some("length"), pieces: vec![2] }
}

const LINES: [&str; 14] = [
    "GET / HTTP/1.1\r\n",
    "POST /v1/messages?beta=true HTTP/1.1\r\n",
    "HEAD /a HTTP/1.1\r\n",
    "GET /old HTTP/1.0\r\n",
    "PUT /x HTTP/1.1\r\n",
    "GET http://a/b HTTP/1.1\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "CONNECT a:443 HTTP/1.1\r\n",
    "GET /#f HTTP/1.1\r\n",
    "GET /\u{fc} HTTP/1.1\n",
    "get / HTTP/1.2\r\n",
    "GET / HTTP/2.0\r\n",
    "GARBAGE\r\n",
    "GET /{\"a\"} HTTP/1.1\r\n",
];

const FIELDS: [&str; 34] = [
    "Host: a\r\n",
    "host: b\r\n",
    "Host: me@a\r\n",
    "Content-Length: 5\r\n",
    "content-length: 5 \r\n",
    "Content-Length: 6\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length: +5\r\n",
    "Content-Length:\r\n",
    "Content-Length: 0\r\n",
    "Content_Length: 1\r\n",
    "Transfer-Encoding: chunked\r\n",
    "TRANSFER-encoding: Chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding: chunked,\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Connection: te, Close\r\n",
    "connection: Upgrade\r\n",
    "Upgrade: websocket\r\n",
    "Expect: 100-continue\r\n",
    "X-A: b\n",
    "X-A: b\r\n c\r\n",
    "X-A:\tb \t\r\n",
    "X-A: \u{fc}\r\n",
    "X-A: b\0\r\n",
    "X-A: b\rc\r\n",
    "X A: b\r\n",
    ": b\r\n",
    "no colon\r\n",
    " X-A: b\r\n",
    "X-Empty:\r\n",
];

const BODIES: [&str; 12] = [
    "",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "5;a=\"b\"\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
    "A ;x\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n",
    "0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n",
    "ffffffffffffffff\r\nx",
    "5\r\nhel",
    "0\r\nA: b\n\r\n",
];

fn message() -> impl Strategy<Value = String> {
    let line = prop_oneof![6 => 0..5_usize, 1 => 5..LINES.len()];
    let field = prop_oneof![3 => Just(0), 4 => 3..4_usize, 3 => 11..12_usize, 2 => 17..24_usize, 1 => 0..FIELDS.len()];
    (line, prop::collection::vec(field, 0..5), 0..BODIES.len()).prop_map(|(line, fields, body)| {
        let fields: String = fields.into_iter().map(|field| FIELDS[field]).collect();
        format!("{}{fields}\r\n{}", LINES[line], BODIES[body])
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    let framing = prop::sample::select(vec![None, Some("length"), Some("chunked")]);
    let status = prop::sample::select(vec![200_u16, 204, 304, 500]);
    let pieces = prop::collection::vec(prop_oneof![1..300_usize, 4000..9000_usize], 0..4);
    (status, any::<bool>(), framing, pieces).prop_map(|(status, interim, framing, pieces)| Reply {
        status,
        interim,
        framing,
        pieces,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn both_sessions_read_and_answer_the_same(
        messages in prop::collection::vec(message(), 1..4),
        sizes in prop_oneof![Just(vec![usize::MAX]), prop::collection::vec(1..40_usize, 1..5)],
        reply in reply(),
        lines in prop::sample::select(vec!["", "\r\n", "\r\n\n"]),
    ) {
        // Empty lines are passed over in front of a request (RFC 9112, 2.2); in front of a chunk, ours is stricter.
        let stream = format!("{lines}{}", messages.concat());
        let (theirs, ours) = both(stream.as_bytes(), &sizes, &reply);
        prop_assert_eq!(theirs, ours, "{:?}", stream);
    }
}

#[test]
fn ours_repairs_no_request_line() {
    for target in ["/a b", "/a\0b", "/a\tb", "/a\x7fb"] {
        let stream = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let (theirs, ours) = both(stream.as_bytes(), &[usize::MAX], &plain());
        assert_eq!((theirs.rejected, theirs.requests.len()), (false, 1), "{target:?}: Pingora encodes it");
        assert_eq!((ours.rejected, ours.requests.len()), (true, 0), "{target:?}");
    }
}

#[test]
fn ours_is_stricter_about_chunks() {
    for body in
        ["5;\nx\r\nhello\r\n0\r\n\r\n", "5;a\0\r\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "\r\n\r\n"]
    {
        let stream = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let (theirs, ours) = both(stream.as_bytes(), &[usize::MAX], &plain());
        assert!(!theirs.rejected, "{body:?}: Pingora takes it");
        assert!(ours.rejected && ours.received.is_empty(), "{body:?}");
    }
}

#[test]
fn a_head_has_bounds() {
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(257));
    let large = format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(1 << 20));
    for stream in [many, large] {
        let mut buffer = BytesMut::from(stream.as_bytes());
        assert_eq!(super::head::take(&mut buffer).unwrap_err(), super::head::Fault::TooLarge);
    }
    let most = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(256));
    let head = super::head::take(&mut BytesMut::from(most.as_bytes())).unwrap().unwrap();
    assert_eq!(head.header.headers.len(), 256);
}

/// A connection over which `sent` has come, with its client.
async fn exchange(sent: &str, room: usize) -> (DuplexStream, Box<Exchange>) {
    let (mut client, ours) = duplex(room);
    client.write_all(sent.as_bytes()).await.unwrap();
    let mut connection = Connection::new(Wire::Memory(ours), BytesMut::new());
    let head = connection.read_request(None).await.unwrap();
    (client, Box::new(Exchange::new(connection, head)))
}

fn head(status: u16, name: &'static str, value: &'static str) -> Box<ResponseHeader> {
    let mut head = ResponseHeader::build(status, None).unwrap();
    head.insert_header(name, value).unwrap();
    Box::new(head)
}

#[tokio::test]
async fn after_an_upgrade_bytes_pass_as_they_are() {
    let sent = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\nearly frames";
    let (mut client, mut exchange) = exchange(sent, 4096).await;
    assert!(exchange.is_body_done(), "nothing is read before the switch");
    assert_eq!(poll_fn(|cx| exchange.poll_body(cx)).await.unwrap(), None);
    exchange.add_head(head(101, "upgrade", "websocket")).unwrap();
    assert!(exchange.is_upgraded() && exchange.is_head_urgent() && !exchange.is_body_done());
    exchange.add_body(Bytes::from_static(b"raw"));
    poll_fn(|cx| exchange.poll_send(cx)).await.unwrap();
    let early = poll_fn(|cx| exchange.poll_body(cx)).await.unwrap();
    assert_eq!(early.as_deref(), Some(&b"early frames"[..]));
    let mut seen = vec![0; 4096];
    let length = client.read(&mut seen).await.unwrap();
    let text = String::from_utf8_lossy(&seen[..length]);
    assert!(text.starts_with("HTTP/1.1 101 ") && text.ends_with("\r\n\r\nraw"), "{text}");
    assert!(!text.contains("chunked") && !text.to_lowercase().contains("\nconnection"), "{text}");
    assert!(exchange.finish().await.is_none(), "such a connection is not used again");
}

#[tokio::test]
async fn only_a_101_of_an_upgrade_request_switches() {
    let (_client, mut exchange) = exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\nnext", 4096).await;
    exchange.add_head(head(101, "upgrade", "websocket")).unwrap();
    assert!(!exchange.is_upgraded() && exchange.is_body_done());
    let sent = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\nnext";
    let (_client, mut exchange) = self::exchange(sent, 4096).await;
    exchange.add_head(head(200, "content-length", "0")).unwrap();
    assert!(!exchange.is_upgraded() && exchange.is_body_done());
    assert!(exchange.finish().await.is_some());
}

#[tokio::test]
async fn what_was_half_sent_is_completed_later() {
    let (mut client, mut exchange) = exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 256).await;
    exchange.add_head(head(200, "transfer-encoding", "chunked")).unwrap();
    poll_fn(|cx| exchange.poll_send(cx)).await.unwrap();
    let mut seen = vec![0; 4096];
    let head_length = client.read(&mut seen).await.unwrap();
    assert!(head_length > 0 && seen[..head_length].ends_with(b"\r\n\r\n"));
    // This piece leaves room for a few bytes of the comment's chunk.
    exchange.add_body(Bytes::from(vec![b'x'; 240]));
    poll_fn(|cx| exchange.poll_send(cx)).await.unwrap();
    exchange.add_body(Bytes::from_static(b": keep-alive\n\n"));
    assert!(poll_fn(|cx| exchange.poll_send(cx)).now_or_never().is_none(), "there is no room for it");
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        String::from_utf8(all).unwrap()
    });
    // A large piece that is given up, then a small one: each follows what was there.
    exchange.add_body(Bytes::from(vec![b'y'; 5000]));
    assert!(poll_fn(|cx| exchange.poll_send(cx)).now_or_never().is_none());
    exchange.add_body(Bytes::from_static(b"next"));
    exchange.end_body().unwrap();
    poll_fn(|cx| exchange.poll_send(cx)).await.unwrap();
    drop(exchange);
    let (event, large) = ("x".repeat(240), "y".repeat(5000));
    let all = format!("F0\r\n{event}\r\nE\r\n: keep-alive\n\n\r\n1388\r\n{large}\r\n4\r\nnext\r\n0\r\n\r\n");
    assert_eq!(reading.await.unwrap(), all);
}

#[tokio::test]
async fn the_end_of_the_client_is_seen_while_it_waits() {
    let (mut client, mut exchange) = exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4096).await;
    exchange.add_head(head(200, "content-length", "2")).unwrap();
    assert!(!exchange.is_head_urgent(), "it leaves with the body");
    assert!(poll_fn(|cx| exchange.poll_end(cx)).now_or_never().is_none());
    let mut seen = vec![0; 4096];
    assert!(client.read(&mut seen).await.unwrap() > 0, "or when the proxy has nothing else to do");
    client.shutdown().await.unwrap();
    let ended = poll_fn(|cx| exchange.poll_end(cx)).await.unwrap_err();
    assert_eq!(*ended.etype(), ErrorType::ConnectionClosed);
    exchange.ignore_end();
    assert!(poll_fn(|cx| exchange.poll_end(cx)).now_or_never().is_none());
    exchange.add_body(Bytes::from_static(b"{}"));
    assert!(exchange.finish().await.is_none(), "nothing else comes on this connection");
}

#[tokio::test]
async fn of_the_next_request_one_byte_is_read_ahead() {
    let (mut client, mut exchange) = exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4096).await;
    client.write_all(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    for _ in 0..2 {
        assert!(poll_fn(|cx| exchange.poll_end(cx)).now_or_never().is_none());
    }
    exchange.add_head(head(200, "content-length", "0")).unwrap();
    let mut connection = exchange.finish().await.unwrap();
    let next = connection.read_request(None).await.unwrap();
    assert_eq!(next.header.raw_path(), b"/next");
}

#[tokio::test]
async fn a_response_that_comes_before_the_body_closes_the_connection() -> Result<()> {
    let sent = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nGET";
    let (mut client, mut exchange) = exchange(sent, 4096).await;
    exchange.add_head(head(200, "content-length", "0"))?;
    assert!(exchange.finish().await.is_none());
    let mut seen = String::new();
    client.read_to_string(&mut seen).await.unwrap();
    assert!(seen.ends_with("\r\nConnection: close\r\n\r\n"), "{seen}");
    Ok(())
}

#[tokio::test]
async fn the_gateways_own_fields_stand_where_the_backends_stood() -> Result<()> {
    let (mut client, mut exchange) = exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4096).await;
    let mut answer = head(200, "content-length", "0");
    for (name, value) in [("date", "then"), ("connection", "close"), ("x-a", "1"), ("connection", "x-b")] {
        answer.append_header(name, value)?;
    }
    exchange.add_head(answer)?;
    let connection = exchange.finish().await;
    drop(connection);
    let mut seen = String::new();
    client.read_to_string(&mut seen).await.unwrap();
    let lines: Vec<&str> = seen.split("\r\n").collect();
    assert!(lines[2].starts_with("Date: ") && lines[2].ends_with(" GMT"), "{seen}");
    assert_eq!((lines[3], lines[4]), ("Connection: keep-alive", "x-a: 1"), "{seen}");
    assert_eq!(seen.matches("onnection").count(), 1, "{seen}");
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_too_short_or_too_long_is_not_sent_so() -> Result<()> {
    let (mut client, mut exchange) = exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4096).await;
    exchange.add_head(head(200, "content-length", "3"))?;
    exchange.add_body(Bytes::from_static(b"ab"));
    assert!(!exchange.is_response_finished());
    exchange.add_body(Bytes::from_static(b"cd"));
    assert!(exchange.is_response_finished());
    exchange.add_head(head(500, "content-length", "0"))?;
    let connection = exchange.finish().await.unwrap();
    drop(connection);
    let mut seen = String::new();
    client.read_to_string(&mut seen).await.unwrap();
    assert!(seen.ends_with("\r\n\r\nabc") && !seen.contains("500"), "{seen}");
    let (_client, mut exchange) = self::exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4096).await;
    exchange.add_head(head(200, "content-length", "3"))?;
    exchange.add_body(Bytes::from_static(b"ab"));
    assert!(exchange.end_body().is_err());
    Ok(())
}

#[tokio::test]
async fn a_large_body_comes_whole_and_nothing_of_what_follows_it() {
    let body: Vec<u8> = (0..=u8::MAX).cycle().take(300_000).collect();
    let begin = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let (mut client, mut exchange) = exchange(&begin, 64 << 10).await;
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        for piece in sent.chunks(60_000) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.write_all(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        client
    });
    let mut seen = Vec::new();
    while let Some(data) = poll_fn(|cx| exchange.poll_body(cx)).await.unwrap() {
        seen.extend_from_slice(&data);
    }
    assert!(seen == body);
    exchange.add_head(head(200, "content-length", "0")).unwrap();
    let mut connection = exchange.finish().await.unwrap();
    assert_eq!(connection.read_request(None).await.unwrap().header.raw_path(), b"/next");
    sending.await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_before_the_end_of_its_body_is_noticed_without_reading() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (body, leaves) in [("123", true), ("12345", false)] {
        let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        let mut connection = Connection::new(Wire::Plain(server), BytesMut::new());
        let head = connection.read_request(None).await.unwrap();
        let mut exchange = Exchange::new(connection, head);
        client.write_all(body.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let left = poll_fn(|cx| exchange.poll_leave(cx));
        let left = tokio::time::timeout(std::time::Duration::from_millis(1500), left).await;
        assert_eq!(left.is_ok_and(|left| left.is_err()), leaves, "{body}");
    }
}
