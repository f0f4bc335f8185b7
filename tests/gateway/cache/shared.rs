use super::hits::{answer, field, origin};
use super::tenants::redis_has;
use crate::fleet::shared::store_is_up;
use crate::support::redis::Redis;
use crate::support::{Backend, Call, Gateway, RawBackend, within};

async fn fleet(backend: &RawBackend, redis: &Redis) -> [Gateway; 2] {
    let yaml = format!(
        "backends:\n  files: {{ url: {:?}, type: http }}\ncache: {{ enabled: true, store: redis }}\n\
         session: {{ store: redis, redis: {{ url: {:?} }} }}\n",
        backend.url(),
        redis.url()
    );
    let gateways = [Gateway::with(&yaml).await, Gateway::with(&yaml).await];
    for gateway in &gateways {
        store_is_up(gateway, true).await;
    }
    gateways
}

async fn counting() -> RawBackend {
    origin(|request, number| match request.head.line.starts_with("POST") {
        true => answer(200, "", "done"),
        false => answer(
            200,
            "Cache-Control: max-age=60\r\nETag: \"1\"\r\nX-Odd: a\r\n",
            &format!("answer {number}"),
        ),
    })
    .await
}

/// Asks with the same `Host` through any instance, as behind a balancer.
async fn ask(gateway: &Gateway, path: &str) -> String {
    let answer = Call::get(path).header("host", "files.example.com").send(gateway.proxy()).await;
    assert_eq!((answer.status(), field(&answer, "x-odd")), (200, "a"), "{}", answer.text());
    answer.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_answers_purges_and_changes() {
    let (redis, backend) = (Redis::start().await, counting().await);
    let [first, second] = fleet(&backend, &redis).await;
    let own = ask(&first, "/a").await;
    redis_has(&redis, 1).await;
    assert_eq!(ask(&second, "/a").await, own);
    assert_eq!(backend.requests().len(), 1);
    for path in ["/b", "/c"] {
        ask(&first, path).await;
    }
    redis_has(&redis, 3).await;
    let mut operator = first.operator().await;
    assert_eq!(operator.delete("/admin/cache").await.status(), 400);
    assert_eq!(operator.delete("/admin/cache?pattern=").await.status(), 400);
    assert_eq!(operator.delete("/admin/cache?pattern=%5B").await.status(), 400);
    let purged = operator.delete("/admin/cache?pattern=*.example.com/a").await;
    assert_eq!((purged.status(), &purged.json()["removed"]), (200, &1.into()), "{}", purged.text());
    assert!(purged.json()["bytes"].as_u64().expect("bytes") > 0);
    redis_has(&redis, 2).await;
    second.answer_until("/admin/cache/stats", |stats| stats["entries"] == 0).await;
    let again = ask(&second, "/a").await;
    assert_ne!(again, own, "the purge has reached the other instance");
    // A change through one instance is one for the other, too.
    redis_has(&redis, 3).await;
    assert_eq!(ask(&first, "/a").await, again);
    let changed = Call::post("/a").header("host", "files.example.com").body("x").send(second.proxy()).await;
    assert_eq!(changed.text(), "done");
    first.answer_until("/admin/cache/stats", |stats| stats["entries"] == 2).await;
    redis_has(&redis, 2).await;
    assert_ne!(ask(&first, "/a").await, again);
    redis_has(&redis, 3).await;
    let all = operator.delete("/control/cache?all=true").await.json();
    assert_eq!(all["removed"], 3, "{all}");
    redis_has(&redis, 0).await;
    let audit = operator.get("/control/audit?limit=50").await.json();
    let lines: Vec<_> = audit["lines"]
        .as_array()
        .expect("lines")
        .iter()
        .filter(|line| line["action"] == "purgeCache")
        .collect();
    assert_eq!(lines.len(), 5, "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_away_is_a_miss_and_a_counter() {
    let (mut redis, backend) = (Redis::start().await, counting().await);
    let [first, second] = fleet(&backend, &redis).await;
    let own = ask(&first, "/a").await;
    redis_has(&redis, 1).await;
    redis.stop();
    store_is_up(&first, false).await;
    store_is_up(&second, false).await;
    assert_eq!(ask(&first, "/a").await, own, "what is in memory is served");
    let other = ask(&second, "/a").await;
    assert_ne!(other, own);
    assert_eq!(ask(&second, "/a").await, other);
    within("the counter", async {
        while second.metric("elida_cache_store_errors_total").await < 2.0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let purged = second.operator().await.delete("/admin/cache?all=true").await;
    assert_eq!(purged.status(), 503, "{}", purged.text());
    assert_eq!(purged.json()["code"], "store_unavailable", "{}", purged.text());
    assert_ne!(ask(&second, "/a").await, other, "this instance has forgotten it");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_purge() {
    let backend = counting().await;
    let (viewer, operator) = ("viewer-0123456789abcdef01234567", "operator-0123456789abcdef01234567");
    let digest = |key: &str| crate::support::sha256(key.as_bytes());
    let gateway = Gateway::with(format!(
        "backends:\n  files: {{ url: {:?}, type: http }}\ncache: {{ enabled: true }}\nauth:\n  principals:\n\
         \x20   - {{ id: v, key_sha256: '{}' }}\n    - {{ id: o, key_sha256: '{}' }}\n  roles:\n\
         \x20   - {{ role: viewer, principals: ['key:v'] }}\n    - {{ role: operator, principals: ['key:o'] }}\n",
        backend.url(),
        digest(viewer),
        digest(operator)
    ))
    .await;
    let purge = async |key: &str, path: &str| {
        let call = Call::new("DELETE", path).header("authorization", &format!("Bearer {key}"));
        call.send(gateway.control()).await.status()
    };
    assert_eq!(purge(viewer, "/admin/cache?all=true").await, 403);
    assert_eq!(purge("unknown", "/control/cache?all=true").await, 401);
    assert_eq!(purge(operator, "/admin/cache?all=true").await, 200);
}
