use std::time::Duration;

use serde_json::{Value, json};

use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, sha256, within};

const KEY: &str = "sk-ant-api03-abcDEF123456789_abcDEF-xyz0";

fn with(backend: &impl Backend, capture: &str) -> String {
    format!("backend: {:?}\ncapture: {capture}\n", backend.url())
}

/// The captured bodies of a session, the last first, once there are this many.
async fn captures(gateway: &Gateway, id: &str, count: usize) -> Vec<Value> {
    let there = |page: &Value| page["captures"].as_array().is_some_and(|found| found.len() >= count);
    let page = gateway.answer_until(&format!("/control/history/{id}/captures?limit=100"), there).await;
    page["captures"].as_array().expect("captures").clone()
}

/// Sends one request and waits for its capture: there is one queue, so everything before it is stored as well.
async fn mark(gateway: &Gateway) {
    let call = Call::chat("[[error 500]]").session("mark").send(gateway.proxy()).await;
    assert_eq!(call.status(), 500);
    captures(gateway, "mark", 1).await;
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// A response with this type and body, as it goes over the wire.
fn answer(media: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chat(content: &str, stream: bool) -> String {
    json!({"messages": [{"role": "user", "content": content}], "model": "gpt-demo", "stream": stream})
        .to_string()
}

fn post(body: &str) -> Call {
    Call::post("/v1/chat/completions?key=never-kept").header("content-type", "application/json").body(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn off_keeps_nothing() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    assert_eq!(Call::chat("hello").session("run-1").send(gateway.proxy()).await.status(), 200);
    assert_eq!(Call::chat("[[error 500]]").session("run-1").send(gateway.proxy()).await.status(), 500);
    assert_eq!(gateway.kill("run-1").await.status, 200);
    gateway.answer_until("/control/records/run-1", |detail| detail["record"].is_object()).await;
    assert!(captures(&gateway, "run-1", 0).await.is_empty());
    assert_eq!(gateway.metric("elida_captures_dropped_total").await, 0.0);
    let file = rusqlite::Connection::open(gateway.data().join("history.db")).expect("the file");
    let rows: i64 = file.query_row("SELECT count(*) FROM captures", [], |row| row.get(0)).expect("the table");
    assert_eq!(rows, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_says_which_requests_are_kept() {
    let demo = Demo::start().await;
    let more = "\npolicy: { rules: [{ id: odd, on: request, when: 'request.headers[\"x-odd\"] == \"1\"', severity: high }] }\n";
    let capture = "{ mode: all, when: 'session.risk >= 5.0 || request.model == \"kept\"' }";
    let gateway = Gateway::with(with(&demo, capture) + more).await;
    let send = async |call: Call| assert_eq!(call.session("run").send(gateway.proxy()).await.status(), 200);
    send(Call::chat("first")).await;
    send(Call::chat("second").header("x-odd", "1")).await;
    send(Call::chat("third")).await;
    let kept = captures(&gateway, "run", 2).await;
    let bodies: Vec<&str> = kept.iter().map(|one| text(&one["request"]["body"])).collect();
    assert!(bodies.len() == 2 && bodies[0].contains("third") && bodies[1].contains("second"), "{bodies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keeps_whole_answers_and_streams_byte_for_byte() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(with(&demo, "{ mode: all, redact: false }")).await;
    for (id, stream) in [("whole", false), ("stream", true)] {
        let body = chat(&format!("hello bob@example.com {KEY}"), stream);
        let sent = post(&body).session(id).send(gateway.proxy()).await;
        assert_eq!(sent.status(), 200);
        let kept = &captures(&gateway, id, 1).await[0];
        assert_eq!(text(&kept["request"]["body"]), body);
        assert_eq!(text(&kept["response"]["body"]).as_bytes(), sent.body);
        assert_eq!(kept["response"]["bytes"], sent.body.len());
        assert_eq!((&kept["response"]["truncated"], &kept["redacted"]), (&false.into(), &false.into()));
        assert_eq!(kept["response"]["content_type"], sent.head.field("content-type").expect("a type"));
        assert_eq!((&kept["outcome"], &kept["status"]), (&"ok".into(), &200.into()));
        assert_eq!((&kept["path"], &kept["model"]), (&"/v1/chat/completions".into(), &"gpt-demo".into()));
        assert!(!kept.to_string().contains("never-kept"), "{kept}");
    }
    // A compressed answer is stored decompressed.
    let sent = post(&chat("hello [[gzip]]", false)).session("packed").send(gateway.proxy()).await;
    let kept = &captures(&gateway, "packed", 1).await[0];
    let response = &kept["response"];
    assert_eq!(
        (&response["bytes"], &response["content_encoding"]),
        (&sent.body.len().into(), &"gzip".into())
    );
    assert!(text(&response["body"]).starts_with("{\"") && response["truncated"] == false, "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_cut_and_said_so() {
    let long = format!("{{\"answer\":\"{}\"}}", "é ".repeat(2000));
    let backend = RawBackend::answering(answer("application/json", &long)).await;
    let gateway = Gateway::with(with(&backend, "{ mode: all, max_body: 1KiB }")).await;
    // Buffered and streamed bodies: both are truncated.
    let uploads = [
        ("held", post(&chat(&"word ".repeat(1000), false))),
        (
            "passed",
            Call::post("/files").header("content-type", "text/plain").body("word ".repeat(1000)).chunked(700),
        ),
    ];
    for (id, call) in uploads {
        let sent = call.session(id).send(gateway.proxy()).await;
        assert_eq!(sha256(&sent.body), sha256(long.as_bytes()));
        let kept = &captures(&gateway, id, 1).await[0];
        for (side, total) in
            [("request", backend.requests().last().expect("it").body.len()), ("response", long.len())]
        {
            let body = &kept[side];
            assert_eq!((&body["truncated"], &body["bytes"]), (&true.into(), &total.into()), "{body}");
            let length = text(&body["body"]).len();
            assert!((1023..=1024).contains(&length), "{length} bytes of the {side} of {id}");
        }
        assert!(long.starts_with(text(&kept["response"]["body"])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_taken_out_of_what_is_stored_and_nothing_else_is_touched() {
    let events: String =
        ["Use ", "sk-ant-", "api03-abcDEF12", "3456789_abcDEF-xyz0", " and bob@", "example.com", " now"]
            .iter()
            .map(|piece| {
                format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": piece}}]}))
            })
            .chain(["data: [DONE]\n\n".to_owned()])
            .collect();
    let backend = RawBackend::answering(answer("text/event-stream", &events)).await;
    let gateway = Gateway::with(with(&backend, "{ mode: all }")).await;
    let body = chat(
        &format!("mail eve@example.org, key\n{KEY}, curl -H 'Authorization: Bearer abcdefgh12345678'"),
        true,
    );
    let sent = post(&body).session("run-1").send(gateway.proxy()).await;
    assert_eq!(sha256(&sent.body), sha256(events.as_bytes()), "the client gets every byte");
    assert_eq!(sha256(&backend.requests()[0].body), sha256(body.as_bytes()), "and the backend too");
    let kept = &captures(&gateway, "run-1", 1).await[0];
    let request: Value = serde_json::from_str(text(&kept["request"]["body"])).expect("JSON still");
    assert_eq!(
        request["messages"][0]["content"],
        "mail [redacted:email], key\n[redacted:api_key], curl -H 'Authorization: Bearer [redacted:token]'"
    );
    let data = text(&kept["response"]["body"]).lines().filter_map(|line| line.strip_prefix("data: "));
    let events = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    let said: String =
        events.map(|event| text(&event["choices"][0]["delta"]["content"]).to_owned()).collect();
    assert_eq!(said, "Use [redacted:api_key] and [redacted:email] now");
    let file = std::fs::read(gateway.data().join("history.db")).expect("the file");
    let log = std::fs::read(gateway.data().join("history.db-wal")).unwrap_or_default();
    for secret in ["abcDEF123456789", "abcdefgh12345678", "eve@"] {
        let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!holds(&file) && !holds(&log), "{secret} is in the file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flagged_keeps_what_went_wrong_and_nothing_else() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(with(&demo, "{ mode: flagged }")).await;
    assert_eq!(Call::chat("hello").session("good").send(gateway.proxy()).await.status(), 200);
    let mut stalled = Call::messages_stream("hello [[stall]]").session("bad").open(gateway.proxy()).await;
    stalled.until("content_block_delta").await;
    assert_eq!(gateway.kill("bad").await.status, 200);
    stalled.message(Unframed::UntilEnd).await.expect("the end");
    let kept = captures(&gateway, "bad", 1).await;
    assert_eq!(kept[0]["outcome"], "session_killed", "{kept:?}");
    let response = text(&kept[0]["response"]["body"]);
    assert!(response.contains("content_block_delta") && response.contains("event: error"), "{response}");
    // The gateway's own refusal is an answer too.
    let blocked = post("{\"model\":\"gpt-demo\"}").session("lost").header("X-Backend", "nobody");
    let refused = blocked.send(gateway.proxy()).await;
    assert!(refused.status() >= 400, "{}", refused.status());
    let kept = &captures(&gateway, "lost", 1).await[0];
    assert_eq!(text(&kept["response"]["body"]).as_bytes(), refused.body);
    assert_eq!(text(&kept["request"]["body"]), "{\"model\":\"gpt-demo\"}");
    mark(&gateway).await;
    assert!(captures(&gateway, "good", 0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_sampled_as_a_whole_or_not_at_all() {
    let demo = Demo::start().await;
    for (rate, count) in [("0.0", 0), ("1.0", 3)] {
        let gateway = Gateway::with(with(&demo, &format!("{{ mode: sampled, sample_rate: {rate} }}"))).await;
        for _ in 0..3 {
            assert_eq!(Call::chat("hello").session("run-1").send(gateway.proxy()).await.status(), 200);
        }
        gateway.session_until("run-1", |session| session["open_legs"] == 0).await;
        assert_eq!(captures(&gateway, "run-1", count).await.len(), count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_never_has_more_than_its_share_kept() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(with(&demo, "{ mode: all, max_per_session: 5 }")).await;
    let calls = (0..40).map(|_| {
        let proxy = gateway.proxy();
        tokio::spawn(async move { Call::chat("hello").session("run-1").send(proxy).await.status() })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.expect("a call"), 200);
    }
    gateway.session_until("run-1", |session| session["open_legs"] == 0).await;
    mark(&gateway).await;
    assert_eq!(captures(&gateway, "run-1", 5).await.len(), 5);
    let mut operator = gateway.operator().await;
    let page = operator.get("/control/history/run-1/captures?limit=2").await;
    assert_eq!(page.head.field("cache-control"), Some("no-store"));
    let page = page.json();
    let cursor = text(&page["next_cursor"]);
    let rest = operator.get(&format!("/control/history/run-1/captures?limit=9&cursor={cursor}")).await.json();
    assert_eq!((page["captures"].as_array().map(Vec::len), &rest["next_cursor"]), (Some(2), &Value::Null));
    assert_eq!(rest["captures"].as_array().map(Vec::len), Some(3));
    assert_eq!(operator.get("/control/history/run-1/captures?limit=101").await.status(), 400);
    let output = gateway.elida(&["cdr", "captures", "run-1", "--limit", "1"]).await;
    assert!(
        output.contains("POST /v1/chat/completions 200 ok") && output.contains("\n> application/json"),
        "{output}"
    );
    assert!(output.contains("more with --cursor"), "{output}");
    let output = gateway.elida(&["cdr", "captures", "run-1", "--json"]).await;
    assert_eq!(crate::support::json(output.as_bytes())["captures"].as_array().map(Vec::len), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_captures_and_holds_nobody_up() {
    let backend = RawBackend::answering(answer("text/plain", &"word ".repeat(12_000))).await;
    let gateway =
        Gateway::with_file_size(&with(&backend, "{ mode: all, max_per_session: 100000 }"), 512).await;
    let upload = "word ".repeat(12_000);
    let mut sent = 0;
    while gateway.metric("elida_captures_dropped_total").await == 0.0 {
        for _ in 0..20 {
            let call = Call::post("/files")
                .header("content-type", "text/plain")
                .body(upload.clone())
                .session("run-1");
            let sending = tokio::time::timeout(Duration::from_secs(5), call.send(gateway.proxy()));
            assert_eq!(sending.await.expect("no request waits for the disk").status(), 200);
        }
        sent += 20;
        assert!(sent < 5000, "what waits is not bounded");
    }
    assert_eq!(gateway.kill("run-1").await.status, 200);
    gateway.lift_file_size();
    within("room", async {
        while gateway.metric("elida_history_up").await < 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    gateway.answer_until("/control/records/run-1", |detail| detail["record"].is_object()).await;
    assert_eq!(
        gateway.metric("elida_history_dropped_total{kind=\"records\"}").await,
        0.0,
        "no record was displaced"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_turns_it_on_and_off() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let reload = async |capture: &str| {
        gateway.rewrite(&with(&demo, capture));
        assert_eq!(gateway.operator().await.post("/control/config/reload", &Value::Null).await.status(), 200);
    };
    let call = async |id: &str| {
        assert_eq!(Call::chat("hello").session(id).send(gateway.proxy()).await.status(), 200);
    };
    call("before").await;
    reload("{ mode: all }").await;
    call("between").await;
    captures(&gateway, "between", 1).await;
    reload("{ mode: flagged }").await;
    call("after").await;
    mark(&gateway).await;
    assert!(
        captures(&gateway, "before", 0).await.is_empty() && captures(&gateway, "after", 0).await.is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_path_or_a_model_is_neither_stored_nor_told() {
    let body = json!({"usage": {"prompt_tokens": 3, "completion_tokens": 1}}).to_string();
    let backend = RawBackend::answering(answer("application/json", &body)).await;
    let yaml = with(&backend, "{ mode: all }") + "history: { legs: all }\n";
    let gateway = Gateway::with(&yaml).await;
    let path = format!("/v1/keys/{KEY}/bob%40example.com;password=pw1/chat/completions?key=never-kept");
    let chat = json!({"model": format!("ft:{KEY}"), "messages": [], "password": 424242,
        "login": {"secret": {"value": "hunter2"}}, "arguments": "{\"pass\\u0077ord\":{\"a\":\"hunter3\"}}"});
    let keyed = Call::post(&path).json(&chat).session("run-1").send(gateway.proxy()).await;
    assert_eq!(keyed.status(), 200);
    let form = "--b\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nhunter4\r\n--b--\r\n";
    let media = "multipart/form-data; boundary=b";
    let sent = Call::post("/files?key=never-kept").header("content-type", media).body(form).session("run-1");
    assert_eq!(sent.send(gateway.proxy()).await.status(), 200);
    let modelled = Call::post("/v1/chat/completions?key=never-kept").json(&chat).session("run-1");
    assert_eq!(modelled.send(gateway.proxy()).await.status(), 200);
    let received: Vec<_> = backend.requests().iter().map(|request| request.head.line.clone()).collect();
    assert!(received.iter().any(|line| line.contains(KEY)), "the backend gets all of it: {received:?}");
    let kept = captures(&gateway, "run-1", 3).await;
    assert!(
        kept.iter().any(|kept| text(&kept["path"]).starts_with("/v1/keys/[redacted:api_key]/")),
        "{kept:?}"
    );
    assert!(kept.iter().any(|kept| kept["model"] == "ft:[redacted:api_key]"), "{kept:?}");
    let live = gateway.session_until("run-1", |session| session["open_legs"] == 0).await;
    assert_eq!(gateway.kill("run-1").await.status, 200);
    let record = gateway.answer_until("/control/records/run-1", |detail| detail["record"].is_object()).await;
    gateway.log_until(|line| line["message"] == "session_record").await;
    let export = gateway.operator().await.get("/control/records/export?of=requests").await.text();
    let (metrics, log) = (gateway.metrics().await, gateway.log_text());
    let kept = json!(kept).to_string();
    for (place, output) in [
        ("captures", kept.as_str()),
        ("the session", &live.to_string()),
        ("the record", &record.to_string()),
        ("the export", &export),
        ("the metrics", &metrics),
        ("the log", &log),
    ] {
        for secret in [&KEY[8..], "bob", "pw1", "424242", "hunter", "never-kept"] {
            assert!(!output.contains(secret), "{secret} is in {place}: {output}");
        }
    }
}
