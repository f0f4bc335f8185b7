use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::routing::failover::nobody;
use crate::support::http2::Client;
use crate::support::socket::{Frame, handshake, open, switch};
use crate::support::wire::{Head, Unframed};
use crate::support::{Backend, Call, Connection, Demo, Gateway, RawBackend, RawClient, sha256, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
/// The provider's key that the gateway injects.
const HOUSE: &str = "sk-house-0123456789abcdef0123456789";
const CLAUDE: &str = "claude-cli/2.1.197 (external, sdk-ts)";
const CODEX: &str = "codex_exec/0.169.0 (Linux; x86_64) unknown";

/// A key of the gateway's own form.
pub fn key() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_elida")).args(["key", "generate", "--json"]).output();
    let made = crate::support::json(&output.expect("elida key generate").stdout);
    let key = made["key"].as_str().expect("a key").to_owned();
    assert_eq!(made["key_sha256"], sha256(key.as_bytes()));
    key
}

/// `auth:` with these principals: an id, its key, and further members.
pub fn auth(proxy: &str, principals: &[(&str, &str, &str)]) -> String {
    let mut yaml = format!("auth:\n  proxy: {proxy}\n  principals:\n");
    for (id, key, more) in principals {
        yaml += &format!("    - {{ id: {id}, key_sha256: '{}', {more} }}\n", sha256(key.as_bytes()));
    }
    yaml
}

/// `backends:` of type openai that get the gateway's own key: a name, a URL, and further members. The first is the default.
pub fn injected(backends: &[(&str, &str, &str)]) -> String {
    let mut yaml = String::from("backends:\n");
    for (at, (name, url, more)) in backends.iter().enumerate() {
        let keys = format!("auth: {{ mode: inject, api_key: {HOUSE} }}, {more}");
        yaml += &format!("  {name}: {{ url: {url:?}, type: openai, default: {}, {keys} }}\n", at == 0);
    }
    yaml
}

pub fn contains(head: &Head, text: &str) -> bool {
    head.line.contains(text) || head.fields.iter().any(|(_, value)| value.contains(text))
}

/// A chat with this model.
pub fn chat(model: &str) -> Call {
    Call::post("/v1/chat/completions").json(&json!({"model": model, "messages": []}))
}

