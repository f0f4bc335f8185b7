use std::time::{Duration, Instant};

use serde_json::json;

use crate::callers::keys::{auth, chat, contains, injected, key, with_key};
use crate::support::socket::{Frame, handshake, open, switch};
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Connection, Demo, Gateway, RawBackend, RawClient, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// Opens a stream that ends only when it is cut.
async fn stream(gateway: &Gateway, key: &str, session: &str) -> RawClient {
    let call = Call::messages_stream("first second [[stall]]").session(session);
    let call = if key.is_empty() { call } else { with_key(call, key) };
    let mut client = call.open(gateway.proxy()).await;
    client.until("first").await;
    client
}

/// Asserts that a stream is cut within a second, for this reason.
async fn is_cut(client: &mut RawClient, begun: Instant, code: &str) {
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    let (after, text) = (answer.ended.saturating_duration_since(begun), answer.text());
    assert!(text.contains(code) && !text.contains("message_stop"), "{code}: {text}");
    assert!(after < Duration::from_secs(1), "{code}: {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_sockets_end_when_their_key_expires() {
    let key = key();
    let silent = RawBackend::start(async |mut connection: Connection| {
        let Some(request) = connection.request_head().await else { return };
        let _ = connection.send(switch(&request)).await;
        connection.until("never").await;
    })
    .await;
    let demo = Demo::start().await;
    let soon = jiff::Timestamp::now() + Duration::from_secs(3);
    let backends = injected(&[("demo", &demo.url(), ""), ("silent", &silent.url(), "")]);
    let yaml = auth("required", &[("ci", &key, &format!("expires: '{soon}'"))]) + &backends;
    let gateway = Gateway::with(yaml).await;
    let socket = with_key(handshake("/v1/responses"), &key).header("x-backend", "silent");
    let mut socket = open(gateway.proxy(), &socket.session("socket")).await;
    let mut client = stream(&gateway, &key, "stream").await;
    let left = soon.as_millisecond() - jiff::Timestamp::now().as_millisecond();
    let due = Instant::now() + Duration::from_millis(left.max(0).unsigned_abs());
    is_cut(&mut client, due, "key_expired").await;
    let event =
        within("the end of the socket", async { socket.frame().await.expect("an event").json() }).await;
    assert_eq!(event["error"]["code"], "key_expired", "{event}");
    assert!(due.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_do_less_after_a_reload_ends_what_it_has_opened() {
    let (less, more) = (key(), key());
    let demo = Demo::start().await;
    let backends = injected(&[("demo", &demo.url(), "")]);
    let yaml = |a: &str, b: &str| auth("required", &[("less", &less, a), ("more", &more, b)]) + &backends;
    let gateway = Gateway::with(yaml("", "models: ['claude-*']")).await;
    let mut cut = stream(&gateway, &less, "one").await;
    let _kept = stream(&gateway, &more, "two").await;
    gateway.rewrite(&yaml("models: ['gpt-*']", "models: ['claude-*', 'gpt-*']"));
    let begun = Instant::now();
    gateway.hangup();
    is_cut(&mut cut, begun, "key_revoked").await;
    let session = gateway.session_until("two", |_| true).await;
    assert_eq!(session["open_legs"], 1, "what may do more goes on: {session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_without_a_key_end_when_one_is_required() {
    let key = key();
    let demo = Demo::start().await;
    let backends = injected(&[("demo", &demo.url(), "")]);
    let yaml = |proxy: &str| auth(proxy, &[("ci", &key, "")]) + &backends;
    let gateway = Gateway::with(yaml("off")).await;
    let mut client = stream(&gateway, "", "one").await;
    gateway.rewrite(&yaml("optional"));
    gateway.hangup();
    gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    let mut with_key = stream(&gateway, &key, "two").await;
    assert_eq!(gateway.session_until("one", |_| true).await["open_legs"], 1);
    gateway.rewrite(&yaml("required"));
    let begun = Instant::now();
    gateway.hangup();
    is_cut(&mut client, begun, "key_required").await;
    assert_eq!(gateway.session_until("two", |_| true).await["open_legs"], 1);
    gateway.elida(&["kill", "two"]).await;
    is_cut(&mut with_key, Instant::now(), "session_killed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_shared_session_only_the_requests_of_the_revoked_key_end() {
    let (first, second) = (key(), key());
    let demo = Demo::start().await;
    let rest = injected(&[("demo", &demo.url(), "")]) + "session: { scope: global }\n";
    let both = auth("required", &[("first", &first, ""), ("second", &second, "")]);
    let gateway = Gateway::with(both + &rest).await;
    let _opener = stream(&gateway, &first, "shared").await;
    let mut guest = stream(&gateway, &second, "shared").await;
    assert_eq!(gateway.sessions().await.len(), 1);
    gateway.rewrite(&(auth("required", &[("first", &first, "")]) + &rest));
    let begun = Instant::now();
    gateway.hangup();
    is_cut(&mut guest, begun, "key_revoked").await;
    let session = gateway.session_until("shared", |session| session["open_legs"] == 1).await;
    assert_eq!(session["state"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn during_an_upgrade_a_removed_key_ends_its_streams_in_the_old_process() {
    let (gone, kept) = (key(), key());
    let demo = Demo::start().await;
    let backends = injected(&[("demo", &demo.url(), "")]);
    let both = auth("required", &[("gone", &gone, ""), ("kept", &kept, "")]) + &backends;
    let gateway = Gateway::with(&both).await;
    let mut cut = stream(&gateway, &gone, "one").await;
    let _goes_on = stream(&gateway, &kept, "two").await;
    gateway.signal("QUIT");
    gateway.log_until(|line| line["message"] == "the old process tells of its sessions").await;
    gateway.rewrite(&(auth("required", &[("kept", &kept, "")]) + &backends));
    let mut operator = gateway.operator().await;
    let begun = Instant::now();
    let reloaded = operator.post("/control/config/reload", &json!({})).await;
    assert_eq!(reloaded.status(), 200, "{}", reloaded.text());
    is_cut(&mut cut, begun, "key_revoked").await;
    let session = gateway.session_until("two", |_| true).await;
    assert_eq!(session["open_legs"], 1, "{session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_another_form_is_recognised_or_refused_and_goes_to_no_backend() {
    let (good, unknown) = (key(), key());
    let backend = RawBackend::answering(OK).await;
    let yaml = auth("optional", &[("ci", &good, "")]) + &injected(&[("main", &backend.url(), "")]);
    let gateway = Gateway::with(yaml).await;
    let forms = |key: &str| {
        [
            ("x-api-key", format!("Bearer {key}")),
            ("x-api-key", format!("\"{key}\"")),
            ("authorization", format!("Bearer\t{key}")),
            ("authorization", format!("Bearer Bearer {key}")),
            ("authorization", format!("Bearer \"{key}\"")),
            ("x-goog-api-key", format!("key={key}")),
            ("api-key", format!("Token {key}")),
        ]
    };
    for (field, value) in forms(&good) {
        let answer = chat("gpt-demo").header(field, &value).session("one").send(gateway.proxy()).await;
        assert_eq!(answer.status(), 200, "{field}: {value}: {}", answer.text());
        let head = backend.heads().pop().expect("a request");
        assert!(!contains(&head, &good), "{head:?}");
    }
    assert_eq!(gateway.session_until("one", |_| true).await["principal"]["id"], "key:ci");
    let served = backend.heads().len();
    let damaged = format!("{}-", &unknown[..30]);
    for (field, value) in forms(&unknown).into_iter().chain(forms(&damaged)) {
        let answer = chat("gpt-demo").header(field, &value).send(gateway.proxy()).await;
        assert_eq!(answer.json()["error"]["code"], "key_unknown", "{field}: {value}");
    }
    // Beside a credential of the provider's, too.
    for field in ["cookie", "x-custom", "referer"] {
        let call =
            chat("gpt-demo").header("authorization", "Bearer sk-1").header(field, &format!("a={unknown}"));
        let answer = call.send(gateway.proxy()).await;
        assert_eq!((answer.status(), answer.text().contains(field)), (400, true), "{}", answer.text());
    }
    assert_eq!(backend.heads().len(), served);
    let answer = chat("gpt-demo").header("x-api-key", "sk-elida_like").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "a word is no key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_where_none_belongs_is_refused_and_written_down_nowhere() {
    let (shown, other) = (key(), key());
    let foreign = "a-key-of-another-gateway-0123456789";
    let backend = RawBackend::answering(OK).await;
    let yaml = auth("required", &[("ci", &shown, ""), ("old", foreign, "")]);
    let gateway = Gateway::with(yaml + &injected(&[("main", &backend.url(), "")])).await;
    for (credential, misplaced) in [(&*shown, &*shown), (&shown, &other), (foreign, foreign)] {
        let escaped = misplaced.replace('_', "%5F").replace("-key-", "%2Dkey%2D");
        let target = |path: String| Call::post(&path).json(&json!({"model": "gpt-demo"}));
        let body = json!({"model": "gpt-demo", "metadata": {"user_id": format!("user_1_account__session_{misplaced}")}});
        for (place, call) in [
            ("x-request-id", chat("m").header("x-request-id", misplaced)),
            ("session", chat("m").session(misplaced)),
            ("the path", target(format!("/v1/{misplaced}/chat/completions"))),
            ("the path", target(format!("/v1/{escaped}/chat/completions"))),
            ("the query parameter trace", target(format!("/v1/chat/completions?trace={misplaced}"))),
            ("the query parameter trace", target(format!("/v1/chat/completions?trace={escaped}"))),
            ("name of a query parameter", target(format!("/v1/chat/completions?{misplaced}=1"))),
        ] {
            let answer = call.header("x-api-key", credential).send(gateway.proxy()).await;
            assert_eq!(answer.status(), 400, "{place}: {}", answer.text());
            assert!(answer.text().contains(place), "{place}: {}", answer.text());
            assert!(!format!("{:?}{}", answer.head, answer.text()).contains(misplaced), "{place}");
        }
        let _ = Call::post("/v1/messages")
            .json(&body)
            .header("x-api-key", credential)
            .send(gateway.proxy())
            .await;
    }
    for head in backend.heads() {
        assert!(![&*shown, &other, foreign].iter().any(|key| contains(&head, key)), "{head:?}");
    }
    let sessions = json!(gateway.sessions().await).to_string();
    let all = gateway.log_text() + &sessions;
    for key in [&*shown, &other, foreign] {
        assert!(!all.contains(key), "{all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_work_beside_the_first_one_are_held_against_the_key() {
    let key = key();
    let backend = RawBackend::answering(OK).await;
    let yaml = auth("required", &[("ci", &key, "models: ['gpt-*']")]);
    let gateway = Gateway::with(yaml + &injected(&[("main", &backend.url(), "")])).await;
    let status = async |call: Call| with_key(call, &key).send(gateway.proxy()).await.status();
    let body = |more: serde_json::Value| {
        let mut body = json!({"model": "gpt-5", "messages": []});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        Call::post("/v1/chat/completions").json(&body)
    };
    let many: Vec<String> = (0..70).map(|number| format!("gpt-{number}")).collect();
    for refused in [
        body(json!({"models": ["gpt-5", "claude-opus"]})),
        body(json!({"models": many})),
        body(json!({"tools": [{"type": "image_generation", "model": "dall-e"}]})),
        body(json!({"tools": [{"type": "x", "parameters": {"model": "o3"}}]})),
        body(json!({"plugins": [{"id": "web", "model": "o3"}]})),
        // The member is a decoy: the file names what works.
        Call::post("/v1/batches").json(&json!({"model": "gpt-5", "input_file_id": "f"})),
        Call::post("/v1/realtime/client_secrets")
            .json(&json!({"model": "gpt-5", "session": {"model": "o3"}})),
        Call::post("/api/create").json(&json!({"model": "gpt-5", "from": "llama"})),
        Call::post("/api/copy").json(&json!({"model": "gpt-5", "source": "llama", "destination": "gpt-5"})),
    ] {
        assert_eq!(status(refused).await, 403);
    }
    assert_eq!(backend.heads().len(), 0);
    for served in [
        body(json!({"models": ["gpt-5", "gpt-4.1"]})),
        body(json!({"tools": [{"type": "function", "function": {"name": "model"}}]})),
        Call::post("/v1/embeddings").json(&json!({"model": "gpt-embed", "input": "x"})),
        Call::post("/api/chat").json(&json!({"model": "gpt-oss", "messages": []})),
    ] {
        assert_eq!(status(served).await, 200);
    }
    let socket = RawBackend::start(async |mut connection: Connection| {
        let Some(request) = connection.request_head().await else { return };
        let _ = connection.send(switch(&request)).await;
        connection.until("never").await;
    })
    .await;
    let yaml = auth("required", &[("ci", &key, "models: ['gpt-*']")]);
    let gateway = Gateway::with(yaml + &injected(&[("main", &socket.url(), "")])).await;
    for session in [
        json!({"audio": {"input": {"transcription": {"model": "whisper-1"}}}}),
        json!({"input_audio_transcription": {"model": "whisper-1"}}),
    ] {
        let call = with_key(handshake("/v1/realtime?model=gpt-realtime"), &key);
        let mut client = open(gateway.proxy(), &call).await;
        let event = json!({"type": "session.update", "session": session}).to_string();
        client.send(&Frame::text(&event).masked()).await.expect("send");
        let event = client.frame().await.expect("an event").json();
        assert_eq!(event["error"]["code"], "model_denied", "{event}");
    }
}
