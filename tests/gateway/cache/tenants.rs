use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::hits::{answer, field, origin};
use crate::callers::keys::{auth, key, with_key};
use crate::fleet::shared::store_is_up;
use crate::support::http2::Client;
use crate::support::redis::Redis;
use crate::support::{Backend, Call, Gateway, RawBackend};

/// A backend each of whose answers may be stored and is another one.
async fn counting() -> RawBackend {
    let count = AtomicUsize::new(0);
    origin(move |request, _| {
        let fields = match request.head.target() {
            "/private" => "Cache-Control: max-age=60\r\n",
            _ => "Cache-Control: public, max-age=60\r\n",
        };
        answer(200, fields, &format!("answer {}", count.fetch_add(1, SeqCst)))
    })
    .await
}

/// Two tenants, one of which has two keys, and a key without a tenant.
fn keys(share: &str, url: &str) -> (String, [String; 4]) {
    let keys = [key(), key(), key(), key()];
    let principals = [
        ("red", keys[0].as_str(), "tenant: red"),
        ("red-too", keys[1].as_str(), "tenant: red"),
        ("blue", keys[2].as_str(), "tenant: blue"),
        ("alone", keys[3].as_str(), "groups: [alone]"),
    ];
    let yaml = format!(
        "server: {{ h2c: true }}\nbackends:\n  files: {{ url: {url:?}, type: http, auth: {{ mode: none }} }}\n\
         cache: {{ enabled: true{share} }}\n{}",
        auth("required", &principals)
    );
    (yaml, keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_never_see_each_others_answers() {
    let backend = counting().await;
    let (yaml, [red, red_too, blue, alone]) = keys("", &backend.url());
    let gateway = Gateway::with(yaml).await;
    let mut client = Client::connect(gateway.proxy()).await;
    let mut bodies = Vec::new();
    for key in [&red, &red_too, &blue, &alone] {
        let one = with_key(Call::get("/x"), key).send(gateway.proxy()).await.text();
        let other = client.ask(&with_key(Call::get("/x"), key)).await.text();
        assert_eq!(one, other, "the same key over HTTP/1.1 and HTTP/2");
        bodies.push(one);
    }
    assert_eq!(bodies, ["answer 0", "answer 0", "answer 1", "answer 2"]);
    // An answer that is not said to be public is for nobody else, not even for its own caller.
    for key in [&red, &red, &blue] {
        let answer = with_key(Call::get("/private"), key).send(gateway.proxy()).await;
        assert_eq!(field(&answer, "cache-status"), "elida; fwd=uri-miss");
        assert!(!bodies.contains(&answer.text()));
        bodies.push(answer.text());
    }
    assert_eq!(Call::get("/x").send(gateway.proxy()).await.status(), 401);
    let stats = gateway.operator().await.get("/control/cache/stats").await.json();
    assert_eq!((&stats["entries"], &stats["refused"]["authorised"]), (&3.into(), &3.into()), "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_share_what_they_are_said_to_share() {
    let backend = counting().await;
    let (yaml, [red, _, blue, alone]) = keys(", share: all", &backend.url());
    let gateway = Gateway::with(yaml).await;
    for key in [&red, &blue, &alone] {
        let answer = with_key(Call::get("/x"), key).send(gateway.proxy()).await;
        assert_eq!(answer.text(), "answer 0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_kept_apart_in_redis_too() {
    let (redis, backend) = (Redis::start().await, counting().await);
    let (yaml, [red, red_too, blue, alone]) = keys(", store: redis", &backend.url());
    let yaml = format!("{yaml}session: {{ store: redis, redis: {{ url: {:?} }} }}\n", redis.url());
    let gateways = [Gateway::with(&yaml).await, Gateway::with(&yaml).await];
    for gateway in &gateways {
        store_is_up(gateway, true).await;
    }
    let ask = async |through: usize, key: &str| {
        // The same host through any instance, as behind a balancer.
        let call = with_key(Call::get("/x").header("host", "files.example.com"), key);
        call.send(gateways[through].proxy()).await.text()
    };
    let first = [ask(0, &red).await, ask(0, &blue).await, ask(0, &alone).await];
    assert_eq!(first, ["answer 0", "answer 1", "answer 2"]);
    redis_has(&redis, 3).await;
    assert_eq!([ask(1, &red_too).await, ask(1, &blue).await, ask(1, &alone).await], first);
    assert_eq!(backend.requests().len(), 3);
}

/// Waits until so many answers are in Redis.
pub async fn redis_has(redis: &Redis, count: usize) {
    crate::support::within("the answers in Redis", async {
        loop {
            let keys = redis.ask(&["KEYS", "elida:cache:*"]).await;
            let is_answer = |key: &&str| key.trim().trim_matches('"').len() == "elida:cache:".len() + 64;
            if keys.split_whitespace().filter(is_answer).count() == count {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}
