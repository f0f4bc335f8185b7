use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::program::{Home, Program, python};
use crate::support::recording::{Dice, Recording};
use crate::support::timing::after;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, sha256};

/// Joins everything between `"content":"` and the next quote: enough for plain words.
fn contents(text: &str, key: &str) -> String {
    let start = format!("\"{key}\":\"");
    let pieces = text.split(&start).skip(1);
    pieces.map(|rest| rest.split('"').next().unwrap_or_default()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_dialect_streams_one_event_per_word() {
    let demo = Demo::start().await;
    let user = json!([{"role": "user", "content": "one two three"}]);
    let cases = [
        ("/v1/chat/completions", json!({"messages": user, "stream": true}), "content", "data: [DONE]\n\n"),
        (
            "/v1/chat/completions",
            json!({"messages": user, "stream": true, "model": "mistral-x"}),
            "content",
            "data: [DONE]\n\n",
        ),
        (
            "/base/v1/responses",
            json!({"input": "one two three", "stream": true}),
            "delta",
            "\"type\":\"response.completed\"}\n\n",
        ),
        ("/v1/messages", json!({"messages": user, "stream": true}), "text", "\"type\":\"message_stop\"}\n\n"),
        ("/api/chat", json!({"messages": user, "model": "l"}), "content", "}\n"),
        ("/api/generate", json!({"prompt": "one two three", "model": "l"}), "response", "}\n"),
    ];
    for (path, body, key, end) in cases {
        let answer = Call::post(path).json(&body).send(demo.address()).await;
        assert_eq!((answer.status(), answer.is_whole), (200, true), "{path}: {}", answer.text());
        assert_eq!(contents(&answer.text(), key), "one two three", "{path}: {}", answer.text());
        assert!(answer.text().ends_with(end), "{path}: {}", answer.text());
    }
    assert_eq!(demo.ledger().count("/v1/chat/completions"), 2);
    assert_eq!(demo.ledger().open(), 0);
    assert!(demo.ledger().aborts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_gets_the_same_bytes() {
    let demo = Demo::start().await;
    for call in [Call::chat("same"), Call::chat_stream("same"), Call::messages_stream("same [[words 50]]")] {
        assert_eq!(call.send(demo.address()).await.body, call.send(demo.address()).await.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_is_noted_at_once() {
    let demo = Demo::start().await;
    for (nth, directive) in ["[[stall]]", "[[mute]]", "[[words 1000000]] [[pace 1ms]]"].iter().enumerate() {
        let mut client = Call::chat_stream(directive).open(demo.address()).await;
        match *directive {
            "[[mute]]" => demo.until("the request", |ledger| ledger.count("/v1/chat/completions") == 2).await,
            _ => client.until("content").await,
        }
        assert_eq!(demo.ledger().open(), 1);
        let left = Instant::now();
        drop(client);
        demo.until("the abort", |ledger| ledger.aborts().len() == nth + 1).await;
        assert!(after(left, demo.ledger().aborts()[nth]) < Duration::from_millis(100), "{directive}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_has_no_clean_end() {
    let demo = Demo::start().await;
    for call in [Call::chat("a b c [[cut]]"), Call::chat_stream("a b c d [[cut]]")] {
        let answer = call.send(demo.address()).await;
        assert_eq!((answer.status(), answer.is_whole), (200, false), "{}", answer.text());
        assert!(!answer.body.is_empty() && !answer.text().contains("DONE"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_vendors_shape() {
    let demo = Demo::start().await;
    let user = json!([{"role": "user", "content": "[[error 529]]"}]);
    let cases = [
        ("/v1/chat/completions", "/error/type", "server_error"),
        ("/v1/messages", "/error/type", "overloaded_error"),
        ("/api/chat", "/error", "Overloaded"),
    ];
    for (path, pointer, value) in cases {
        let call = Call::post(path).json(&json!({"messages": user, "model": "m"}));
        let answer = call.send(demo.address()).await;
        assert_eq!(answer.status(), 529, "{path}");
        assert_eq!(answer.json().pointer(pointer), Some(&json!(value)), "{path}: {}", answer.text());
        let broken = Call::post(path).body("{\"messages\": [").send(demo.address()).await;
        assert_eq!(broken.status(), 400, "{path}");
        assert!(broken.json()["error"].is_string() || broken.json()["error"]["message"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smaller_calls_of_each_dialect_pass_the_gateway() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let model = json!({"model": "m", "input": "a b", "prompt": "a b", "content": {"parts": [{"text": "a b"}]},
        "contents": [{"parts": [{"text": "a b"}]}], "messages": [{"role": "user", "content": "a b"}]});
    for (path, member) in [
        ("/v1/completions", "/choices/0/text"),
        ("/v1/fim/completions", "/choices/0/text"),
        ("/v1/embeddings", "/data/0/embedding"),
        ("/v1/messages/count_tokens", "/input_tokens"),
        ("/api/embed", "/embeddings/0"),
        ("/api/embeddings", "/embedding"),
        ("/api/show", "/details"),
        ("/v1beta/models/m:countTokens", "/totalTokens"),
        ("/v1beta/models/m:embedContent", "/embedding/values"),
    ] {
        let answer = Call::post(path).json(&model).send(gateway.proxy()).await;
        assert!(answer.json().pointer(member).is_some(), "{path}: {}", answer.text());
    }
    for (path, member) in [
        ("/v1/models/gpt-demo", "/owned_by"),
        ("/v1beta/models", "/models/0/name"),
        ("/api/tags", "/models/0/name"),
        ("/.well-known/agent-card.json", "/capabilities/streaming"),
    ] {
        let answer = Call::get(path).send(gateway.proxy()).await;
        assert!(answer.json().pointer(member).is_some(), "{path}: {}", answer.text());
    }
    let pulled = Call::post("/api/pull").json(&model).send(gateway.proxy()).await;
    assert!(pulled.text().ends_with("{\"status\":\"success\"}\n"), "{}", pulled.text());
    assert_eq!(Call::new("DELETE", "/api/delete").json(&model).send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_forty_megabytes_is_digested() {
    let demo = Demo::start().await;
    let body = Dice::new(7).bytes(1 << 20).repeat(40);
    let answer = Call::post("/echo").body(body.clone()).send(demo.address()).await;
    assert_eq!(sha256(&answer.body), sha256(&body));
    let seen = demo.ledger().last().expect("a request");
    assert_eq!((seen.body_len, seen.body_sha256), (body.len(), sha256(&body)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_sdks_are_content_with_it() {
    let demo = Demo::start().await;
    for program in ["openai", "openai-responses", "anthropic", "mistralai", "ollama"] {
        let mut driver = python("drive.py");
        driver.args([program, &demo.url(), "no control", "whole", "streamed", "tools", "whole_tools"]);
        let outcome = Program::start(driver, &Home::new()).outcome().await;
        let reports = outcome.values();
        assert_eq!(reports.len(), 4, "{program}: {outcome:?}");
        for report in reports {
            let is_answered = report["text"] == "one two three" || report["input"]["city"] == "Zürich";
            assert!(is_answered, "{program}: {report}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_is_content_with_it() {
    let demo = Demo::start().await;
    let outcome = Program::claude(&demo.url(), "say hello", &[]).outcome().await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.last()["result"], "say hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_accept_queue_lets_nobody_connect() {
    let backend = RawBackend::not_accepting().await;
    let address = backend.url().trim_start_matches("http://").to_owned();
    let connecting = tokio::net::TcpStream::connect(address);
    assert!(tokio::time::timeout(Duration::from_millis(300), connecting).await.is_err());
}

#[test]
fn a_recording_cut_in_pieces_is_the_same_in_sum() {
    for recording in Recording::all() {
        let pieces = Dice::new(1).cut(&recording.bytes, 40);
        assert!(pieces.len() > 3, "{}", recording.name);
        assert_eq!(pieces.concat(), recording.bytes, "{}", recording.name);
    }
}
