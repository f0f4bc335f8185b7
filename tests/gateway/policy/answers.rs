use std::io::Read;

use serde_json::{Value, json};

use super::rules::ruled;
use crate::support::http2::Client;
use crate::support::socket::Socket;
use crate::support::wire::Unframed;
use crate::support::{Call, Demo, Gateway, RawBackend, sha256};

/// Blocks a phrase in answers and a tool.
const RULES: &str = r#"  tools: { deny: ["delete_*"] }
  rules:
    - { id: no-drop, on: response, match: { any: ["drop all tables"] }, action: block, message: "this answer is stopped" }"#;

/// What the model writes: a word an event.
const FORBIDDEN: &str = "[[pace 2ms]]please drop all tables quickly";
const FINE: &str = "[[pace 1ms]]please keep all tables, for now";
const CALL: &str = r#"sure [[tool delete_everything {"where": "here"}]]"#;

/// A dialect: its name, its path, and how it is asked for a stream.
type Case = (&'static str, &'static str, fn(&str) -> Value);

fn chat(text: &str) -> Value {
    json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": text}],
        "tools": [{"type": "function", "function": {"name": "delete_everything"}}]})
}

fn gemini(text: &str) -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": text}]}],
        "tools": [{"functionDeclarations": [{"name": "delete_everything"}]}]})
}

fn messages(text: &str) -> Value {
    json!({"model": "m", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": text}],
        "tools": [{"name": "delete_everything", "input_schema": {}}]})
}

const CASES: [Case; 7] = [
    ("chat", "/v1/chat/completions", chat),
    (
        "responses",
        "/v1/responses",
        |text| json!({"model": "m", "stream": true, "input": text, "tools": [{"type": "function", "name": "delete_everything"}]}),
    ),
    ("messages", "/v1/messages", messages),
    ("cohere", "/v2/chat", chat),
    ("ollama", "/api/chat", chat),
    ("gemini", "/v1beta/models/m:streamGenerateContent?alt=sse", gemini),
    ("gemini array", "/v1beta/models/m:streamGenerateContent", gemini),
];

fn ask(case: &Case, text: &str) -> Call {
    Call::post(case.1).json(&(case.2)(text))
}

