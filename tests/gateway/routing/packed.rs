//! A compressed request is what its plain twin is: for routing, policies, sessions and kills. Its bytes stay.

use std::io::Write;

use serde_json::json;

use crate::routing::failover::gateway;
use crate::support::{Backend, Call, Gateway, RawBackend};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
pub const CODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

pub fn packed(coding: &str, plain: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    match coding {
        "gzip" => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), level);
            writer.write_all(plain).expect("packed");
            writer.finish().expect("packed")
        }
        "deflate" => {
            let mut writer = flate2::write::ZlibEncoder::new(Vec::new(), level);
            writer.write_all(plain).expect("packed");
            writer.finish().expect("packed")
        }
        "br" => {
            let mut writer = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
            writer.write_all(plain).expect("packed");
            writer.into_inner()
        }
        "zstd" => zstd::encode_all(plain, 3).expect("packed"),
        other => panic!("no coding {other}"),
    }
}

fn body(model: &str, session: &str) -> String {
    json!({"metadata": {"session_id": session}, "input": "a word ".repeat(20_000), "model": model})
        .to_string()
}

fn call(coding: &str, plain: &str) -> Call {
    Call::post("/v1/responses")
        .header("content-type", "application/json")
        .header("content-encoding", coding)
        .body(packed(coding, plain.as_bytes()))
}

/// `main` is the default, `other` serves `gpt-*`.
struct Two {
    main: RawBackend,
    other: RawBackend,
    gateway: Gateway,
}

impl Two {
    async fn start(yaml: &str) -> Self {
        let [main, other] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
        let backends = [("main", &*main.url(), ""), ("other", &*other.url(), "models: ['gpt-*']")];
        let gateway = gateway(&backends, yaml).await;
        Self { main, other, gateway }
    }

