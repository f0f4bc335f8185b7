use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, RawClient, within};

fn yaml(demo: &Demo, redis: &Redis, secret: &str) -> String {
    format!(
        "auth:\n  proxy: required\n  people: {{ login: true }}\n  jwt: {{ local: {{ secret_file: {secret:?} }} }}\n\
         backends:\n  demo: {{ url: {:?}, type: openai, default: true, auth: {{ mode: inject, api_key: sk-house }} }}\n\
         session:\n  store: redis\n  redis: {{ url: {:?}, flush_interval: 200ms }}\n",
        demo.url(),
        redis.url()
    )
}

async fn post(gateway: &Gateway, token: &str, target: &str, body: &Value) -> (u16, Value) {
    let call = Call::post(target).json(body).header("authorization", &format!("Bearer {token}"));
    let answer = call.send(gateway.control()).await;
    (answer.status(), answer.json())
}

/// Waits until an instance answers a call of the proxy like this.
async fn answers(gateway: &Gateway, token: &str, status: u16) {
    within(&format!("{status} for a token"), async {
        while Call::chat("x").header("x-api-key", token).send(gateway.proxy()).await.status() != status {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Waits until an instance knows an account of another.
async fn knows(gateway: &Gateway, id: &str) {
    let is_told = |line: &Value| {
        line["message"] == "keys or accounts were changed by another process"
            && line["ids"].to_string().contains(id)
    };
    gateway.log_until(is_told).await;
}

async fn feed(gateway: &Gateway, token: &str) -> RawClient {
    let call = Call::get("/control/events").header("authorization", &format!("Bearer {token}"));
    let mut feed = call.open(gateway.control()).await;
    feed.until("connected").await;
    feed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_on_one_instance_and_is_known_and_disabled_on_all() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "0123456789abcdef0123456789abcdef").expect("written");
    let yaml = yaml(&demo, &redis, secret.path().to_str().expect("a path"));
    let (one, two) = (Gateway::with(&yaml).await, Gateway::with(&yaml).await);
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_elida"))
        .args(["admin", "create", "root"])
        .env_clear()
        .env("ELIDA_DATA_DIR", one.data())
        .output()
        .expect("the binary runs");
    let password = String::from_utf8(made.stdout).expect("text").trim().to_owned();
    let body = json!({"username": "root", "password": password});
    let log_in = async |gateway: &Gateway| post(gateway, "", "/auth/login", &body).await;
    // The account that the file of one instance got is known on the other.
    knows(&two, "user:root").await;
    let login = log_in(&two).await;
    assert_eq!(login.0, 200, "{}", login.1);
    let token = |login: &Value, name: &str| login[name].as_str().expect("a token").to_owned();
    let (root, refresh) = (token(&login.1, "access_token"), token(&login.1, "refresh_token"));
    answers(&one, &root, 200).await;

    // A refresh token is used on one instance; a second use on the other ends all of it on both.
    let next = post(&one, "", "/auth/refresh", &json!({"refresh_token": refresh})).await;
    assert_eq!(next.0, 200, "{}", next.1);
    let next = token(&next.1, "access_token");
    answers(&two, &next, 200).await;
    let reader = feed(&one, &next).await;
    within("the second use", async {
        let again = post(&two, "", "/auth/refresh", &json!({"refresh_token": refresh})).await;
        assert_eq!(again.0, 401, "{}", again.1);
    })
    .await;
    let mut reader = reader;
    within("the end of the feed", reader.message(Unframed::UntilEnd)).await.expect("an answer");
    answers(&one, &next, 401).await;

    let login = log_in(&one).await.1;
    let root = token(&login, "access_token");
    let made = post(&one, &root, "/api/admin/users", &json!({"name": "eve", "role": "viewer"})).await.1;
    let body = json!({"username": "eve", "password": made["password"]});
    knows(&two, "user:eve").await;
    let eve = post(&two, "", "/auth/login", &body).await;
    let eve = token(&eve.1, "access_token");
    let mut reader = feed(&two, &eve).await;
    let mut stream =
        Call::messages_stream("first second [[stall]]").header("x-api-key", &eve).open(two.proxy()).await;
    stream.until("first").await;
    let begun = Instant::now();
    assert_eq!(post(&one, &root, "/api/admin/users/eve/disable", &json!({})).await.0, 200);
    for client in [&mut reader, &mut stream] {
        let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
        let after = answer.ended.saturating_duration_since(begun);
        assert!(after < Duration::from_secs(1), "{after:?}");
    }
    let stored = redis.ask(&["HGETALL", "elida:people"]).await;
    for text in [&password, &root, &eve, &refresh] {
        assert!(stored.contains("argon2id") && !stored.contains(text.as_str()), "digests only: {stored}");
    }

    // A wiped Redis neither loses an account nor revives one.
    redis.ask(&["FLUSHALL"]).await;
    within("the accounts in Redis", async {
        while !redis.ask(&["HGETALL", "elida:people"]).await.contains("user:eve") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let three = Gateway::with(&yaml).await;
    answers(&three, &root, 200).await;
    assert_eq!(post(&three, "", "/auth/login", &body).await.0, 401, "disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_needs_a_secret_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let yaml = "auth: { people: { login: true } }\nsession: { store: redis, redis: { url: 'redis://127.0.0.1:1' } }\n";
    std::fs::write(&file, yaml).expect("written");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_elida"))
        .arg("check")
        .arg("-c")
        .arg(&file)
        .env_clear()
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("auth.people.login"), "{text}");
    assert!(text.contains("auth.jwt.local.secret_file"), "{text}");
}
