use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Error;

use crate::support::program::Program;
use crate::support::socket::{Frame, Socket, handshake, open, switch};
use crate::support::timing::{Times, after};
use crate::support::wire::{Ending, Unframed};
use crate::support::{Backend, Call, Connection, Demo, Gateway, RawBackend, RawClient, within};

/// Asks a socket of the Responses API for a response, as Codex does.
async fn create(socket: &mut Socket, model: &str, text: &str) {
    let input = json!([{"role": "user", "content": [{"type": "input_text", "text": text}]}]);
    socket.send(&json!({"type": "response.create", "model": model, "input": input, "stream": true})).await;
}

/// A backend that switches protocols and then runs `handle`.
pub async fn switching<F, Fut>(then: F) -> RawBackend
where
    F: Fn(Connection) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    RawBackend::start(move |mut connection| {
        let then = then.clone();
        async move {
            let Some(request) = connection.request().await else { return };
            if connection.send(switch(&request.head)).await.is_ok() {
                then(connection).await;
            }
        }
    })
    .await
}

/// A backend that echoes every frame.
async fn echoing() -> RawBackend {
    switching(async |mut connection: Connection| {
        while let Some(frame) = connection.frame().await {
            if connection.send(frame.plain()).await.is_err() || frame.closes().is_some() {
                break;
            }
        }
        connection.gone();
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn realtime_is_counted_while_it_goes_on() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime?model=gpt-realtime-demo", "voice").await;
    assert_eq!(socket.until("session.created").await["session"]["model"], "gpt-realtime-demo");
    socket.ask("one two three").await;
    let done = socket.until("response.done").await;
    assert_eq!(done["response"]["usage"]["output_tokens"], 3);
    socket.ask("four five").await;
    socket.until("response.done").await;
    // The provider's own numbers: 3 and 2 words of output; 4 of input (with the item's type), then all 7.
    let open = gateway.session_until("voice", |session| session["usage"]["output_tokens"] == 5).await;
    assert_eq!(open["usage"]["input_tokens"], 11, "{open}");
    assert_eq!(
        (&open["legs"][0]["kind"], &open["legs"][0]["model"]),
        (&json!("socket"), &json!("gpt-realtime-demo"))
    );
    assert!((gateway.metric("elida_open_legs{kind=\"socket\"}").await - 1.0).abs() < f64::EPSILON);
    socket.close(1000, "bye").await;
    let ended = gateway.session_until("voice", |session| session["open_legs"] == 0).await;
    let line = &ended["requests"][0];
    assert_eq!((&line["outcome"], &line["status"]), (&json!("ok"), &json!(101)), "{line}");
    assert_eq!(line["socket"]["close_code"], 1000);
    assert_eq!(line["socket"]["in"]["messages"], 4, "{line}");
    assert_eq!(line["socket"]["in"]["frames"], 5, "with the Close frame: {line}");
    let (text, all) = (line["socket"]["out"]["text_bytes"].as_u64(), line["bytes_out"].as_u64());
    assert!(text > Some(500) && text < all, "{line}");
    assert_eq!(ended["usage"], open["usage"], "nothing is counted twice");
    assert_eq!(ended["models"], json!({"gpt-realtime-demo": 1}));
    let series = "elida_tokens_total{backend=\"default\",model=\"gpt-realtime-demo\",type=\"output\"}";
    assert!((gateway.metric(series).await - 5.0).abs() < f64::EPSILON);
    let line = gateway.access_line("/v1/realtime").await;
    assert_eq!((&line["status"], &line["model"]), (&json!(101), &json!("gpt-realtime-demo")), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_responses_api_names_its_models_in_its_messages() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let fields = [("session-id", "codex-1"), ("sec-websocket-extensions", "permessage-deflate")];
    let mut socket = Socket::connect(gateway.proxy(), "/v1/responses", &fields).await.expect("a socket");
    for (model, text) in [("gpt-5-codex", "one two"), ("gpt-5-codex", "[[words 5]]"), ("gpt-5-mini", "one")] {
        create(&mut socket, model, text).await;
        let done = socket.until("response.completed").await;
        assert_eq!(done["response"]["model"], model);
    }
    let session = gateway.session_until("codex-1", |session| session["usage"]["output_tokens"] == 8).await;
    assert_eq!(session["models"], json!({"gpt-5-codex": 1, "gpt-5-mini": 1}), "{session}");
    assert_eq!(session["legs"][0]["model"], "gpt-5-codex");
    // The gateway could not read compressed frames, so it did not offer the extension to the backend.
    assert_eq!(demo.ledger().last().expect("a request").header("sec-websocket-extensions"), None);
    // An error event of the provider does not end the session.
    create(&mut socket, "gpt-5-mini", "[[error 429]]").await;
    assert_eq!(socket.until("error").await["status"], 429);
    create(&mut socket, "gpt-5-mini", "again").await;
    socket.until("response.completed").await;
    socket.close(1000, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_a_socket_with_an_event_and_1008() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime?model=m", "voice").await;
    socket.ask("word [[stall]]").await;
    socket.until("response.output_text.delta").await;
    let killed = gateway.kill("voice").await;
    assert_eq!((killed.status, &killed.body["legs_cut"]), (200, &json!(1)), "{killed:?}");
    let (events, ended) = socket.end().await;
    let event = events.last().expect("an event");
    assert_eq!((&event["type"], &event["error"]["code"]), (&json!("error"), &json!("session_killed")));
    assert_eq!(event["error"]["type"], "permission_error");
    assert!(event["event_id"].is_string() && event["error"]["message"].is_string(), "{event}");
    let (code, reason) = ended.expect("a Close frame");
    assert!(code == 1008 && reason.contains("runaway"), "{code} {reason}");
    demo.until("the backend's end of it", |ledger| ledger.aborts().len() == 1).await;
    let line = gateway.access_line("/v1/realtime").await;
    assert_eq!((&line["outcome"], &line["status"]), (&json!("session_killed"), &json!(101)), "{line}");

    // Codex reads the status from the event.
    let mut socket = Socket::open(gateway.proxy(), "/v1/responses", "codex").await;
    create(&mut socket, "gpt-5-codex", "word [[stall]]").await;
    socket.until("response.output_text.delta").await;
    gateway.kill("codex").await;
    let (events, ended) = socket.end().await;
    let event = events.last().expect("an event");
    assert_eq!((&event["type"], &event["status"]), (&json!("error"), &json!(400)), "{event}");
    assert_eq!(event["error"]["code"], "session_killed");
    assert_eq!(ended.expect("a Close frame").0, 1008);

    // The next handshake is refused in plain HTTP, and the backend does not receive it.
    let reached = demo.ledger().arrived();
    let refused = handshake("/v1/realtime?model=m").session("voice").send(gateway.proxy()).await;
    assert_eq!(refused.status(), 403, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "session_killed");
    assert_eq!(refused.head.field("x-should-retry"), Some("false"));
    assert_eq!(demo.ledger().arrived(), reached);
}

/// How long each socket took to end after its kill, for so many sockets in sequence.
async fn kill_times(gateway: &Gateway, target: &str, ready: &str, expected: &[u8]) -> Times {
    let mut operator = gateway.operator().await;
    let mut times = Times::default();
    for number in 0..100 {
        let id = format!("{}-{number}", target.len());
        let mut client = open(gateway.proxy(), &handshake(target).session(&id)).await;
        client.until(ready).await;
        let (killed, ending) = tokio::join!(operator.kill(&id), client.end());
        assert_eq!((killed.status, &killed.body["legs_cut"]), (200, &json!(1)), "{killed:?}");
        assert!(client.rest().windows(expected.len()).any(|part| part == expected), "{:?}", client.rest());
        times.push(after(killed.answered, ending.at()));
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_end_within_the_bounds_of_a_kill() {
    let demo = Demo::start().await;
    let halves = switching(async |mut connection: Connection| {
        let _ = connection.send(&Frame::text("half of it").plain()[..6]).await;
        connection.stay_silent().await;
    })
    .await;
    let gateway = Gateway::alone(&demo).await;
    let mut fast = false;
    for _ in 0..3 {
        let times = kill_times(&gateway, "/v1/realtime", "session.created", &1008_u16.to_be_bytes()).await;
        eprintln!("kill, idle socket: {times}");
        fast |= times.percentile(99) < Duration::from_millis(5);
        if fast {
            break;
        }
        for number in 0..100 {
            gateway.resume(&format!("12-{number}")).await;
        }
    }
    assert!(fast, "p99 was never under 5 ms");
    drop(gateway);
    let gateway = Gateway::alone(&halves).await;
    let times = kill_times(&gateway, "/halves", "half", b"half").await;
    eprintln!("kill, in a frame: {times}");
    assert!(times.percentile(90) < Duration::from_millis(50), "{times}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_frame_is_written_into_another_one() {
    let whole = Frame::text("whole").plain();
    let part = |first| Frame { first, payload: b"part".to_vec() }.plain();
    // What the backend has sent, and what may still follow: an event and a Close frame, a Close frame, nothing.
    let cases = [
        (whole.clone(), 2),
        ([whole.clone(), part(0x01)].concat(), 1),
        ([whole.clone(), part(0x01), part(0x80)].concat(), 2),
        ([whole.clone(), whole[..1].to_vec()].concat(), 0),
        ([whole.clone(), whole[..5].to_vec()].concat(), 0),
        ([whole.clone(), Frame::close(1000, "").plain()].concat(), 0),
        (b"no frames at all".to_vec(), 0),
    ];
    for (number, (sent, frames)) in cases.into_iter().enumerate() {
        let bytes = Arc::new(sent.clone());
        let backend = switching(move |mut connection: Connection| {
            let bytes = Arc::clone(&bytes);
            async move {
                let _ = connection.send(bytes.as_slice()).await;
                connection.stay_silent().await;
            }
        })
        .await;
        let gateway = Gateway::start(&backend).await;
        let mut client = open(gateway.proxy(), &handshake("/v1/responses").session("s")).await;
        assert_eq!(client.bytes(sent.len()).await.as_deref(), Some(sent.as_slice()), "case {number}");
        gateway.kill("s").await;
        let mut seen = Vec::new();
        while let Some(frame) = client.frame().await {
            seen.push(frame);
        }
        assert_eq!(seen.len(), frames, "case {number}: {seen:?}");
        if let Some(last) = seen.last() {
            assert_eq!(last.closes().map(|(code, _)| code), Some(1008), "case {number}");
            let event = (frames == 2).then(|| seen[0].json()["error"]["code"].clone());
            assert!(event.is_none_or(|code| code == "session_killed"), "case {number}");
        }
        backend.until("the end of the backend's connection", |backend| backend.closed().len() == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_socket_gets_the_close_frame_alone() {
    let backend = echoing().await;
    let gateway = Gateway::start(&backend).await;
    let mut client = open(gateway.proxy(), &handshake("/chat").session("s")).await;
    client.send(&Frame::text("hello").masked()).await.expect("send");
    assert_eq!(client.frame().await, Some(Frame::text("hello")));
    gateway.kill("s").await;
    let closing = client.frame().await.expect("a frame");
    assert_eq!(closing.closes().map(|(code, _)| code), Some(1008), "{closing:?}");
    assert_eq!(client.frame().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_never_lost_in_the_race_of_the_handshake() {
    let early = Frame::text("first of the server");
    let backend = RawBackend::start(async |mut connection: Connection| {
        let Some(request) = connection.request().await else { return };
        let together =
            [switch(&request.head).as_bytes(), &Frame::text("first of the server").plain()].concat();
        let _ = connection.send(together).await;
        while let Some(frame) = connection.frame().await {
            let _ = connection.send(frame.plain()).await;
        }
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let first = Frame::text("first of the client");
    let second = Frame::binary(vec![7; 70_000]);
    for round in 0..40 {
        for together in [true, false] {
            let call = handshake("/socket").session(&format!("{round}{together}"));
            let mut client = RawClient::connect(gateway.proxy()).await;
            let mut bytes = call.head("a");
            if together {
                bytes.extend_from_slice(&first.masked());
            }
            client.send(&bytes).await.expect("send");
            if !together {
                client.send(&first.masked()).await.expect("send");
            }
            assert_eq!(client.head().await.map(|head| head.status()), Some(101), "round {round}");
            assert_eq!(client.frame().await.as_ref(), Some(&early), "round {round}, {together}");
            assert_eq!(client.frame().await.as_ref(), Some(&first), "round {round}, {together}");
            client.send(&second.masked()).await.expect("send");
            assert_eq!(client.frame().await.as_ref(), Some(&second), "round {round}, {together}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_sent_while_the_backend_thinks_arrive_after_the_switch() {
    let go = Arc::new(Notify::new());
    let may_answer = Arc::clone(&go);
    let backend = RawBackend::start(move |mut connection: Connection| {
        let go = Arc::clone(&may_answer);
        async move {
            let Some(request) = connection.request().await else { return };
            go.notified().await;
            let _ = connection.send(switch(&request.head)).await;
            while let Some(frame) = connection.frame().await {
                let _ = connection.send(frame.plain()).await;
            }
        }
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    for round in 0..40 {
        let mut client = handshake("/socket").open(gateway.proxy()).await;
        backend.until("the handshake", |backend| backend.requests().len() == round + 1).await;
        let frames = [Frame::text("impatient"), Frame::binary(vec![3; 40_000])];
        for frame in &frames {
            client.send(&frame.masked()).await.expect("send");
        }
        // Bytes after the handshake are not frames before the switch, and must not reach the backend.
        go.notify_one();
        assert_eq!(client.head().await.map(|head| head.status()), Some(101), "round {round}");
        for frame in &frames {
            assert_eq!(client.frame().await.as_ref(), Some(frame), "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_handshake_passes_as_it_is() {
    let answers = [
        (401, "WWW-Authenticate: Bearer\r\n", r#"{"error":{"message":"Incorrect API key"}}"#),
        (403, "", "forbidden"),
        (404, "", r#"{"error":"no such path"}"#),
        (426, "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", "Upgrade Required"),
        (200, "", "no socket here"),
    ];
    for (status, fields, body) in answers {
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} Because\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
        let backend = RawBackend::answering(answer).await;
        let gateway = Gateway::start(&backend).await;
        let refused = handshake("/v1/realtime").session("s").send(gateway.proxy()).await;
        assert_eq!((refused.status(), refused.text().as_str()), (status, body));
        assert!(refused.is_whole, "{status}");
        if status == 426 {
            assert_eq!(refused.head.field("sec-websocket-version"), Some("13"));
            assert_eq!(refused.head.field("upgrade"), Some("websocket"));
        }
        let session = gateway.session_until("s", |session| session["open_legs"] == 0).await;
        assert_eq!(session["requests"][0]["status"], status, "{session}");
        assert_eq!(session["requests"][0]["socket"], Value::Null, "no socket came of it");
        assert_eq!(session["error_count"], u64::from(status >= 400), "{session}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn close_codes_pass_in_both_directions() {
    let backend = echoing().await;
    let gateway = Gateway::start(&backend).await;
    let socket = Socket::open(gateway.proxy(), "/socket", "mine").await;
    socket.close(4001, "client's own").await;
    let session = gateway.session_until("mine", |session| session["open_legs"] == 0).await;
    assert_eq!(session["requests"][0]["socket"]["close_code"], 4001, "{session}");
    assert_eq!(session["requests"][0]["outcome"], "ok");

    let backend = switching(async |mut connection: Connection| {
        let _ = connection.send(Frame::close(4002, "backend's own").plain()).await;
        let answer = connection.frame().await;
        assert_eq!(answer.and_then(|frame| frame.closes()).map(|(code, _)| code), Some(4002));
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let mut socket = Socket::open(gateway.proxy(), "/socket", "theirs").await;
    let (_, ended) = socket.end().await;
    assert_eq!(ended, Some((4002, "backend's own".to_owned())));
    let session = gateway.session_until("theirs", |session| session["open_legs"] == 0).await;
    assert_eq!(session["requests"][0]["socket"]["close_code"], 4002, "{session}");
    assert_eq!(session["error_count"], 0, "{session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_breaks_off_is_seen_as_cut() {
    let backend = switching(async |mut connection: Connection| {
        let _ = connection.send(Frame::text("last words").plain()).await;
        connection.until("\u{1}").await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let mut client = open(gateway.proxy(), &handshake("/v1/responses").session("s")).await;
    assert_eq!(client.frame().await, Some(Frame::text("last words")));
    client.send(b"\x82\x81\0\0\0\0\x01").await.expect("send");
    assert_eq!(client.frame().await, None, "no invented Close frame");
    let session = gateway.session_until("s", |session| session["open_legs"] == 0).await;
    assert_eq!(session["requests"][0]["outcome"], "backend_unavailable", "{session}");
    assert_eq!(session["requests"][0]["socket"]["close_code"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_takes_the_backend_along() {
    let backend = echoing().await;
    let gateway = Gateway::start(&backend).await;
    for (number, reset) in [false, true].into_iter().enumerate() {
        let mut client = open(gateway.proxy(), &handshake("/socket").session("s")).await;
        client.send(&Frame::text("hello").masked()).await.expect("send");
        assert_eq!(client.frame().await, Some(Frame::text("hello")));
        let left = Instant::now();
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        backend.until("the backend's end", |backend| backend.closed().len() == number + 1).await;
        assert!(after(left, backend.closed()[number]) < Duration::from_secs(2));
    }
    gateway.session_until("s", |session| session["open_legs"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_before_it_shuts_its_side_arrives() {
    let backend = switching(async |mut connection: Connection| {
        let frame = connection.frame().await;
        assert_eq!(frame.map(|frame| frame.payload.len()), Some(1 << 20));
        assert_eq!(
            connection.frame().await.and_then(|frame| frame.closes()).map(|(code, _)| code),
            Some(1000)
        );
        connection.gone();
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let mut client = open(gateway.proxy(), &handshake("/socket")).await;
    client.send(&Frame::binary(vec![9; 1 << 20]).masked()).await.expect("send");
    client.send(&Frame::close(1000, "").masked()).await.expect("send");
    client.shut().await;
    backend.until("all of it", |backend| backend.closed().len() == 1).await;
    assert!(matches!(client.end().await, Ending::Closed(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_may_carry_more_than_a_body_may() {
    let backend = echoing().await;
    let yaml = format!(
        "backend: {:?}\nserver: {{ limits: {{ max_body: 10KiB, max_body_llm: 10KiB }} }}\n",
        backend.url()
    );
    let gateway = Gateway::with(yaml).await;
    for target in ["/socket", "/v1/realtime"] {
        let mut client = open(gateway.proxy(), &handshake(target).session("s")).await;
        for number in 0..20_u8 {
            let frame = Frame::binary(vec![number; 1 << 17]);
            client.send(&frame.masked()).await.expect("send");
            assert_eq!(client.frame().await, Some(frame), "frame {number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_keep_a_socket_open_and_silence_ends_it() {
    let backend = switching(async |mut connection: Connection| {
        // Four times the idle time-out.
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let _ = connection.send([0x89, 0]).await;
        }
        connection.stay_silent().await;
    })
    .await;
    let yaml = format!(
        "backend: {:?}\nserver: {{ timeouts: {{ read: 100ms, stream_idle: 500ms }} }}\n",
        backend.url()
    );
    let gateway = Gateway::with(yaml).await;
    let mut client = open(gateway.proxy(), &handshake("/v1/realtime")).await;
    for number in 0..8 {
        assert_eq!(client.frame().await.map(|frame| frame.first), Some(0x89), "ping {number}");
    }
    let silent = Instant::now();
    let event = client.frame().await.expect("an event").json();
    assert_eq!(event["error"]["code"], "backend_timeout", "{event}");
    let closing = client.frame().await.expect("a Close frame");
    assert_eq!(closing.closes().map(|(code, _)| code), Some(1001), "{closing:?}");
    let after = after(silent, Instant::now());
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&after), "{after:?}");
    backend.until("the backend's end", |backend| backend.closed().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_ends_its_sockets() {
    let backend = echoing().await;
    let gateway =
        Gateway::with(format!("backend: {:?}\nsession: {{ idle_timeout: 1s }}\n", backend.url())).await;
    let mut client = open(gateway.proxy(), &handshake("/v1/responses").session("s")).await;
    let event = client.frame().await.expect("an event").json();
    assert_eq!(event["error"]["code"], "session_timed_out", "{event}");
    let closing = client.frame().await.and_then(|frame| frame.closes());
    assert_eq!(closing.map(|(code, _)| code), Some(1008));
    let ended = gateway.session_until("s", |session| session["open_legs"] == 0).await;
    assert_eq!(ended["state"], "timed_out", "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_sends_clients_elsewhere() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\nserver: {{ timeouts: {{ shutdown_grace: 100ms }} }}\n", demo.url());
    let mut gateway = Gateway::with(yaml).await;
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime", "s").await;
    socket.until("session.created").await;
    gateway.terminate();
    let (events, ended) = socket.end().await;
    assert_eq!(events.last().expect("an event")["error"]["code"], "shutting_down");
    assert_eq!(ended.expect("a Close frame").0, 1001, "after which SDKs connect again");
    assert!(gateway.ended().await.success());
}

/// A frame of 64 KiB.
fn weight() -> Frame {
    Frame::binary(vec![0x5A; 1 << 16])
}

/// Number of peers that do not read, and how much memory each of them may cost.
const SLOW: u64 = 10;
const SLOW_MEMORY: u64 = 2 << 20;

/// Memory before any peer is slow, after everything that is allocated once.
async fn warm(gateway: &Gateway) -> u64 {
    let mut client = open(gateway.proxy(), &handshake("/warm").session("warm")).await;
    client.send(&weight().masked()).await.expect("send");
    gateway.session_until("warm", |session| session["bytes_in"].as_u64() > Some(1 << 16)).await;
    gateway.resident_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_hold_the_backend_back() {
    let backend = switching(async |connection: Connection| {
        connection.send_until_closed(&weight().plain(), Duration::ZERO).await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let before = warm(&gateway).await;
    let mut clients = Vec::new();
    for _ in 0..SLOW {
        let mut client = RawClient::connect_narrow(gateway.proxy()).await;
        client.send(&handshake("/socket").bytes("a")).await.expect("send");
        clients.push(client);
    }
    let sent = backend.held_back(Duration::from_millis(500)).await;
    let grown = gateway.resident_bytes().saturating_sub(before);
    eprintln!("clients that do not read: held back after {sent} bytes, grown by {grown}");
    assert!(grown < SLOW * SLOW_MEMORY, "{grown}");
    // Nothing is lost when a client reads on.
    let mut client = clients.swap_remove(0);
    client.head().await.expect("an answer");
    for number in 0..100 {
        assert_eq!(client.frame().await, Some(weight()), "frame {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_that_do_not_read_hold_the_client_back() {
    let backend = switching(Connection::freeze).await;
    let gateway = Gateway::start(&backend).await;
    let before = warm(&gateway).await;
    let frame = weight().masked();
    let mut clients = Vec::new();
    let mut sent = 0;
    for _ in 0..SLOW {
        let mut client = open(gateway.proxy(), &handshake("/socket")).await;
        let limit = Duration::from_millis(300);
        while tokio::time::timeout(limit, client.send(&frame)).await.is_ok_and(|sent| sent.is_ok()) {
            sent += frame.len();
            assert!(sent < 1 << 30, "the clients were never held back");
        }
        clients.push(client);
    }
    let grown = gateway.resident_bytes().saturating_sub(before);
    eprintln!("backends that do not read: held back after {sent} bytes, grown by {grown}");
    assert!(grown < SLOW * SLOW_MEMORY, "{grown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_on_which_nothing_moves_any_more_ends_though_bytes_wait() {
    let backend = switching(async |mut connection: Connection| {
        // Writes everything before it reads: with a client that does the same, nothing would move.
        for _ in 0..1024 {
            if connection.send(weight().plain()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let yaml = format!("backend: {:?}\nserver: {{ timeouts: {{ stream_idle: 500ms }} }}\n", backend.url());
    let gateway = Gateway::with(yaml).await;
    let mut client = RawClient::connect_narrow(gateway.proxy()).await;
    client.send(&handshake("/socket").session("s").bytes("a")).await.expect("send");
    let frame = weight().masked();
    within("the end of it", async { while client.send(&frame).await.is_ok() {} }).await;
    let session = gateway.session_until("s", |session| session["open_legs"] == 0).await;
    assert_eq!(session["requests"][0]["outcome"], "backend_timeout", "{session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_of_known_origins_may_connect() {
    let backend = echoing().await;
    let yaml = format!(
        "backend: {:?}\nserver: {{ cors: {{ allow_origins: [\"https://app.example.com\"] }} }}\n",
        backend.url()
    );
    let gateway = Gateway::with(yaml).await;
    let own = format!("http://{}", gateway.proxy());
    for (origin, status) in [
        ("https://evil.example.com", 403),
        ("https://app.example.com.evil.com", 403),
        ("null", 403),
        ("http://127.0.0.1:1", 403),
        ("https://app.example.com", 101),
        (own.as_str(), 101),
    ] {
        let reached = backend.heads().len();
        let call = handshake("/v1/realtime").session("s").header("Origin", origin);
        if status == 101 {
            open(gateway.proxy(), &call).await;
            continue;
        }
        let refused = call.send(gateway.proxy()).await;
        assert_eq!(refused.status(), status, "{origin}: {}", refused.text());
        assert_eq!(refused.json()["error"]["code"], "origin_refused");
        assert!(refused.text().contains("server.cors.allow_origins"), "{}", refused.text());
        assert_eq!(backend.heads().len(), reached, "{origin}");
    }
    // Other requests of web pages are not sockets and not checked here.
    let plain = RawBackend::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let gateway = Gateway::start(&plain).await;
    let answer = Call::get("/page").header("Origin", "https://evil.example.com").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_model_is_blocked_in_query_and_message() {
    let backend = switching(async |mut connection: Connection| {
        connection.until("never").await;
    })
    .await;
    let yaml = format!("backend: {:?}\nrouting: {{ blocked_models: [\"gpt-secret*\"] }}\n", backend.url());
    let gateway = Gateway::with(yaml).await;
    let refused = handshake("/v1/realtime?model=gpt-secret-1").session("query").send(gateway.proxy()).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (403, &json!("policy_blocked")));
    let refused = handshake("/v1/realtime?model=a&model=b").session("query").send(gateway.proxy()).await;
    assert_eq!(refused.status(), 400, "{}", refused.text());
    let yaml = format!(
        "backends: {{ b: {{ url: {:?}, type: gemini }} }}\nrouting: {{ blocked_models: [\"gemini-secret*\"] }}\n",
        backend.url()
    );
    let unread = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent";
    let refused = handshake(unread).send(Gateway::with(yaml).await.proxy()).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (403, &json!("policy_blocked")));
    assert_eq!(backend.heads().len(), 0);

    let named =
        r#"{"type":"response.create","input":[{"role":"user"}],"model":"gpt-secret-1","stream":true}"#;
    let later = r#"{"type":"session.update","session":{"type":"realtime","model":"gpt-secret-2"}}"#;
    let mut sealed = Frame::text(named);
    sealed.first = 0xC1;
    let fragments = [
        Frame { first: 0x01, payload: named.as_bytes()[..70].to_vec() }.masked(),
        Frame { first: 0x80, payload: named.as_bytes()[70..].to_vec() }.masked(),
    ];
    let cases = [
        ("/v1/responses", Frame::text(named).masked()),
        ("/v1/responses", Frame::binary(named).masked()),
        ("/v1/responses", fragments.concat()),
        ("/v1/responses", sealed.masked()),
        ("/v1/realtime?model=gpt-realtime", Frame::text(later).masked()),
    ];
    for (number, (target, bytes)) in cases.iter().enumerate() {
        let mut client = open(gateway.proxy(), &handshake(target).session(&format!("s{number}"))).await;
        // Byte by byte, so that the backend would get as much of it as possible.
        for byte in bytes {
            if client.send(&[*byte]).await.is_err() {
                break;
            }
        }
        let event = client.frame().await.unwrap_or_else(|| panic!("case {number}")).json();
        assert_eq!(event["error"]["code"], "policy_blocked", "case {number}: {event}");
        let closing = client.frame().await.and_then(|frame| frame.closes());
        assert_eq!(closing.map(|(code, _)| code), Some(1008), "case {number}");
    }
    // A model that is not blocked still reaches the same backend.
    let mut client = open(gateway.proxy(), &handshake("/v1/responses").session("good")).await;
    client.send(&Frame::text(r#"{"type":"response.create","model":"gpt-5"}"#).masked()).await.expect("send");
    gateway.session_until("good", |session| session["models"]["gpt-5"] == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_and_subprotocols_of_other_sockets_pass() {
    let backend = RawBackend::start(async |mut connection: Connection| {
        let Some(request) = connection.request().await else { return };
        let switch = switch(&request.head).replace(
            "\r\n\r\n",
            "\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: tty\r\n\r\n",
        );
        let _ = connection.send(switch).await;
        let mut sealed = Frame::text("deflated");
        sealed.first = 0xC1;
        let _ = connection.send(sealed.plain()).await;
        connection.stay_silent().await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let call = handshake("/ws")
        .session("tty")
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .header("Sec-WebSocket-Protocol", "tty, other");
    let mut client = call.open(gateway.proxy()).await;
    let head = client.head().await.expect("an answer");
    assert_eq!(head.status(), 101);
    assert_eq!(head.field("sec-websocket-protocol"), Some("tty"));
    assert_eq!(head.field("sec-websocket-extensions"), Some("permessage-deflate"));
    let asked = &backend.heads()[0];
    assert_eq!(asked.field("sec-websocket-protocol"), Some("tty, other"));
    assert_eq!(asked.field("sec-websocket-extensions"), Some("permessage-deflate"));
    assert_eq!(
        client.frame().await.map(|frame| (frame.first, frame.payload)),
        Some((0xC1, b"deflated".to_vec()))
    );
    // The gateway's own frame is not compressed, which the extension allows (RFC 7692, 6).
    gateway.kill("tty").await;
    assert_eq!(client.frame().await.and_then(|frame| frame.closes()).map(|(code, _)| code), Some(1008));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_handshake_is_refused_as_http() {
    let backend = RawBackend::start(async |mut connection: Connection| {
        let Some(_) = connection.request().await else { return };
        connection.stay_silent().await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let mut client = handshake("/v1/realtime").session("s").open(gateway.proxy()).await;
    backend.until("the handshake", |backend| backend.requests().len() == 1).await;
    gateway.kill("s").await;
    let refused = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (403, &json!("session_killed")));
    // As a client that follows the standard sees it.
    let fields = [("x-session-id", "s")];
    match Socket::connect(gateway.proxy(), "/v1/realtime", &fields).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status().as_u16(), 403),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("a killed session's socket was let in"),
    }
    within("the backend's end", async { backend.until("it", |backend| backend.closed().len() == 1).await })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_is_served_over_sockets() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for mode in ["realtime", "responses"] {
        let outcome = Program::python("openai_sockets.py", &gateway.url(), &[mode, mode]).outcome().await;
        assert_eq!(outcome.code, Some(0), "{mode}: {outcome:?}");
        let answers = json!([
            {"text": "one two three", "output_tokens": 3},
            {"text": "four five", "output_tokens": 2},
        ]);
        assert_eq!(outcome.last()["report"], answers, "{mode}");
        let session = gateway.session_until(mode, |session| session["open_legs"] == 0).await;
        assert_eq!(session["usage"]["output_tokens"], 5, "{session}");
        assert_eq!(session["requests"][0]["socket"]["close_code"], 1000, "{session}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_stops_when_its_socket_is_killed() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for mode in ["realtime", "responses"] {
        let kill = format!("kill_{mode}");
        let mut program = Program::python("openai_sockets.py", &gateway.url(), &[&kill, mode]);
        program.printed("event", 5).await;
        assert_eq!(gateway.kill(mode).await.status, 200);
        let reached = demo.ledger().arrived();
        let report = program.outcome().await.last()["report"].clone();
        assert_eq!(report["error"]["error"]["code"], "session_killed", "{report}");
        assert_eq!(report["stopped_by"]["code"], 1008, "{report}");
        assert!(
            report["stopped_by"]["reason"].as_str().is_some_and(|why| why.contains("runaway")),
            "{report}"
        );
        assert_eq!(report["next"]["status"], 403, "{report}");
        assert!(report["next"]["body"].as_str().is_some_and(|body| body.contains("runaway")), "{report}");
        assert_eq!(demo.ledger().arrived(), reached, "nothing reaches the backend after the kill");
    }
}
