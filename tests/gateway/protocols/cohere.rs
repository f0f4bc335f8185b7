use serde_json::{Value, json};

use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway};

fn chat(text: &str, stream: bool) -> Call {
    let messages = json!([{"role": "user", "content": text}]);
    Call::post("/v2/chat").json(&json!({"model": "command-demo", "messages": messages, "stream": stream}))
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_answers_and_streams_pass_and_are_counted() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for (session, stream) in [("whole", false), ("events", true)] {
        let call = chat("one two three [[cached 2]]", stream);
        let direct = call.send(demo.address()).await;
        let answer = call.session(session).send(gateway.proxy()).await;
        assert_eq!((answer.status(), &answer.body), (200, &direct.body), "{session}");
        let state = gateway.session_until(session, |session| session["open_legs"] == 0).await;
        let usage = &state["usage"];
        assert_eq!(
            [&usage["input_tokens"], &usage["output_tokens"], &usage["cache_read_tokens"]],
            [&json!(5), &json!(3), &json!(2)],
            "{state}"
        );
        assert_eq!((&state["models"]["command-demo"], &state["error_count"]), (&json!(1), &json!(0)));
        let line = &state["requests"][0];
        assert_eq!((&line["stop_reason"], &line["stream"]), (&json!("COMPLETE"), &json!(stream)), "{line}");
        // The directive is two words more. The demo's models cost 1 dollar a million in, a tenth of it out of the cache, 5 out.
        let cost = usage["cost_usd"].as_f64().unwrap_or_default();
        assert!((cost - (5.0 + 0.2 + 15.0) / 1e6).abs() < 1e-12, "{usage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_the_stream_in_the_vendors_words_and_refuses_what_follows() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    assert_eq!(chat("one two", false).session("s").send(gateway.proxy()).await.status(), 200);
    let mut client = chat("first [[stall]]", true).session("s").open(gateway.proxy()).await;
    client.until("first").await;
    assert_eq!(gateway.kill("s").await.status, 200);
    let message = client.message(Unframed::UntilEnd).await.expect("the end of the answer");
    let text = message.text();
    let last = text.trim_end().rsplit("\n\n").next().expect("an event");
    let data = last.strip_prefix("event: message-end\ndata: ").unwrap_or_else(|| panic!("{text}"));
    let event: Value = serde_json::from_str(data).expect("JSON");
    assert_eq!(event["delta"]["finish_reason"], "ERROR", "{event}");
    assert!(event["delta"]["error"].as_str().is_some_and(|why| why.contains("killed")), "{event}");
    let refused = chat("again", false).session("s").send(gateway.proxy()).await;
    let body = refused.json();
    assert_eq!((refused.status(), &body["code"]), (403, &json!("session_killed")), "{body}");
    assert!(body["id"].is_string() && body["message"].is_string(), "{body}");
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    let usage = &record["usage"]["models"][0];
    assert_eq!((&record["state"], &usage["model"]), (&json!("killed"), &json!("command-demo")), "{record}");
    assert_eq!((&usage["input_tokens"], &usage["output_tokens"]), (&json!(2), &json!(2)), "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_of_this_type_gets_its_models_its_key_and_its_part_of_the_list() {
    let (cohere, other) = (Demo::start().await, Demo::start().await);
    let gateway = Gateway::with(format!(
        "backends:\n  command: {{ url: {:?}, type: cohere, models: ['command-*'], \
         auth: {{ mode: inject, api_key: sk-test }} }}\n  \
         other: {{ url: {:?}, type: ollama, default: true }}\nmodels: {{ discovery: merged }}\n",
        cohere.url(),
        other.url()
    ))
    .await;
    let answer = chat("hello", false).send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!((cohere.ledger().arrived(), other.ledger().arrived()), (1, 0));
    let seen = cohere.ledger().last().expect("a request");
    assert_eq!(seen.header("authorization"), Some("Bearer sk-test"));
    let list = Call::get("/v1/models").send(gateway.proxy()).await.json();
    let models = list["data"].as_array().expect("a list");
    assert!(
        models.iter().any(|model| model["id"] == "command-demo" && model["owned_by"] == "command"),
        "{list}"
    );
}
