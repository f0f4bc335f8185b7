use serde_json::{Value, json};

use crate::support::recording::{Dice, Recording};
use crate::support::{Backend, Call, Demo, Gateway, RawBackend};

/// Counts in the order of [`KEYS`].
pub type Counts = [u64; 5];

pub const KEYS: [&str; 5] =
    ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"];

/// The counts of each recording, normalised; `None` where it reports none.
pub const RECORDED: [(&str, Option<Counts>); 17] = [
    ("anthropic_overloaded_midway.sse", Some([25, 1, 0, 0, 0])),
    ("anthropic_text_crlf.sse", Some([25, 17, 0, 0, 0])),
    ("anthropic_thinking_tool.sse", Some([472, 89, 11_264, 1820, 0])),
    ("anthropic_whole.json", Some([2095, 503, 512, 0, 0])),
    ("mistral_text.sse", Some([11, 18, 0, 0, 0])),
    ("mistral_thinking_tool.sse", Some([94, 22, 0, 0, 0])),
    ("mistral_whole.json", Some([124, 22, 0, 0, 0])),
    ("ollama_chat_thinking.ndjson", Some([26, 282, 0, 0, 0])),
    ("ollama_chat_tool_crlf.ndjson", Some([169, 15, 0, 0, 0])),
    ("ollama_whole.json", Some([10, 4, 0, 0, 0])),
    ("openai_chat_comments_crlf.sse", Some([5, 3, 0, 0, 0])),
    ("openai_chat_tools.sse", None),
    ("openai_chat_usage.sse", Some([11, 74, 8, 0, 64])),
    ("openai_whole.json", Some([13, 7, 0, 0, 0])),
    ("responses_incomplete.sse", Some([0, 16, 2048, 0, 128])),
    ("responses_reasoning_tool.sse", Some([1163, 152, 2048, 0, 128])),
    ("responses_whole.json", Some([1163, 152, 2048, 0, 128])),
];

pub fn counts(usage: &Value) -> Counts {
    KEYS.map(|key| usage[key].as_u64().unwrap_or_else(|| panic!("{key} in {usage}")))
}

/// The token counters of this model in the Prometheus text, by type.
fn metered(text: &str, model: &str) -> Counts {
    ["input", "output", "cache_read", "cache_write", "reasoning"].map(|kind| {
        let line = format!("elida_tokens_total{{backend=\"default\",model=\"{model}\",type=\"{kind}\"}} ");
        let value = text.lines().find_map(|found| found.strip_prefix(line.as_str()));
        value.map_or(0, |value| value.parse().expect("a number"))
    })
}

/// Sends the recording's bytes in random pieces, then ends.
async fn replaying(recording: &Recording) -> RawBackend {
    let recording = recording.clone();
    RawBackend::start(move |mut connection| {
        let recording = recording.clone();
        async move {
            if connection.request().await.is_none() {
                return;
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
                recording.content_type
            );
            let _ = connection.send(head).await;
            for piece in Dice::new(7).cut(&recording.bytes, 100) {
                let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                let _ = connection.send(chunk).await;
            }
            let _ = connection.send("0\r\n\r\n").await;
        }
    })
    .await
}

/// Replays one recording; the counts must be the same in every view.
async fn counted(recording: &Recording, expected: Option<Counts>) {
    let name = &recording.name;
    let backend = replaying(recording).await;
    let gateway = Gateway::start(&backend).await;
    let call = Call::post(recording.path).json(&json!({"model": "asked-for", "messages": []}));
    let answer = call.session("counted").send(gateway.proxy()).await;
    assert_eq!(answer.body, recording.bytes, "{name}");
    let expected = expected.unwrap_or_default();
    let session = gateway.session_until("counted", |session| session["open_legs"] == 0).await;
    assert_eq!(counts(&session["usage"]), expected, "{name}: {session}");
    let metrics = gateway.operator().await.get("/metrics").await.text();
    assert_eq!(metered(&metrics, "asked-for"), expected, "{name}: {metrics}");
    assert_eq!(gateway.kill("counted").await.status, 200);
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    assert_eq!(counts(&record["usage"]), expected, "{name}: {record}");
    assert_eq!(record["usage"]["models"][0]["model"], "asked-for", "{name}: {record}");
    assert_eq!(counts(&record["usage"]["models"][0]), expected, "{name}: {record}");
}

