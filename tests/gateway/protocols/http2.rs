use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use h2::{Reason, client};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::gateway::signal;
use crate::support::http2::{Client, End, GET, PREFACE, RawFrames, block, frame, write};
use crate::support::timing::{Times, after};
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, RawClient, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A gateway in front of `backend` with these keys under `server`.
async fn with_server(backend: &impl Backend, server: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\nserver: {{ {server} }}\n", backend.url())).await
}

/// A backend whose answer has this many bytes, sent as fast as they are read.
async fn large(length: usize) -> RawBackend {
    RawBackend::start(move |mut connection| async move {
        while connection.request().await.is_some() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let _ = connection.send(head).await;
            let piece = vec![b'x'; 64 << 10];
            for _ in 0..length / piece.len() {
                if connection.send(&piece).await.is_err() {
                    return connection.gone();
                }
            }
        }
    })
    .await
}

/// The next informational response.
async fn informational(answer: &mut client::ResponseFuture) -> http::Response<()> {
    let next = within("an informational response", poll_fn(|cx| answer.poll_informational(cx))).await;
    next.expect("one more").expect("a stream")
}

#[tokio::test(flavor = "multi_thread")]
async fn informational_responses_pass_at_once() {
    let hinted = Arc::new(Notify::new());
    let until_hinted = Arc::clone(&hinted);
    let backend = RawBackend::start(move |mut connection| {
        let hinted = Arc::clone(&until_hinted);
        async move {
            connection.request_head().await;
            let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";
            let _ = connection.send(hint).await;
            hinted.notified().await;
            let _ = connection.send(hint.replace("/a", "/b") + OK).await;
            connection.stay_silent().await;
        }
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let mut client = Client::connect(gateway.proxy()).await;
    let (request, _) = Call::get("/page").request(&gateway.proxy().to_string());
    let (mut answer, _) = client.begin(request, true).await;
    for link in ["</a.css>", "</b.css>"] {
        let hint = informational(&mut answer).await;
        assert_eq!(
            (hint.status().as_u16(), &hint.headers()["link"]),
            (103, &http::HeaderValue::from_static(link))
        );
        assert!(
            !hint.headers().contains_key("x-hop") && !hint.headers().contains_key("connection"),
            "{hint:?}"
        );
        hinted.notify_one();
    }
    let head = within("the head", answer).await.expect("a head");
    assert_eq!(head.status(), 200);
    let body = within("the body", head.into_body().data()).await.expect("a body").expect("a stream");
    assert_eq!(&body[..], b"ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_gets_it() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut client = Client::connect(gateway.proxy()).await;
    let (request, body) =
        Call::chat("hello").header("expect", "100-continue").request(&gateway.proxy().to_string());
    let (mut answer, mut upload) = client.begin(request, false).await;
    assert_eq!(informational(&mut answer).await.status(), 100);
    write(&mut upload, body.into(), true).await.expect("the body");
    assert_eq!(within("the head", answer).await.expect("a head").status(), 200);
    assert_eq!(demo.ledger().arrived(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_client_leave_an_access_line_a_count_and_their_reason() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/a"), (":authority", "a@gateway")];
    let mut raw = RawFrames::connect(gateway.proxy()).await;
    // An authority with user information is a fault of its stream only.
    raw.send(&frame(1, 5, 1, &block(&fields))).await.expect("send");
    raw.frame(1).await;
    // A broken header block (RFC 7541, 5.1), and a window that overflows (RFC 9113, 6.9.1).
    for (reason, bytes) in [
        ("PROTOCOL_ERROR", frame(1, 5, 1, &[0xff; 20])),
        ("FLOW_CONTROL_ERROR", frame(8, 0, 0, &i32::MAX.to_be_bytes())),
    ] {
        let mut raw = RawFrames::connect(gateway.proxy()).await;
        raw.send(&bytes).await.expect("send");
        assert!(raw.closed().await.is_some(), "{reason}: a GOAWAY");
        let line = gateway.log_until(|line| line["reason"] == reason).await;
        assert_eq!(line["client"], "127.0.0.1", "{line}");
    }
    let series =
        "elida_http_requests_total{backend=\"none\",code=\"400\",method=\"OTHER\",route=\"refused\"}";
    within("the counts", async {
        while (gateway.metric(series).await - 3.0).abs() > f64::EPSILON {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let lines = gateway.log_lines();
    let refused = lines.iter().filter(|line| line["message"] == "request_completed" && line["url"] == "-");
    assert_eq!(refused.clone().count(), 3, "{lines:?}");
    assert!(refused.clone().all(|line| line["status"] == 400 && line["outcome"] == "bad_request"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_http11_byte_for_byte() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut client = Client::connect(gateway.proxy()).await;
    for call in [
        Call::chat("hello"),
        Call::chat_stream("[[words 50]] of a stream"),
        Call::messages_stream("[[words 50]] of a stream"),
        Call::get("/v1/models"),
        Call::get("/health/liveness"),
    ] {
        let call = call.session("same").header("x-request-id", "r-1");
        let (one, two) = (call.send(gateway.proxy()).await, client.ask(&call).await);
        assert_eq!((two.status, two.end), (one.status(), End::Whole));
        assert_eq!(two.text(), one.text());
        for name in ["content-type", "x-request-id", "x-session-id"] {
            let field = two.headers.get(name).map(|value| value.to_str().expect("text"));
            assert_eq!(field, one.head.field(name), "{name}");
        }
        for name in ["connection", "transfer-encoding", "keep-alive"] {
            assert!(!two.headers.contains_key(name), "{name} belongs to HTTP/1.1");
        }
    }
    let head = client.ask(&Call::new("HEAD", "/")).await;
    assert_eq!((head.status, head.body.len(), head.end), (200, 0, End::Whole));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_reach_the_backend_as_http11_would_send_them() {
    let backend = RawBackend::answering(OK).await;
    let gateway = with_server(&backend, "forwarded_headers: true").await;
    let mut client = Client::connect(gateway.proxy()).await;
    let body = "{\"model\":\"m\",\"pad\":\"".to_owned() + &"x".repeat(3 << 20) + "\"}";
    let call = Call::post("/v1/chat/completions?a=b")
        .header("content-type", "application/json")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("x-custom", "kept")
        .body(body.clone());
    let answer = client.ask(&call).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let request = backend.requests().remove(0);
    assert_eq!(request.head.target(), "/v1/chat/completions?a=b");
    assert_eq!(request.body.len(), body.len());
    assert!(request.body == body.as_bytes());
    assert_eq!(request.head.field("cookie"), Some("a=1; b=2"));
    assert_eq!(request.head.field("x-custom"), Some("kept"));
    assert_eq!(request.head.field("via"), Some("2.0 elida"));
    assert_eq!(request.head.field("host"), Some(backend.url().trim_start_matches("http://")));
    assert_eq!(request.head.field("x-forwarded-host"), Some(gateway.proxy().to_string().as_str()));
    // A body that is not buffered is forwarded as it comes, also after empty DATA frames.
    let (request, _) = Call::post("/upload").header("content-type", "text/plain").request("gateway");
    let (answer, mut upload) = client.begin(request, false).await;
    for piece in ["", "first ", "", "", "second"] {
        write(&mut upload, piece.into(), false).await.expect("a piece");
    }
    write(&mut upload, "".into(), true).await.expect("the end");
    assert_eq!(within("an answer", answer).await.expect("an answer").status(), 200);
    assert_eq!(backend.requests()[1].body, b"first second");
    assert_eq!(backend.connections(), 1, "the connection to the backend was fit for a second request");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preface_may_come_byte_by_byte_and_so_may_http11() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    let dribble = async |bytes: &[u8]| {
        let mut tcp = TcpStream::connect(gateway.proxy()).await.expect("a connection");
        tcp.set_nodelay(true).expect("an option");
        for byte in bytes {
            tcp.write_all(&[*byte]).await.expect("a byte");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tcp
    };
    // The crate sends its preface whole, so the first letters are sent before it, and its own copy of them is cut off.
    let tcp = dribble(&PREFACE[..3]).await;
    let mut client = RawFrames::continue_on(tcp, &PREFACE[3..]).await;
    client.send(&frame(1, 5, 1, &block(&GET))).await.expect("a request");
    client.frame(1).await;
    for request in
        ["POST /v1/p HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "PRIX /p HTTP/1.1\r\nHost: a\r\n\r\n"]
    {
        let mut client = RawClient::new(dribble(request.as_bytes()).await);
        let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
    }
    assert_eq!(backend.heads().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_turned_off() {
    let backend = RawBackend::answering(OK).await;
    let gateway = with_server(&backend, "h2c: false").await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    client.send(PREFACE).await.expect("send");
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert_eq!(answer.status(), 400, "{}", answer.text());
    assert!(backend.heads().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_its_own_stream_and_no_other() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut client = Client::connect(gateway.proxy()).await;
    let endless = "[[words 1000000]] [[pace 1ms]]";
    let mut bystander =
        client.send(&Call::chat_stream(endless).session("other")).await.head().await.expect("a head");
    for (number, (directive, mark)) in
        [(endless, "\"delta\":{\"content\":\""), ("[[stall]]", "data:"), ("[[mute]]", "")].iter().enumerate()
    {
        let id = format!("s-{number}");
        let exchange = client.send(&Call::chat_stream(directive).session(&id)).await;
        let answer = if mark.is_empty() {
            gateway.session_until(&id, |session| session["state"] == "active").await;
            demo.until("the request", |ledger| ledger.arrived() >= 4).await;
            gateway.kill(&id).await;
            exchange.answer().await
        } else {
            let mut begun = exchange.head().await.expect("a head");
            begun.until(mark).await;
            gateway.kill(&id).await;
            begun.rest().await
        };
        assert!(answer.text().contains("session_killed"), "{directive}: {}", answer.text());
        assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
        assert_eq!(answer.status, if mark.is_empty() { 403 } else { 200 });
        let again = client.ask(&Call::chat("again").session(&id)).await;
        assert_eq!((again.status, &again.json()["error"]["code"]), (403, &json!("session_killed")));
    }
    bystander.until("\"delta\":{\"content\":\"").await;
    assert_eq!(client.ask(&Call::chat("still here").session("other")).await.status, 200);
    gateway.kill("other").await;
    assert!(bystander.rest().await.text().contains("session_killed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_an_error_event_ends_with_a_reset() {
    let backend = RawBackend::start(async |mut connection| {
        let Some(_) = connection.request().await else { return };
        let _ = connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
        connection.stay_silent().await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let mut client = Client::connect(gateway.proxy()).await;
    let mut begun = client.send(&Call::get("/file").session("s")).await.head().await.expect("a head");
    begun.until("half").await;
    gateway.kill("s").await;
    let answer = begun.rest().await;
    assert_eq!((answer.text().as_str(), answer.end), ("half", End::Reset(Reason::INTERNAL_ERROR)));
    backend.until("the end upstream", |backend| !backend.closed().is_empty()).await;
    assert!(client.is_open().await);
}

/// As for HTTP/1.1 in `kills::cut`: the best of three rounds counts, since other programs only make times longer.
#[tokio::test(flavor = "multi_thread")]
async fn kill_latency_over_http2_is_under_5_ms() {
    for _ in 0..3 {
        let demo = Demo::start().await;
        let gateway = Gateway::alone(&demo).await;
        let mut operator = gateway.operator().await;
        let mut client = Client::connect(gateway.proxy()).await;
        let mut times = Times::default();
        for number in 0..100 {
            let id = format!("s-{number}");
            let call = Call::chat_stream("[[stall]]").session(&id);
            let mut begun = client.send(&call).await.head().await.expect("a head");
            begun.until("\"delta\":{\"content\":\"").await;
            let (killed, answer) = tokio::join!(operator.kill(&id), begun.rest());
            assert!(answer.text().contains("session_killed"), "{}", answer.text());
            times.push(after(killed.answered, answer.ended));
        }
        eprintln!("kill over HTTP/2, silent: {times}");
        if times.percentile(99) < Duration::from_millis(5) {
            return;
        }
    }
    panic!("p99 was never under 5 ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_cancels_upstream_and_nobody_else() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut client = Client::connect(gateway.proxy()).await;
    let mut bystander = client
        .send(&Call::chat_stream("[[words 100000]] [[pace 1ms]]").session("b"))
        .await
        .head()
        .await
        .expect("a head");
    for (number, directive) in ["[[stall]]", "[[mute]]", "[[words 1000000]] [[pace 1ms]]"].iter().enumerate()
    {
        let id = format!("left-{number}");
        let exchange = client.send(&Call::chat_stream(directive).session(&id)).await;
        demo.until("the request", |ledger| ledger.arrived() == number as u64 + 2).await;
        let left = Instant::now();
        exchange.reset();
        demo.until("the cancelled request", |ledger| ledger.aborts().len() as u64 == number as u64 + 1).await;
        assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
        let session = gateway.session_until(&id, |session| session["open_legs"] == 0).await;
        assert_eq!(session["request_count"], 1, "{session}");
    }
    bystander.until("\"delta\":{\"content\":\"").await;
    client.abort_connection();
    demo.until("the end of all", |ledger| ledger.aborts().len() as u64 == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_those_of_http11_and_the_connection_lives() {
    let demo = Demo::start().await;
    let gateway = with_server(&demo, "timeouts: { read: 500ms }, limits: { max_body_llm: 1MiB }").await;
    let mut client = Client::connect(gateway.proxy()).await;
    let announced = Call::post("/v1/messages").header("content-length", "2000000");
    let (request, _) = announced.request("gateway");
    let (answer, _upload) = client.begin(request, false).await;
    assert_eq!(within("an answer", answer).await.expect("an answer").status(), 413);
    let body = "{\"model\":\"m\",\"pad\":\"".to_owned() + &"x".repeat(2 << 20);
    let answer =
        client.ask(&Call::post("/v1/messages").header("content-type", "application/json").body(body)).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (413, &json!("body_too_large")));
    let answer = client.ask(&Call::get(&format!("/v1/models?q={}", "x".repeat(9000)))).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (414, &json!("uri_too_long")));
    let answer = client.ask(&Call::get("/v1/models").header("x-large", &"x".repeat(17 << 10))).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (431, &json!("headers_too_large")));
    let many =
        (0..130).fold(Call::get("/v1/models"), |call, number| call.header(&format!("x-{number}"), "1"));
    assert_eq!(client.ask(&many).await.status, 431);
    // A request body that stalls.
    let (request, _) =
        Call::post("/v1/messages").header("content-type", "application/json").request("gateway");
    let (answer, mut upload) = client.begin(request, false).await;
    write(&mut upload, "{".into(), false).await.expect("a piece");
    let begun = Instant::now();
    assert_eq!(within("an answer", answer).await.expect("an answer").status(), 408);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(demo.ledger().arrived(), 0);
    assert_eq!(client.ask(&Call::chat("hello")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_streams_than_allowed() {
    let demo = Demo::start().await;
    let gateway = with_server(&demo, "limits: { max_streams: 3 }").await;
    let mut client = RawFrames::connect(gateway.proxy()).await;
    let body =
        "{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"[[mute]]\"}]}";
    let head = block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/v1/chat/completions"),
        (":authority", "gateway"),
        ("content-type", "application/json"),
    ]);
    for stream in [1, 3, 5, 7, 9] {
        let bytes = [frame(1, 4, stream, &head), frame(0, 1, stream, body.as_bytes())].concat();
        client.send(&bytes).await.expect("send");
    }
    for _ in [7, 9] {
        assert_eq!(client.frame(3).await, 7_u32.to_be_bytes(), "REFUSED_STREAM");
    }
    demo.until("the requests", |ledger| ledger.arrived() == 3).await;
    let calm = Client::connect(gateway.proxy()).await;
    assert!(calm.is_open().await);
    within("the settings", async {
        while calm.allowed() != 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_back_its_own_stream_only() {
    let backend = large(64 << 20).await;
    let gateway = Gateway::start(&backend).await;
    let mut settings = client::Builder::new();
    settings.initial_connection_window_size(1 << 20);
    let mut client = Client::with(gateway.proxy(), &settings).await;
    let slow = client.send(&Call::get("/large")).await.head().await.expect("a head");
    let held = backend.held_back(Duration::from_millis(300)).await;
    println!("in flight: {} KiB", held >> 10);
    assert!(held < 24 << 20, "{held} bytes are on their way to one who does not read");
    let answer = client.ask(&Call::get("/health/liveness")).await;
    assert_eq!(answer.status, 200, "others of the connection are served");
    let answer = slow.rest().await;
    assert_eq!((answer.body.len(), answer.end), (64 << 20, End::Whole));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_opens_no_window_is_cut() {
    let backend = large(1 << 20).await;
    let gateway = with_server(&backend, "timeouts: { write: 300ms }").await;
    let mut settings = client::Builder::new();
    settings.initial_window_size(0);
    let mut client = Client::with(gateway.proxy(), &settings).await;
    let answer = client.ask(&Call::get("/large")).await;
    assert_eq!((answer.status, answer.end), (200, End::Reset(Reason::INTERNAL_ERROR)));
    let line = gateway.access_line("/large").await;
    assert_eq!(line["outcome"], "client_stalled", "{line}");
    backend.until("the end upstream", |backend| !backend.closed().is_empty()).await;
    assert!(client.is_open().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_told_to_go() {
    let demo = Demo::start().await;
    let gateway = with_server(&demo, "timeouts: { read: 500ms, idle: 300ms }").await;
    let never_spoke = Client::connect(gateway.proxy()).await;
    let mut spoke = Client::connect(gateway.proxy()).await;
    assert_eq!(spoke.ask(&Call::chat("hello")).await.status, 200);
    let busy = spoke.send(&Call::chat_stream("[[words 300]] [[pace 5ms]]")).await.answer().await;
    assert_eq!((busy.status, busy.end), (200, End::Whole), "a connection with a request is not idle");
    let begun = Instant::now();
    for client in [never_spoke, spoke] {
        client.ended().await.expect("a GOAWAY without an error");
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // A request body that never begins.
    let mut mute = TcpStream::connect(gateway.proxy()).await.expect("a connection");
    mute.write_all(&PREFACE[..20]).await.expect("half a preface");
    RawClient::new(mute).end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_open_streams_finish() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::start(&demo).await;
    let mut client = Client::connect(gateway.proxy()).await;
    let idle = Client::connect(gateway.proxy()).await;
    assert!(idle.is_open().await);
    let mut begun =
        client.send(&Call::chat_stream("[[words 300]] [[pace 5ms]]")).await.head().await.expect("a head");
    begun.until("\"delta\":{\"content\":\"").await;
    let terminated = Instant::now();
    gateway.terminate();
    idle.ended().await.expect("a GOAWAY without an error");
    let answer = begun.rest().await;
    assert!(answer.text().contains("[DONE]") && answer.end == End::Whole, "{}", answer.text());
    assert!(client.ended().await.is_ok());
    assert!(gateway.ended().await.success());
    assert!(terminated.elapsed() < Duration::from_secs(15), "{:?}", terminated.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_the_program_cuts_no_stream() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut client = Client::connect(gateway.proxy()).await;
    let mut begun =
        client.send(&Call::chat_stream("[[words 400]] [[pace 5ms]]")).await.head().await.expect("a head");
    begun.until("\"delta\":{\"content\":\"").await;
    gateway.signal("QUIT");
    gateway.log_until(|line| line["message"] == "draining").await;
    let mut next = Client::connect(gateway.proxy()).await;
    assert_eq!(next.ask(&Call::chat("hello")).await.status, 200);
    let answer = begun.rest().await;
    assert!(answer.text().contains("[DONE]") && answer.end == End::Whole, "{}", answer.text());
    let successor =
        gateway.log_until(|line| line["message"] == "starting the new process").await["pid"].as_u64();
    assert!(
        signal(u32::try_from(successor.expect("a number")).expect("an id"), "0"),
        "the new process lives"
    );
}

/// Opens a WebSocket on a stream (RFC 8441).
async fn open_socket(
    client: &mut Client,
    path: &str,
    session: &str,
) -> (h2::client::ResponseFuture, h2::SendStream<bytes::Bytes>) {
    let call = Call::new("CONNECT", path).session(session).header("sec-websocket-version", "13");
    let (mut request, _) = call.request("gateway.example");
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    client.begin(request, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_over_a_stream() {
    let backend = RawBackend::start(async |mut connection| {
        loop {
            let Some(request) = connection.request().await else { return };
            if request.head.target() != "/refused" {
                break;
            }
            let _ = connection.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        }
        let _ = connection
            .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello")
            .await;
        connection.until("late").await;
        let _ = connection.send("heard").await;
        connection.stay_silent().await;
    })
    .await;
    let gateway = with_server(&backend, "timeouts: { read: 200ms }").await;
    let mut client = Client::connect(gateway.proxy()).await;
    let (refused, _upload) = open_socket(&mut client, "/refused", "r").await;
    assert_eq!(within("a refusal", refused).await.expect("an answer").status(), 403);
    for (number, is_killed) in [true, false].into_iter().enumerate() {
        let id = format!("s-{number}");
        let (answer, mut upload) = open_socket(&mut client, "/socket", &id).await;
        let (head, mut body) = within("an answer", answer).await.expect("an answer").into_parts();
        assert_eq!(head.status, 200);
        for name in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!head.headers.contains_key(name), "{name} belongs to HTTP/1.1");
        }
        assert_eq!(within("a frame", body.data()).await.expect("a piece").expect("bytes"), "hello");
        // Three times the limit between two pieces of a request body.
        tokio::time::sleep(Duration::from_millis(600)).await;
        write(&mut upload, "late".into(), false).await.expect("a frame");
        assert_eq!(within("a frame", body.data()).await.expect("a piece").expect("bytes"), "heard");
        if is_killed {
            gateway.kill(&id).await;
            while let Some(Ok(_)) = within("the end", body.data()).await {}
            assert!(client.is_open().await);
        } else {
            write(&mut upload, "".into(), true).await.expect("the end");
        }
        backend.until("the end upstream", |backend| backend.closed().len() > number).await;
    }
    let heads = backend.heads();
    assert_eq!(heads.len(), 3);
    let field = |name: &str| heads[1].field(name);
    assert_eq!((field("upgrade"), field("sec-websocket-version")), (Some("websocket"), Some("13")));
    assert!(heads[1].target() == "/socket" && field("sec-websocket-key").is_some_and(|key| key.len() == 24));
}
