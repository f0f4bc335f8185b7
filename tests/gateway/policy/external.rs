//! Services that decide besides the rules, in the form of OPA.

use std::time::Duration;

use data_encoding::BASE64;
use ring::hmac;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::rules::ruled;
use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend, within};

/// What a service does with a question.
enum Does {
    Says(Value),
    Sends(&'static str),
    /// It never answers.
    Waits,
}

/// A service that is asked `POST /v1/data/elida/decide`.
async fn service(decide: impl Fn(&Value) -> Does + Copy + Send + Sync + 'static) -> RawBackend {
    RawBackend::start(move |mut connection| async move {
        while let Some(question) = connection.request().await {
            let body = match decide(&question.json()["input"]) {
                Does::Says(result) => json!({ "result": result, "decision_id": "x" }).to_string(),
                Does::Sends(text) => text.to_owned(),
                Does::Waits => return connection.stay_silent().await,
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            if connection.send(head + &body).await.is_err() {
                return;
            }
        }
    })
    .await
}

fn external(service: &RawBackend, more: &str) -> String {
    format!("  external:\n    - {{ name: opa, url: '{}/v1/data/elida/decide', {more} }}", service.url())
}

fn inputs(service: &RawBackend) -> Vec<Value> {
    service.requests().iter().map(|question| question.json()["input"].clone()).collect()
}

fn call(tool: &str, stream: bool) -> Call {
    let text = format!("sure [[tool {tool} {{\"to\": \"production\"}}]]");
    Call::post("/v1/messages").json(&json!({"model": "m", "max_tokens": 9, "stream": stream,
        "messages": [{"role": "user", "content": text}], "tools": [{"name": tool, "input_schema": {}}]}))
}

fn rule_of(refusal: &Message) -> String {
    let text = refusal.text();
    let parts: Vec<&str> = text.split("\"rule\":\"").collect();
    parts.get(1).and_then(|rest| rest.split('"').next()).unwrap_or_default().to_owned()
}

/// By the name of the tool.
fn by_tool(input: &Value) -> Does {
    match input["tool"]["name"].as_str().unwrap_or_default() {
        "drop" => Does::Says(json!({"action": "block", "reason": "nobody drops anything"})),
        "deny" => Does::Says(json!(false)),
        "deploy" => Does::Says(json!({"action": "hold", "reason": "ask first"})),
        "mute" => Does::Waits,
        "undefined" => Does::Sends("{}"),
        "garbage" => Does::Sends("<html>"),
        _ => Does::Says(json!(true)),
    }
}

const ON_CALLS: &str = "on: [tool_call], timeout: 300ms, on_error: closed";
const COMPLETES: &str = "event: content_block_stop";

#[tokio::test(flavor = "multi_thread")]
async fn the_event_that_completes_a_call_waits_for_the_service() {
    let demo = Demo::start().await;
    let opa = service(by_tool).await;
    let gateway = ruled(&demo, &external(&opa, ON_CALLS)).await;
    for stream in [false, true] {
        let direct = call("read", stream).send(demo.address()).await;
        let passed = call("read", stream).session("fine").send(gateway.proxy()).await;
        assert_eq!((passed.status(), passed.text().len()), (200, direct.text().len()), "{}", passed.text());
        for (tool, reason) in [
            ("drop", "nobody drops anything"),
            ("deny", "the rule 'opa'"),
            ("mute", "'opa', which decides on this, does not answer"),
            ("undefined", "does not answer"),
            ("garbage", "does not answer"),
        ] {
            let session = format!("{tool}-{stream}");
            let refused = call(tool, stream).session(&session).send(gateway.proxy()).await;
            let text = refused.text();
            assert!(text.contains(reason) && !text.contains(COMPLETES), "{tool} {stream}: {text}");
            assert!(stream || refused.status() == 403 && rule_of(&refused) == "opa", "{text}");
        }
    }
    // The repetition of what was refused reaches neither backend nor service.
    let (asked, arrived) = (opa.requests().len(), demo.ledger().arrived());
    let again = call("drop", false).session("drop-true").send(gateway.proxy()).await;
    assert_eq!((again.status(), rule_of(&again).as_str()), (403, "opa"), "{}", again.text());
    assert_eq!((opa.requests().len(), demo.ledger().arrived()), (asked, arrived));
    let seconds = |result: &str| format!("elida_external_seconds_count{{name=\"opa\",result=\"{result}\"}}");
    for (result, count) in [("allow", 2.0), ("block", 4.0), ("timeout", 2.0), ("error", 4.0)] {
        assert_eq!(gateway.metric(&seconds(result)).await, count, "{result}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_say_that_an_operator_decides() {
    let demo = Demo::start().await;
    let opa = service(by_tool).await;
    let gateway = ruled(&demo, &external(&opa, ON_CALLS)).await;
    let mut client = call("deploy", true).session("s").open(gateway.proxy()).await;
    client.until("partial_json").await;
    let approval = within("a pending approval", async {
        loop {
            let list = gateway.operator().await.get("/control/approvals?state=pending").await.json();
            if let Some(one) = list["approvals"].as_array().and_then(|list| list.first()) {
                return one.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(
        (&approval["rule"], &approval["tool"], &approval["message"]),
        (&json!("opa"), &json!("deploy"), &json!("ask first")),
        "{approval}"
    );
    let seen = String::from_utf8_lossy(client.rest()).into_owned();
    assert!(!seen.contains(COMPLETES), "{seen}");
    let id = approval["id"].as_str().expect("an id");
    let path = format!("/control/approvals/{id}");
    let answer = gateway.operator().await.post(&path, &json!({"decision": "approve"})).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    client.until("message_stop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_answers_calls_of_clients_and_results_are_asked_about() {
    let demo = Demo::start().await;
    let opa = service(|input| match (input["phase"].as_str(), input["tool"]["name"].as_str()) {
        (Some("connect"), _) if input["request"]["headers"]["x-bad"] == "1" => Does::Says(json!(false)),
        (Some("request"), _) if input["request"]["model"] == "dear" => Does::Says(json!(false)),
        (Some("request"), _) if input["text"].as_str().is_some_and(|text| text.contains("purple")) => {
            Does::Says(json!({"action": "block"}))
        }
        (Some("tool_call"), Some("drop")) => Does::Says(json!(false)),
        (Some("tool_result"), _) if input["text"].as_str().is_some_and(|text| text.contains("poison")) => {
            Does::Says(json!(false))
        }
        (Some("response"), _) if input["text"].as_str().is_some_and(|text| text.contains("indigo")) => {
            Does::Says(json!({"action": "block", "reason": "not that"}))
        }
        _ => Does::Says(json!(true)),
    })
    .await;
    let all =
        "on: [connect, request, response, tool_call, tool_result], on_error: closed, send: [facts, text]";
    let gateway = Gateway::with(format!(
        "backends:\n  demo: {{ url: {:?}, type: openai, default: true }}\n  tools: {{ url: {:?}, type: mcp }}\npolicy:\n{}\n",
        demo.url(),
        demo.url(),
        external(&opa, all)
    ))
    .await;
    let status = async |call: Call| call.send(gateway.proxy()).await.status();
    assert_eq!(status(Call::chat("hello")).await, 200);
    assert_eq!(status(Call::chat("hello").header("x-bad", "1")).await, 403);
    let dear = json!({"model": "dear", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(status(Call::post("/v1/chat/completions").json(&dear)).await, 403);
    assert_eq!(status(Call::chat("a purple one")).await, 403);
    assert_eq!(status(Call::chat("say indigo")).await, 403);
    // A result is asked about once: the history repeats it.
    let turn = |text: &str, more: usize| {
        let mut messages = vec![
            json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "Read", "input": {}}]}),
            json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": text}]}),
        ];
        messages.extend((0..more).map(|_| json!({"role": "user", "content": "go on"})));
        Call::post("/v1/messages")
            .session("turns")
            .json(&json!({"model": "m", "max_tokens": 9, "messages": messages}))
    };
    assert_eq!(status(turn("a fine text", 0)).await, 200);
    assert_eq!(status(turn("a fine text", 1)).await, 200);
    assert_eq!(status(turn("poison", 0)).await, 403);
    assert_eq!(status(turn("poison", 2)).await, 403, "what was refused is not taken for clean");
    let results: Vec<Value> =
        inputs(&opa).into_iter().filter(|input| input["phase"] == "tool_result").collect();
    assert_eq!(results.len(), 3, "{results:#?}");
    assert_eq!(results[0]["tool"]["name"], "Read");
    assert!(results[0]["text"].as_str().is_some_and(|text| text.starts_with("a fine text")), "{results:#?}");
    // A client of MCP.
    let rpc = |tool: &str| {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}});
        Call::post("/mcp").header("accept", "application/json, text/event-stream").json(&body)
    };
    let refused = rpc("drop").send(gateway.proxy()).await;
    assert!(refused.text().contains("the rule 'opa'"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_told_what_send_says_and_asked_when_it_says_so() {
    let demo = Demo::start().await;
    let opa = service(by_tool).await;
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, format!("whsec_{}\n", BASE64.encode(&[7; 32]))).expect("a file");
    let more = format!(
        "{ON_CALLS}, send: [facts, args], secret_file: {secret:?}, cache: 60s, when: 'request.model == \"m\"'"
    );
    let gateway = ruled(&demo, &external(&opa, &more)).await;
    let ask = async || {
        let call =
            call("read", true).session("s").header("x-api-key", "sk-ant-hidden").header("x-team", "blue");
        call.send(gateway.proxy()).await
    };
    assert!(ask().await.is_whole);
    let question = opa.requests().remove(0);
    assert_eq!(question.head.target(), "/v1/data/elida/decide");
    let field = |name| question.head.field(name).unwrap_or_else(|| panic!("no {name}"));
    let signed = [field("webhook-id"), ".", field("webhook-timestamp"), ".", &question.text()].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
    let signature = field("webhook-signature").strip_prefix("v1,").expect("a version");
    hmac::verify(&key, signed.as_bytes(), &BASE64.decode(signature.as_bytes()).expect("Base64"))
        .expect("the signature");
    let input = &question.json()["input"];
    assert_eq!(input["phase"], "tool_call");
    assert_eq!(input["decision_id"], field("webhook-id"));
    assert_eq!(input["tool"]["args"], json!({"to": "production"}), "{input:#}");
    assert_eq!(
        (&input["request"]["model"], &input["session"]["id"]),
        (&json!("m"), &json!("s")),
        "{input:#}"
    );
    assert_eq!(input["request"]["headers"]["x-team"], "blue");
    assert!(!question.text().contains("hidden") && input.get("text").is_none(), "{input:#}");
    assert!(input["principal"]["id"].is_string() && input["session"]["requests"].is_u64(), "{input:#}");
    // The same call again is known, though the session has gone on.
    assert!(ask().await.is_whole);
    assert_eq!(opa.requests().len(), 1);
    let text = json!({"model": "n", "max_tokens": 9, "messages": [{"role": "user", "content": "x [[tool drop {}]]"}],
        "tools": [{"name": "drop", "input_schema": {}}]});
    let unasked = Call::post("/v1/messages").json(&text).send(gateway.proxy()).await;
    assert_eq!((unasked.status(), opa.requests().len()), (200, 1), "{}", unasked.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_is_left_alone_and_what_follows_is_configured() {
    let demo = Demo::start().await;
    // Nobody listens there.
    let gone = RawBackend::start(async |connection| connection.gone()).await;
    for (on_error, status) in [("closed", 403), ("open", 200)] {
        let more = format!("on: [request], timeout: 2s, on_error: {on_error}");
        let gateway = ruled(&demo, &external(&gone, &more)).await;
        let before = gone.connections();
        for number in 0..8 {
            let answer = Call::chat("hello").session(&format!("s{number}")).send(gateway.proxy()).await;
            assert_eq!(answer.status(), status, "{}", answer.text());
        }
        assert!(gone.connections() - before >= 5, "it was tried");
        let series =
            |result: &str| format!("elida_external_seconds_count{{name=\"opa\",result=\"{result}\"}}");
        assert_eq!(gateway.metric(&series("error")).await, 5.0);
        assert_eq!(gateway.metric(&series("breaker")).await, 3.0);
    }
    // In audit mode nobody waits, and nothing is refused.
    let deny = service(|_| Does::Says(json!(false))).await;
    let gateway =
        ruled(&demo, &external(&deny, "on: [request, tool_call], on_error: closed, mode: audit")).await;
    assert!(call("drop", true).send(gateway.proxy()).await.is_whole);
    let flags = gateway.answer_until("/control/flags?rule=opa", |page| page["flags"][1].is_object()).await;
    assert_eq!(flags["flags"][0]["mode"], "audit", "{flags}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_section_have_their_place_and_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let good = "{ name: opa, url: 'http://127.0.0.1:8181/v1', on: [tool_call], on_error: closed }";
    let check = |service: &str| {
        let yaml = format!("backend: http://localhost:1\npolicy:\n  external:\n    - {service}\n");
        std::fs::write(&file, yaml).expect("a file");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_elida"))
            .args(["check", "-c"])
            .arg(&file)
            .env("HOME", folder.path())
            .output()
            .expect("elida check");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let (is_good, text) = check(good);
    assert!(is_good, "{text}");
    for (from, to, told) in [
        (", on_error: closed", "", "on_error is missing"),
        ("http://127.0.0.1:8181/v1", "ftp://x/", "not an http or https URL"),
        ("http://127.0.0.1:8181/v1", "unix:/run/opa.sock", "unix:/run/opa.sock:/v1/data/elida/decide"),
        ("on: [tool_call]", "on: []", "asked in no phase"),
        ("on: [tool_call]", "on: [connect], when: 'tool.name == \"x\"'", "tool.name is not known"),
        ("on_error", "timeout: 1m, on_error", "1ms to 10s"),
        ("on_error", "secret_file: /no/such, on_error", "'/no/such' cannot be read"),
        ("on: [tool_call]", "on: [request], send: [args]", "args are those of a tool call"),
    ] {
        let (is_good, text) = check(&good.replace(from, to));
        assert!(!is_good && text.contains(told) && text.contains("elida.yaml:4:"), "{to}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_listen_on_a_unix_socket() {
    let demo = Demo::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("opa.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut text = Vec::new();
                loop {
                    let mut part = [0; 4096];
                    let Ok(read @ 1..) = stream.read(&mut part).await else { return };
                    text.extend_from_slice(&part[..read]);
                    let seen = String::from_utf8_lossy(&text).into_owned();
                    if !seen.ends_with("}}") {
                        continue;
                    }
                    assert!(seen.starts_with("POST /v1/data/elida HTTP/1.1"), "{seen}");
                    let body = format!("{{\"result\": {}}}", !seen.contains("\"dear\""));
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    stream.write_all((head + &body).as_bytes()).await.expect("an answer");
                    text.clear();
                }
            });
        }
    });
    let section = format!(
        "  external:\n    - {{ name: opa, url: 'unix:{}:/v1/data/elida', on: [request], on_error: closed }}",
        path.display()
    );
    let gateway = ruled(&demo, &section).await;
    for (model, status) in [("cheap", 200), ("dear", 403), ("cheap", 200)] {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
        let answer = Call::post("/v1/chat/completions").json(&body).send(gateway.proxy()).await;
        assert_eq!(answer.status(), status, "{model}: {}", answer.text());
    }
}
