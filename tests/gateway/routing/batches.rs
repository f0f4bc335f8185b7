//! The models in batches are held against `blocked_models` and `strict_models`, in JSON bodies and in uploaded files.

use std::time::Duration;

use serde_json::{Value, json};

use super::packed::{CODINGS, packed};
use crate::callers::keys::key;
use crate::routing::failover::gateway;
use crate::support::wire::{Message, Unframed};
use crate::support::{Backend, Call, Gateway, RawBackend, RawClient, sha256, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
const MIB: usize = 1 << 20;
const BLOCKING: &str = "routing: { blocked_models: ['*-secret'] }";
const STRICT: &str = "routing: { strict_models: true }";

/// The batch of these models in each API that has it in JSON, and the model for all of them that the request names.
fn batches(models: &[&str]) -> Vec<(&'static str, Value, Option<&'static str>)> {
    let each = |request: &dyn Fn(&str) -> Value| -> Vec<Value> {
        models.iter().map(|model| request(model)).collect()
    };
    let anthropic = each(&|model| json!({"custom_id": "1", "params": {"max_tokens": 1, "model": model}}));
    let mistral = each(&|model| json!({"custom_id": "1", "body": {"messages": [], "model": model}}));
    let gemini = each(&|model| json!({"request": {"contents": [], "model": format!("models/{model}")}}));
    let embeddings = each(&|model| json!({"content": {}, "model": format!("models/{model}")}));
    let path = "/v1beta/models/gpt-5:batchGenerateContent";
    vec![
        ("/v1/messages/batches", json!({"requests": anthropic}), None),
        ("/v1/messages/batches?beta=true", json!({"requests": anthropic}), None),
        ("/v1/batch/jobs", json!({"requests": mistral, "endpoint": "/v1/chat/completions"}), None),
        ("/v1/batch/jobs", json!({"model": "gpt-5", "requests": mistral}), Some("gpt-5")),
        (path, json!({"batch": {"inputConfig": {"requests": {"requests": gemini}}}}), Some("gpt-5")),
        (path, json!({"batch": {"input_config": {"requests": {"requests": gemini}}}}), Some("gpt-5")),
        ("/v1beta/models/gpt-5:batchEmbedContents", json!({"requests": embeddings}), Some("gpt-5")),
    ]
}

fn code(refused: &Message) -> (u16, String) {
    (refused.status(), refused.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_model_of_a_batch_counts_as_the_one_of_a_single_request() {
    let [main, other] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let backends = [("main", &*main.url(), ""), ("other", &*other.url(), "models: ['gpt-*']")];
    let blocking = gateway(&backends, BLOCKING).await;
    let strict = gateway(&backends, STRICT).await;
    let mut seen = 0;
    for (at, (path, body, model)) in batches(&["gpt-5", "gpt-5", "gpt-4o"]).into_iter().enumerate() {
        let session = format!("s{at}");
        let passed = Call::post(path).json(&body).session(&session).send(blocking.proxy()).await;
        assert_eq!(passed.status(), 200, "{path}: {}", passed.text());
        assert_eq!(Call::post(path).json(&body).send(strict.proxy()).await.status(), 200, "{path}");
        seen += 2;
        let request = other.requests().pop().expect("the models decide");
        assert!(request.is_whole && request.body == body.to_string().as_bytes(), "{path}: the bytes stay");
        let session = blocking.session_until(&session, |s| s["requests"][0]["status"] == 200).await;
        assert_eq!(session["requests"][0]["model"], json!(model), "{path}");
    }
    assert_eq!((main.requests().len(), other.requests().len()), (0, seen));
    for models in [&["gpt-secret"][..], &["gpt-5", "gpt-4o", "gpt-secret"], &["GPT-Secret", "gpt-5"]] {
        for (path, body, _) in batches(models) {
            let call = Call::post(path).json(&body);
            for coded in [None, Some("gzip"), Some("zstd")] {
                let call = match coded {
                    Some(coding) => Call::post(path)
                        .header("content-type", "application/json")
                        .header("content-encoding", coding)
                        .body(packed(coding, body.to_string().as_bytes())),
                    None => call.clone(),
                };
                let refused = call.header("x-backend", "main").send(blocking.proxy()).await;
                assert_eq!(refused.status(), 403, "{path} {models:?}");
                assert!(
                    refused.text().to_lowercase().contains("'gpt-secret' is blocked"),
                    "{}",
                    refused.text()
                );
            }
        }
    }
    for (path, body, _) in batches(&["gpt-5", "unknown"]) {
        let refused = Call::post(path).json(&body).send(strict.proxy()).await;
        assert_eq!(refused.status(), 404, "{path}: strict_models: {}", refused.text());
    }
    let many: Vec<String> = (0..65).map(|at| format!("gpt-{at}")).collect();
    let many: Vec<&str> = many.iter().map(|name| &**name).collect();
    for (path, body, _) in batches(&many) {
        let refused = Call::post(path).json(&body).send(blocking.proxy()).await;
        assert_eq!(refused.status(), 400, "{path}");
        assert!(refused.text().contains("more than 64 different models"), "{}", refused.text());
    }
    assert_eq!((main.requests().len(), other.requests().len()), (0, seen), "nothing arrives");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_in_a_batch_is_refused_with_the_remedy() {
    let local = RawBackend::answering(OK).await;
    let aliases = "aliases: { 'fast': 'gpt-5-mini' }, rewrite_model: true";
    let gateway = gateway(&[("local", &local.url(), aliases)], "").await;
    for (path, body, _) in batches(&["gpt-5", "fast"]) {
        let refused = Call::post(path).json(&body).send(gateway.proxy()).await;
        assert_eq!(refused.status(), 400, "{path}: {}", refused.text());
        assert!(
            refused.text().contains("not written into batches; name gpt-5-mini yourself"),
            "{}",
            refused.text()
        );
    }
    let own = json!({"model": "fast", "input_files": ["f"], "endpoint": "/v1/chat/completions"});
    assert_eq!(Call::post("/v1/batch/jobs").json(&own).send(gateway.proxy()).await.status(), 200);
    let seen = local.requests().pop().expect("a request");
    assert_eq!(seen.json()["model"], "gpt-5-mini", "the one for all requests is written");
    assert_eq!(local.requests().len(), 1);
}

/// A line of a batch's file.
fn line(model: &str) -> String {
    format!(
        "{{\"custom_id\":\"r\",\"method\":\"POST\",\"url\":\"/v1/x\",\"body\":{{\"model\":{model:?},\"input\":\"a\"}}}}\n"
    )
}

/// A field in front of others.
const PURPOSE: &str = "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n";

/// The form that uploads this file for a purpose, which comes first or last.
fn form(purpose: Option<&str>, is_first: bool, file: &str) -> Vec<u8> {
    let purpose = purpose.map_or_else(String::new, |purpose| {
        format!("--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n")
    });
    let head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x.jsonl\"\r\n\r\n";
    let file = format!("{head}{file}\r\n");
    let parts = if is_first { [purpose, file] } else { [file, purpose] };
    format!("{}--b--\r\n", parts.concat()).into_bytes()
}

fn upload(body: Vec<u8>) -> Call {
    Call::post("/v1/files").header("content-type", "multipart/form-data; boundary=b").body(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_model_in_the_last_line_of_a_file_never_arrives_wherever_the_upload_is_split() {
    let main = RawBackend::answering(OK).await;
    let gateway = gateway(&[("main", &main.url(), "")], BLOCKING).await;
    let good = line("gpt-5").repeat(2);
    let bad = good.clone() + line("gpt-secret").trim_end();
    for is_first in [true, false] {
        let body = form(Some("batch"), is_first, &bad);
        for size in 1..=body.len() {
            let refused = upload(body.clone()).chunked(size).send(gateway.proxy()).await;
            assert_eq!(code(&refused), (403, "policy_blocked".to_owned()), "in chunks of {size}");
            assert!(refused.text().contains("gpt-secret"), "{}", refused.text());
        }
        let refused = upload(body).session("s").send(gateway.proxy()).await;
        assert_eq!(code(&refused), (403, "policy_blocked".to_owned()), "with a length");
    }
    assert!(main.requests().iter().all(|seen| !seen.is_whole), "the backend never has a whole file");
    let session = gateway.session_until("s", |s| s["requests"][0]["status"] == 403).await;
    assert_eq!(session["requests"][0]["model"], Value::Null, "{session}");
    let whole = form(Some("batch"), true, &good);
    let passed = upload(whole.clone()).chunked(3).send(gateway.proxy()).await;
    assert_eq!(passed.status(), 200, "{}", passed.text());
    let seen = main.requests().pop().expect("a request");
    assert!(seen.is_whole && seen.body == whole, "the bytes stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_of_a_file_are_held_against_each_rule() {
    let [main, other] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let backends = [("main", &*main.url(), ""), ("other", &*other.url(), "models: ['gpt-*']")];
    let blocking = gateway(&backends, BLOCKING).await;
    let strict = gateway(&backends, STRICT).await;
    let free = gateway(&backends, "").await;
    let bad = line("gpt-5") + &line("gpt-secret");
    let broken = line("gpt-5") + "{\"body\":{\"model\":\"gpt-5\"}} {\"body\":{\"model\":\"x\"}}\n";
    let unknown = line("gpt-5") + &line("llama");
    let tuning = "{\"messages\":[]}\nno JSON\n".to_owned();
    let [blocked, unread] = ["policy_blocked", "body_unreadable"].map(str::to_owned);
    for (what, body, in_blocking, in_strict) in [
        ("a blocked model", form(Some("batch"), true, &bad), (403, &blocked), (200, &blocked)),
        ("no purpose", form(None, true, &bad), (403, &blocked), (200, &blocked)),
        ("two values in a line", form(Some("batch"), false, &broken), (403, &blocked), (415, &unread)),
        ("not served", form(Some(" Batch"), true, &unknown), (200, &blocked), (404, &unread)),
        ("for tuning", form(Some("fine-tune"), true, &bad), (200, &blocked), (200, &blocked)),
        ("for tuning, known late", form(Some("fine-tune"), false, &tuning), (200, &blocked), (200, &blocked)),
        ("without a model", form(Some("batch"), true, "{\"body\":{}}\n"), (200, &blocked), (200, &blocked)),
        ("no form", b"no form".to_vec(), (403, &blocked), (403, &blocked)),
    ] {
        for (gateway, (status, code)) in [(&blocking, in_blocking), (&strict, in_strict)] {
            for sent in [upload(body.clone()), upload(body.clone()).chunked(50)] {
                let answer = sent.send(gateway.proxy()).await;
                assert_eq!(answer.status(), status, "{what}: {}", answer.text());
                let named = &answer.json()["error"]["code"];
                assert!(!matches!(status, 403 | 415) || named == code, "{what}: {}", answer.text());
            }
        }
        assert_eq!(upload(body).send(free.proxy()).await.status(), 200, "{what}: nothing is configured");
    }
    let chosen = upload(form(Some("batch"), true, &unknown)).header("x-backend", "main");
    assert_eq!(
        chosen.send(strict.proxy()).await.status(),
        200,
        "as for a single request, the header decides"
    );
    let twice = form(Some("assistants"), true, &bad);
    let twice = [PURPOSE.as_bytes().to_vec(), twice].concat();
    let refused = upload(twice).send(blocking.proxy()).await;
    assert_eq!(refused.status(), 400, "two purposes: {}", refused.text());
    for path in ["/openai/files", "/v1/Files", "/v1/fil%65s", "/v1//files"] {
        let call = Call::post(path).header("content-type", "multipart/form-data; boundary=b");
        let refused = call.header("mcp-session-id", "x").body(form(Some("batch"), true, &bad));
        let refused = refused.send(blocking.proxy()).await;
        assert!(refused.text().contains("policy_blocked"), "{path}: {}", refused.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_file_is_what_its_plain_twin_is() {
    let main = RawBackend::answering(OK).await;
    let gateway = gateway(&[("main", &main.url(), "")], BLOCKING).await;
    let filling: String = (0..3000).map(|at| line(&format!("gpt-{}", at % 60))).collect();
    for coding in CODINGS {
        let sent = |body: &[u8]| upload(packed(coding, body)).header("content-encoding", coding);
        let good = form(Some("batch"), true, &filling);
        assert_eq!(sent(&good).chunked(1000).send(gateway.proxy()).await.status(), 200, "{coding}");
        let bad = form(Some("batch"), true, &(filling.clone() + &line("gpt-secret")));
        for call in [sent(&bad), sent(&bad).chunked(1000)] {
            let refused = call.send(gateway.proxy()).await;
            assert_eq!(code(&refused), (403, "policy_blocked".to_owned()), "{coding}");
        }
    }
    let unknown = upload(form(Some("batch"), true, "")).header("content-encoding", "compress");
    assert_eq!(unknown.send(gateway.proxy()).await.status(), 403, "it cannot be read");
    assert_eq!(main.requests().iter().filter(|seen| seen.is_whole).count(), CODINGS.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_parts_or_from_elsewhere_is_refused_where_models_are() {
    let main = RawBackend::answering(OK).await;
    let blocking = gateway(&[("main", &main.url(), "")], BLOCKING).await;
    let free = Gateway::start(&main).await;
    for path in ["/v1/uploads", "/openai/files/import?api-version=x"] {
        let call = |purpose| {
            let body = json!({"filename": "x.jsonl", "content_url": "https://x", "purpose": purpose});
            Call::post(path).json(&body)
        };
        let refused = call("batch").send(blocking.proxy()).await;
        assert_eq!(code(&refused), (403, "policy_blocked".to_owned()), "{}", refused.text());
        assert!(refused.text().contains("/v1/files"), "{}", refused.text());
        assert_eq!(call("user_data").send(blocking.proxy()).await.status(), 200, "{path}");
        assert_eq!(call("batch").send(free.proxy()).await.status(), 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_cuts_the_upload_of_a_file() {
    let backend = RawBackend::start(|mut connection| async move {
        connection.request().await;
    })
    .await;
    let gateway = gateway(&[("main", &backend.url(), "")], BLOCKING).await;
    let file = line("gpt-5").repeat(3 * MIB / 80);
    let bytes = upload(form(Some("batch"), true, &file)).session("s").bytes(&gateway.proxy().to_string());
    let mut client = RawClient::connect(gateway.proxy()).await;
    client.send(&bytes[..MIB]).await.expect("send");
    backend.until("the head of the upload", |backend| backend.heads().len() == 1).await;
    assert_eq!(gateway.kill("s").await.body["legs_cut"], 1);
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert_eq!(code(&answer), (403, "session_killed".to_owned()));
    within("the end of the upload", async {
        while backend.requests().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(!backend.requests()[0].is_whole, "the backend never gets all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_permits_some_models_permits_them_in_batches() {
    let key = key();
    let [llm, web] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let gateway = Gateway::with(format!(
        "auth:\n  proxy: required\n  principals:\n    - {{ id: ci, key_sha256: '{}', models: ['gpt-*'] }}\nbackends:\n\
         \x20 llm: {{ url: {:?}, type: anthropic, default: true, auth: {{ mode: inject, api_key: house }} }}\n\
         \x20 web: {{ url: {:?}, type: http, auth: {{ mode: none }} }}\n",
        sha256(key.as_bytes()),
        llm.url(),
        web.url()
    ))
    .await;
    for (models, status) in [(&["gpt-5", "gpt-4o"][..], 200), (&["gpt-5", "llama"], 403)] {
        let (path, body, _) = batches(models).swap_remove(0);
        let call = Call::post(path).json(&body).header("x-elida-key", &key);
        let answer = call.send(gateway.proxy()).await;
        assert_eq!(answer.status(), status, "{}", answer.text());
        let file: String = models.iter().map(|model| line(model)).collect();
        let call = upload(form(Some("batch"), true, &file)).header("x-elida-key", &key);
        let answer = call.header("x-backend", "web").send(gateway.proxy()).await;
        assert_eq!(answer.status(), status, "{}", answer.text());
        assert!(
            status == 200 || answer.text().contains("does not permit the model llama"),
            "{}",
            answer.text()
        );
    }
    assert_eq!((llm.requests().len(), web.requests().iter().filter(|seen| seen.is_whole).count()), (1, 1));
}
