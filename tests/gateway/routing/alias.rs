use crate::routing::failover::{error, gateway};
use crate::support::{Backend, Call, RawBackend};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

fn call(body: &str) -> Call {
    Call::post("/v1/chat/completions").header("content-type", "application/json").body(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_finds_the_backend_and_leaves_the_body_as_it_is() {
    let [main, local] = [RawBackend::answering(OK).await, RawBackend::answering(OK).await];
    let aliases = "aliases: { 'gpt-4o*': 'llama3.3:70b' }";
    let gateway =
        gateway(&[("main", &main.url(), "models: ['gpt-*']"), ("local", &local.url(), aliases)], "").await;
    let body = r#"{ "messages":[], "model" : "gpt-4o-mini" }"#;
    assert_eq!(
        call(body).header("content-digest", "sha-256=:AAAA:").send(gateway.proxy()).await.status(),
        200
    );
    assert_eq!((main.requests().len(), local.requests()[0].text()), (0, body.to_owned()));
    assert_eq!(local.heads()[0].field("content-digest"), Some("sha-256=:AAAA:"));
    assert_eq!(call(r#"{"model":"gpt-5"}"#).send(gateway.proxy()).await.status(), 200);
    assert_eq!(main.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_model_changes_its_own_bytes_and_the_length_only() {
    let local = RawBackend::answering(OK).await;
    let aliases = "aliases: { 'gpt-4o': 'meta-llama/Llama-3.3-70B' }, rewrite_model: true";
    let gateway = gateway(&[("local", &local.url(), aliases)], "").await;
    let filling = "ä \\u0041 \"model\":\"gpt-4o\"".replace('"', "\\\"").repeat(10_000);
    let body = |model: &str| {
        format!(
            r#"{{ "messages" : [{{"role":"user","content":"{filling}","model":"gpt-4o"}}], "temperature":1.0e0,"model" :{model} ,"x":null}} "#
        )
    };
    let (asked, expected) = (body(r#""gpt-4\u006f""#), body(r#""meta-llama/Llama-3.3-70B""#));
    let vouched = call(&asked)
        .header("Content-Digest", "sha-256=:AAAA:")
        .header("Digest", "sha-256=AAAA")
        .header("Signature-Input", "sig=(\"content-digest\")")
        .header("Signature", "sig=:AAAA:");
    for (at, sent) in
        [vouched.clone(), vouched.clone().chunked(4096), vouched.chunked(70_000)].into_iter().enumerate()
    {
        let answer = sent.session("aliased").send(gateway.proxy()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let seen = &local.requests()[at];
        assert!(seen.is_whole && seen.body == expected.as_bytes(), "{}", seen.body.len());
        let length = (at == 0).then(|| expected.len().to_string());
        assert_eq!(seen.head.field("content-length"), length.as_deref());
        for field in ["content-digest", "digest", "signature", "signature-input"] {
            assert_eq!(seen.head.field(field), None, "it vouched for other bytes");
        }
    }
    let session = gateway.session_until("aliased", |session| session["requests"][0]["status"] == 200).await;
    assert_eq!(session["requests"][0]["model"], "gpt-4o", "the requested model is reported");
    let plain = r#"{"model":"gpt-4o-mini"}"#;
    assert_eq!(call(plain).send(gateway.proxy()).await.status(), 200);
    assert_eq!(local.requests()[3].text(), plain, "another model is no alias");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_backend_gets_the_model_by_its_own_name() {
    let [first, second, third] = [
        RawBackend::answering(error(500, "")).await,
        RawBackend::answering(error(500, "")).await,
        RawBackend::answering(OK).await,
    ];
    let backends = [
        ("a", &*first.url(), "models: ['gpt-*'], fallback: b, retries: { attempts: 2 }"),
        ("b", &second.url(), "aliases: { gpt-4o: a-much-longer-name }, rewrite_model: true, fallback: c"),
        ("c", &third.url(), "aliases: { '*': x }, rewrite_model: true"),
    ];
    let gateway = gateway(&backends, "").await;
    let named = call(r#"{"model":"gpt-4o","n":1}"#).header("X-Backend", "a");
    assert_eq!(named.send(gateway.proxy()).await.status(), 200);
    assert_eq!(first.requests()[0].text(), r#"{"model":"gpt-4o","n":1}"#);
    assert_eq!(second.requests()[0].text(), r#"{"model":"a-much-longer-name","n":1}"#);
    assert_eq!(third.requests()[0].text(), r#"{"model":"x","n":1}"#);
    assert!(third.requests()[0].is_whole);
}
