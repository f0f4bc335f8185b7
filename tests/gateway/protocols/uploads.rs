//! Uploads of forms and files to model backends: streamed within bounded memory, held for the fields that are read.

use std::time::Duration;

use serde_json::json;

use crate::routing::failover::{gateway, nobody};
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Gateway, RawBackend, RawClient, sha256, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
const MIB: usize = 1 << 20;

/// A field: its name, and its value, or the size of the file in it.
enum Field<'a> {
    Text(&'a str, &'a str),
    File(usize),
}

/// The form with these fields.
fn form(fields: &[Field<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for field in fields {
        body.extend_from_slice(b"--boundary7\r\nContent-Disposition: form-data; name=");
        match field {
            Field::Text(name, value) => {
                body.extend_from_slice(format!("\"{name}\"\r\n\r\n{value}\r\n").as_bytes());
            }
            Field::File(size) => {
                let head = "\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n";
                body.extend_from_slice(head.as_bytes());
                body.extend((0..*size).map(|at| (at.wrapping_mul(31) >> 3) as u8));
                body.extend_from_slice(b"\r\n");
            }
        }
    }
    body.extend_from_slice(b"--boundary7--\r\n");
    body
}

fn transcription(fields: &[Field<'_>]) -> Call {
    Call::post("/v1/audio/transcriptions")
        .header("content-type", "multipart/form-data; boundary=boundary7")
        .body(form(fields))
}

/// The largest resident size of the gateway so far in bytes (`VmHWM` of proc(5)).
fn peak(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number") * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_streams_within_bounded_memory() {
    let [main, audio] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let backends = [("main", &*main.url(), ""), ("audio", &*audio.url(), "models: ['whisper-*']")];
    let gateway = gateway(&backends, "").await;
    let sent = [Field::Text("model", "whisper-1"), Field::File(50 * MIB), Field::Text("language", "en")];
    let sent = transcription(&sent).session("speech");
    let small = transcription(&[Field::Text("model", "whisper-1"), Field::File(1000)]);
    assert_eq!(small.send(gateway.proxy()).await.status(), 200);
    let before = peak(&gateway);
    for (at, call) in [sent.clone(), sent.clone().chunked(60_000)].into_iter().enumerate() {
        let answer = call.send(gateway.proxy()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let seen = &audio.requests()[at + 1];
        let expected =
            form(&[Field::Text("model", "whisper-1"), Field::File(50 * MIB), Field::Text("language", "en")]);
        assert!(seen.is_whole && sha256(&seen.body) == sha256(&expected), "the bytes stay");
    }
    let grown = peak(&gateway).saturating_sub(before);
    assert!(grown < 16 * MIB as u64, "two uploads of 50 MiB took {grown} bytes");
    let session = gateway.session_until("speech", |session| session["requests"][1]["status"] == 200).await;
    for request in session["requests"].as_array().expect("requests") {
        assert_eq!((&request["model"], &request["backend"]), (&json!("whisper-1"), &json!("audio")));
    }
    assert!(session["bytes_in"].as_u64() > Some(100 * MIB as u64), "{session}");
    assert_eq!(main.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_behind_the_file_is_found_where_it_decides() {
    let [main, audio] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let backends = [("main", &*main.url(), ""), ("audio", &*audio.url(), "models: ['whisper-*']")];
    let limits = "server: { limits: { max_body_llm: 1MiB } }";
    let deciding = gateway(&backends, limits).await;
    let small = transcription(&[Field::File(MIB / 2), Field::Text("model", "whisper-1")]);
    assert_eq!(small.send(deciding.proxy()).await.status(), 200);
    assert_eq!((main.requests().len(), audio.requests().len()), (0, 1));
    let large = transcription(&[Field::File(3 * MIB), Field::Text("model", "whisper-1")]).session("late");
    let refused = large.send(deciding.proxy()).await;
    assert_eq!(refused.status(), 400, "{}", refused.text());
    let message = refused.json()["error"]["message"].to_string();
    assert!(
        message.contains("model before the file") && message.contains("backends.NAME.models"),
        "{message}"
    );
    let chosen = large.clone().header("x-backend", "audio");
    assert_eq!(chosen.send(deciding.proxy()).await.status(), 200, "the header decides");
    let session = deciding.session_until("late", |session| session["requests"][0]["status"] == 200).await;
    assert_eq!(session["requests"][0]["model"], "whisper-1", "it is recorded when it comes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_cannot_hide_a_blocked_model() {
    let main = RawBackend::answering(OK).await;
    let gateway = gateway(&[("main", &main.url(), "")], "routing: { blocked_models: ['secret-*'] }").await;
    let (model, secret) = (Field::Text("model", "whisper-1"), || Field::Text("model", "secret-1"));
    for (what, fields, status) in [
        ("before the file", vec![secret(), Field::File(MIB)], 403),
        ("behind the file", vec![Field::File(MIB), secret()], 403),
        ("in a short form", vec![secret()], 403),
        ("as a second one", vec![model, Field::File(MIB), secret()], 400),
    ] {
        let refused = transcription(&fields).session("s").send(gateway.proxy()).await;
        assert_eq!(refused.status(), status, "{what}: {}", refused.text());
    }
    let mut edits =
        Call::post("/v1/images/edits").header("content-type", "multipart/form-data; boundary=boundary7");
    edits = edits.body(form(&[Field::File(10), secret()]));
    assert_eq!(edits.send(gateway.proxy()).await.status(), 403);
    for broken in ["multipart/form-data", "multipart/form-data; boundary=other"] {
        let call = Call::post("/v1/audio/translations").header("content-type", broken);
        let refused = call.body(form(&[Field::Text("model", "whisper-1")])).send(gateway.proxy()).await;
        assert_eq!(
            (refused.status(), &refused.json()["error"]["code"]),
            (403, &json!("policy_blocked")),
            "{broken}"
        );
    }
    assert!(main.requests().iter().all(|seen| !seen.is_whole), "no form arrives whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_is_written_into_the_field_while_the_file_streams() {
    let local = RawBackend::answering(OK).await;
    let aliases = "aliases: { 'whisper-1': 'large-v3-turbo' }, rewrite_model: true";
    let gateway = gateway(&[("local", &local.url(), aliases)], "").await;
    let fields = |model| form(&[Field::Text("model", model), Field::File(5 * MIB)]);
    let sent = transcription(&[Field::Text("model", "whisper-1"), Field::File(5 * MIB)]);
    for (at, call) in [sent.clone(), sent.chunked(70_000)].into_iter().enumerate() {
        let answer = call.send(gateway.proxy()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let (seen, expected) = (&local.requests()[at], fields("large-v3-turbo"));
        assert!(seen.is_whole && seen.body == expected, "{} of {} bytes", seen.body.len(), expected.len());
        let length = (at == 0).then(|| expected.len().to_string());
        assert_eq!(seen.head.field("content-length"), length.as_deref());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_backend_takes_over_only_before_anything_was_streamed() {
    let live = RawBackend::answering(OK).await;
    let failing = RawBackend::answering(
        "HTTP/1.1 503 Sorry\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    )
    .await;
    let retries = "retries: { attempts: 2 }, fallback: live";
    let backends =
        [("dead", &*nobody(), retries), ("failing", &*failing.url(), retries), ("live", &*live.url(), "")];
    let gateway = gateway(&backends, "").await;
    let sent = transcription(&[Field::Text("model", "whisper-1"), Field::File(5 * MIB)]);
    assert_eq!(sent.send(gateway.proxy()).await.status(), 200, "nothing was sent to a dead backend");
    let expected = form(&[Field::Text("model", "whisper-1"), Field::File(5 * MIB)]);
    assert!(live.requests()[0].body == expected, "the whole body");
    let answer = sent.clone().header("x-backend", "failing").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 503, "what was streamed cannot be sent again");
    assert_eq!((failing.requests().len(), live.requests().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_have_a_limit_of_their_own() {
    let main = RawBackend::answering(OK).await;
    let limits = "server: { limits: { max_upload: 3MiB, max_body: 1MiB, max_body_llm: 2MiB } }";
    let gateway = gateway(&[("main", &main.url(), "")], limits).await;
    let files = |size| {
        let body = form(&[Field::Text("purpose", "batch"), Field::File(size)]);
        Call::post("/v1/files").header("content-type", "multipart/form-data; boundary=boundary7").body(body)
    };
    let blob = |size| {
        Call::post(&format!("/api/blobs/sha256:{}", "ab".repeat(32)))
            .header("content-type", "application/octet-stream")
            .body(vec![b'x'; size])
    };
    let audio = |size| transcription(&[Field::Text("model", "whisper-1"), Field::File(size)]);
    let calls: [&dyn Fn(usize) -> Call; 3] = [&files, &blob, &audio];
    for call in calls {
        for (sent, what) in [(call(5 * MIB / 2), "length"), (call(5 * MIB / 2).chunked(50_000), "chunks")] {
            let answer = sent.send(gateway.proxy()).await;
            assert_eq!(answer.status(), 200, "{what}: {}", answer.text());
        }
        for (sent, what) in [(call(4 * MIB), "length"), (call(4 * MIB).chunked(50_000), "chunks")] {
            let refused = sent.send(gateway.proxy()).await;
            assert_eq!(refused.status(), 413, "{what}: {}", refused.text());
            assert!(refused.text().contains("max_upload"), "{}", refused.text());
        }
    }
    assert_eq!(main.requests().iter().filter(|seen| seen.is_whole).count(), 6);
    let other = RawBackend::answering(OK).await;
    let plain =
        Gateway::with(format!("{limits}\nbackends: {{ web: {{ url: {:?}, type: http }} }}\n", other.url()));
    let refused = files(2 * MIB).send(plain.await.proxy()).await;
    assert_eq!(refused.status(), 413, "another backend takes no uploads: {}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_cuts_an_upload() {
    let backend = RawBackend::start(|mut connection| async move {
        connection.request().await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let whole = transcription(&[Field::Text("model", "whisper-1"), Field::File(5 * MIB)]).session("speech");
    let bytes = whole.bytes(&gateway.proxy().to_string());
    let mut client = RawClient::connect(gateway.proxy()).await;
    client.send(&bytes[..2 * MIB]).await.expect("send");
    backend.until("the head of the upload", |backend| backend.heads().len() == 1).await;
    assert_eq!(gateway.kill("speech").await.body["legs_cut"], 1);
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert_eq!((answer.status(), &answer.json()["error"]["code"]), (403, &json!("session_killed")));
    within("the end of the upload", async {
        while backend.requests().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(!backend.requests()[0].is_whole, "the backend never gets all of it");
}
