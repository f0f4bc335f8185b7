use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::control::{Control, Killed};
use crate::support::timing::{Times, after};
use crate::support::wire::{Message, Unframed};
use crate::support::{Call, Demo, Gateway, RawBackend, RawClient, json as json_of, within};

/// Kills per state.
const KILLS: usize = 200;
/// Limit for states in which the proxy itself waits and is woken.
const SOFT: Duration = Duration::from_millis(5);
/// Limit for states in which the request's future must be dropped.
const HARD: Duration = Duration::from_millis(50);

/// Times of one state: from the kill request, and from its answer, to the last byte.
#[derive(Default)]
struct Latency {
    asked: Times,
    answered: Times,
}

impl Latency {
    fn push(&mut self, killed: &Killed, end: Instant) {
        assert_eq!(killed.status, 200, "{killed:?}");
        assert_eq!(killed.body["legs_cut"], 1, "{killed:?}");
        self.asked.push(after(killed.sent, end));
        self.answered.push(after(killed.answered, end));
    }
}

/// Measures a state. Other programs on the machine can only make times longer, so the first of three
/// rounds that stays below the limit counts.
async fn must_stay_under(bound: Duration, state: &str, round: impl AsyncFn() -> Latency) {
    for _ in 0..3 {
        let Latency { asked, answered } = round().await;
        eprintln!("kill, {state}: from the answer {answered}; from the question {asked}");
        assert_eq!(answered.len(), KILLS);
        if answered.percentile(99) < bound {
            return;
        }
    }
    panic!("{state}: p99 was never under {bound:?}");
}

/// Kills `id` while its answer is read to the end; `None` when the connection ends before a response head.
async fn kill_and_read(
    operator: &mut Control,
    id: &str,
    client: &mut RawClient,
) -> (Killed, Option<Message>) {
    tokio::join!(operator.kill(id), client.message(Unframed::UntilEnd))
}

/// Brings one request after the other into a state with `open`, kills its session there, and passes what its
/// client reads to `check`.
async fn round(
    gateway: &Gateway,
    open: impl AsyncFn(usize, &str) -> RawClient,
    check: impl Fn(Option<&Message>),
) -> Latency {
    let mut operator = gateway.operator().await;
    let mut latency = Latency::default();
    for number in 0..KILLS {
        let id = format!("s-{number}");
        let mut client = open(number, &id).await;
        let (killed, answer) = kill_and_read(&mut operator, &id, &mut client).await;
        check(answer.as_ref());
        let unanswered = || client.ending().expect("an ended connection").at();
        latency.push(&killed, answer.map_or_else(unanswered, |answer| answer.ended));
    }
    latency
}

