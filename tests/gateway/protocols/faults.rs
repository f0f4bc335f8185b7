use serde_json::{Value, json};

use crate::protocols::websocket::switching;
use crate::sessions::usage::{Counts, counts};
use crate::support::socket::{Frame, Socket};
use crate::support::{Backend, Call, Connection, Gateway, RawBackend};

const SSE: &str = "text/event-stream";
const JSON: &str = "application/json";

/// A head for a body of known length.
pub fn answer(content_type: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn events(data: &[&str]) -> String {
    data.iter().map(|data| format!("data: {data}\n\n")).collect()
}

/// How a dialect's stream begins, ends, and reports an error.
struct Case {
    path: &'static str,
    content_type: &'static str,
    begin: String,
    end: String,
    error: String,
}

fn cases() -> Vec<Case> {
    let case = |path, begin: &[&str], end: &[&str], error: &[&str]| Case {
        path,
        content_type: SSE,
        begin: events(begin),
        end: events(end),
        error: events(error),
    };
    vec![
        case(
            "/v1/messages",
            &[
                r#"{"type":"message_start","message":{"model":"m","usage":{"input_tokens":5,"output_tokens":1}}}"#,
            ],
            &[
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}"#,
                r#"{"type":"message_stop"}"#,
            ],
            &[r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#],
        ),
        case(
            "/v1/chat/completions",
            &[
                r#"{"model":"m","choices":[{"index":0,"delta":{"content":"Hi"}}],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#,
            ],
            &[r#"{"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#, "[DONE]"],
            &[r#"{"error":{"message":"The server had an error","type":"server_error"}}"#, "[DONE]"],
        ),
        case(
            "/v1/responses",
            &[
                r#"{"type":"response.created","response":{"id":"r","model":"m","status":"in_progress","usage":null}}"#,
            ],
            &[
                r#"{"type":"response.completed","response":{"id":"r","model":"m","status":"completed","usage":{"input_tokens":5,"output_tokens":1}}}"#,
            ],
            &[
                r#"{"type":"response.failed","response":{"id":"r","status":"failed","error":{"code":"server_error","message":"no"},"usage":{"input_tokens":5,"output_tokens":1}}}"#,
            ],
        ),
        case(
            "/v1beta/models/m:streamGenerateContent?alt=sse",
            &[
                r#"{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}],"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":1}}"#,
            ],
            &[r#"{"candidates":[{"finishReason":"STOP"}]}"#],
            &[r#"{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}"#],
        ),
        case(
            "/v2/chat",
            &[r#"{"type":"message-start","id":"x"}"#],
            &[r#"{"type":"message-end","delta":{"finish_reason":"COMPLETE"}}"#],
            &[r#"{"type":"message-end","delta":{"error":"internal","finish_reason":"ERROR"}}"#],
        ),
        Case {
            path: "/api/chat",
            content_type: "application/x-ndjson",
            begin: "{\"model\":\"m\",\"message\":{\"content\":\"Hi\"},\"done\":false}\n".into(),
            end: "{\"model\":\"m\",\"done\":true,\"prompt_eval_count\":5,\"eval_count\":1}\n".into(),
            error: "{\"error\":\"an error was encountered while running the model\"}\n".into(),
        },
        Case {
            path: "/v1beta/models/m:streamGenerateContent",
            content_type: JSON,
            begin: r#"[{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}"#.into(),
            end: r#",{"candidates":[{"finishReason":"STOP"}]}]"#.into(),
            error: r#",{"error":{"code":500,"message":"no","status":"INTERNAL"}}]"#.into(),
        },
    ]
}

/// The last request of a session, once it has ended.
async fn last_request(gateway: &Gateway, session: &str) -> (Value, Value) {
    let shown = gateway.session_until(session, |shown| shown["open_legs"] == 0).await;
    (shown["requests"][0].clone(), shown)
}

async fn errors(gateway: &Gateway, reason: &str) -> f64 {
    let series = format!("elida_backend_errors_total{{backend=\"default\",reason=\"{reason}\"}}");
    let text = gateway.metrics().await;
    text.lines()
        .find_map(|line| line.strip_prefix(&series))
        .map_or(0.0, |value| value.trim().parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_after_its_head_is_recorded_as_failed_in_every_dialect() {
    for case in cases() {
        let Case { path, content_type, begin, end, error } = case;
        for (name, body, outcome) in [
            ("good", format!("{begin}{end}"), "ok"),
            ("error", format!("{begin}{error}"), "backend_error"),
            ("cut", begin.clone(), "response_incomplete"),
        ] {
            let backend = RawBackend::answering(answer(content_type, &body)).await;
            let yaml = format!("backend: {:?}\ncapture: {{ mode: flagged }}\n", backend.url());
            let gateway = Gateway::with(yaml).await;
            let call =
                Call::post(path).json(&json!({"model": "m", "stream": true, "messages": []})).session(name);
            let answer = call.send(gateway.proxy()).await;
            assert_eq!((answer.status(), answer.text()), (200, body), "{path} {name}: not a byte is changed");
            let (line, shown) = last_request(&gateway, name).await;
            assert_eq!(
                (&line["outcome"], &line["status"]),
                (&json!(outcome), &json!(200)),
                "{path} {name}: {line}"
            );
            let code = if outcome == "ok" { Value::Null } else { json!(outcome) };
            assert_eq!(line["error"], code, "{path} {name}");
            let failed = u64::from(outcome != "ok");
            assert_eq!(shown["error_count"], failed, "{path} {name}: {shown}");
            for reason in ["backend_error", "response_incomplete"] {
                let expected = f64::from(u8::from(reason == outcome));
                assert_eq!(errors(&gateway, reason).await, expected, "{path} {name} {reason}");
            }
            let is_kept =
                |page: &Value| page["captures"].as_array().is_some_and(|kept| kept.len() as u64 == failed);
            let kept = gateway.answer_until(&format!("/control/history/{name}/captures"), is_kept).await;
            if failed == 1 {
                assert_eq!(kept["captures"][0]["outcome"], outcome, "{path} {name}");
            }
            assert_eq!(gateway.kill(name).await.status, 200);
            let record = gateway.log_until(|line| line["message"] == "session_record").await;
            let errors = if failed == 1 { json!({outcome: 1}) } else { json!({}) };
            assert_eq!(
                (&record["error_count"], &record["errors"]),
                (&json!(failed), &errors),
                "{path} {name}"
            );
        }
    }
}

/// A message of `application/vnd.amazon.eventstream` with one header beside its type.
fn binary(kind: &str, name: &str, payload: &str) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [(&*format!(":{kind}-type"), name), (":message-type", kind)] {
        headers.push(u8::try_from(name.len()).expect("a short name"));
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&u16::try_from(value.len()).expect("a short value").to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let lengths = [16 + headers.len() + payload.len(), headers.len()];
    let mut message =
        lengths.map(|length| u32::try_from(length).expect("a short message").to_be_bytes()).concat();
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message.extend_from_slice(&headers);
    message.extend_from_slice(payload.as_bytes());
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_streams_are_counted_and_judged_as_others_are() {
    let event = |name: &str, payload: Value| binary("event", name, &payload.to_string());
    let chunk = |inside: Value| {
        event(
            "chunk",
            json!({"bytes": data_encoding::BASE64.encode(inside.to_string().as_bytes()), "p": "abc"}),
        )
    };
    let cases = [
        (
            "/model/amazon.nova-pro-v1:0/converse-stream",
            event("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": {"text": "Hi"}})),
            [
                event("messageStop", json!({"stopReason": "end_turn"})),
                event("metadata", json!({"usage": {"inputTokens": 5, "outputTokens": 1}})),
            ]
            .concat(),
        ),
        (
            "/model/us.anthropic.claude-sonnet-4-20250514-v1:0/invoke-with-response-stream",
            chunk(
                json!({"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 1}}}),
            ),
            chunk(json!({"type": "message_stop"})),
        ),
        (
            "/model/meta.llama3-70b-instruct-v1:0/invoke-with-response-stream",
            chunk(json!({"generation": "Hi", "stop_reason": null})),
            chunk(json!({"stop_reason": "stop", "amazon-bedrock-invocationMetrics":
                {"inputTokenCount": 5, "outputTokenCount": 1, "invocationLatency": 9}})),
        ),
    ];
    for (path, begin, end) in cases {
        let exception = binary("exception", "modelStreamErrorException", "{\"message\":\"no\"}");
        for (name, body, outcome) in [
            ("good", [&*begin, &*end].concat(), "ok"),
            ("error", [&*begin, &*exception].concat(), "backend_error"),
            ("cut", begin.clone(), "response_incomplete"),
            ("within", [&*begin, &end[..20]].concat(), "response_incomplete"),
        ] {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let backend = RawBackend::answering([head.as_bytes(), &body].concat()).await;
            let gateway = Gateway::start(&backend).await;
            let call = Call::post(path).json(&json!({"messages": []})).session(name);
            let answer = call.send(gateway.proxy()).await;
            assert_eq!((answer.status(), &answer.body), (200, &body), "{path} {name}: not a byte is changed");
            let (line, shown) = last_request(&gateway, name).await;
            assert_eq!(
                (&line["outcome"], &line["status"]),
                (&json!(outcome), &json!(200)),
                "{path} {name}: {line}"
            );
            if outcome == "ok" {
                let usage = &shown["usage"];
                assert_eq!(
                    (&usage["input_tokens"], &usage["output_tokens"]),
                    (&json!(5), &json!(1)),
                    "{path}: {shown}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_of_status_200_may_report_an_error_too() {
    for (path, body) in [
        ("/v1/chat/completions", r#"{"error":{"message":"Provider returned error","code":502}}"#),
        (
            "/v1/responses",
            r#"{"id":"r","status":"failed","error":{"code":"server_error","message":"no"},"output":[]}"#,
        ),
        ("/v1/messages", r#"{"type":"error","error":{"type":"api_error","message":"no"}}"#),
    ] {
        let backend = RawBackend::answering(answer(JSON, body)).await;
        let gateway = Gateway::start(&backend).await;
        let call = Call::post(path).json(&json!({"model": "m", "messages": []})).session("s");
        assert_eq!(call.send(gateway.proxy()).await.text(), body, "{path}");
        let (line, _) = last_request(&gateway, "s").await;
        assert_eq!(line["outcome"], "backend_error", "{path}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_is_no_error_of_the_backend_but_for_an_error_that_came_before() {
    for (name, sent, outcome) in [
        ("left", "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n", "client_gone"),
        ("after", "data: {\"error\":{\"type\":\"server_error\"}}\n\n", "backend_error"),
    ] {
        let backend = RawBackend::start(move |mut connection: Connection| async move {
            if connection.request().await.is_some() {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                let _ = connection.send(format!("{head}{:x}\r\n{sent}\r\n", sent.len())).await;
                connection.stay_silent().await;
            }
        })
        .await;
        let gateway = Gateway::start(&backend).await;
        let mut client = Call::chat_stream("hello").session(name).open(gateway.proxy()).await;
        client.until("}\n").await;
        drop(client);
        let (line, _) = last_request(&gateway, name).await;
        assert_eq!(line["outcome"], outcome, "{line}");
        assert_eq!(errors(&gateway, "backend_error").await, f64::from(u8::from(outcome == "backend_error")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_whose_streams_fail_is_left_alone_and_one_that_refuses_a_caller_is_not() {
    for (error, is_ejected) in [
        (r#"{"error":{"type":"server_error","message":"no"}}"#, true),
        (r#"{"error":{"type":"invalid_request_error","message":"no"}}"#, false),
    ] {
        let sick = RawBackend::answering(answer(
            SSE,
            &events(&[r#"{"choices":[{"delta":{"content":"Hi"}}]}"#, error]),
        ))
        .await;
        let good =
            RawBackend::answering(answer(SSE, &events(&[r#"{"choices":[{"finish_reason":"stop"}]}"#]))).await;
        let realm = "type: openai, auth: { realm: r }";
        let yaml = format!(
            "server: {{ trusted_proxies: [127.0.0.1] }}\nbackends:\n  a: {{ url: {:?}, {realm}, default: true, \
             fallback: b, health: {{ unhealthy_after: 3, eject_for: 5m }} }}\n  b: {{ url: {:?}, {realm} }}\n",
            sick.url(),
            good.url()
        );
        let gateway = Gateway::with(yaml).await;
        for number in 0..3 {
            let (caller, session) = (["ada", "bob"][number % 2], format!("s-{number}"));
            let call = Call::chat_stream("hello").header("authorization", &format!("Bearer {caller}"));
            let call = call.header("x-forwarded-for", &format!("192.0.2.{}", number % 2)).session(&session);
            assert_eq!(call.send(gateway.proxy()).await.status(), 200);
            let (line, _) = last_request(&gateway, &session).await;
            assert_eq!(
                (&line["outcome"], &line["backend"]),
                (&json!("backend_error"), &json!("a")),
                "{line}"
            );
        }
        let healthy = gateway.metric("elida_backend_healthy{backend=\"a\"}").await;
        assert_eq!(healthy == 0.0, is_ejected, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_an_answer_over_a_socket_is_counted_and_the_next_answer_makes_good() {
    for (messages, outcome, failed) in [
        (
            vec![
                r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error"}}}"#,
            ],
            "backend_error",
            1.0,
        ),
        (
            vec![
                r#"{"type":"error","error":{"type":"server_error"}}"#,
                r#"{"type":"response.completed","response":{"status":"completed","usage":{"input_tokens":5,"output_tokens":1}}}"#,
            ],
            "ok",
            1.0,
        ),
    ] {
        let sent = messages.clone();
        let backend = switching(move |mut connection: Connection| {
            let sent = sent.clone();
            async move {
                for message in sent {
                    if connection.send(Frame::text(message).plain()).await.is_err() {
                        return;
                    }
                }
                while let Some(frame) = connection.frame().await {
                    if connection.send(frame.plain()).await.is_err() || frame.closes().is_some() {
                        break;
                    }
                }
                connection.gone();
            }
        })
        .await;
        let gateway = Gateway::start(&backend).await;
        let mut socket = Socket::open(gateway.proxy(), "/v1/responses", "s").await;
        let last: Value = serde_json::from_str(messages[messages.len() - 1]).expect("JSON");
        socket.until(last["type"].as_str().expect("a type")).await;
        socket.close(1000, "bye").await;
        let (line, _) = last_request(&gateway, "s").await;
        assert_eq!(line["outcome"], outcome, "{line}");
        assert_eq!(errors(&gateway, "backend_error").await, failed);
    }
}

/// A provider that stores answers: what it says to each method and path.
async fn storing(answers: &'static [(&'static str, &'static str, &'static str)]) -> RawBackend {
    RawBackend::start(move |mut connection: Connection| async move {
        while let Some(request) = connection.request().await {
            let line = request.head.line.clone();
            let found =
                answers.iter().find(|(method, path, _)| line.starts_with(&format!("{method} {path} ")));
            let body = found.unwrap_or_else(|| panic!("asked for {line}")).2;
            let content_type = if body.starts_with("data:") { SSE } else { JSON };
            if connection.send(answer(content_type, body)).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Sends these requests one after the other; returns the counts of the session, its models, and the record.
async fn counted(backend: &RawBackend, requests: &[(&str, &str)]) -> (Counts, Value) {
    let gateway = Gateway::start(backend).await;
    for (number, (method, path)) in requests.iter().enumerate() {
        let call = Call::new(method, path).session("stored");
        let call = if *method == "POST" { call.json(&json!({"model": "m"})) } else { call };
        assert_eq!(call.send(gateway.proxy()).await.status(), 200, "{method} {path}");
        let count = number as u64 + 1;
        gateway
            .session_until("stored", |shown| shown["request_count"] == count && shown["open_legs"] == 0)
            .await;
    }
    let metered = gateway.metrics().await;
    let tokens: f64 = metered
        .lines()
        .filter(|line| line.starts_with("elida_tokens_total") && line.contains("type=\"input\""))
        .map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number"))
        .sum();
    assert_eq!(gateway.kill("stored").await.status, 200);
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    let shown = counts(&record["usage"]);
    assert!((tokens - shown[0] as f64).abs() < 0.5, "the metric says the same: {tokens} {record}");
    (shown, record)
}

const WHOLE: &str = r#"{"id":"resp_1","model":"m","status":"completed","usage":{"input_tokens":7,"output_tokens":3,"total_tokens":10}}"#;
const QUEUED: &str = r#"{"id":"resp_1","model":"m","status":"queued","usage":null}"#;
const RESUMED: &str = "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"model\":\"m\",\"usage\":{\"input_tokens\":7,\"output_tokens\":3,\"total_tokens\":10}}}\n\n";

#[tokio::test(flavor = "multi_thread")]
async fn reading_a_stored_answer_is_not_billed_again() {
    let chat = r#"{"id":"chatcmpl-1","object":"chat.completion","model":"m","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
    let stored: &[(&str, &str, &str)] = Box::leak(Box::new([
        ("POST", "/v1/responses", WHOLE),
        ("GET", "/v1/responses/resp_1", WHOLE),
        ("GET", "/v1/responses/resp_1?stream=true&starting_after=4", RESUMED),
        ("POST", "/v1/responses/resp_1/cancel", WHOLE),
        ("DELETE", "/v1/responses/resp_1", r#"{"id":"resp_1","object":"response.deleted","deleted":true}"#),
        ("POST", "/v1/chat/completions", chat),
        ("GET", "/v1/chat/completions/chatcmpl-1", chat),
        ("POST", "/v1/chat/completions/chatcmpl-1", chat),
    ]));
    let backend = storing(stored).await;
    let requests: Vec<(&str, &str)> = stored[..5].iter().map(|(method, path, _)| (*method, *path)).collect();
    let (usage, record) = counted(&backend, &requests).await;
    assert_eq!(usage, [7, 3, 0, 0, 0], "{record}");
    assert_eq!(counts(&record["usage"]["models"][0]), usage, "{record}");
    let requests: Vec<(&str, &str)> = stored[5..].iter().map(|(method, path, _)| (*method, *path)).collect();
    let (usage, record) = counted(&backend, &requests).await;
    assert_eq!(usage, [7, 3, 0, 0, 0], "{record}");
    // What is only read was made elsewhere.
    assert_eq!(counted(&backend, &[("GET", "/v1/responses/resp_1"); 3]).await.0, [0; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_made_in_the_background_is_billed_by_the_first_poll_that_has_its_counts() {
    let backend = storing(&[
        ("POST", "/v1/responses", QUEUED),
        ("GET", "/v1/responses/resp_1?poll=1", QUEUED),
        ("GET", "/v1/responses/resp_1", WHOLE),
        ("GET", "/v1/responses/resp_1?stream=true", RESUMED),
        ("POST", "/v1/responses/resp_1/cancel", WHOLE),
    ])
    .await;
    let begin = [("POST", "/v1/responses"), ("GET", "/v1/responses/resp_1?poll=1")];
    for last in [
        ("GET", "/v1/responses/resp_1"),
        ("GET", "/v1/responses/resp_1?stream=true"),
        ("POST", "/v1/responses/resp_1/cancel"),
    ] {
        let requests = [&begin[..], &[last, last, last]].concat();
        let (usage, record) = counted(&backend, &requests).await;
        assert_eq!(usage, [7, 3, 0, 0, 0], "{last:?}: {record}");
        assert_eq!(counts(&record["usage"]["models"][0]), usage, "{last:?}: {record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_made_in_the_background_is_billed_once_whatever_session_of_its_caller_reads_it() {
    let backend = storing(&[("POST", "/v1/responses", QUEUED), ("GET", "/v1/responses/resp_1", WHOLE)]).await;
    let gateway = Gateway::start(&backend).await;
    let ask = Call::post("/v1/responses").json(&json!({"model": "m"}));
    assert_eq!(ask.session("asks").send(gateway.proxy()).await.status(), 200);
    gateway.session_until("asks", |shown| shown["open_legs"] == 0).await;
    for (session, expected) in [("reads", [7, 3, 0, 0, 0]), ("asks", [0; 5]), ("again", [0; 5])] {
        let read = Call::get("/v1/responses/resp_1").session(session);
        assert_eq!(read.send(gateway.proxy()).await.status(), 200);
        let (_, shown) = last_request(&gateway, session).await;
        assert_eq!(counts(&shown["usage"]), expected, "{session}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_in_another_vendors_cloud_is_counted_under_the_model_in_the_path() {
    let whole = r#"{"type":"message","model":"claude-x","stop_reason":"end_turn","content":[],"usage":{"input_tokens":5,"output_tokens":2,"cache_read_input_tokens":3}}"#;
    let stream = events(&[
        r#"{"type":"message_start","message":{"model":"claude-x","usage":{"input_tokens":5,"cache_read_input_tokens":3,"output_tokens":1}}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}"#,
        r#"{"type":"message_stop"}"#,
    ]);
    let vertex = "/v1/projects/p/locations/l/publishers/anthropic/models/claude-x@20250929";
    for (path, content_type, body, model) in [
        (format!("{vertex}:rawPredict"), JSON, whole.to_owned(), "claude-x@20250929"),
        (format!("{vertex}:streamRawPredict"), SSE, stream, "claude-x@20250929"),
        (
            "/model/us.anthropic.claude-x-v1%3A0/invoke".into(),
            JSON,
            whole.to_owned(),
            "us.anthropic.claude-x-v1:0",
        ),
    ] {
        let backend = RawBackend::answering(answer(content_type, &body)).await;
        let gateway = Gateway::start(&backend).await;
        let ask = json!({"anthropic_version": "vertex-2023-10-16", "max_tokens": 9, "messages": []});
        assert_eq!(
            Call::post(&path).json(&ask).session("s").send(gateway.proxy()).await.text(),
            body,
            "{path}"
        );
        let (line, shown) = last_request(&gateway, "s").await;
        assert_eq!((&line["model"], &line["outcome"]), (&json!(model), &json!("ok")), "{path}: {line}");
        assert_eq!(counts(&shown["usage"]), [5, 2, 3, 0, 0], "{path}: {shown}");
    }
}
