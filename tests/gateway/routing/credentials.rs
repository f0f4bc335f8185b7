use serde_json::json;

use crate::routing::failover::{configuration, error, gateway, nobody};
use crate::support::wire::Head;
use crate::support::{Backend, Call, Gateway, RawBackend, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// A call with a credential in each place where clients send one.
fn with_credentials() -> Call {
    Call::chat("hello")
        .header("Authorization", "Bearer client-secret")
        .header("x-api-key", "client-secret")
        .header("Api-Key", "client-secret")
        .header("X-Goog-Api-Key", "client-secret")
        .header("Cookie", "session=client-secret")
        .header("OpenAI-Organization", "client-secret")
}

/// Whether any field of the head contains the client's credential.
fn tells_the_secret(head: &Head) -> bool {
    head.line.contains("client-secret")
        || head.fields.iter().any(|(_, value)| value.contains("client-secret"))
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_a_client_s_credential_passes_as_it_is() {
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::start(&backend).await;
    let call = Call::post("/v1/messages?key=client-secret").header("Authorization", "Bearer client-secret");
    assert_eq!(
        call.header("x-api-key", "client-secret").body("{}").send(gateway.proxy()).await.status(),
        200
    );
    let head = &backend.heads()[0];
    assert_eq!(head.target(), "/v1/messages?key=client-secret");
    assert_eq!(head.field("authorization"), Some("Bearer client-secret"));
    assert_eq!(head.field("x-api-key"), Some("client-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_injected_key_takes_the_place_of_the_client_s() {
    let backend = RawBackend::answering(OK).await;
    let url = backend.url();
    let yaml = format!(
        "backends:\n  a: {{ url: {url:?}, type: openai, default: true, auth: {{ mode: inject, api_key: house-secret }} }}\n  \
         b: {{ url: {url:?}, type: anthropic, auth: {{ mode: inject, api_key: house-secret }} }}\n  \
         c: {{ url: {url:?}, type: http, auth: {{ mode: inject, api_key: house-secret, header: X-Token }} }}\n  \
         d: {{ url: {url:?}, type: openai, auth: {{ mode: none }} }}\n"
    );
    let gateway = Gateway::with(&yaml).await;
    let sent = [
        ("a", "authorization", Some("Bearer house-secret")),
        ("b", "x-api-key", Some("house-secret")),
        ("c", "x-token", Some("house-secret")),
        ("d", "authorization", None),
    ];
    for (at, (name, field, value)) in sent.into_iter().enumerate() {
        let call = with_credentials().header("X-Token", "client-secret").header("X-Backend", name);
        let call = if name == "d" { with_credentials().header("X-Backend", name) } else { call };
        assert_eq!(call.send(gateway.proxy()).await.status(), 200);
        let head = &backend.heads()[at];
        assert_eq!(head.field(field), value, "{name}");
        let left =
            head.fields.iter().filter(|(key, value)| value.contains("client-secret") && key != "x-token");
        assert_eq!(
            left.filter(|(key, _)| !key.eq_ignore_ascii_case("x-token")).count(),
            0,
            "{name}: {head:?}"
        );
        assert_eq!(
            head.fields.iter().filter(|(_, value)| value.contains("house-secret")).count(),
            value.iter().count()
        );
    }
    let query = Call::get("/a/v1beta/models?key=client-secret&alt=sse").send(gateway.proxy()).await;
    assert_eq!(query.status(), 200);
    assert_eq!(backend.heads()[4].target(), "/v1beta/models?alt=sse");
    let shown = gateway.operator().await.get("/control/config").await.text();
    assert!(shown.contains("\"api_key\":\"***\""), "{shown}");
    let output =
        shown + &gateway.log_text() + &gateway.operator().await.get("/control/backends").await.text();
    assert!(!output.contains("house-secret") && !output.contains("client-secret"), "{output}");
    let line = gateway.access_line("/v1/chat/completions").await;
    assert!(line["principal"].as_str().expect("a principal").starts_with("cred:"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_file_is_read_again_at_a_reload() {
    let backend = RawBackend::answering(OK).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "first\n").expect("write");
    let auth = format!("auth: {{ mode: inject, api_key_file: {:?} }}", file.path());
    let gateway = gateway(&[("a", &backend.url(), &auth)], "").await;
    let key = async || {
        assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
        backend.heads().last().and_then(|head| head.field("authorization").map(str::to_owned)).expect("a key")
    };
    assert_eq!(key().await, "Bearer first");
    std::fs::write(file.path(), "second\n").expect("write");
    gateway.hangup();
    within("the new key", async { while key().await != "Bearer second" {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_takes_no_client_s_credential_to_another_provider() {
    let (dead, sick) = (nobody(), RawBackend::answering(error(503, "")).await);
    let sick = sick.url();
    // The first backend, its keys, the second backend's keys, and whether the second one gets the request.
    let inject = "auth: { mode: inject, api_key: second-key }";
    let cases = [
        (&dead, "", "", false),
        (&sick, "", "", false),
        (&dead, "", inject, true),
        (&sick, "", inject, true),
        (&dead, "", "auth: { mode: none }", true),
        (&dead, "auth: { mode: inject, api_key: first-key }", "", false),
        (&dead, "auth: { mode: inject, api_key: first-key }", inject, true),
        (&dead, "auth: { realm: vllm }", "auth: { realm: other }", false),
    ];
    for (first, keys, other_keys, is_asked) in cases {
        let second = RawBackend::answering(OK).await;
        let keys = format!("fallback: b, {keys}");
        let gateway = gateway(&[("a", first, &keys), ("b", &second.url(), other_keys)], "").await;
        let answer = with_credentials().send(gateway.proxy()).await;
        assert_eq!(
            (answer.status() == 200, second.heads().len()),
            (is_asked, usize::from(is_asked)),
            "{keys} {other_keys}"
        );
        for head in second.heads() {
            assert!(!tells_the_secret(&head) && !format!("{head:?}").contains("first-key"), "{head:?}");
            let key = other_keys.contains("inject").then_some("Bearer second-key");
            assert_eq!(head.field("authorization"), key);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_of_one_realm_and_requests_without_credential_may_fail_over() {
    let second = RawBackend::answering(OK).await;
    let realm = "auth: { realm: vllm }";
    let keys = format!("fallback: b, {realm}");
    let shared = gateway(&[("a", &nobody(), &keys), ("b", &second.url(), realm)], "").await;
    assert_eq!(with_credentials().send(shared.proxy()).await.status(), 200);
    assert_eq!(second.heads()[0].field("authorization"), Some("Bearer client-secret"));
    let apart = gateway(&[("a", &nobody(), "fallback: b"), ("b", &second.url(), "")], "").await;
    assert_eq!(Call::chat("hello").send(apart.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_to_its_own_backend_only() {
    let [first, second] =
        [RawBackend::answering(error(529, "")).await, RawBackend::answering(error(429, "")).await];
    let key = |key: &str| format!("models: ['gpt-*'], auth: {{ mode: inject, api_key: {key} }}");
    let (a, b) = (key("key-a"), key("key-b"));
    let gateway = gateway(&[("a", &first.url(), &a), ("b", &second.url(), &b)], "").await;
    for number in 0..4 {
        let answer = with_credentials().session(&format!("s{number}")).send(gateway.proxy()).await;
        assert!([429, 529].contains(&answer.status()));
    }
    assert!(!first.heads().is_empty() && !second.heads().is_empty());
    assert!(first.heads().iter().all(|head| head.field("authorization") == Some("Bearer key-a")));
    assert!(second.heads().iter().all(|head| head.field("authorization") == Some("Bearer key-b")));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_strangers_could_spend_are_a_fault_at_the_start() {
    let auth = "auth: { mode: inject, api_key: house-secret }";
    let yaml = |more: &str| configuration(&[("a", "http://127.0.0.1:1", auth)], more);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let check = |text: String| {
        std::fs::write(&file, text).expect("write");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_elida"))
            .args(["check", "--json", "-c"])
            .arg(&file)
            .env_clear()
            .output()
            .expect("elida check");
        (output.status.code(), crate::support::json(&output.stdout))
    };
    let (code, output) = check(yaml("listen: '0.0.0.0:8080'"));
    assert_eq!((code, &output["faults"][0]["path"]), (Some(2), &json!("backends.a.auth.mode")), "{output}");
    assert!(
        output["faults"][0]["hint"].as_str().expect("a hint").contains("startup_guard: warn"),
        "{output}"
    );
    assert!(!output.to_string().contains("house-secret"));
    let data = format!("data_dir: {:?}", folder.path());
    let (code, output) = check(yaml(&format!("listen: '0.0.0.0:8080'\nstartup_guard: warn\n{data}")));
    assert_eq!((code, &output["warnings"][0]["path"]), (Some(0), &json!("backends.a.auth.mode")), "{output}");
    let (code, output) = check(yaml(&format!("listen: '127.0.0.1:8080'\n{data}")));
    assert_eq!((code, &output["warnings"]), (Some(0), &json!([])), "{output}");
}

/// Fields that a client may send and the gateway does not know; no list of secrets contains them.
const UNKNOWN: [&str; 5] = ["X-Vendor-Key", "CF-Access-Jwt-Assertion", "DPoP", "Baggage", "Mcp-Session-Id"];

#[tokio::test(flavor = "multi_thread")]
async fn between_realms_only_what_is_harmless_travels() {
    for other in ["", "auth: { mode: inject, api_key: second-key }", "auth: { mode: none }"] {
        let second = RawBackend::answering(OK).await;
        let gateway = gateway(&[("a", &nobody(), "fallback: b"), ("b", &second.url(), other)], "").await;
        let known = ["traceparent", "anthropic-version", "x-stainless-lang", "idempotency-key", "accept"];
        let mut call = Call::post("/v1/chat/completions?beta=true&ticket=client-secret&sid=client-secret")
            .json(&json!({"model": "gpt-demo", "messages": []}))
            .session("one");
        for name in UNKNOWN {
            call = call.header(name, "client-secret");
        }
        for name in known {
            call = call.header(name, "harmless");
        }
        assert_eq!(call.send(gateway.proxy()).await.status(), 200, "{other}");
        let head = &second.heads()[0];
        assert!(!tells_the_secret(head), "{head:?}");
        assert_eq!(head.target(), "/v1/chat/completions?beta=true");
        assert!(known.iter().all(|name| head.field(name) == Some("harmless")), "{head:?}");
        assert_eq!(
            (head.field("x-session-id"), head.field("content-type")),
            (Some("one"), Some("application/json"))
        );
        assert!(head.field("content-length").is_some() && head.field("via").is_some(), "{head:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_in_places_of_their_own_go_to_no_other_realm() {
    let fields =
        ["X-Auth-Token", "X-Amz-Security-Token", "CF-Access-Client-Secret", "Ocp-Apim-Subscription-Key"];
    let parameters = ["code", "sig", "X-Goog-Signature", "X-Goog-Credential", "Signature", "AWSAccessKeyId"];
    let with_field = |name: &&'static str| Call::chat("hello").header(name, "client-secret");
    let with_parameter = |name: &&'static str| {
        let call = Call::post(&format!("/v1/chat/completions?{name}=client-secret"));
        call.json(&json!({"model": "gpt-demo", "messages": []}))
    };
    let calls = fields.iter().map(with_field).chain(parameters.iter().map(with_parameter));
    for (call, name) in calls.zip(fields.iter().chain(&parameters)) {
        for (other, is_asked) in [("", 0), ("auth: { mode: inject, api_key: second-key }", 1)] {
            let second = RawBackend::answering(OK).await;
            let gateway = gateway(&[("a", &nobody(), "fallback: b"), ("b", &second.url(), other)], "").await;
            call.clone().send(gateway.proxy()).await;
            assert_eq!(second.heads().len(), is_asked, "{name}");
            assert!(second.heads().iter().all(|head| !tells_the_secret(head)), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn within_a_realm_a_request_travels_as_it_came() {
    let second = RawBackend::answering(OK).await;
    let inject = "auth: { mode: inject, api_key: k, realm: r }";
    let keys = format!("fallback: b, {inject}");
    let gateway = gateway(&[("a", &nobody(), &keys), ("b", &second.url(), inject)], "").await;
    let call = Call::chat("hello").header("X-Tenant", "acme").header("X-Api-Key", "client-secret");
    assert_eq!(call.send(gateway.proxy()).await.status(), 200);
    let head = &second.heads()[0];
    assert_eq!((head.field("x-tenant"), head.field("authorization")), (Some("acme"), Some("Bearer k")));
    assert!(!tells_the_secret(head), "{head:?}");
}
