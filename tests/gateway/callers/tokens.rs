use std::sync::{Arc, Mutex};

use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::support::collector::{Collector, Received};
use crate::support::http2::Client;
use crate::support::socket::{handshake, open, switch};
use crate::support::wire::Head;
use crate::support::{Backend, Call, Connection, Demo, Gateway, RawBackend, RawClient, within};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
const HOUSE: &str = "sk-house-0123456789abcdef0123456789";
const CLAUDE: &str = "claude-cli/2.1.197 (external, sdk-ts)";
const CODEX: &str = "codex_exec/0.169.0 (Linux; x86_64) unknown";
const ISSUER: &str = "https://idp.example/realms/acme";

/// A key with which an issuer signs.
struct Signer {
    kid: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self { kid, pair: Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("a key") }
    }

    fn jwk(&self) -> Value {
        let x = BASE64URL_NOPAD.encode(self.pair.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": self.kid, "x": x})
    }

    fn sign(&self, head: &Value, claims: &Value) -> String {
        let unsigned = format!("{}.{}", encoded(head), encoded(claims));
        format!("{unsigned}.{}", BASE64URL_NOPAD.encode(self.pair.sign(unsigned.as_bytes()).as_ref()))
    }

    /// A token that is valid for an hour, but for these claims.
    fn token(&self, more: &Value) -> String {
        let mut claims = json!({"iss": ISSUER, "aud": "elida", "sub": "ada@x.example", "exp": now() + 3600,
            "org": "acme", "teams": ["build", "nightly"]});
        for (name, value) in more.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        self.sign(&json!({"alg": "EdDSA", "kid": self.kid, "typ": "JWT"}), &claims)
    }
}