async fn stream_round(directive: &str) -> Latency {
    let demo = Demo::start().await;
    let gateway = Gateway::alone(&demo).await;
    let open = async |_, id: &str| {
        let mut client = Call::chat_stream(directive).session(id).open(gateway.proxy()).await;
        client.until("\"delta\":{\"content\":\"").await;
        client
    };
    let is_cut = |answer: Option<&Message>| {
        let text = answer.expect("an answer").text();
        assert!(text.contains("session_killed") && !text.contains("[DONE]"), "{text}");
    };
    round(&gateway, open, is_cut).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flowing_stream_ends_within_5_ms() {
    must_stay_under(SOFT, "flowing", async || stream_round("[[words 1000000]] [[pace 1ms]]").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_ends_within_5_ms() {
    must_stay_under(SOFT, "silent", async || stream_round("[[stall]]").await).await;
}

fn is_refused(answer: Option<&Message>) {
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 403, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "session_killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waiting_for_its_head_ends_within_5_ms() {
    must_stay_under(SOFT, "waiting for the head", waiting_round).await;
}

async fn waiting_round() -> Latency {
    let demo = Demo::start().await;
    let gateway = Gateway::alone(&demo).await;
    let open = async |number, id: &str| {
        let client = Call::chat_stream("[[mute]]").session(id).open(gateway.proxy()).await;
        demo.until("the request", |ledger| ledger.count("/v1/chat/completions") == number as u64 + 1).await;
        client
    };
    round(&gateway, open, is_refused).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_upload_ends_within_5_ms() {
    must_stay_under(SOFT, "stalled upload", upload_round).await;
}

async fn upload_round() -> Latency {
    let demo = Demo::start().await;
    let gateway = Gateway::alone(&demo).await;
    let open = async |number, id: &str| {
        // `/echo` is forwarded without reading its body; a chat needs its model first.
        let path = if number % 2 == 0 { "/v1/chat/completions" } else { "/echo" };
        let call = Call::post(path).session(id).header("content-length", "1000000").body("x".repeat(2000));
        let client = call.open(gateway.proxy()).await;
        gateway.session_until(id, |session| session["open_legs"] == 1).await;
        client
    };
    round(&gateway, open, is_refused).await
}

/// Kills a request that gets no answer; its client sees a refusal or the end of the connection.
async fn unanswered_round(backend: &RawBackend, call: impl Fn(&str) -> Call, settle: Duration) -> Latency {
    let gateway = Gateway::alone(backend).await;
    let address = gateway.proxy();
    let open = async |_, id: &str| {
        let mut client = RawClient::connect(address).await;
        let bytes = call(id).bytes(&address.to_string());
        let _ = tokio::time::timeout(Duration::from_secs(5), client.send(&bytes)).await;
        gateway.session_until(id, |session| session["open_legs"] == 1).await;
        // The test cannot see when the pipes are full.
        tokio::time::sleep(settle).await;
        client
    };
    let is_ended = |answer: Option<&Message>| {
        assert!(answer.is_none_or(|answer| answer.status() == 403), "{answer:?}");
    };
    round(&gateway, open, is_ended).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connecting_request_ends_within_50_ms() {
    let backend = RawBackend::not_accepting().await;
    let call = |id: &str| Call::chat("hello").session(id);
    let round = async || unanswered_round(&backend, call, Duration::ZERO).await;
    must_stay_under(HARD, "connecting", round).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_within_50_ms_while_the_backend_does_not_read() {
    let backend = RawBackend::not_reading().await;
    let body = json!({"messages": [{"role": "user", "content": "x".repeat(8 << 20)}], "model": "gpt-demo"});
    let call = Call::post("/v1/chat/completions").json(&body);
    let call = |id: &str| call.clone().session(id);
    let round = async || unanswered_round(&backend, call, Duration::from_millis(20)).await;
    must_stay_under(HARD, "backend not reading", round).await;
}

/// Sends an endless stream of events, as fast as they are read.
async fn flooding() -> RawBackend {
    RawBackend::start(async |mut connection| {
        let Some(_) = connection.request().await else { return };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = connection.send(head).await;
        let event = format!("data: {}\n\n", "x".repeat(16 * 1024));
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        connection.send_until_closed(chunk.as_bytes(), Duration::ZERO).await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_within_50_ms_while_the_client_does_not_read() {
    must_stay_under(HARD, "client not reading", unread_round).await;
}

async fn unread_round() -> Latency {
    let backend = flooding().await;
    let gateway = Gateway::alone(&backend).await;
    let address = gateway.proxy();
    let mut operator = gateway.operator().await;
    let mut latency = Latency::default();
    // Filling all buffers takes long, so many streams fill theirs at the same time.
    for batch in 0..KILLS / 20 {
        let mut clients = Vec::new();
        for number in batch * 20..(batch + 1) * 20 {
            let mut client = RawClient::connect_narrow(address).await;
            let call = Call::chat_stream("hello").session(&format!("s-{number}"));
            client.send(&call.bytes(&address.to_string())).await.expect("send");
            client.until("data: ").await;
            clients.push((number, client));
        }
        backend.held_back(Duration::from_millis(50)).await;
        for (number, client) in &mut clients {
            let killed = operator.kill(&format!("s-{number}")).await;
            // A client that does not read sees nothing; the backend sees its connection close.
            backend
                .until("the backend's connection to close", |backend| backend.closed().len() > *number)
                .await;
            latency.push(&killed, backend.closed()[*number]);
            let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
            assert!(!answer.is_whole, "the answer looks whole after {} bytes", answer.body.len());
        }
    }
    latency
}

#[tokio::test(flavor = "multi_thread")]
async fn of_one_hundred_requests_racing_a_kill_none_is_served_after_its_answer() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let address = gateway.proxy();
    for round in 0..5 {
        let id = format!("raced-{round}");
        assert_eq!(Call::chat("first").session(&id).send(address).await.status(), 200);
        let stop = Arc::new(AtomicBool::new(false));
        let racers: Vec<_> = (0..100)
            .map(|racer| {
                tokio::spawn(race(address, id.clone(), format!("{round}-{racer}"), Arc::clone(&stop)))
            })
            .collect();
        let killed = gateway.kill(&id).await;
        assert_eq!(killed.status, 200, "{killed:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.store(true, Ordering::Relaxed);
        let mut late = 0;
        for racer in racers {
            for run in racer.await.expect("a racer") {
                if run.sent > killed.answered {
                    late += 1;
                    assert_eq!(run.status, 403, "{run:?} was sent after the kill's answer");
                    let mark = format!("mark={}", run.mark);
                    let reached =
                        demo.ledger().requests().iter().any(|seen| seen.query.as_deref() == Some(&mark));
                    assert!(!reached, "{run:?} reached the backend");
                }
                let was_served_late =
                    run.status == 200 && after(killed.answered, run.ended) > Duration::from_millis(20);
                assert!(
                    !was_served_late,
                    "{run:?} was served after the kill's answer at {:?}",
                    killed.answered
                );
            }
        }
        assert!(late > 50, "the racers went on after the kill");
    }
}

#[derive(Debug)]
struct Run {
    mark: String,
    sent: Instant,
    ended: Instant,
    status: u16,
}

async fn race(address: std::net::SocketAddr, id: String, racer: String, stop: Arc<AtomicBool>) -> Vec<Run> {
    let body = json!({"messages": [{"role": "user", "content": "race"}], "model": "gpt-demo"});
    let mut runs = Vec::new();
    while !stop.load(Ordering::Relaxed) && runs.len() < 50 {
        let mark = format!("{racer}-{}", runs.len());
        let call = Call::post(&format!("/v1/chat/completions?mark={mark}")).session(&id).json(&body);
        let mut client = RawClient::connect(address).await;
        let sent = Instant::now();
        if client.send(&call.bytes(&address.to_string())).await.is_err() {
            continue;
        }
        let answer = client.message(Unframed::UntilEnd).await;
        let status = answer.as_ref().filter(|answer| answer.is_whole).map_or(0, Message::status);
        runs.push(Run { mark, sent, ended: Instant::now(), status });
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backends_connection_closes_at_once() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let directives = ["[[stall]]", "[[mute]]", "[[words 1000000]] [[pace 5ms]]"];
    for (number, directive) in directives.iter().enumerate() {
        let id = format!("s-{number}");
        let client = Call::messages_stream(directive).session(&id).open(gateway.proxy()).await;
        demo.until("the request", |ledger| ledger.count("/v1/messages") == number as u64 + 1).await;
        let killed = gateway.kill(&id).await;
        demo.until("the abort", |ledger| ledger.aborts().len() == number + 1).await;
        let late = after(killed.answered, demo.ledger().aborts()[number]);
        assert!(late < Duration::from_millis(100), "{directive}: {late:?}");
        drop(client);
    }
}

/// What a client reads of a stream that was killed after its first word.
async fn killed_stream(gateway: &Gateway, id: &str, call: Call, first: &str) -> Message {
    let mut client = call.session(id).open(gateway.proxy()).await;
    client.until(first).await;
    let mut operator = gateway.operator().await;
    kill_and_read(&mut operator, id, &mut client).await.1.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_dialect_ends_in_its_own_words_and_never_cleanly() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let user = json!([{"role": "user", "content": "first second [[stall]]"}]);
    let stream = json!({"messages": user, "stream": true, "model": "m"});
    let mistral = json!({"messages": user, "stream": true, "model": "mistral-small"});
    let responses = json!({"input": "first second [[stall]]", "stream": true, "model": "m"});
    let generate = json!({"prompt": "first second [[stall]]", "model": "m"});
    let cases = [
        ("/v1/messages", &stream, "\nevent: error\n", "message_stop"),
        ("/v1/chat/completions", &stream, "", "[DONE]"),
        ("/v1/chat/completions", &mistral, "", "[DONE]"),
        ("/v1/responses", &responses, "\nevent: error\n", "response.completed"),
        ("/api/chat", &stream, "", "\"done\":true"),
        ("/api/generate", &generate, "", "\"done\":true"),
    ];
    for (number, (path, body, name, clean)) in cases.into_iter().enumerate() {
        let call = Call::post(path).json(body);
        let answer = killed_stream(&gateway, &format!("d-{number}"), call, "first").await;
        let text = answer.text();
        assert!(text.contains("first") && text.contains(name) && !text.contains(clean), "{path}: {text}");
        let blank = if path.starts_with("/api/") { "\n" } else { "\n\n" };
        let last = text.strip_suffix(blank).and_then(|text| text.lines().last());
        let last = last.unwrap_or_else(|| panic!("{path}: no whole last event: {text}"));
        let event = json_of(last.trim_start_matches("data: ").as_bytes());
        let error = &event["error"];
        assert!(error["code"] == "session_killed" || path.starts_with("/api/"), "{path}: {text}");
        let message = error["message"].as_str().or(error.as_str()).unwrap_or_default();
        assert!(message.contains("runaway"), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_native_end_the_next_request_on_the_connection_has_its_answer() {
    let demo = Demo::start().await;
    let gateway = Gateway::alone(&demo).await;
    let mut operator = gateway.operator().await;
    for number in 0..20 {
        let call = Call::messages_stream("[[words 1000]] [[pace 2ms]]").session(&format!("s-{number}"));
        let mut client = call.open(gateway.proxy()).await;
        client.until("word1").await;
        assert_eq!(operator.kill(&format!("s-{number}")).await.status, 200);
        let cut = client.message(Unframed::UntilEnd).await.expect("an answer");
        assert!(cut.is_whole && cut.text().contains("event: error"), "{}", cut.text());
        let refused = call.send_over(&mut client, gateway.proxy()).await;
        assert_eq!(refused.status(), 403, "{}", refused.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_cut_inside_an_event_still_ends_in_one_of_its_own() {
    let backend = RawBackend::start(async |mut connection| {
        let Some(_) = connection.request().await else { return };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = connection.send(head).await;
        let half = "event: content_block_delta\ndata: {\"half\": \"";
        let _ = connection.send(format!("{:x}\r\n{half}\r\n", half.len())).await;
        connection.stay_silent().await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let answer = killed_stream(&gateway, "inside", Call::messages_stream("hello"), "half").await;
    let text = answer.text();
    let at = text.find("\n\nevent: error\ndata: {").unwrap_or_else(|| panic!("no error event: {text:?}"));
    assert_eq!(&text[..at], "event: content_block_delta\ndata: {\"half\": \"");
    assert!(text.ends_with("}\n\n"), "{text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_and_unknown_answers_are_cut_without_an_end() {
    let framings = [
        "Content-Type: application/json\r\nContent-Length: 1000",
        "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked",
    ];
    for framing in framings {
        let backend = RawBackend::start(move |mut connection| async move {
            let Some(_) = connection.request().await else { return };
            let body = if framing.contains("chunked") { "5\r\nhello\r\n" } else { "hello" };
            let _ = connection.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{body}")).await;
            connection.stay_silent().await;
        })
        .await;
        let gateway = Gateway::start(&backend).await;
        let answer = killed_stream(&gateway, "whole", Call::chat("hello"), "hello").await;
        assert!(!answer.is_whole, "{framing}: {}", answer.text());
        backend.until("the backend's connection to close", |backend| backend.closed().len() == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_session_is_recorded_once() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    killed_stream(&gateway, "recorded", Call::chat_stream("first [[stall]]"), "first").await;
    let record = gateway
        .log_until(|line| line["message"] == "session_record" && line["session_id"] == "recorded")
        .await;
    assert_eq!((&record["state"], &record["request_count"]), (&json!("killed"), &json!(1)), "{record}");
    assert!(record["bytes_out"].as_u64().is_some_and(|bytes| bytes > 0), "{record}");
    let line = gateway.access_line("/v1/chat/completions").await;
    assert_eq!(line["session_id"], "recorded");
    assert_eq!(Call::chat("again").session("recorded").send(gateway.proxy()).await.status(), 403);
    let records = gateway.log_lines();
    let count = records.iter().filter(|line| line["message"] == "session_record").count();
    assert_eq!(count, 1, "a refused request starts nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_session_cannot_be_killed() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    assert_eq!(gateway.kill("nobody").await.status, 404);
    assert_eq!(Call::chat("hello").session("once").send(gateway.proxy()).await.status(), 200);
    assert_eq!(gateway.kill("once").await.status, 200);
    assert_eq!(gateway.kill("once").await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hundred_streams_of_a_session_end_together() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = Call::chat_stream("first [[stall]]").session("many").open(gateway.proxy()).await;
        client.until("first").await;
        clients.push(client);
    }
    let killed = gateway.kill("many").await;
    assert_eq!(killed.body["legs_cut"], 100, "{killed:?}");
    for client in &mut clients {
        let answer = within("an end", client.message(Unframed::UntilEnd)).await.expect("an answer");
        assert!(answer.text().contains("session_killed"));
    }
    demo.until("the aborts", |ledger| ledger.aborts().len() == 100).await;
}