/// Checks that what a client got ends before the word that completes the phrase.
fn assert_stopped(case: &str, status: u16, body: &str) {
    assert!(!body.contains("tables") && !body.contains("quickly"), "{case}: {body}");
    assert!(body.contains("this answer is stopped"), "{case}: {body}");
    assert!(status == 200 && body.contains("please") || status == 403, "{case}: {status} {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_natively_before_the_event_that_completes_a_phrase() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    let mut http2 = Client::connect(gateway.proxy()).await;
    for case in &CASES {
        // Of sessions of their own: a repetition reaches no backend.
        let [first, second] = ["1", "2"]
            .map(|version| ask(case, FORBIDDEN).session(&format!("{}-{version}", case.0.replace(' ', "-"))));
        let answer = first.send(gateway.proxy()).await;
        assert_stopped(case.0, answer.status(), &answer.text());
        assert!(answer.is_whole, "{}: its framing is complete", case.0);
        let answer = http2.ask(&second).await;
        assert_stopped(case.0, answer.status, &answer.text());
    }
    let line = gateway.access_line("/v1/messages").await;
    assert_eq!(line["outcome"], "policy_blocked", "{line}");
    let series = "elida_policy_decisions_total{action=\"block\",mode=\"enforce\",rule=\"no-drop\"}";
    assert_eq!(gateway.metric(series).await, 2.0 * CASES.len() as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repeat_of_a_stream_that_was_stopped_reaches_no_backend() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    for case in &CASES[..5] {
        let answer = ask(case, FORBIDDEN).session("s").send(gateway.proxy()).await;
        assert_stopped(case.0, answer.status(), &answer.text());
        let arrived = demo.ledger().arrived();
        for stream in [true, false] {
            let mut body = (case.2)(FORBIDDEN);
            body["stream"] = json!(stream);
            let answer = Call::post(case.1).json(&body).session("s").send(gateway.proxy()).await;
            assert_eq!(answer.status(), 403, "{}: {}", case.0, answer.text());
            assert!(answer.text().contains("this answer is stopped"), "{}: {}", case.0, answer.text());
        }
        assert_eq!(demo.ledger().arrived(), arrived, "{}", case.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_that_completes_a_denied_call_leaves() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    for case in &CASES {
        let direct = ask(case, CALL).send(demo.address()).await;
        assert!(direct.text().contains("delete_everything"), "{}: {}", case.0, direct.text());
        let answer = ask(case, CALL).send(gateway.proxy()).await;
        let text = answer.text();
        assert!(text.contains("tool_denied"), "{}: {text}", case.0);
        let ends = [
            "\"finish_reason\":\"tool_calls\"",
            "arguments.done",
            "content_block_stop\",\"index\":1",
            "tool-call-end",
            "functionCall\"",
        ];
        assert!(ends.iter().all(|end| !text.contains(end)), "{}: {text}", case.0);
        assert!(case.0 != "ollama" || !text.contains("delete_everything"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_not_changed() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    let mut http2 = Client::connect(gateway.proxy()).await;
    for case in &CASES {
        let expected = sha256(&ask(case, FINE).send(demo.address()).await.body);
        let answer = ask(case, FINE).send(gateway.proxy()).await;
        assert!(answer.is_whole);
        assert_eq!(sha256(&answer.body), expected, "{}: {}", case.0, answer.text());
        assert_eq!(sha256(&http2.ask(&ask(case, FINE)).await.body), expected, "{}", case.0);
        let line = gateway.access_line(case.1.split('?').next().unwrap()).await;
        assert_eq!(line["outcome"], "ok", "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_refused_by_its_status() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    for case in &CASES[..5] {
        for (text, status) in [("drop all tables", 403), (CALL, 403), ("keep them", 200)] {
            let mut body = (case.2)(text);
            body["stream"] = json!(false);
            let answer = Call::post(case.1).json(&body).send(gateway.proxy()).await;
            assert_eq!(answer.status(), status, "{}: {}", case.0, answer.text());
            assert!(status == 200 || !answer.text().contains("drop all") && answer.is_whole);
            if status == 200 {
                let expected = Call::post(case.1).json(&body).send(demo.address()).await;
                assert_eq!(answer.body, expected.body);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_is_cut_before_it_says_what_is_forbidden() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    let (text, fine) =
        ("[[gzip]][[pace 5ms]]please drop all tables quickly", "[[gzip]]please keep all tables");
    let answer = Call::chat_stream(text).send(gateway.proxy()).await;
    let mut plain = Vec::new();
    let _ = flate2::read::GzDecoder::new(&*answer.body).read_to_end(&mut plain);
    let plain = String::from_utf8_lossy(&plain);
    assert!(!answer.is_whole && plain.contains("drop") && !plain.contains("tables"), "{plain}");
    let (direct, passed) = (
        Call::chat_stream(fine).send(demo.address()).await,
        Call::chat_stream(fine).send(gateway.proxy()).await,
    );
    assert!(passed.is_whole && passed.body == direct.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_socket_is_judged() {
    let demo = Demo::start().await;
    let rule = "  rules: [{ id: each, on: response, when: 'request.method == \"GET\"', action: flag }]";
    let gateway = ruled(&demo, rule).await;
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime?model=gpt-realtime-demo", "voice").await;
    socket.until("session.created").await;
    for answers in [1.0, 2.0, 3.0] {
        socket.ask("one two").await;
        socket.until("response.done").await;
        let series = "elida_policy_decisions_total{action=\"flag\",mode=\"enforce\",rule=\"each\"}";
        assert_eq!(gateway.metric(series).await, answers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_ends_with_the_error_event_before_the_message_that_completes_a_phrase() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime?model=gpt-realtime-demo", "voice").await;
    socket.until("session.created").await;
    socket.ask("please keep them").await;
    socket.until("response.done").await;
    socket.ask("please drop all tables quickly").await;
    let (events, ended) = socket.end().await;
    // What came with the message that is blocked may be dropped with it. The user's own item is no answer.
    let said: Vec<&Value> =
        events.iter().filter(|event| event["type"] != "conversation.item.added").collect();
    assert!(said.iter().all(|event| !event.to_string().contains("tables")), "{said:?}");
    assert_eq!(said[said.len() - 1]["error"]["message"], "this answer is stopped", "{said:?}");
    assert_eq!(ended, Some((1008, "this answer is stopped".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_read_is_treated_as_on_limit_says() {
    let body = "not a known coding";
    let backend = RawBackend::answering(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: x-own\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    for (on_limit, status) in [("flag", 200), ("block", 403)] {
        let gateway = Gateway::with(format!(
            "backend: {:?}\npolicy:\n{RULES}\n  on_limit: {on_limit}\n",
            crate::support::Backend::url(&backend)
        ))
        .await;
        let answer = Call::chat("hello").send(gateway.proxy()).await;
        assert_eq!(answer.status(), status, "{on_limit}: {}", answer.text());
        assert!(status != 200 || answer.text() == body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_too_long_to_be_read_is_told() {
    let demo = Demo::start().await;
    let rule =
        "  rules: [{ id: rm, on: tool_call, match: { in: tool.args, any: ['rm -rf'] }, action: block }]";
    for (on_limit, status) in [("flag", 200), ("block", 403)] {
        let gateway = ruled(&demo, &format!("{rule}\n  on_limit: {on_limit}")).await;
        for (padding, status) in [(1000, 403), (300_000, status)] {
            let padding = "x".repeat(padding);
            let text = format!(r#"[[tool Bash {{"about":"{padding}","command":"rm -rf /"}}]]"#);
            let body = json!({"model": "m", "messages": [{"role": "user", "content": text}],
                "tools": [{"type": "function", "function": {"name": "Bash"}}]});
            let answer = Call::post("/v1/chat/completions").json(&body).send(gateway.proxy()).await;
            assert_eq!(answer.status(), status, "{on_limit} {}", padding.len());
        }
        let series = "elida_policy_decisions_total{action=\"flag\",mode=\"enforce\",rule=\"scan-limit\"}";
        assert!(on_limit == "block" || gateway.metric(series).await >= 1.0, "it is told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_a_stream_of_which_a_part_is_withheld() {
    // The second event is not complete.
    let backend = RawBackend::start(async |mut connection| {
        if connection.request().await.is_none() {
            return;
        }
        let event = r#"data: {"choices":[{"index":0,"delta":{"content":"one"}}]}"#;
        let (first, part) = (format!("{event}\n\n"), event);
        let _ = connection
            .send(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {:x}\r\n{first}\r\n{:x}\r\n{part}\r\n",
                first.len(),
                part.len()
            ))
            .await;
        connection.stay_silent().await;
    })
    .await;
    let gateway =
        Gateway::with(format!("backend: {:?}\npolicy:\n{RULES}\n", crate::support::Backend::url(&backend)))
            .await;
    let mut client = Call::chat_stream("hello").session("s").open(gateway.proxy()).await;
    let head = client.head().await.expect("a head");
    client.until("one").await;
    assert_eq!(gateway.kill("s").await.status, 200);
    let answer = client.body(head, Unframed::UntilEnd).await;
    let text = answer.text();
    assert!(answer.is_whole && text.contains("session_killed"), "{text}");
    assert_eq!(text.matches("\"one\"").count(), 1, "the part that was withheld has not left: {text}");
    assert!(
        text.starts_with("data: {\"choices\"") && text.contains("\n\ndata: {\"type\":\"error\""),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_read_but_not_withheld_where_rules_only_flag() {
    let demo = Demo::start().await;
    let rules =
        RULES.replace("action: block", "action: flag").replace(r#"tools: { deny: ["delete_*"] }"#, "");
    let gateway = ruled(&demo, &rules).await;
    for case in &CASES {
        let answer = ask(case, FORBIDDEN).send(gateway.proxy()).await;
        assert!(answer.text().contains("quickly") && answer.is_whole, "{}", case.0);
    }
    let series = "elida_policy_decisions_total{action=\"flag\",mode=\"enforce\",rule=\"no-drop\"}";
    assert_eq!(gateway.metric(series).await, CASES.len() as f64);
    let line = gateway.log_until(|line| line["message"] == "policy_finding").await;
    assert_eq!((&line["phase"], &line["role"]), (&json!("response"), &json!("assistant")), "{line}");
}

/// A backend that streams these pieces of text, an event each, then waits, and ends the stream if `ends`.
async fn writing(pieces: &'static [&'static str], ends: bool) -> RawBackend {
    RawBackend::start(move |mut connection| async move {
        if connection.request().await.is_none() {
            return;
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = connection.send(head).await;
        for piece in pieces {
            let event =
                format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": piece}}]}));
            let _ = connection.send(format!("{:x}\r\n{event}\r\n", event.len())).await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        match ends {
            true => drop(connection.send("0\r\n\r\n").await),
            false => connection.stay_silent().await,
        }
    })
    .await
}

const SECRETS: &str = r#"  rules:
    - { id: no-keys, on: response, match: { any: [{ detector: aws-access-key }] }, action: block, message: "this answer is stopped" }"#;

async fn without_secrets(backend: &RawBackend) -> Gateway {
    Gateway::with(format!("backend: {:?}\npolicy:\n{SECRETS}\n", crate::support::Backend::url(backend))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_secret_leaves_from_the_event_of_its_anchor_on() {
    let backend = writing(&["take ", "AKIA", "IOSFODNN7", "ABCDEFG", " it"], true).await;
    let gateway = without_secrets(&backend).await;
    let answer = Call::chat_stream("hello").send(gateway.proxy()).await;
    let text = answer.text();
    assert!(!text.contains("AKIA") && text.contains("this answer is stopped"), "{text}");
    let answer = Client::connect(gateway.proxy()).await.ask(&Call::chat_stream("hello")).await;
    let text = answer.text();
    assert!(!text.contains("AKIA") && text.contains("this answer is stopped"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_become_a_secret_leaves_after_two_seconds_of_silence() {
    let backend = writing(&["take ", "AKIA", "IOS"], false).await;
    let gateway = without_secrets(&backend).await;
    for is_http2 in [false, true] {
        let begun = std::time::Instant::now();
        let call = Call::chat_stream("hello").session("s");
        if is_http2 {
            let mut http2 = Client::connect(gateway.proxy()).await;
            let mut answer = http2.send(&call).await.head().await.expect("a head");
            answer.until("take ").await;
            assert!(begun.elapsed().as_millis() < 1900, "what precedes it is not withheld");
            answer.until("IOS").await;
        } else {
            let mut client = call.open(gateway.proxy()).await;
            client.until("take ").await;
            assert!(begun.elapsed().as_millis() < 1900, "what precedes it is not withheld");
            client.until("IOS").await;
        }
        assert!(begun.elapsed().as_millis() >= 1950, "{:?}", begun.elapsed());
    }
}
