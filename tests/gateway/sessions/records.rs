use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::support::collector::{Collector, attributes};
use crate::support::control::Control;
use crate::support::process::Process;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, RawClient, within};

/// The fields of each access line, beside timestamp, level and message.
const FIELDS: [&str; 16] = [
    "client_ip",
    "method",
    "url",
    "status",
    "duration_ms",
    "session_id",
    "request_id",
    "principal",
    "backend",
    "model",
    "bytes_in",
    "bytes_out",
    "ttfb_ms",
    "stream",
    "client",
    "outcome",
];

/// Waits for the access line of the request with this id.
async fn line_of(gateway: &Gateway, request_id: &str) -> Value {
    let is_it = |line: &Value| line["message"] == "request_completed" && line["request_id"] == request_id;
    gateway.log_until(is_it).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_leaves_one_line_with_all_fields() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    Call::chat("x").session("killed").send(gateway.proxy()).await;
    assert_eq!(gateway.kill("killed").await.status, 200);
    let calls = [
        (Call::chat("hello").session("served"), 200, "ok"),
        (Call::chat_stream("hello").session("served"), 200, "ok"),
        (Call::chat("hello").session("killed"), 403, "session_killed"),
        (Call::chat("[[error 529]]").session("served"), 529, "ok"),
        (Call::new("HEAD", "/"), 200, "ok"),
        (Call::get("/health"), 200, "ok"),
        (Call::post("/v1/messages").header("x-a", &"x".repeat(17_000)), 431, "headers_too_large"),
        (Call::chat("hello").header("X-Backend", "nowhere"), 400, "unknown_backend"),
        (Call::chat("hello [[cut]]").session("served"), 200, "backend_unavailable"),
    ];
    for (number, (call, status, outcome)) in calls.into_iter().enumerate() {
        let id = format!("request-{number}");
        call.header("x-request-id", &id).header("user-agent", "curl/8.5.0").send(gateway.proxy()).await;
        let line = line_of(&gateway, &id).await;
        assert_eq!((&line["status"], &line["outcome"]), (&json!(status), &json!(outcome)), "{line}");
        let keys: BTreeSet<&str> = line.as_object().expect("an object").keys().map(String::as_str).collect();
        let queue = (!line["backend"].is_null()).then_some("queue_ms");
        let expected = FIELDS.into_iter().chain(["timestamp", "level", "message"]).chain(queue);
        assert_eq!(keys, expected.collect(), "{line}");
    }
    let served = line_of(&gateway, "request-1").await;
    let expected = json!({"client_ip": "127.0.0.1", "method": "POST", "url": "/v1/chat/completions",
        "session_id": "served", "principal": "anon:127.0.0.1", "backend": "default", "model": "gpt-demo",
        "stream": true, "client": "curl"});
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(served[key], *value, "{key} in {served}");
    }
    for key in ["bytes_in", "bytes_out"] {
        assert!(served[key].as_u64() > Some(0), "{key} in {served}");
    }
    assert!(served["ttfb_ms"].as_u64() <= served["duration_ms"].as_u64(), "{served}");
    let lines = gateway.log_lines();
    let requests = lines.iter().filter(|line| line["message"] == "request_completed").count();
    assert_eq!(requests, 10, "one line each");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_before_a_backend_was_asked_is_in_every_report() {
    const PAUSE: Duration = Duration::from_millis(300);
    let (demo, collector) = (Demo::start().await, Collector::http().await);
    let gateway = Gateway::with(format!(
        "backend: {:?}\nhistory: {{ legs: all }}\ncapture: {{ mode: all }}\n\
         telemetry: {{ enabled: true, protocol: http, endpoint: \"http://{}/\" }}\n",
        demo.url(),
        collector.address()
    ))
    .await;
    let call = Call::chat("hello").session("slow").header("x-request-id", "r-1").bytes("h");
    let mut client = RawClient::connect(gateway.proxy()).await;
    client.send(&call[..call.len() - 3]).await.expect("most of the body");
    // The head names the session, which is admitted before the body is there.
    gateway.session_until("slow", |session| session["state"] == "active").await;
    tokio::time::sleep(PAUSE).await;
    client.send(&call[call.len() - 3..]).await.expect("the rest");
    assert_eq!(client.message(Unframed::Empty).await.expect("an answer").status(), 200);
    let line = line_of(&gateway, "r-1").await;
    let queue = &line["queue_ms"];
    let milliseconds = queue.as_u64().expect("a number");
    assert!(milliseconds >= 300 && Some(milliseconds) <= line["ttfb_ms"].as_u64(), "{line}");
    let detail = gateway.session_until("slow", |session| session["requests"][0].is_object()).await;
    assert_eq!(detail["requests"][0]["queue_ms"], *queue);
    let captured = |page: &Value| page["captures"][0].is_object();
    let page = gateway.answer_until("/control/history/slow/captures", captured).await;
    assert_eq!(page["captures"][0]["queue_ms"], *queue);
    let span = collector.span("the request", |_, of| of["elida.request_id"] == "r-1").await;
    assert_eq!(attributes(&span.attributes)["elida.queue_ms"], *queue);
    assert_eq!(gateway.kill("slow").await.status, 200);
    let stored = |page: &Value| page["requests"][0].is_object();
    let page = gateway.answer_until("/control/records/slow/requests", stored).await;
    assert_eq!(page["requests"][0]["queue_ms"], *queue);
    Call::chat("hello").session("slow").header("x-request-id", "r-2").send(gateway.proxy()).await;
    assert_eq!(line_of(&gateway, "r-2").await.get("queue_ms"), None, "no backend was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_and_no_content_is_ever_logged() {
    let demo = Demo::start().await;
    let gone = RawBackend::answering("").await.url();
    let gateway = Gateway::with(format!(
        "logging: {{ level: debug }}\nbackends:\n  \
         up: {{ url: {:?}, type: openai, default: true }}\n  down: {{ url: {gone:?}, type: openai }}\n",
        demo.url()
    ))
    .await;
    let headers = [
        ("authorization", "Bearer SECRET-1"),
        ("x-api-key", "SECRET-2"),
        ("api-key", "SECRET-3"),
        ("x-goog-api-key", "SECRET-4"),
        ("cookie", "session=SECRET-5"),
        ("proxy-authorization", "Basic SECRET-6"),
        ("x-custom-token", "SECRET-7"),
    ];
    let with_secrets = |target: &str, directive: &str| {
        let content = format!("my password is SECRET-8 {directive}");
        let target = format!("{target}?key=SECRET-9&api_key=SECRET-10&SECRET-11&beta=true");
        let body =
            json!({"model": "m", "messages": [{"role": "user", "content": content}], "user": "SECRET-12"});
        let call = Call::post(&target).json(&body);
        headers.iter().fold(call, |call, (name, value)| call.header(name, value))
    };
    let chat = "/v1/chat/completions";
    let calls = [
        with_secrets(chat, ""),
        with_secrets(chat, "[[error 500]]"),
        with_secrets(chat, "[[cut]]"),
        with_secrets("/v1/messages", "").header("X-Backend", "down"),
        with_secrets(chat, "").header("X-Backend", "nowhere"),
        with_secrets(chat, "").session("a").session("b"),
        with_secrets("/unknown", ""),
        // Neither HTTP nor JSON.
        Call::new("GET SECRET-13", "/"),
        Call::post(chat).body("{\"model\": SECRET-14").header("authorization", "SECRET-15"),
        Call::get("http://user:SECRET-16@elsewhere/").header("authorization", "Bearer SECRET-17"),
    ];
    for call in &calls {
        let mut client = call.open(gateway.proxy()).await;
        let _ = client.message(Unframed::UntilEnd).await;
    }
    let mut operator = gateway.operator().await;
    operator.get("/control/sessions?token=SECRET-18").await;
    operator.get("/control/nothing?token=SECRET-19").await;
    operator.post("/control/sessions/SECRETLESS/kill", &json!({"raison": "SECRET-20"})).await;
    // The sessions' records are written at the end.
    let mut gateway = gateway;
    gateway.terminate();
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.log_until(|line| line["message"] == "stopped").await;
    let log = gateway.log_text();
    assert!(log.contains("request_completed") && log.contains("session_record"), "{log}");
    assert!(log.contains("\"DEBUG\"") || log.contains("\"debug\""), "the test looks at debug lines too");
    let leaks: Vec<&str> = log.lines().filter(|line| line.contains("SECRET-")).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_begins_with_the_seeds_eight_keys() {
    let demo = Demo::start().await;
    let yaml = format!(
        "listen: \"127.0.0.1:0\"\ncontrol: {{ listen: \"127.0.0.1:0\" }}\nbackend: {:?}\n",
        demo.url()
    );
    let process = Process::start(&yaml, &[]).await;
    let answer = Call::chat("hello").session("eight").send(process.address("proxy").await).await;
    assert_eq!(answer.status(), 200);
    let mut operator = Control::connect(process.address("control").await).await;
    assert_eq!(operator.kill("eight").await.status, 200);
    let line = process.line("the record", |line| line["message"] == "session_record").await;
    let keys = ["session_id", "state", "duration_ms", "request_count", "bytes_in", "bytes_out", "backend"];
    let places: Vec<_> = keys
        .into_iter()
        .chain(["client_addr", "schema"])
        .map(|key| line.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("{key} in {line}")))
        .collect();
    assert!(places.is_sorted(), "{line}");
    assert_eq!(
        line.find("\"message\":\"session_record\",\"session_id\""),
        line.find("\"message\""),
        "{line}"
    );
    let between = &line[places[0]..places[8]];
    assert_eq!(between.matches("\":").count(), 8, "nothing else between them: {between}");
    let record = crate::support::json(line.as_bytes());
    assert_eq!(record["backend"], demo.url(), "{record}");
    assert_eq!((&record["client_addr"], &record["schema"]), (&json!("127.0.0.1"), &json!("elida.cdr/3")));
    assert_eq!(record["kill"]["reason"], "runaway", "{record}");
}

fn records<'a>(lines: &'a [Value], id: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["message"] == "session_record" && line["session_id"] == id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_incarnation_has_exactly_one_record_also_with_open_legs() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for round in 1..=3_u64 {
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = Call::chat_stream("first [[stall]]").session("many").open(gateway.proxy()).await;
            client.until("first").await;
            clients.push(client);
        }
        assert_eq!(gateway.kill("many").await.body["legs_cut"], 20);
        for client in &mut clients {
            client.message(Unframed::UntilEnd).await.expect("the end");
        }
        let is_it = |line: &Value| line["message"] == "session_record" && line["incarnation"] == round;
        let record = gateway.log_until(is_it).await;
        assert_eq!((&record["state"], &record["request_count"]), (&json!("killed"), &json!(20)), "{record}");
        assert_eq!(record["error_count"], 20, "{record}");
        assert_eq!(Call::chat("no").session("many").send(gateway.proxy()).await.status(), 403);
        assert_eq!(gateway.resume("many").await, 200);
    }
    let mut gateway = gateway;
    gateway.terminate();
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.log_until(|line| line["message"] == "stopped").await;
    let lines = gateway.log_lines();
    let incarnations: Vec<_> =
        records(&lines, "many").iter().map(|record| record["incarnation"].as_u64()).collect();
    assert_eq!(incarnations, [Some(1), Some(2), Some(3)]);
}