pub fn with_key(call: Call, key: &str) -> Call {
    call.header("authorization", &format!("Bearer {key}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_names_its_caller_and_goes_to_no_backend() {
    let key = key();
    let backend = RawBackend::answering(OK).await;
    let url = backend.url();
    let backends = format!(
        "{}  own: {{ url: {url:?}, type: openai }}\n  none: {{ url: {url:?}, type: http, auth: {{ mode: none }} }}\n",
        injected(&[("house", &url, "")])
    );
    let yaml = auth("required", &[("ci", &key, "tenant: acme, groups: [build, nightly]")]) + &backends;
    let gateway = Gateway::with(&yaml).await;
    let bearer = format!("Bearer {key}");
    let parameter = format!("/v1/chat/completions?key={key}&alt=sse");
    let escaped = format!("/v1/chat/completions?alt=sse&api_key={}", key.replace('_', "%5F"));
    let places = [
        ("/v1/chat/completions", "Authorization", bearer.as_str()),
        ("/v1/chat/completions", "x-api-key", &key),
        ("/v1/chat/completions", "X-Goog-Api-Key", &key),
        ("/v1/chat/completions", "api-key", &key),
        ("/v1/chat/completions", "X-Elida-Key", &key),
        (&parameter, "x-unknown", &bearer),
        (&escaped, "accept", "*/*"),
    ];
    for (target, field, value) in places {
        for backend_name in ["house", "own", "none"] {
            let call = Call::post(target).json(&json!({"model": "gpt-demo"})).header(field, value);
            // The provider's credential, beside the key.
            let call = call.header("ocp-apim-subscription-key", "sk-theirs").session("one");
            let answer = call.header("x-backend", backend_name).send(gateway.proxy()).await;
            assert_eq!(answer.status(), 200, "{target} {field} {backend_name}: {}", answer.text());
            let head = backend.heads().pop().expect("a request");
            assert!(!contains(&head, &key) && !contains(&head, "%5F"), "{field} {backend_name}: {head:?}");
            let theirs = head.field("ocp-apim-subscription-key");
            assert_eq!(theirs, (backend_name == "own").then_some("sk-theirs"), "{head:?}");
            let house = format!("Bearer {HOUSE}");
            let expected = (backend_name == "house").then_some(house.as_str());
            assert_eq!(head.field("authorization"), expected, "{field} {backend_name}");
            assert_eq!(head.target().contains("alt=sse"), target.contains("alt=sse"), "{head:?}");
        }
    }
    let session = gateway.session_until("one", |session| session["open_legs"] == 0).await;
    let principal = json!({"id": "key:ci", "via": "key", "tenant": "acme", "groups": ["build", "nightly"]});
    assert_eq!(session["principal"], principal);
    assert_eq!(gateway.sessions().await.len(), 1, "one caller, wherever it shows its key");
    let line = gateway.access_line("/v1/chat/completions").await;
    assert_eq!(line["principal"], "key:ci");
    assert_eq!(gateway.kill("one").await.status, 200);
    let there = |detail: &Value| detail["record"].is_object();
    let record = gateway.answer_until("/control/records/one", there).await["record"].clone();
    assert_eq!(
        (&record["principal"], &record["tenant"], &record["groups"]),
        (&json!("key:ci"), &json!("acme"), &json!(["build", "nightly"]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_record_log_metric_or_capture_contains_a_key() {
    let (key, unknown) = (key(), key());
    let demo = Demo::start().await;
    let yaml = auth("required", &[("ci", &key, "")]) + &injected(&[("demo", &demo.url(), "")]);
    let gateway = Gateway::with(yaml + "capture: { mode: all }\nlogging: { level: debug }\n").await;
    for shown in [&key, &unknown] {
        for text in ["hello", "[[error 500]]"] {
            let call = Call::post(&format!("/v1/chat/completions?key={shown}")).header("x-api-key", shown);
            let body = json!({"model": "gpt-demo", "messages": [{"role": "user", "content": format!("{text} {shown}")}]});
            call.header("x-other", shown).session("leak").json(&body).send(gateway.proxy()).await;
        }
    }
    let mut operator = gateway.operator().await;
    let there = |page: &Value| page["captures"].as_array().is_some_and(|found| found.len() >= 2);
    let captures = gateway.answer_until("/control/history/leak/captures?limit=100", there).await.to_string();
    gateway.kill("leak").await;
    let record = gateway.answer_until("/control/records/leak", |detail| detail["record"].is_object()).await;
    let mut all = gateway.log_text() + &captures + &record.to_string() + &gateway.metrics().await;
    for target in ["/control/sessions", "/control/sessions/leak", "/control/config", "/control/history"] {
        all += &operator.get(target).await.text();
    }
    for shown in [&key, &unknown] {
        assert!(
            !all.contains(&shown[6..]),
            "{}",
            &all[all.find(&shown[6..]).unwrap_or(0).saturating_sub(400)..]
        );
    }
    assert!(all.contains("key_unknown") && all.contains("key:ci"), "{all}");
    let denied = Call::chat("x").header("x-api-key", &unknown).send(gateway.proxy()).await;
    assert!(!denied.text().contains(&unknown));
}

/// A refusal: status, code, `x-should-retry`, and whether a login is asked for.
fn refusal(head: &Head, body: &Value) -> (u16, String, Option<String>, bool) {
    let code = body["error"]["code"].as_str().or(body["error"]["data"]["code"].as_str());
    let code = code.or(body["error"]["details"][0]["reason"].as_str()).unwrap_or_default();
    let retry = head.field("x-should-retry").map(str::to_owned);
    let asks =
        head.field("www-authenticate").is_some_and(|value| value.starts_with("Bearer realm=\"elida\""));
    (head.status(), code.to_owned(), retry, asks)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_key_or_a_bad_one_reaches_no_backend() {
    let (good, unknown, old) = (key(), key(), key());
    let damaged = format!("{}x", &unknown[..unknown.len() - 1]);
    let demo = Demo::start().await;
    let yaml = auth("required", &[("ci", &good, ""), ("old", &old, "expires: 2020-01-01")]);
    let gateway = Gateway::with(yaml + &injected(&[("demo", &demo.url(), "")])).await;
    let digest = sha256(good.as_bytes());
    let final_ = Some("false".to_owned());
    // The credential; the code; the status for others, Claude Code and Codex; whether the refusal is final.
    for (shown, code, statuses, retry) in [
        ("", "key_required", [401, 401, 401], None),
        ("sk-ant-other", "key_required", [401, 401, 401], None),
        (digest.as_str(), "key_required", [401, 401, 401], None),
        (&unknown, "key_unknown", [401, 403, 400], final_.clone()),
        (&damaged, "key_unknown", [401, 403, 400], final_.clone()),
        (&old, "key_expired", [401, 401, 401], None),
    ] {
        let ask = |call: Call| if shown.is_empty() { call } else { call.header("x-api-key", shown) };
        for (agent, status) in [("curl/8.5.0", statuses[0]), (CLAUDE, statuses[1]), (CODEX, statuses[2])] {
            let expected = (status, code.to_owned(), retry.clone(), status == 401);
            let gemini =
                Call::post("/v1beta/models/gemini-demo:generateContent").json(&json!({"contents": []}));
            for call in [Call::chat("x"), Call::messages_stream("x"), handshake("/v1/responses"), gemini] {
                let answer = ask(call).header("user-agent", agent).send(gateway.proxy()).await;
                assert_eq!(
                    refusal(&answer.head, &answer.json()),
                    expected,
                    "{shown} {agent}: {}",
                    answer.text()
                );
            }
            let mut client = Client::connect(gateway.proxy()).await;
            let answer = client.ask(&ask(Call::chat("x")).header("user-agent", agent)).await;
            assert_eq!(
                (answer.status, &answer.json()["error"]["code"]),
                (status, &json!(code)),
                "{shown} {agent}"
            );
        }
        let call = Call::post("/mcp").header("mcp-protocol-version", "2025-11-25");
        let call = call.json(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
        let answer = ask(call).header("user-agent", CLAUDE).send(gateway.proxy()).await;
        assert_eq!(
            refusal(&answer.head, &answer.json()),
            (401, code.to_owned(), retry.clone(), true),
            "{shown}"
        );
    }
    let both = Call::chat("x").header("x-api-key", &good).header("x-elida-key", &unknown);
    let answer = both.send(gateway.proxy()).await;
    assert_eq!((answer.status(), &answer.json()["error"]["code"]), (400, &json!("bad_request")));
    assert_eq!(demo.ledger().arrived(), 0);
    for open in ["/health", "/health/readiness"] {
        assert_eq!(Call::get(open).send(gateway.proxy()).await.status(), 200, "{open}");
    }
    assert_eq!(with_key(Call::chat("x"), &good).send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_key_is_checked_and_others_call_as_before() {
    let (good, unknown) = (key(), key());
    let backend = RawBackend::answering(OK).await;
    let yaml = auth("optional", &[("ci", &good, "")]) + &format!("backend: {:?}\n", backend.url());
    let gateway = Gateway::with(yaml).await;
    let by = async |call: Call, id: &str| {
        assert_eq!(call.session(id).send(gateway.proxy()).await.status(), 200, "{id}");
        gateway.session_until(id, |_| true).await["principal"]["id"].as_str().expect("an id").to_owned()
    };
    assert!(by(with_key(Call::chat("x"), "sk-1"), "provider").await.starts_with("cred:"));
    assert!(by(Call::chat("x"), "nobody").await.starts_with("anon:"));
    let both = with_key(Call::chat("x"), "sk-1").header("x-elida-key", &good);
    assert_eq!(by(both, "both").await, "key:ci");
    assert_eq!(
        backend.heads().last().and_then(|head| head.field("authorization").map(str::to_owned)).as_deref(),
        Some("Bearer sk-1")
    );
    assert_eq!(with_key(Call::chat("x"), &unknown).send(gateway.proxy()).await.status(), 401);
    // Passed on, the gateway's own key would be refused by the provider, and known to it.
    let alone = with_key(Call::chat("x"), &good).send(gateway.proxy()).await;
    assert_eq!((alone.status(), &alone.json()["error"]["code"]), (403, &json!("no_upstream_credential")));
    assert_eq!(backend.heads().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_permits_only_its_models_by_the_name_that_the_backend_reads() {
    let key = key();
    let [main, local] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let yaml = auth("required", &[("ci", &key, "models: ['gpt-*', 'claude-haiku-*']")]);
    let aliases = "models: ['own'], aliases: { fast: gpt-5-mini, big: llama-70b }, rewrite_model: true";
    let gateway =
        Gateway::with(yaml + &injected(&[("main", &main.url(), ""), ("local", &local.url(), aliases)])).await;
    let status = async |call: Call| {
        let answer = with_key(call, &key).send(gateway.proxy()).await;
        let code = if answer.status() == 200 { Value::Null } else { answer.json()["error"]["code"].clone() };
        (answer.status(), code)
    };
    let (served, denied) = ((200, Value::Null), (403, json!("model_denied")));
    assert_eq!(status(chat("gpt-5")).await, served);
    assert_eq!(status(chat("fast")).await, served, "the backend reads gpt-5-mini");
    let before = main.heads().len() + local.heads().len();
    for refused in [
        chat("big"),
        chat("own"),
        chat("claude-opus-4"),
        Call::post("/v1/chat/completions").json(&json!({"messages": []})),
        Call::post("/v1/batches").json(&json!({"input_file_id": "f"})),
        Call::post("/openai/deployments/llama/chat/completions?api-version=1")
            .json(&json!({"model": "gpt-5"})),
        Call::post("/v1/responses").header("content-encoding", "unknown").body("x"),
    ] {
        assert_eq!(status(refused.clone()).await, denied, "{refused:?}");
    }
    let doubled = Call::post("/v1/chat/completions").header("content-type", "application/json");
    assert_eq!(status(doubled.body(r#"{"model":"big","model":"gpt-5"}"#)).await.0, 400);
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nx\r\n\
                --b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b--\r\n";
    let upload =
        Call::post("/v1/audio/transcriptions").header("content-type", "multipart/form-data; boundary=b");
    assert_eq!(status(upload.clone().body(form)).await, denied);
    assert_eq!(main.heads().len() + local.heads().len(), before, "nothing that is refused reaches a backend");
    assert_eq!(status(upload.body(form.replace("whisper-1", "gpt-4o-transcribe"))).await, served);
    assert_eq!(status(Call::get("/v1/files")).await, served);
    for (agent, expected) in [(CLAUDE, 403), (CODEX, 400)] {
        assert_eq!(status(chat("big").header("user-agent", agent)).await.0, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_a_socket_is_held_against_the_models_of_the_key() {
    let key = key();
    let backend = RawBackend::start(async |mut connection: Connection| {
        let Some(request) = connection.request_head().await else { return };
        let _ = connection.send(switch(&request)).await;
        connection.until("never").await;
    })
    .await;
    let yaml =
        auth("required", &[("ci", &key, "models: ['gpt-5*']")]) + &injected(&[("main", &backend.url(), "")]);
    let gateway = Gateway::with(yaml).await;
    let socket = |target: &str| with_key(handshake(target), &key);
    // The messages of the second one are of no known API, so the model in them could not be checked.
    for target in [
        "/v1/realtime?model=gpt-realtime",
        "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
    ] {
        let refused = socket(target).send(gateway.proxy()).await;
        assert_eq!(
            (refused.status(), &refused.json()["error"]["code"]),
            (403, &json!("model_denied")),
            "{target}"
        );
    }
    assert_eq!(backend.heads().len(), 0);
    let mut client = open(gateway.proxy(), &socket("/v1/responses").session("bad")).await;
    client
        .send(&Frame::text(r#"{"type":"response.create","model":"o3","input":[]}"#).masked())
        .await
        .expect("send");
    let event = client.frame().await.expect("an event").json();
    assert_eq!(event["error"]["code"], "model_denied", "{event}");
    assert_eq!(client.frame().await.and_then(|frame| frame.closes()).map(|(code, _)| code), Some(1008));
    // A browser has no other place for a key.
    let offered = format!("realtime, openai-insecure-api-key.{key}");
    let call = handshake("/v1/realtime?model=gpt-5-realtime").header("sec-websocket-protocol", &offered);
    let mut client = open(gateway.proxy(), &call.session("good")).await;
    client.send(&Frame::text(r#"{"type":"response.create","model":"gpt-5"}"#).masked()).await.expect("send");
    gateway.session_until("good", |session| session["open_legs"] == 1).await;
    let head = backend.heads().pop().expect("a handshake");
    assert!(!contains(&head, &key), "{head:?}");
    assert_eq!(head.field("sec-websocket-protocol"), Some("realtime"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_permits_only_its_backends_also_when_one_fails() {
    let key = key();
    let dead = nobody();
    let [second, third] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let backends = injected(&[
        ("dead", &dead, "fallback: second"),
        ("second", &second.url(), ""),
        ("third", &third.url(), ""),
    ]);
    let permits = |backends: &str| auth("required", &[("ci", &key, &format!("backends: {backends}"))]);
    let gateway = Gateway::with(permits("[dead, 'thi*']") + &backends).await;
    let ask = async |gateway: &Gateway, call: Call| with_key(call, &key).send(gateway.proxy()).await;
    assert_eq!(ask(&gateway, Call::chat("x")).await.status(), 502);
    let refused = ask(&gateway, Call::chat("x").header("x-backend", "second")).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (403, &json!("backend_denied")));
    assert_eq!(second.heads().len(), 0);
    assert_eq!(ask(&gateway, Call::chat("x").header("x-backend", "third")).await.status(), 200);
    gateway.rewrite(&(permits("[dead, second]") + &backends));
    gateway.hangup();
    within("the reload", async { while ask(&gateway, Call::chat("x")).await.status() != 200 {} }).await;
    assert!(
        !second.heads().is_empty(),
        "with its own credential taken out, a request may fail over to any realm"
    );
    assert!(second.heads().iter().all(|head| !contains(head, &key)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mcp_server_that_is_not_permitted_is_refused_as_a_call() {
    let key = key();
    let demo = Demo::start().await;
    let yaml =
        auth("required", &[("ci", &key, "backends: [main]")]) + &injected(&[("main", &demo.url(), "")]);
    let yaml = yaml + &format!("  tools: {{ url: {:?}, type: mcp, auth: {{ mode: none }} }}\n", demo.url());
    let gateway = Gateway::with(yaml).await;
    let call = Call::post("/tools/mcp").json(&json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"}));
    let answer = with_key(call, &key)
        .header("accept", "application/json, text/event-stream")
        .send(gateway.proxy())
        .await;
    let body = answer.json();
    assert_eq!(
        (answer.status(), &body["id"], &body["error"]["data"]["code"]),
        (200, &json!(7), &json!("backend_denied"))
    );
    assert_eq!(demo.ledger().arrived(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_sees_its_own_models_in_the_merged_list() {
    let (all, some) = (key(), key());
    let list = r#"{"data":[{"id":"own-1","object":"model"}]}"#;
    let length = list.len();
    let other = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{list}"
    );
    let (demo, other) = (Demo::start().await, RawBackend::answering(other).await);
    let yaml = auth(
        "required",
        &[("all", &all, ""), ("some", &some, "models: ['claude-*', 'own-*'], backends: [demo]")],
    );
    let yaml = yaml + &injected(&[("demo", &demo.url(), ""), ("other", &other.url(), "")]);
    let gateway = Gateway::with(yaml + "models: { discovery: merged }\n").await;
    let list = async |key: &str| {
        let answer = with_key(Call::get("/v1/models"), key).send(gateway.proxy()).await;
        let list = answer.json();
        let ids = list["data"].as_array().expect("a list").iter().filter_map(|entry| entry["id"].as_str());
        ids.map(str::to_owned).collect::<Vec<_>>()
    };
    let found = list(&all).await;
    assert!(
        ["gpt-demo", "claude-demo", "own-1"].iter().all(|id| found.iter().any(|one| one == id)),
        "{found:?}"
    );
    let found = list(&some).await;
    assert!(!found.is_empty() && found.iter().all(|id| id.starts_with("claude-")), "{found:?}");
    assert_eq!(other.heads().len(), 1);
    assert!(!contains(&other.heads()[0], &all));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_removed_or_expires_ends_with_the_next_request_of_an_open_connection() {
    let (first, second, kept) = (key(), key(), key());
    let demo = Demo::start().await;
    let soon = jiff::Timestamp::now() + Duration::from_secs(3);
    let expires = format!("expires: '{soon}'");
    let both = auth("required", &[("first", &first, ""), ("second", &second, &expires), ("kept", &kept, "")]);
    let backends = injected(&[("demo", &demo.url(), "")]);
    let gateway = Gateway::with(both + &backends).await;
    let mut clients = Vec::new();
    for key in [&first, &second, &kept] {
        let mut client = RawClient::connect(gateway.proxy()).await;
        assert_eq!(
            with_key(Call::chat("x"), key).send_over(&mut client, gateway.proxy()).await.status(),
            200
        );
        clients.push((client, key));
    }
    gateway.rewrite(&(auth("required", &[("second", &second, &expires), ("kept", &kept, "")]) + &backends));
    gateway.hangup();
    // A request that is on its way during the reload may find its key revoked.
    for (number, codes) in [(0, &["key_unknown", "key_revoked"][..]), (1, &["key_expired"])] {
        let (client, key) = &mut clients[number];
        let refused = within("the end of a key", async {
            loop {
                let answer = with_key(Call::chat("x"), key).send_over(client, gateway.proxy()).await;
                if answer.status() != 200 {
                    return answer;
                }
            }
        });
        let answer = refused.await.json();
        assert!(codes.iter().any(|code| answer["error"]["code"] == *code), "{answer}");
    }
    let (client, key) = &mut clients[2];
    assert_eq!(with_key(Call::chat("x"), key).send_over(client, gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_without_a_key_cuts_its_open_requests_and_no_others() {
    let (gone, kept) = (key(), key());
    let demo = Demo::start().await;
    let backends = injected(&[("demo", &demo.url(), "")]);
    let both = auth("required", &[("gone", &gone, ""), ("kept", &kept, "")]);
    let gateway = Gateway::with(both + &backends).await;
    let mut clients = Vec::new();
    for (key, id) in [(&gone, "one"), (&kept, "two")] {
        let call = Call::messages_stream("first second [[stall]]").session(id);
        let mut client = with_key(call, key).open(gateway.proxy()).await;
        client.until("first").await;
        clients.push(client);
    }
    gateway.rewrite(&(auth("required", &[("kept", &kept, "")]) + &backends));
    let begun = Instant::now();
    gateway.hangup();
    let answer = clients[0].message(Unframed::UntilEnd).await.expect("an answer");
    assert!(
        answer.ended.duration_since(begun) < Duration::from_secs(1),
        "{:?}",
        answer.ended.duration_since(begun)
    );
    let text = answer.text();
    assert!(
        text.contains("event: error\n") && text.contains("key_revoked") && !text.contains("message_stop"),
        "{text}"
    );
    let line = gateway.log_until(|line| line["outcome"] == "key_revoked").await;
    assert_eq!((&line["session_id"], &line["principal"]), (&json!("one"), &json!("key:gone")));
    let session = gateway.session_until("two", |_| true).await;
    assert_eq!((&session["open_legs"], &session["state"]), (&json!(1), &json!("active")));
    assert_eq!(with_key(Call::chat("x"), &gone).send(gateway.proxy()).await.status(), 401);
}

/// `elida` with these arguments and this standard input.
fn elida(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_elida"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("elida");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("an end");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn keys_are_made_and_digested_on_the_command_line() {
    let key = key();
    let digest = format!("{}\n", sha256(key.as_bytes()));
    assert_eq!(elida(&["key", "digest"], &format!("{key}\n")), (Some(0), digest, String::new()));
    for (input, complaint) in
        [("", "holds no key"), ("short", "5 characters"), (&format!("{key} x"), "without spaces")]
    {
        let (code, shown, error) = elida(&["key", "digest"], input);
        assert!(code == Some(1) && shown.is_empty() && error.contains(complaint), "{input}: {error}");
    }
    let (_, shown, _) = elida(&["key", "generate", "--prefix", "acme-"], "");
    assert!(shown.starts_with("key:        acme-") && shown.contains("\nkey_sha256: "), "{shown}");
}

#[test]
fn a_check_says_what_stands_in_the_way_of_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let check = |text: String| {
        std::fs::write(&file, format!("data_dir: {:?}\n{text}", folder.path())).expect("write");
        let (code, shown, _) = elida(&["check", "--json", "-c", file.to_str().expect("a path")], "");
        (code, crate::support::json(shown.as_bytes()))
    };
    let paths = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|fault| fault["path"].as_str().expect("a path").to_owned()).collect()
    };
    let key = key();
    let public = "listen: '0.0.0.0:8080'\n".to_owned();
    let backends = injected(&[("demo", "http://127.0.0.1:1", "")]);
    for (demand, code) in [("required", 0), ("optional", 2), ("off", 2)] {
        let (found, output) = check(public.clone() + &auth(demand, &[("ci", &key, "")]) + &backends);
        assert_eq!(found, Some(code), "{demand}: {output}");
        if code == 2 {
            assert_eq!(paths(&output["faults"]), ["backends.demo.auth.mode"]);
            assert!(output["faults"][0]["hint"].as_str().expect("a hint").contains("auth.proxy: required"));
        }
    }
    let (code, output) = check(
        auth("required", &[("ci", &key, "")])
            + "backends:\n  a: { url: 'http://127.0.0.1:1', type: openai, default: true }\n",
    );
    assert_eq!(
        (code, paths(&output["warnings"])),
        (Some(0), vec!["backends.a.auth.mode".to_owned()]),
        "{output}"
    );
    let (code, output) = check(format!("auth: {{ principals: [{{ id: ci, key_sha256: {key} }}] }}\n"));
    assert_eq!((code, paths(&output["faults"])), (Some(2), vec!["auth.principals[0].key_sha256".to_owned()]));
    assert!(!output.to_string().contains(&key), "a key in place of its digest is not repeated");
    assert!(output["faults"][0]["line"].is_number());
}
