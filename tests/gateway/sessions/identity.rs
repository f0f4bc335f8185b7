use serde_json::{Value, json};

use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, RawBackend};

const UUID: &str = "bd060396-fe08-454b-8ed9-b937c9a41123";

async fn gateway(demo: &Demo, session: &str) -> Gateway {
    Gateway::with(format!("backend: {:?}\nsession: {{ {session} }}\n", demo.url())).await
}

fn id_of(answer: &Message) -> String {
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.head.field("x-session-id").expect("an id").to_owned()
}

/// A chat request, not streamed, with this credential.
fn chat_of(key: &str) -> Call {
    Call::chat("hello").header("x-api-key", key)
}

/// The session of this call, as the control service shows it.
async fn session_of(gateway: &Gateway, call: &Call) -> Value {
    let id = id_of(&call.send(gateway.proxy()).await);
    gateway.session_until(&id, |session| session["open_legs"] == 0).await
}

async fn is_found(gateway: &Gateway, call: Call, id: &str, source: &str, client: Value) {
    let session = session_of(gateway, &call).await;
    let identity = &session["identity"];
    assert_eq!((&session["id"], &identity["source"]), (&json!(id), &json!(source)), "{session}");
    assert_eq!(identity["client"], client, "{session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_own_headers_name_the_session() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let cases = [
        ("X-Session-ID", "x-session-id", Value::Null),
        ("X-Claude-Code-Session-Id", "x-claude-code-session-id", json!("claude-code")),
        ("session-id", "session-id", json!("codex")),
        ("session_id", "session_id", json!("codex-legacy")),
        ("x-opencode-session", "x-opencode-session", json!("opencode")),
        ("x-session-affinity", "x-session-affinity", json!("opencode")),
        ("agent-session-id", "agent-session-id", json!("goose")),
        ("mcp-session-id", "mcp-session-id", json!("mcp")),
        ("X-Something-Session-ID", "x-something-session-id", Value::Null),
    ];
    for (number, (header, source, client)) in cases.into_iter().enumerate() {
        let id = format!("{UUID}-{number}");
        let call = Call::chat("hello").header(header, &id);
        is_found(&gateway, call, &id, &format!("header:{source}"), client).await;
        let seen = demo.ledger().last().expect("a request");
        assert_eq!(seen.header(source), Some(id.as_str()), "the backend still gets it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_codes_version_and_agents_are_seen() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let call = Call::messages_stream("hello")
        .header("user-agent", "claude-cli/2.1.197 (external, cli)")
        .header("x-claude-code-session-id", UUID);
    let sub = call.clone().header("x-claude-code-agent-id", "agent-7");
    for call in [&call, &sub, &call] {
        assert_eq!(id_of(&call.send(gateway.proxy()).await), UUID);
    }
    let session = gateway.session_until(UUID, |session| session["request_count"] == 3).await;
    let identity = &session["identity"];
    assert_eq!(
        (&identity["client"], &identity["client_version"]),
        (&json!("claude-code"), &json!("2.1.197"))
    );
    assert_eq!(gateway.kill(UUID).await.status, 200);
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    assert_eq!(record["agents"], json!(["main", "agent-7"]), "{record}");
    assert_eq!(record["client"], "claude-code/2.1.197", "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_name_the_session() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let user = |session: &str| format!("user_0a1b_account_{UUID}_session_{session}");
    let old = |session: &str| format!("user_0a1b_account__session_{session}");
    let json_text =
        |session: &str| json!({"device_id": "d", "account_uuid": "a", "session_id": session}).to_string();
    let claude = json!("claude-code");
    let cases = [
        (json!({"metadata": {"user_id": user("s-1")}}), "s-1", "body:metadata.user_id", claude.clone()),
        (json!({"metadata": {"user_id": old("s-2")}}), "s-2", "body:metadata.user_id", claude.clone()),
        (json!({"metadata": {"user_id": json_text("s-3")}}), "s-3", "body:metadata.user_id", claude),
        (json!({"metadata": {"session_id": "s-4"}}), "s-4", "body:metadata.session_id", json!("openhands")),
        (json!({"litellm_session_id": "s-5"}), "s-5", "body:litellm_session_id", Value::Null),
        (json!({"conversation": "s-6"}), "s-6", "body:conversation", Value::Null),
        (json!({"conversation": {"id": "s-7"}}), "s-7", "body:conversation", Value::Null),
        (json!({"prompt_cache_key": "s-8"}), "s-8", "body:prompt_cache_key", Value::Null),
    ];
    for (hint, id, source, client) in cases {
        let mut body = hint.clone();
        body["messages"] = json!([{"role": "user", "content": "hello"}]);
        body["model"] = json!("m");
        let call = Call::post("/v1/chat/completions").json(&body);
        is_found(&gateway, call, id, source, client).await;
        let sent = demo.ledger().last().and_then(|seen| seen.body).expect("a body");
        assert_eq!(sent, body.to_string(), "the body is not changed");
    }
    // A `user` that is not one of Claude Code's session ids is not a session.
    let user = json!({"metadata": {"user_id": "ada"}, "messages": [{"role": "user", "content": "x"}]});
    let session = session_of(&gateway, &Call::post("/v1/chat/completions").json(&user)).await;
    assert_eq!(session["identity"]["source"], "derived", "{session}");
}

#[tokio::test(flavor = "multi_thread")]
async fn baggage_names_the_session() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let call = Call::chat("hello").header("baggage", "tenant=a, session.id=b%2D1;ttl=3, x=y");
    is_found(&gateway, call, "b-1", "baggage:session.id", Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_explicit_header_goes_before_all_hints() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let body = json!({"messages": [{"role": "user", "content": "x"}], "prompt_cache_key": "of-the-body"});
    let call = Call::post("/v1/chat/completions").json(&body).header("session-id", "of-codex");
    assert_eq!(id_of(&call.send(gateway.proxy()).await), "of-codex", "the head before the body");
    assert_eq!(id_of(&call.clone().session("explicit").send(gateway.proxy()).await), "explicit");
    // The same value twice counts as one; an empty value counts as none.
    let twice = call.clone().session("explicit").session(" explicit ");
    assert_eq!(id_of(&twice.send(gateway.proxy()).await), "explicit");
    assert_eq!(id_of(&call.clone().session("").send(gateway.proxy()).await), "of-codex");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_can_have_another_name() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "header: X-Agent-Run, id_pattern: \"^run-[0-9]+$\"").await;
    let call = Call::chat("hello").header("X-Agent-Run", "run-7");
    let answer = call.send(gateway.proxy()).await;
    assert_eq!(answer.head.field("x-agent-run"), Some("run-7"), "{:?}", answer.head);
    assert_eq!(answer.head.field("x-session-id"), None, "{:?}", answer.head);
    let session = gateway.session_until("run-7", |session| session["request_count"] == 1).await;
    assert_eq!(session["identity"]["source"], "header:x-agent-run", "{session}");
    let other = Call::chat("hello").header("X-Agent-Run", "walk-7").send(gateway.proxy()).await;
    let id = other.head.field("x-agent-run").unwrap_or_default().to_owned();
    assert_eq!(id, format!("h-{}", &crate::support::sha256(b"walk-7")[..32]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_different_session_headers_are_refused() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let refused = Call::chat("hello").session("one").session("two").send(gateway.proxy()).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (400, &json!("bad_request")));
    assert!(refused.text().contains("x-session-id"), "{}", refused.text());
    assert_eq!(demo.ledger().arrived(), 0);
    assert!(gateway.sessions().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_hint_caller_and_program_make_the_session() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let id = async |call: Call| id_of(&call.send(gateway.proxy()).await);
    let ada = id(chat_of("sk-ada")).await;
    assert_eq!(id(chat_of("sk-ada")).await, ada, "two requests, one session");
    let same_key = Call::chat("another text").header("authorization", "Bearer sk-ada");
    assert_eq!(id(same_key).await, ada, "the credential counts, not the header it is in");
    let bob = id(chat_of("sk-bob")).await;
    let nobody = id(Call::chat("hello")).await;
    let other_program = id(chat_of("sk-ada").header("user-agent", "other/1.0")).await;
    let all = [&ada, &bob, &nobody, &other_program];
    let distinct: std::collections::BTreeSet<_> = all.into_iter().collect();
    assert_eq!(distinct.len(), 4, "{all:?}");
    let sessions = gateway.sessions().await;
    assert_eq!(sessions.len(), 4, "{sessions:?}");
    assert!(sessions.iter().all(|session| session["identity"]["source"] == "derived"), "{sessions:?}");
    assert!(!format!("{sessions:?}").contains("sk-ada"), "a credential is not shown");
    let who = |session: &Value| session["principal"]["via"].as_str().expect("a way").to_owned();
    assert_eq!(sessions.iter().filter(|session| who(session) == "address").count(), 1, "{sessions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_silence_ends_a_derived_session() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "derive: { idle_gap: 100ms }").await;
    let first = session_of(&gateway, &chat_of("sk-ada")).await;
    gateway.session_until(first["id"].as_str().expect("an id"), |s| s["idle_ms"].as_u64() > Some(110)).await;
    let second = session_of(&gateway, &chat_of("sk-ada")).await;
    assert_eq!((&second["id"], &second["incarnation"]), (&first["id"], &json!(2)), "{second}");
    assert_eq!(second["previous_id"], first["uid"], "{second}");
    let record = gateway.log_until(|line| line["message"] == "session_record").await;
    assert_eq!((&record["state"], &record["end_reason"]), (&json!("completed"), &json!("idle_gap")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_its_callers_own() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let [ada, bob] = ["sk-ada", "sk-bob"].map(|key| chat_of(key).session("shared"));
    assert_eq!(id_of(&ada.send(gateway.proxy()).await), "shared");
    assert_eq!(id_of(&bob.send(gateway.proxy()).await), "shared");
    let stall = Call::chat_stream("first [[stall]]").header("x-api-key", "sk-bob").session("shared");
    let mut stream = stall.open(gateway.proxy()).await;
    stream.until("first").await;

    let refused = gateway.kill("shared").await;
    assert_eq!((refused.status, &refused.body["code"]), (409, &json!("session_ambiguous")), "{refused:?}");
    let uids = refused.body["uids"].as_array().expect("uids").clone();
    assert_eq!(uids.len(), 2, "{refused:?}");
    let sessions = gateway.sessions().await;
    let of_ada = sessions.iter().find(|session| session["request_count"] == 1).expect("Ada's session");
    assert!(uids.contains(&of_ada["uid"]), "{uids:?}");
    let killed = gateway.kill(of_ada["uid"].as_str().expect("a uid")).await;
    assert_eq!((killed.status, &killed.body["legs_cut"]), (200, &json!(0)), "{killed:?}");
    assert_eq!(ada.send(gateway.proxy()).await.status(), 403);
    assert_eq!(bob.send(gateway.proxy()).await.status(), 200);
    // The client reads the answer a moment before the leg is closed.
    let is_bobs = |session: &Value| session["state"] == "active" && session["open_legs"] == 1;
    let session = gateway.session_until("shared", is_bobs).await;
    assert_eq!(session["request_count"], 3, "{session}");
    assert_eq!(demo.ledger().aborts().len(), 0, "Bob's stream goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_scope_global_an_id_is_everybodys() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "scope: global").await;
    for key in ["sk-ada", "sk-bob"] {
        assert_eq!(id_of(&chat_of(key).session("shared").send(gateway.proxy()).await), "shared");
    }
    let sessions = gateway.sessions().await;
    assert_eq!((sessions.len(), &sessions[0]["request_count"]), (1, &json!(2)), "{sessions:?}");
    assert_eq!(gateway.kill("shared").await.status, 200);
    assert_eq!(chat_of("sk-bob").session("shared").send(gateway.proxy()).await.status(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn unsafe_ids_are_replaced_by_a_digest() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let long = "x".repeat(200);
    for unsafe_id in ["a b", "../../etc", "a\"b", "{}", "é", &long] {
        let expected = format!("h-{}", &crate::support::sha256(unsafe_id.as_bytes())[..32]);
        let answer = Call::chat("hello").session(unsafe_id).send(gateway.proxy()).await;
        assert_eq!(id_of(&answer), expected, "{unsafe_id}");
        // The same id is the same session again, and the operator can name it.
        Call::chat("hello").session(unsafe_id).send(gateway.proxy()).await;
        let session = gateway.session_until(&expected, |session| session["request_count"] == 2).await;
        assert_eq!(session["incarnation"], 1, "{session}");
    }
    let edge = "A.b_c:d-".repeat(16);
    assert_eq!(id_of(&Call::chat("hello").session(&edge).send(gateway.proxy()).await), edge);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_session_can_be_refused() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "missing: reject").await;
    let refused = Call::chat("hello").send(gateway.proxy()).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (400, &json!("session_required")));
    assert!(refused.text().contains("x-session-id"), "the remedy is named: {}", refused.text());
    assert_eq!(demo.ledger().arrived(), 0);
    assert_eq!(id_of(&Call::chat("hello").session("named").send(gateway.proxy()).await), "named");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_session_can_be_given_a_new_one_each_time() {
    let demo = Demo::start().await;
    let gateway = gateway(&demo, "missing: generate").await;
    let first = id_of(&chat_of("sk-ada").send(gateway.proxy()).await);
    assert_ne!(first, id_of(&chat_of("sk-ada").send(gateway.proxy()).await));
    assert_eq!(uuid_version(&first), Some('7'), "{first}");
}

/// The version digit of a UUID (RFC 9562, 4.2).
fn uuid_version(id: &str) -> Option<char> {
    (id.len() == 36).then(|| id.chars().nth(14)).flatten()
}

/// The principals of the sessions named `shared`; each call opens or joins one of them.
async fn principals(calls: &[Call]) -> (Vec<String>, Gateway) {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    for call in calls {
        assert_eq!(call.clone().session("shared").send(gateway.proxy()).await.status(), 200);
    }
    let sessions = gateway.sessions().await;
    let id = |session: &Value| session["principal"]["id"].as_str().expect("an id").to_owned();
    (sessions.iter().map(id).collect(), gateway)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_in_any_place_makes_a_principal() {
    let gemini =
        |key: &str| Call::post(&format!("/v1beta/models/g:generateContent?alt=sse&key={key}")).body("{}");
    let with = |name: &'static str, value: &str| Call::chat("hello").header(name, value);
    let pairs = [
        [gemini("AIza-ada"), gemini("AIza-bob")],
        [Call::get("/v1/x?access_token=ada"), Call::get("/v1/x?access_token=bob")],
        [Call::get("/v1/x?code=ada"), Call::get("/v1/x?code=bob")],
        [Call::get("/v1/x?sv=1&sig=ada"), Call::get("/v1/x?sv=1&sig=bob")],
        [
            Call::get("/v1/x?X-Goog-Credential=ada%2Fauto&X-Goog-Signature=1"),
            Call::get("/v1/x?X-Goog-Credential=bob%2Fauto&X-Goog-Signature=1"),
        ],
        [with("x-auth-token", "ada"), with("x-auth-token", "bob")],
        [with("proxy-authorization", "Basic YWRh"), with("proxy-authorization", "Basic Ym9i")],
        [with("cookie", "session=ada"), with("cookie", "session=bob")],
        [
            with("sec-websocket-protocol", "realtime, openai-insecure-api-key.ada"),
            with("sec-websocket-protocol", "realtime, openai-insecure-api-key.bob"),
        ],
    ];
    for pair in pairs {
        let (whose, gateway) = principals(&[pair[0].clone(), pair[1].clone(), pair[0].clone()]).await;
        assert_eq!(whose.len(), 2, "{pair:?}: {whose:?}");
        assert!(whose.iter().all(|id| id.starts_with("cred:")), "{pair:?}: {whose:?}");
        let sessions = gateway.sessions().await;
        let of_ada = sessions.iter().find(|session| session["request_count"] == 2).expect("Ada's session");
        assert_eq!(gateway.kill(of_ada["uid"].as_str().expect("a uid")).await.status, 200);
        let status = async |call: &Call| call.clone().session("shared").send(gateway.proxy()).await.status();
        assert_eq!((status(&pair[0]).await, status(&pair[1]).await), (403, 200), "{pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_credentials_of_a_request_make_its_principal() {
    let both = |token: &str, key: &str| {
        Call::chat("hello").header("authorization", &format!("Bearer {token}")).header("x-api-key", key)
    };
    // Callers that share a constant, whatever it is, remain separate.
    let (whose, _gateway) =
        principals(&[both("ada", "dummy"), both("bob", "dummy"), both("ada", "other")]).await;
    assert_eq!(whose.len(), 3, "{whose:?}");
    let one = [both("ada", "ada"), chat_of("ada"), Call::chat("hello").header("api-key", "ada")];
    assert_eq!(principals(&one).await.0.len(), 1, "one key in several places");
    let signed = |signature: &str| {
        let value = format!(
            "AWS4-HMAC-SHA256 Credential=AKID/20261129/us-east-1/bedrock/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature={signature}"
        );
        Call::chat("hello").header("authorization", &value).header("x-amz-security-token", "of the role")
    };
    assert_eq!(principals(&[signed("1f"), signed("2e"), signed("3d")]).await.0.len(), 1);
    let jar = |more: &str| chat_of("ada").header("cookie", &format!("__cf_bm={more}; _ga={more}"));
    assert_eq!(principals(&[jar("1"), jar("2"), chat_of("ada")]).await.0.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_crowd_of_credentials_is_refused() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let mut call = Call::chat("hello");
    for number in 0..9 {
        call = call.header("x-auth-token", &format!("made-up-{number}"));
    }
    let refused = call.send(gateway.proxy()).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (400, &json!("bad_request")));
    assert!(refused.text().contains("9 different credentials"), "{}", refused.text());
    assert_eq!(demo.ledger().arrived(), 0);
}