    async fn status(&self, call: &Call) -> u16 {
        let answer = call.send(self.gateway.proxy()).await;
        if answer.status() >= 400 {
            eprintln!("{}", answer.text());
        }
        answer.status()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_and_the_session_in_a_compressed_body_count() {
    let two = Two::start("routing: { strict_models: true, blocked_models: ['*-secret'] }").await;
    for (at, coding) in CODINGS.into_iter().enumerate() {
        let sent = call(coding, &body("gpt-5", coding));
        assert_eq!(two.status(&sent).await, 200, "{coding}");
        assert_eq!(two.status(&sent.clone().chunked(1000)).await, 200, "{coding} in chunks");
        for seen in [&two.other.requests()[2 * at], &two.other.requests()[2 * at + 1]] {
            assert_eq!(
                seen.body,
                packed(coding, body("gpt-5", coding).as_bytes()),
                "{coding}: the bytes stay"
            );
            assert_eq!(seen.head.field("content-encoding"), Some(coding));
        }
        let session =
            two.gateway.session_until(coding, |session| session["requests"][0]["status"] == 200).await;
        assert_eq!(
            (&session["requests"][0]["model"], &session["requests"][0]["backend"]),
            (&json!("gpt-5"), &json!("other"))
        );
        assert_eq!(two.status(&call(coding, &body("unknown", "s"))).await, 404, "{coding}: strict_models");
        assert_eq!(
            two.status(&call(coding, &body("gpt-secret", "s"))).await,
            403,
            "{coding}: blocked_models"
        );
        two.gateway.kill(coding).await;
        let refused = sent.send(two.gateway.proxy()).await;
        assert_eq!((refused.status(), &refused.json()["error"]["code"]), (403, &json!("session_killed")));
    }
    assert_eq!((two.main.requests().len(), two.other.requests().len()), (0, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_in_a_compressed_body_is_replaced_and_the_body_sent_plain() {
    let local = RawBackend::answering(OK).await;
    let aliases = "aliases: { 'gpt-4o': 'llama' }, rewrite_model: true";
    let gateway = gateway(&[("local", &local.url(), aliases)], "").await;
    for (at, coding) in CODINGS.into_iter().enumerate() {
        assert_eq!(call(coding, &body("gpt-4o", "s")).send(gateway.proxy()).await.status(), 200, "{coding}");
        let seen = &local.requests()[at];
        assert_eq!(seen.text(), body("llama", "s"), "{coding}");
        assert_eq!(seen.head.field("content-encoding"), None);
        assert_eq!(seen.head.field("content-length"), Some(&*body("llama", "s").len().to_string()));
    }
    let other = call("zstd", &body("gpt-5", "s"));
    assert_eq!(other.send(gateway.proxy()).await.status(), 200);
    let seen = local.requests();
    assert_eq!(seen[CODINGS.len()].head.field("content-encoding"), Some("zstd"), "another model is no alias");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_where_it_matters_and_passes_elsewhere() {
    let wide: Vec<u8> = body("gpt-5", "s").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let plain = || Call::post("/v1/responses").header("content-type", "application/json");
    let unreadable = [
        ("several codings", plain().header("content-encoding", "gzip, br").body("x")),
        (
            "codings in two lines",
            plain().header("content-encoding", "gzip").header("content-encoding", "zstd").body("x"),
        ),
        ("an unknown one", plain().header("content-encoding", "x-snappy").body("x")),
        ("damaged", plain().header("content-encoding", "zstd").body("no zstd at all")),
        ("UTF-16", plain().body(wide)),
    ];
    let two = Two::start("").await;
    let single = RawBackend::answering(OK).await;
    let alone = Gateway::start(&single).await;
    for (at, (what, sent)) in unreadable.iter().enumerate() {
        let refused = sent.clone().session("named").send(two.gateway.proxy()).await;
        assert_eq!(refused.status(), 415, "{what} decides on the backend: {}", refused.text());
        assert_eq!(refused.json()["error"]["code"], "body_unreadable");
        let message = refused.json()["error"]["message"].to_string();
        assert!(message.contains("backends.NAME.models") && message.contains("UTF-8"), "{message}");
        assert_eq!(refused.head.field("accept-encoding"), Some("gzip, deflate, br, zstd"));
        let refused = sent.send(alone.proxy()).await;
        assert_eq!(refused.status(), 415, "{what} may name the session: {}", refused.text());
        assert!(refused.text().contains("session.identity"), "{}", refused.text());
        let passed = sent.clone().session("named").send(alone.proxy()).await;
        assert_eq!(passed.status(), 200, "{what} matters to nobody: {}", passed.text());
        assert_eq!(single.requests().len(), at + 1);
        let chosen = sent.clone().session("named").header("x-backend", "main");
        assert_eq!(two.status(&chosen).await, 200, "{what}, but the header decides");
    }
    assert_eq!((two.main.requests().len(), two.other.requests().len()), (unreadable.len(), 0));
    let blocking = Two::start("routing: { blocked_models: ['x'] }").await;
    for (what, sent) in &unreadable {
        let refused = sent.clone().session("named").header("x-backend", "main");
        let refused = refused.send(blocking.gateway.proxy()).await;
        assert_eq!(
            (refused.status(), &refused.json()["error"]["code"]),
            (403, &json!("policy_blocked")),
            "{what}"
        );
    }
    assert_eq!(blocking.main.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_grows_too_much_is_refused_as_its_plain_twin_is() {
    let two = Two::start("server: { limits: { max_body_llm: 100KiB } }").await;
    for coding in CODINGS {
        let refused = call(coding, &body("gpt-5", "s")).send(two.gateway.proxy()).await;
        assert_eq!(refused.status(), 413, "{coding}: {}", refused.text());
        assert!(refused.text().contains("max_body_llm"), "{}", refused.text());
    }
    assert_eq!((two.main.requests().len(), two.other.requests().len()), (0, 0));
}

/// An upload of a form with this model before a file of this size, compressed.
fn form(coding: &str, model: &str, size: usize) -> Call {
    form_call(coding).body(form_body(coding, model, size))
}

fn form_call(coding: &str) -> Call {
    Call::post("/v1/audio/transcriptions")
        .header("content-type", "multipart/form-data; boundary=b")
        .header("content-encoding", coding)
}

fn form_body(coding: &str, model: &str, size: usize) -> Vec<u8> {
    let mut plain = Vec::new();
    for (name, value) in [("model", model.as_bytes()), ("prompt", &[])] {
        plain.extend_from_slice(
            format!("--b\r\nContent-Disposition: form-data; name={name}\r\n\r\n").as_bytes(),
        );
        plain.extend_from_slice(value);
        plain.extend_from_slice(b"\r\n");
    }
    plain.extend_from_slice(b"--b\r\nContent-Disposition: form-data; name=file; filename=a.wav\r\n\r\n");
    // Sound that does not shrink much.
    let mut noise = 1_u32;
    plain.extend((0..size).map(|_| {
        noise ^= noise << 13;
        noise ^= noise >> 17;
        noise ^= noise << 5;
        noise.to_le_bytes()[0]
    }));
    plain.extend_from_slice(b"\r\n--b--\r\n");
    packed(coding, &plain)
}

/// JSON under the label that `curl -d` gives it.
fn labelled(coding: &str, model: &str) -> Call {
    Call::post("/v1/chat/completions")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("content-encoding", coding)
        .body(packed(coding, format!("{{\"messages\":[],\"model\":{model:?}}}").as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_form_is_what_its_plain_twin_is() {
    let two = Two::start("routing: { strict_models: true, blocked_models: ['*-secret'] }").await;
    let mut seen = 0;
    for coding in CODINGS {
        for size in [100, 200_000] {
            for sent in [form(coding, "gpt-voice", size), form(coding, "gpt-voice", size).chunked(3000)] {
                assert_eq!(two.status(&sent.clone().session("s")).await, 200, "{coding}, {size} bytes");
                let request = &two.other.requests()[seen];
                assert!(
                    request.is_whole && request.body == form_body(coding, "gpt-voice", size),
                    "{coding}: the bytes stay"
                );
                assert_eq!(request.head.field("content-encoding"), Some(coding));
                seen += 1;
            }
            assert_eq!(
                two.status(&form(coding, "voice-secret", size)).await,
                403,
                "{coding}: blocked_models"
            );
            assert_eq!(two.status(&form(coding, "unknown", size)).await, 404, "{coding}: strict_models");
        }
        assert_eq!(two.status(&labelled(coding, "gpt-5")).await, 200, "{coding}: JSON labelled as pairs");
        seen += 1;
        assert_eq!(two.status(&labelled(coding, "gpt-secret")).await, 403, "{coding}: blocked_models");
        let pairs = Call::post("/v1/chat/completions")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("content-encoding", coding)
            .body(packed(coding, b"model=gpt-5&messages=x"));
        assert_eq!(two.status(&pairs).await, 403, "{coding}: pairs are not read, so they may be blocked");
    }
    let session = two.gateway.session_until("s", |session| session["requests"][0]["status"] == 200).await;
    assert_eq!(session["models"], json!({"gpt-voice": 16}), "{session}");
    assert_eq!((two.main.requests().len(), two.other.requests().len()), (0, seen));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_in_a_compressed_form_is_refused_with_the_remedy() {
    let local = RawBackend::answering(OK).await;
    let aliases = "aliases: { 'whisper-1': 'large-v3' }, rewrite_model: true";
    let gateway = gateway(&[("local", &local.url(), aliases)], "").await;
    for coding in CODINGS {
        for size in [100, 200_000] {
            let refused = form(coding, "whisper-1", size).send(gateway.proxy()).await;
            assert_eq!(refused.status(), 400, "{coding}: {}", refused.text());
            assert!(
                refused.text().contains("a compressed form; name large-v3 yourself"),
                "{}",
                refused.text()
            );
            let own = form(coding, "large-v3", size).send(gateway.proxy()).await;
            assert_eq!(own.status(), 200, "{coding}: {}", own.text());
        }
        assert_eq!(labelled(coding, "whisper-1").send(gateway.proxy()).await.status(), 200, "{coding}");
        let seen = local.requests().pop().expect("a request");
        assert!(seen.text().contains("large-v3") && seen.head.field("content-encoding").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_form_that_is_damaged_midway_is_refused_where_its_model_matters() {
    let deciding = Two::start("").await;
    let blocking = Two::start("routing: { blocked_models: ['x'] }").await;
    let free = RawBackend::answering(OK).await;
    let free_gateway = Gateway::start(&free).await;
    for coding in CODINGS {
        // The beginning decides on the backend; in what follows is a block of a kind that no coding has.
        let mut damaged = form_body(coding, "gpt-voice", 300_000);
        let middle = damaged.len() / 2;
        damaged[middle..].fill(0xee);
        let call = form_call(coding).session("s").body(damaged);
        let refused = call.send(blocking.gateway.proxy()).await;
        assert_eq!(
            (refused.status(), &refused.json()["error"]["code"]),
            (403, &json!("policy_blocked")),
            "{coding}: {}",
            refused.text()
        );
        let early = call.clone().body(&b"no such coding at all"[..]).send(deciding.gateway.proxy()).await;
        assert_eq!(
            (early.status(), &early.json()["error"]["code"]),
            (415, &json!("body_unreadable")),
            "{coding}: {}",
            early.text()
        );
        let passed = call.send(free_gateway.proxy()).await;
        assert_eq!(passed.status(), 200, "{coding}: it matters to nobody: {}", passed.text());
    }
    assert!(blocking.main.requests().iter().all(|seen| !seen.is_whole), "no form arrives whole");
    assert_eq!(deciding.main.requests().len() + deciding.other.requests().len(), 0);
    assert_eq!(free.requests().len(), CODINGS.len());
}