/// Sends one event, and the rest of the stream when the test says so.
async fn waiting(go: &Arc<Notify>) -> RawBackend {
    let go = Arc::clone(go);
    RawBackend::start(move |mut connection| {
        let go = Arc::clone(&go);
        async move {
            if connection.request().await.is_none() {
                return;
            }
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = connection.send(head).await;
            let _ = connection.send("d\r\ndata: first\n\n\r\n").await;
            go.notified().await;
            let _ = connection.send("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").await;
        }
    })
    .await
}

fn with_grace(backend: &impl Backend, grace: &str) -> String {
    format!("backend: {:?}\nserver: {{ timeouts: {{ shutdown_grace: {grace} }} }}\n", backend.url())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_lets_the_stream_finish_and_nobody_in() {
    let go = Arc::new(Notify::new());
    let backend = waiting(&go).await;
    let mut gateway = Gateway::with(with_grace(&backend, "60s")).await;
    let mut kept = RawClient::connect(gateway.proxy()).await;
    assert_eq!(Call::get("/health").send_over(&mut kept, gateway.proxy()).await.status(), 200);
    let mut operator = gateway.operator().await;
    assert_eq!(operator.get("/health/readiness").await.status(), 200);
    let mut client = Call::chat_stream("hello").session("last").open(gateway.proxy()).await;
    client.until("data: first").await;
    gateway.terminate();
    gateway.log_until(|line| line["message"] == "draining").await;
    let readiness = operator.get("/health/readiness").await;
    assert_eq!(readiness.status(), 503, "{}", readiness.text());
    assert!(readiness.text().contains("draining"), "{}", readiness.text());
    assert_eq!(operator.get("/health/liveness").await.status(), 200, "the program lives");
    // An idle connection is closed, and no new ones are accepted.
    kept.end().await;
    within("a refused connection", async {
        while TcpStream::connect(gateway.proxy()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let session = gateway.session_until("last", |session| session["open_legs"] == 1).await;
    assert_eq!(session["state"], "active", "{session}");
    go.notify_one();
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.is_whole && answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.log_until(|line| line["message"] == "stopped").await;
    let lines = gateway.log_lines();
    let records = records(&lines, "last");
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(
        (&records[0]["state"], &records[0]["end_reason"], &records[0]["error_count"]),
        (&json!("completed"), &json!("shutdown"), &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_outlasts_the_grace_time_ends_with_an_error_of_its_dialect() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::with(with_grace(&demo, "300ms")).await;
    let mut client = Call::messages_stream("first [[stall]]").session("late").open(gateway.proxy()).await;
    client.until("first").await;
    let mut waiting = Call::chat("[[mute]]").session("waiting").open(gateway.proxy()).await;
    demo.until("the second request", |ledger| ledger.count("/v1/chat/completions") == 1).await;
    gateway.terminate();
    let refused = waiting.message(Unframed::UntilEnd).await.expect("an answer");
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (503, &json!("shutting_down")));
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    let text = answer.text();
    assert!(text.contains("event: error\ndata: ") && text.contains("shutting_down"), "{text}");
    assert!(!text.contains("message_stop"), "{text}");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    assert_eq!(
        (&record["end_reason"], &record["request_count"]),
        (&json!("shutdown"), &json!(1)),
        "{record}"
    );
    let line = gateway.access_line("/v1/messages").await;
    assert_eq!(line["outcome"], "shutting_down", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let demo = Demo::start().await;
    let mut gateway = Gateway::with(with_grace(&demo, "10m")).await;
    let mut client = Call::chat_stream("first [[stall]]").session("late").open(gateway.proxy()).await;
    client.until("first").await;
    gateway.terminate();
    gateway.log_until(|line| line["message"] == "draining").await;
    let asked = Instant::now();
    gateway.terminate();
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    assert_eq!(record["session_id"], "late", "{record}");
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(!answer.text().contains("[DONE]"), "{}", answer.text());
}