fn encoded(json: &Value) -> String {
    BASE64URL_NOPAD.encode(json.to_string().as_bytes())
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// An issuer that publishes keys; without any it is away.
struct Issuer {
    server: RawBackend,
    keys: Arc<Mutex<Vec<Value>>>,
}

impl Issuer {
    async fn start(keys: Vec<Value>) -> Self {
        let keys = Arc::new(Mutex::new(keys));
        let published = Arc::clone(&keys);
        let server = RawBackend::start(move |mut connection: Connection| {
            let published = Arc::clone(&published);
            async move {
                while connection.request_head().await.is_some() {
                    let keys = published.lock().expect("the keys").clone();
                    let set = json!({ "keys": keys }).to_string();
                    let status = if keys.is_empty() { "500 Away" } else { "200 OK" };
                    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{set}", set.len());
                    if connection.send(answer).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { server: server.await, keys }
    }

    fn publish(&self, keys: Vec<Value>) {
        *self.keys.lock().expect("the keys") = keys;
    }

    /// `auth:` with this issuer.
    fn auth(&self, proxy: &str, more: &str) -> String {
        let url = self.server.url();
        format!(
            "auth:\n  proxy: {proxy}\n  jwt:\n    issuers:\n      - issuer: {ISSUER}\n        name: idp\n        \
             audience: [elida]\n        jwks: {{ url: '{url}/keys', refresh: 10m }}\n        \
             claims: {{ tenant: org, groups: teams }}\n{more}"
        )
    }
}

fn injected(url: &str) -> String {
    format!(
        "backends:\n  main: {{ url: {url:?}, type: openai, default: true, auth: {{ mode: inject, api_key: {HOUSE} }} }}\n"
    )
}

fn contains(head: &Head, text: &str) -> bool {
    head.line.contains(text) || head.fields.iter().any(|(_, value)| value.contains(text))
}

fn bearer(call: Call, token: &str) -> Call {
    call.header("authorization", &format!("Bearer {token}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_names_its_caller_and_goes_to_no_backend() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(vec![signer.jwk()]).await;
    let backend = RawBackend::answering(OK).await;
    let url = backend.url();
    let own = format!("  own: {{ url: {url:?}, type: openai }}\n");
    let gateway = Gateway::with(issuer.auth("required", "") + &injected(&url) + &own).await;
    let token = signer.token(&json!({}));
    let parameter = format!("/v1/chat/completions?access_token={token}&alt=sse");
    let (scheme, plain) = (format!("Bearer {token}"), "/v1/chat/completions");
    for (target, field, value) in [
        (plain, "Authorization", scheme.as_str()),
        (plain, "authorization", &format!("bearer  {token}")),
        (plain, "x-api-key", &token),
        (plain, "X-Elida-Key", &token),
        (&parameter, "accept", "*/*"),
    ] {
        for name in ["main", "own"] {
            let call = Call::post(target).json(&json!({"model": "gpt-demo"})).header(field, value);
            let call = call.header("ocp-apim-subscription-key", "sk-theirs").session("one");
            let answer = call.header("x-backend", name).send(gateway.proxy()).await;
            assert_eq!(answer.status(), 200, "{target} {field} {name}: {}", answer.text());
            let head = backend.heads().pop().expect("a request");
            assert!(!contains(&head, &token) && !contains(&head, &token[..40]), "{head:?}");
            let house = format!("Bearer {HOUSE}");
            assert_eq!(head.field("authorization"), (name == "main").then_some(house.as_str()));
        }
    }
    let session = gateway.session_until("one", |session| session["open_legs"] == 0).await;
    let expected = json!({"id": "user:ada@x.example@idp", "via": "token", "tenant": "acme", "groups": ["build", "nightly"]});
    assert_eq!(session["principal"], expected);
    assert_eq!(gateway.sessions().await.len(), 1);
    let mut client = Client::connect(gateway.proxy()).await;
    assert_eq!(client.ask(&bearer(Call::chat("x"), &token)).await.status, 200);
    assert!(!contains(&backend.heads().pop().expect("a request"), &token));
    let alone = bearer(Call::chat("x"), &token).header("x-backend", "own").send(gateway.proxy()).await;
    assert_eq!((alone.status(), &alone.json()["error"]["code"]), (403, &json!("no_upstream_credential")));
    assert_eq!(issuer.server.heads().len(), 1, "the keys were fetched at the start, and once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_subprotocol_is_taken_out_of_the_handshake() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(vec![signer.jwk()]).await;
    let backend = RawBackend::start(async |mut connection: Connection| {
        let Some(request) = connection.request_head().await else { return };
        let _ = connection.send(switch(&request)).await;
        connection.until("never").await;
    })
    .await;
    let gateway = Gateway::with(issuer.auth("required", "") + &injected(&backend.url())).await;
    let token = signer.token(&json!({}));
    let offered = format!("realtime, openai-insecure-api-key.{token}");
    let call = handshake("/v1/realtime?model=gpt-realtime").header("sec-websocket-protocol", &offered);
    let _client = open(gateway.proxy(), &call.session("socket")).await;
    let session = gateway.session_until("socket", |session| session["open_legs"] == 1).await;
    assert_eq!(session["principal"]["via"], "token");
    let head = backend.heads().pop().expect("a handshake");
    assert!(!contains(&head, &token), "{head:?}");
    assert_eq!(head.field("sec-websocket-protocol"), Some("realtime"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_no_good_reaches_no_backend() {
    let (signer, stranger) = (Signer::new("one"), Signer::new("one"));
    let issuer = Issuer::start(vec![signer.jwk()]).await;
    let demo = Demo::start().await;
    let gateway = Gateway::with(issuer.auth("required", "") + &injected(&demo.url())).await;
    let good = signer.token(&json!({}));
    let claims = json!({"iss": ISSUER, "aud": "elida", "sub": "ada", "org": "a", "exp": now() + 60});
    let none = format!("{}.{}.", encoded(&json!({"alg": "none"})), encoded(&claims));
    let (invalid, expired) = ("token_invalid", "token_expired");
    let head = |field: &str, value: Value| {
        let mut head = json!({"alg": "EdDSA", "kid": "one"});
        head[field] = value;
        signer.sign(&head, &claims)
    };
    for (what, token, code) in [
        ("none", none, invalid),
        ("another's signature", stranger.token(&json!({})), invalid),
        ("HS256 for a public key", stranger.sign(&json!({"alg": "HS256", "kid": "one"}), &claims), invalid),
        ("jku", head("jku", json!("https://evil.example")), invalid),
        ("jwk", head("jwk", stranger.jwk()), invalid),
        ("x5u", head("x5u", json!("https://evil.example")), invalid),
        ("crit", head("crit", json!(["b64"])), invalid),
        ("audience", signer.token(&json!({"aud": ["else"]})), invalid),
        ("no audience", signer.token(&json!({"aud": null})), invalid),
        ("issuer", signer.token(&json!({"iss": "https://evil.example"})), invalid),
        ("no expiry", signer.token(&json!({"exp": null})), invalid),
        ("no tenant", signer.token(&json!({"org": null})), invalid),
        ("not yet", signer.token(&json!({"nbf": now() + 300})), invalid),
        ("no signature", good[..=good.rfind('.').expect("a dot")].to_owned(), invalid),
        ("too long", signer.token(&json!({"pad": "x".repeat(8 << 10)})), invalid),
        ("expired", signer.token(&json!({"exp": now() - 90})), expired),
        ("nothing", "sk-ant-other".to_owned(), "key_required"),
    ] {
        let statuses = if code == invalid { [401, 403, 400] } else { [401, 401, 401] };
        for (agent, status) in [("curl/8.5.0", statuses[0]), (CLAUDE, statuses[1]), (CODEX, statuses[2])] {
            for call in [Call::chat("x"), Call::messages_stream("x"), handshake("/v1/responses")] {
                let answer = bearer(call, &token).header("user-agent", agent).send(gateway.proxy()).await;
                let (found, text) = (answer.json()["error"]["code"].clone(), answer.text());
                assert_eq!((answer.status(), found), (status, json!(code)), "{what} {agent}: {text}");
                assert!(!text.contains(&token[token.len() - 12..]) && !text.contains("evil"), "{text}");
                let is_final = answer.head.field("x-should-retry") == Some("false");
                assert_eq!(is_final, code == invalid, "{what}");
            }
            let mut client = Client::connect(gateway.proxy()).await;
            let answer = client.ask(&bearer(Call::chat("x"), &token).header("user-agent", agent)).await;
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &json!(code)), "{what}");
        }
        let call = Call::post("/mcp").json(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
        let answer = bearer(call, &token).header("user-agent", CLAUDE).send(gateway.proxy()).await;
        assert_eq!(answer.status(), 401, "{what}");
        assert!(answer.head.field("www-authenticate").is_some_and(|value| value.starts_with("Bearer ")));
    }
    assert_eq!(demo.ledger().arrived(), 0);
    assert_eq!(bearer(Call::chat("x"), &good).send(gateway.proxy()).await.status(), 200);
    let skewed = signer.token(&json!({"exp": now() - 20, "nbf": now() + 20}));
    assert_eq!(bearer(Call::chat("x"), &skewed).send(gateway.proxy()).await.status(), 200, "within the skew");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_and_an_issuer_may_be_away() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::start(Vec::new()).await;
    let backend = RawBackend::answering(OK).await;
    let gateway = Gateway::with(issuer.auth("required", "") + &injected(&backend.url())).await;
    let ask = async |token: &str| {
        let answer = bearer(Call::chat("x"), token).send(gateway.proxy()).await;
        let code = if answer.status() == 200 { Value::Null } else { answer.json()["error"]["code"].clone() };
        (answer.status(), code, answer.head.field("retry-after").map(str::to_owned))
    };
    let (first, second) = (old.token(&json!({})), new.token(&json!({})));
    let (status, code, wait) = ask(&first).await;
    assert_eq!((status, code), (503, json!("issuer_unavailable")), "no keys were ever fetched");
    assert!(wait.is_some());
    gateway.log_until(|line| line["issuer"] == ISSUER && line["level"] == "WARN").await;
    issuer.publish(vec![old.jwk()]);
    let fetched = "elida_jwks_fetches_total{issuer=\"https://idp.example/realms/acme\",result=\"done\"}";
    // A token asks for the keys once; the failed fetch is repeated by itself.
    within("the keys", async { while ask(&first).await.0 != 200 {} }).await;
    assert_eq!(gateway.metric(fetched).await, 1.0);
    issuer.publish(vec![new.jwk()]);
    assert_eq!(ask(&first).await.0, 200, "the old key until the next fetch");
    let fetches = issuer.server.heads().len();
    // Asked already in the last 30 s if the first key was fetched that way.
    let (status, code, _) = ask(&second).await;
    assert!(
        (status, &code) == (503, &json!("issuer_unavailable"))
            || (status, &code) == (401, &json!("token_invalid")),
        "{status} {code}"
    );
    for number in 0..20 {
        let strange =
            new.sign(&json!({"alg": "EdDSA", "kid": format!("k{number}")}), &json!({"iss": ISSUER}));
        assert_ne!(ask(&strange).await.0, 200);
    }
    assert!(issuer.server.heads().len() <= fetches + 1, "one fetch for unknown keys");
    issuer.publish(Vec::new());
    assert!([200, 401].contains(&ask(&first).await.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_fetched_in_the_background() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let issuer = Issuer::start(vec![old.jwk()]).await;
    let backend = RawBackend::answering(OK).await;
    let yaml = issuer.auth("required", "") + &injected(&backend.url());
    let gateway = Gateway::with(&yaml).await;
    let mut client = RawClient::connect(gateway.proxy()).await;
    let ask = async |token: &str| bearer(Call::chat("x"), token).send(gateway.proxy()).await;
    let (first, second) = (old.token(&json!({})), new.token(&json!({})));
    let by_first = bearer(Call::chat("x"), &first);
    assert_eq!(by_first.send_over(&mut client, gateway.proxy()).await.status(), 200);
    issuer.publish(vec![new.jwk()]);
    let pending = ask(&second).await;
    assert_eq!((pending.status(), pending.head.field("retry-after")), (503, Some("1")), "{}", pending.text());
    within("the new key", async { while ask(&second).await.status() != 200 {} }).await;
    let gone = by_first.send_over(&mut client, gateway.proxy()).await;
    assert_eq!(
        (gone.status(), &gone.json()["error"]["code"]),
        (401, &json!("token_invalid")),
        "on an open connection"
    );
    assert_eq!(issuer.server.heads().len(), 2);
    // The issuer is away: its keys stay, also over a reload.
    issuer.publish(Vec::new());
    gateway.rewrite(&(yaml + "logging: { level: debug }\n"));
    gateway.hangup();
    gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(ask(&second).await.status(), 200);
    assert_eq!(issuer.server.heads().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_stand_beside_keys_and_credentials_of_providers() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(vec![signer.jwk()]).await;
    let backend = RawBackend::answering(OK).await;
    let key = super::keys::key();
    let digest = crate::support::sha256(key.as_bytes());
    let keys = format!("  principals: [{{ id: ci, key_sha256: '{digest}' }}]\n");
    let yaml = issuer.auth("optional", &keys) + &format!("backend: {:?}\n", backend.url());
    let gateway = Gateway::with(yaml).await;
    let (token, other) = (signer.token(&json!({})), signer.token(&json!({"sub": "bob"})));
    for second in [&key, &other] {
        let both = bearer(Call::chat("x"), &token).header("x-elida-key", second);
        let answer = both.send(gateway.proxy()).await;
        assert_eq!((answer.status(), &answer.json()["error"]["code"]), (400, &json!("bad_request")));
    }
    let mut expected = 0;
    let mut by = async |call: Call, id: &str| {
        assert_eq!(call.session(id).send(gateway.proxy()).await.status(), 200, "{id}");
        expected += 1;
        assert_eq!(backend.heads().len(), expected);
        gateway.session_until(id, |_| true).await["principal"]["id"].as_str().expect("an id").to_owned()
    };
    let beside = Call::chat("x")
        .header("x-api-key", "sk-provider")
        .header("authorization", &format!("Bearer {token}"));
    assert_eq!(by(beside, "beside").await, "user:ada@x.example@idp");
    let head = backend.heads().pop().expect("a request");
    assert!(
        head.field("x-api-key") == Some("sk-provider") && head.field("authorization").is_none(),
        "{head:?}"
    );
    // The token of a provider is its credential, and passed on.
    let theirs = signer.token(&json!({"iss": "https://auth.openai.com", "aud": "api"}));
    assert!(by(bearer(Call::chat("x"), &theirs), "theirs").await.starts_with("cred:"));
    let head = backend.heads().pop().expect("a request");
    assert_eq!(head.field("authorization"), Some(format!("Bearer {theirs}").as_str()));
    // One of ours that is no good is not.
    let expired = bearer(Call::chat("x"), &signer.token(&json!({"exp": now() - 90})));
    assert_eq!(expired.send(gateway.proxy()).await.status(), 401);
    assert_eq!(backend.heads().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_ends_with_the_next_request_of_an_open_connection() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(vec![signer.jwk()]).await;
    let backend = RawBackend::answering(OK).await;
    let yaml = issuer.auth("required", "").replace("audience:", "skew: 0\n        audience:");
    let gateway = Gateway::with(yaml + &injected(&backend.url())).await;
    let token = signer.token(&json!({"exp": now() + 3}));
    let mut client = RawClient::connect(gateway.proxy()).await;
    let mut ask = async || bearer(Call::chat("x"), &token).send_over(&mut client, gateway.proxy()).await;
    assert_eq!(ask().await.status(), 200);
    let refused = within("the end of the token", async {
        loop {
            let answer = ask().await;
            if answer.status() != 200 {
                return answer;
            }
        }
    });
    let answer = refused.await;
    assert_eq!((answer.status(), &answer.json()["error"]["code"]), (401, &json!("token_expired")));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_record_log_metric_span_or_capture_contains_a_token() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(vec![signer.jwk()]).await;
    let (demo, collector) = (Demo::start().await, Collector::grpc().await);
    let more = format!(
        "capture: {{ mode: all }}\nlogging: {{ level: debug }}\ntelemetry: {{ enabled: true, endpoint: {:?} }}\n",
        collector.address().to_string()
    );
    let gateway = Gateway::with(issuer.auth("required", "") + &injected(&demo.url()) + &more).await;
    let (good, bad) = (signer.token(&json!({})), Signer::new("one").token(&json!({})));
    for shown in [&good, &bad] {
        let call = Call::post(&format!("/v1/chat/completions?access_token={shown}"));
        let body =
            json!({"model": "gpt-demo", "messages": [{"role": "user", "content": format!("hello {shown}")}]});
        let call = bearer(call, shown).header("x-other", shown).header("x-request-id", "r-1").session("leak");
        call.json(&body).send(gateway.proxy()).await;
    }
    let spans =
        |received: &Received| format!("{:?}{:?}{:?}", received.spans, received.logs, received.metrics);
    let told = collector.until("the request", |received| spans(received).contains("r-1")).await;
    let there = |page: &Value| page["captures"].as_array().is_some_and(|found| !found.is_empty());
    let captures = gateway.answer_until("/control/history/leak/captures?limit=100", there).await.to_string();
    gateway.kill("leak").await;
    let record = gateway.answer_until("/control/records/leak", |detail| detail["record"].is_object()).await;
    let mut all = gateway.log_text() + &captures + &record.to_string() + &gateway.metrics().await;
    all += &spans(&told);
    let mut operator = gateway.operator().await;
    for target in ["/control/sessions", "/control/sessions/leak", "/control/config", "/control/history"] {
        all += &operator.get(target).await.text();
    }
    for shown in [&good, &bad] {
        for part in shown.split('.').skip(1) {
            let at = all.find(&part[..24]);
            assert!(at.is_none(), "{}", &all[at.unwrap_or(0).saturating_sub(400)..][..800]);
        }
    }
    assert!(all.contains("token_invalid") && all.contains("user:ada@x.example@idp"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_an_mcp_server_is_told_where_to_get_a_token() {
    let signer = Signer::new("one");
    let issuer = Issuer::start(vec![signer.jwk()]).await;
    let backend = RawBackend::answering(OK).await;
    let tools = format!("  tools: {{ url: {:?}, type: mcp, auth: {{ mode: none }} }}\n", backend.url());
    let yaml = issuer.auth("required", "") + &injected(&backend.url()) + &tools;
    let gateway = Gateway::with(yaml + "server: { trusted_proxies: [127.0.0.1] }\n").await;
    let list = || Call::post("/tools/mcp").json(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
    let asks = async |call: Call| {
        let answer = call.send(gateway.proxy()).await;
        (answer.status(), answer.head.field("www-authenticate").unwrap_or_default().to_owned())
    };
    let place = format!("{}/.well-known/oauth-protected-resource/tools/mcp", gateway.url());
    let challenge =
        |error: &str, place: &str| format!("Bearer realm=\"elida\"{error}, resource_metadata=\"{place}\"");
    assert_eq!(asks(list()).await, (401, challenge("", &place)));
    let expired = bearer(list(), &signer.token(&json!({"exp": now() - 90})));
    assert_eq!(asks(expired).await, (401, challenge(", error=\"invalid_token\"", &place)));
    let behind = list().header("x-forwarded-proto", "https").header("x-forwarded-host", "gw.example");
    let public = "https://gw.example/.well-known/oauth-protected-resource/tools/mcp";
    assert_eq!(asks(behind).await, (401, challenge("", public)));
    let strange = list().header("x-forwarded-host", "gw.example\", error=\"x");
    assert_eq!(asks(strange).await, (401, "Bearer realm=\"elida\"".to_owned()));
    assert_eq!(asks(Call::chat("x")).await, (401, "Bearer realm=\"elida\"".to_owned()), "not for models");
    let metadata = Call::get("/.well-known/oauth-protected-resource/tools/mcp");
    let answer = metadata.clone().send(gateway.proxy()).await;
    let expected = json!({"resource": format!("{}/tools/mcp", gateway.url()), "authorization_servers": [ISSUER],
        "bearer_methods_supported": ["header"]});
    assert_eq!((answer.status(), answer.json()), (200, expected));
    let mut client = Client::connect(gateway.proxy()).await;
    assert_eq!(client.ask(&metadata).await.status, 200);
    assert_eq!(backend.heads().len(), 0);
    let own = bearer(metadata, &signer.token(&json!({}))).send(gateway.proxy()).await;
    assert_eq!((own.status(), own.text().as_str()), (200, "{}"), "the server's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn own_tokens_are_accepted_and_short_secrets_are_not() {
    let backend = RawBackend::answering(OK).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    let secret = "0123456789abcdef0123456789abcdef";
    std::fs::write(&file, format!("{secret}\n")).expect("write");
    let auth =
        format!("auth: {{ proxy: required, jwt: {{ local: {{ secret_file: {file:?}, ttl: 10m }} }} }}\n");
    let gateway = Gateway::with(auth + &injected(&backend.url())).await;
    let token = |secret: &str, seconds: i64| {
        let claims = json!({"iss": "elida", "aud": "elida", "sub": "nightly", "groups": ["build"], "exp": now() + seconds});
        let unsigned = format!("{}.{}", encoded(&json!({"alg": "HS256", "typ": "JWT"})), encoded(&claims));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        format!("{unsigned}.{}", BASE64URL_NOPAD.encode(ring::hmac::sign(&key, unsigned.as_bytes()).as_ref()))
    };
    let ask = async |token: &str| {
        bearer(Call::chat("x"), token).session("own").send(gateway.proxy()).await.status()
    };
    assert_eq!(ask(&token(secret, 300)).await, 200);
    let principal = gateway.session_until("own", |_| true).await["principal"].clone();
    assert_eq!(principal, json!({"id": "user:nightly@local", "via": "token", "groups": ["build"]}));
    assert_eq!(ask(&token("another secret of thirty-two byte", 300)).await, 401);
    assert_eq!(ask(&token(secret, 86_400)).await, 401, "valid for too long");
    assert_eq!(backend.heads().len(), 1);
    std::fs::write(&file, &secret[1..]).expect("write");
    gateway.hangup();
    let line = gateway
        .log_until(|line| line["message"].as_str().is_some_and(|text| text.contains("is faulty")))
        .await;
    let text = line.to_string();
    assert!(text.contains("has 31 bytes of at least 32") && !text.contains(&secret[1..]), "{text}");
    assert_eq!(ask(&token(secret, 300)).await, 200, "the old configuration stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_decide_what_a_token_permits_and_an_issuer_gives_no_group_of_another() {
    let (signer, other) = (Signer::new("one"), Signer::new("two"));
    let issuer = Issuer::start(vec![signer.jwk()]).await;
    let others = Issuer::start(vec![other.jwk()]).await;
    let backend = RawBackend::answering(OK).await;
    let second = format!(
        "      - issuer: https://other.example\n        audience: [elida]\n        jwks: {{ url: '{}/keys' }}\n        \
         claims: {{ groups: teams }}\n",
        others.server.url()
    );
    let rules = "    permissions:
      - { groups: [build], issuers: [idp], models: ['gpt-*'], tools: ['get_*'] }
      - { issuers: [idp], models: ['o3'] }
  roles:
    - { role: viewer, groups: [build], issuers: [idp] }
    - { role: admin, groups: [nightly] }
";
    let gateway = Gateway::with(issuer.auth("required", &second) + rules + &injected(&backend.url())).await;
    let build = signer.token(&json!({}));
    let plain = signer.token(&json!({"teams": []}));
    let foreign = other.token(&json!({"iss": "https://other.example"}));
    let ask = async |token: &str, model: &str, tool: &str| {
        let tools = json!([{"type": "function", "function": {"name": tool}}]);
        let call = Call::post("/v1/chat/completions").json(&json!({"model": model, "tools": tools}));
        let answer = bearer(call, token).send(gateway.proxy()).await;
        if answer.status() == 200 { Value::Null } else { answer.json()["error"]["code"].clone() }
    };
    assert_eq!(ask(&build, "gpt-demo", "get_x").await, Value::Null);
    assert_eq!(ask(&build, "o3", "get_x").await, "model_denied");
    assert_eq!(ask(&build, "gpt-demo", "rm").await, "tool_denied");
    assert_eq!(ask(&plain, "o3", "rm").await, Value::Null);
    assert_eq!(ask(&plain, "gpt-demo", "get_x").await, "model_denied");
    for model in ["gpt-demo", "o3"] {
        let code = ask(&foreign, model, "get_x").await;
        assert_eq!(code, "backend_denied", "no entry fits: {model}");
    }
    let whoami = async |token: &str| {
        let answer = bearer(Call::get("/control/whoami"), token).send(gateway.control()).await;
        (answer.status(), answer.json()["roles"].clone())
    };
    // `nightly` names no issuer, and there are two.
    assert_eq!(whoami(&build).await, (200, json!([{"role": "viewer", "tenant": null}])));
    assert_eq!(whoami(&foreign).await.0, 403);
    let warned = |line: &Value| line["path"] == "auth.roles[1]" && line["level"] == "WARN";
    gateway.log_until(warned).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_signs_tokens_of_programs() {
    let (demo, folder) = (Demo::start().await, tempfile::tempdir().expect("a folder"));
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").expect("written");
    let yaml =
        format!("auth:\n  proxy: required\n  jwt: {{ local: {{ secret_file: {secret:?}, ttl: 10m }} }}\n");
    let gateway = Gateway::with(yaml.clone() + &injected(&demo.url())).await;
    let file = folder.path().join("elida.yaml");
    std::fs::write(&file, yaml).expect("written");
    let run = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_elida"));
        command
            .args(["token", "create", "nightly", "--group", "build", "-c"])
            .arg(&file)
            .args(more)
            .env_clear();
        let output = command.output().expect("the binary runs");
        (output.status.success(), String::from_utf8(output.stdout).expect("text").trim().to_owned())
    };
    let (made, token) = run(&[]);
    assert!(made);
    assert_eq!(bearer(Call::chat("x"), &token).session("one").send(gateway.proxy()).await.status(), 200);
    let session = gateway.session_until("one", |session| session["open_legs"] == 0).await;
    let principal = &session["principal"];
    assert_eq!((&principal["id"], &principal["groups"]), (&json!("user:nightly@local"), &json!(["build"])));
    assert!(!run(&["--ttl", "1h"]).0, "longer than the gateway accepts");
}