async fn recordings_of(dialect: &str) {
    let all = Recording::all();
    let names: Vec<&str> = all.iter().map(|recording| recording.name.as_str()).collect();
    assert_eq!(names, RECORDED.map(|(name, _)| name), "each recording is counted here");
    for (recording, (name, expected)) in all.iter().zip(RECORDED) {
        if name.starts_with(dialect) {
            counted(recording, expected).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_anthropic() {
    recordings_of("anthropic_").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_openai_chat() {
    recordings_of("openai_").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_openai_responses() {
    recordings_of("responses_").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_mistral() {
    recordings_of("mistral_").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_ollama() {
    recordings_of("ollama_").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_add_up_by_model() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let call = |model: &str, text: &str, stream: bool| {
        let messages = json!([{"role": "user", "content": text}]);
        let body = json!({"model": model, "messages": messages, "max_tokens": 9, "stream": stream});
        Call::post("/v1/messages").json(&body).session("sum")
    };
    // The demo provider counts words.
    for (model, text, stream) in
        [("a", "one two three", false), ("a", "one two", true), ("b", "[[words 40]] one", true)]
    {
        assert_eq!(call(model, text, stream).send(gateway.proxy()).await.status(), 200);
    }
    let session = gateway
        .session_until("sum", |session| session["open_legs"] == 0 && session["request_count"] == 3)
        .await;
    assert_eq!(session["usage"]["output_tokens"], 45, "{session}");
    assert_eq!(session["models"], json!({"a": 2, "b": 1}));
    let metrics = gateway.operator().await.get("/metrics").await.text();
    assert_eq!((metered(&metrics, "a")[1], metered(&metrics, "b")[1]), (5, 40), "{metrics}");
    assert_eq!(gateway.kill("sum").await.status, 200);
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    let models = record["usage"]["models"].as_array().expect("models").clone();
    let by_model: Vec<_> = models.iter().map(|used| (&used["model"], &used["output_tokens"])).collect();
    assert_eq!(by_model, [(&json!("a"), &json!(5)), (&json!("b"), &json!(40))], "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_stream_that_was_cut_are_what_came_until_then() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let call = Call::messages_stream("one two three [[stall]]").session("cut");
    let mut client = call.open(gateway.proxy()).await;
    client.until("one").await;
    assert_eq!(gateway.kill("cut").await.status, 200);
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    assert!(record["usage"]["input_tokens"].as_u64() > Some(0), "message_start has them: {record}");
    assert!(record["usage"]["output_tokens"].as_u64() < Some(3), "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_costs_is_known_at_once_and_kept() {
    let demo = Demo::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let prices = folder.path().join("prices.yaml");
    let row = "{ model: 'dear-*', input: 1000, output: 5000, cache_read: 100, cache_write: 2000 }";
    std::fs::write(&prices, format!("version: 1\nprices:\n  - {row}\n")).expect("prices");
    let yaml = format!("backend: {:?}\nusage: {{ prices_file: {prices:?} }}\n", demo.url());
    let gateway = Gateway::with(&yaml).await;
    let body =
        json!({"model": "dear-1", "messages": [{"role": "user", "content": "[[words 20]] [[cached 4]]"}]});
    let call = Call::post("/v1/chat/completions").session("dear").json(&body);
    assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    let priced = |session: &Value| session["usage"]["cost_usd"].as_f64().is_some_and(|cost| cost > 0.0);
    let session = gateway.session_until("dear", priced).await;
    let [input, output, cached, ..] = counts(&session["usage"]);
    let cost = (input * 1000 + output * 5000 + cached * 100) as f64 / 1e6;
    assert_eq!(session["usage"]["cost_usd"], cost, "{session}");
    assert!(
        (gateway.metric(r#"elida_cost_usd_total{backend="default",model="dear-1"}"#).await - cost).abs()
            < 1e-9
    );

    assert_eq!(gateway.kill("dear").await.status, 200);
    let mut operator = gateway.operator().await;
    let some = |usage: &Value| usage["usage"].as_array().is_some_and(|lines| !lines.is_empty());
    let usage = gateway.answer_until("/control/usage?by=model", some).await;
    assert_eq!(
        (&usage["usage"][0]["name"], &usage["usage"][0]["cost_usd"]),
        (&"dear-1".into(), &cost.into())
    );

    // A reload reads the prices again.
    std::fs::write(&prices, "version: 1\nprices: [{ model: '*', input: -1, output: 0 }]\n").expect("prices");
    let answer = operator.post("/control/config/reload", &Value::Null).await;
    assert_eq!(answer.status(), 422, "{}", answer.text());
    assert!(answer.text().contains("usage.prices_file"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_price_is_null_and_counted() {
    let demo = Demo::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let prices = folder.path().join("prices.yaml");
    std::fs::write(&prices, "version: 1\nprices: [{ model: dear, input: 1000, output: 0 }]\n")
        .expect("prices");
    let yaml = format!("backend: {:?}\nusage: {{ prices_file: {prices:?} }}\n", demo.url());
    let gateway = Gateway::with(&yaml).await;
    let ask = async |session: &str, model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hello"}]});
        let call = Call::post("/v1/chat/completions").session(session).json(&body);
        assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    };
    let unpriced = |number: u64| move |session: &Value| session["usage"]["unpriced_answers"] == number;
    ask("own", "my-own").await;
    let session = gateway.session_until("own", unpriced(1)).await;
    assert_eq!(session["usage"]["cost_usd"], Value::Null, "{session}");
    ask("both", "my-own").await;
    ask("both", "dear").await;
    let session = gateway.session_until("both", |session| session["usage"]["cost_usd"].is_number()).await;
    assert!(session["usage"]["cost_usd"].as_f64() > Some(0.0), "the known part: {session}");
    assert_eq!(session["usage"]["unpriced_answers"], 1, "{session}");
    let metric = r#"elida_answers_unpriced_total{backend="default",model="my-own"}"#;
    assert_eq!(gateway.metric(metric).await, 2.0);
    assert!(
        !gateway.metrics().await.contains(r#"elida_answers_unpriced_total{backend="default",model="dear"}"#)
    );

    for id in ["own", "both"] {
        assert_eq!(gateway.kill(id).await.status, 200);
    }
    let both = |page: &Value| page["records"].as_array().is_some_and(|records| records.len() == 2);
    let page = gateway.answer_until("/control/history", both).await;
    let records = page["records"].as_array().expect("records");
    let record =
        |id: &str| &records.iter().find(|record| record["session_id"] == id).expect("a record")["usage"];
    assert_eq!((&record("own")["cost_usd"], &record("own")["unpriced_answers"]), (&Value::Null, &1.into()));
    assert!(record("both")["cost_usd"].is_number(), "{page}");
    let mut operator = gateway.operator().await;
    let usage = operator.get("/control/usage?by=model").await.json();
    assert_eq!(
        (&usage["usage"][0]["name"], usage["usage"][0]["cost_usd"].is_number()),
        (&"dear".into(), true)
    );
    let line = &usage["usage"][1];
    assert_eq!((&line["name"], &line["cost_usd"]), (&"my-own".into(), &Value::Null), "{usage}");
    assert_eq!(line["unpriced_answers"], 2, "{usage}");
    let series = operator.get("/control/history/series?step=day").await.json();
    assert_eq!(series["points"][0]["unpriced_answers"], 2, "{series}");
}

/// The cost of an answer that a backend gives to a call for a model; `None` if it is null.
async fn cost_of(call: Call, model: &str, body: &str) -> Option<f64> {
    let folder = tempfile::tempdir().expect("a folder");
    let prices = folder.path().join("prices.yaml");
    let rows = "prefixes: [seller/]
prices:
  - model: [dear, us.dear]
    input: 100000
    output: 0
    long_context: { above: 10, input: 200000, output: 0 }
    tiers: { flex: 0.5 }
    web_search: 700
  - { model: dear-2026-01-01, input: 300000, output: 0 }
";
    std::fs::write(&prices, format!("version: 1\n{rows}")).expect("prices");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let backend = RawBackend::answering(answer).await;
    let yaml = format!("backend: {:?}\nusage: {{ prices_file: {prices:?} }}\n", backend.url());
    let gateway = Gateway::with(&yaml).await;
    let body = json!({"model": model, "messages": [], "input": "x"});
    assert_eq!(call.session("s").json(&body).send(gateway.proxy()).await.status(), 200);
    let session =
        gateway.session_until("s", |session| session["usage"]["input_tokens"].as_u64() > Some(0)).await;
    session["usage"]["cost_usd"].as_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cost_follows_the_tier_the_context_the_searches_and_the_exact_model() {
    let chat = async |asked: &str, answered: &str, input: u64, tier: &str| {
        let body = format!(
            r#"{{"model":"{answered}","choices":[],"service_tier":"{tier}","usage":{{"prompt_tokens":{input},"completion_tokens":1}}}}"#
        );
        cost_of(Call::post("/v1/chat/completions"), asked, &body).await
    };
    assert_eq!(chat("dear", "dear", 10, "default").await, Some(1.0));
    assert_eq!(chat("dear", "dear", 11, "default").await, Some(2.2), "a long context");
    assert_eq!(chat("dear", "dear", 10, "flex").await, Some(0.5));
    assert_eq!(chat("dear", "dear", 11, "flex").await, Some(1.1));
    assert_eq!(chat("dear", "dear", 10, "priority").await, None, "nothing says what that costs");
    assert_eq!(chat("seller/dear", "x", 10, "default").await, Some(1.0));
    assert_eq!(
        chat("dear", "dear-2026-01-01", 10, "default").await,
        Some(3.0),
        "the version has its own price"
    );
    assert_eq!(chat("deployment", "dear", 10, "default").await, Some(1.0), "the answer says what it is");
    assert_eq!(chat("dear-mini", "dear-mini", 10, "default").await, None);
    let search = r#"{"type":"web_search_call","action":{"type":"search"}}"#;
    let body = format!(
        r#"{{"model":"dear","output":[{search},{search}],"usage":{{"input_tokens":3,"output_tokens":1}}}}"#
    );
    assert_eq!(cost_of(Call::post("/v1/responses"), "dear", &body).await, Some(1.7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_cannot_be_true_spoils_no_sum() {
    let usage = r#"{"prompt_tokens":9223372036854775000,"completion_tokens":7,"completion_tokens_details":{"reasoning_tokens":-1}}"#;
    let body =
        format!(r#"{{"model":"big","choices":[{{"index":0,"finish_reason":"stop"}}],"usage":{usage}}}"#);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let backend = RawBackend::answering(head + &body).await;
    let gateway = Gateway::start(&backend).await;
    for id in ["false-1", "false-2"] {
        assert_eq!(Call::chat("hello").session(id).send(gateway.proxy()).await.status(), 200);
        let session = gateway.session_until(id, |session| session["open_legs"] == 0).await;
        assert_eq!(counts(&session["usage"]), [0, 7, 0, 0, 0], "{session}");
        assert_eq!(gateway.kill(id).await.status, 200);
    }
    let both = |page: &Value| page["records"].as_array().is_some_and(|records| records.len() == 2);
    let page = gateway.answer_until("/control/history", both).await;
    assert_eq!(counts(&page["records"][0]["usage"]), [0, 7, 0, 0, 0], "{page}");
    let mut operator = gateway.operator().await;
    let usage = operator.get("/control/usage?by=principal").await;
    assert_eq!(
        (usage.status(), counts(&usage.json()["usage"][0])),
        (200, [0, 14, 0, 0, 0]),
        "{}",
        usage.text()
    );
    let series = operator.get("/control/history/series?step=day").await;
    assert_eq!(
        (series.status(), counts(&series.json()["points"][0])),
        (200, [0, 14, 0, 0, 0]),
        "{}",
        series.text()
    );
    let model = page["records"][0]["usage"]["models"][0]["model"].as_str().expect("a model").to_owned();
    assert_eq!(metered(&gateway.metrics().await, &model), [0, 14, 0, 0, 0]);
    let flagged = r#"elida_answers_unread_total{backend="default",reason="false_count"}"#;
    assert_eq!(gateway.metric(flagged).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_an_answer_without_a_model_are_in_the_metric_too() {
    let body = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":7}}"#;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let backend = RawBackend::answering(head + body).await;
    let gateway = Gateway::start(&backend).await;
    let call = Call::post("/v1/chat/completions").json(&json!({"messages": []})).session("nameless");
    assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    let session = gateway.session_until("nameless", |session| session["open_legs"] == 0).await;
    assert_eq!(counts(&session["usage"]), [3, 7, 0, 0, 0], "{session}");
    assert_eq!(metered(&gateway.metrics().await, "unknown"), [3, 7, 0, 0, 0]);
}
