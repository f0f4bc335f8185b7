use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway, sha256, within};

/// A gateway that requires keys and declares one, `fixed`.
fn yaml(demo: &Demo, fixed: &str) -> String {
    format!(
        "auth:\n  proxy: required\n  principals: [{{ id: fixed, key_sha256: '{}' }}]\n\
         backends:\n  demo: {{ url: {:?}, type: openai, default: true, auth: {{ mode: inject, api_key: sk-house }} }}\n",
        sha256(fixed.as_bytes()),
        demo.url()
    )
}

async fn status(gateway: &Gateway, key: &str) -> (u16, Value) {
    let answer = Call::chat("x").header("x-api-key", key).send(gateway.proxy()).await;
    let code = if answer.status() == 200 { Value::Null } else { answer.json()["error"]["code"].clone() };
    (answer.status(), code)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_rotated_and_revoked_while_the_gateway_runs() {
    let demo = Demo::start().await;
    let fixed = crate::callers::keys::key();
    let gateway = Gateway::with(yaml(&demo, &fixed)).await;
    let mut operator = gateway.operator().await;
    let spec =
        json!({"id": "ci", "tenant": "acme", "groups": ["build"], "models": ["gpt-*"], "expires": "90d"});
    let made = operator.post("/control/keys", &spec).await;
    assert_eq!(made.status(), 201, "{}", made.text());
    let first = made.json()["key"].as_str().expect("a key").to_owned();
    assert_eq!(made.json()["shown"], first[..8]);
    assert_eq!(status(&gateway, &first).await, (200, Value::Null));
    for (body, code) in [
        (spec.clone(), "key_exists"),
        (json!({"id": "fixed"}), "managed_by_file"),
        (json!({"id": "a b"}), "bad_request"),
        (json!({"id": "x", "backends": ["nowhere"]}), "bad_request"),
        (json!({"id": "x", "key": "short"}), "bad_request"),
        (json!({"id": "x", "key": fixed}), "bad_request"),
        (json!({"id": "x", "expires": "soon"}), "bad_request"),
    ] {
        let answer = operator.post("/control/keys", &body).await;
        assert_eq!(answer.json()["code"], code, "{body}: {}", answer.text());
    }
    let second = gateway.elida(&["key", "rotate", "ci", "--grace", "1h"]).await.trim().to_owned();
    let third = operator.post("/control/keys/ci/rotate", &json!({"grace": "1h"})).await.json()["key"].clone();
    let third = third.as_str().expect("a key");
    assert_eq!(status(&gateway, &first).await, (401, json!("key_unknown")), "two rotations ago");
    assert_eq!((status(&gateway, &second).await.0, status(&gateway, third).await.0), (200, 200));

    let foreign = "a-key-of-another-gateway-0123456789";
    let answer = operator.post("/control/keys", &json!({"id": "old", "key": foreign})).await;
    assert_eq!((answer.status(), status(&gateway, foreign).await.0), (201, 200));
    let listed = operator.get("/control/keys").await.json();
    let ids: Vec<&str> =
        listed["keys"].as_array().expect("keys").iter().filter_map(|key| key["id"].as_str()).collect();
    assert_eq!(ids, ["fixed", "ci", "old"]);
    assert!(
        listed["keys"][1]["last_used"].is_string() && listed["keys"][0]["last_used"].is_null(),
        "{listed}"
    );
    let table = gateway.elida(&["key", "list"]).await;
    assert!(
        table.contains("elida_") && table.contains("acme") && table.contains("90") | table.contains("gpt-*"),
        "{table}"
    );

    let call = Call::messages_stream("first second [[stall]]").session("open").header("x-api-key", third);
    let call = call.json(&json!({"model": "gpt-demo", "max_tokens": 9, "stream": true,
        "messages": [{"role": "user", "content": "first second [[stall]]"}]}));
    let mut client = call.open(gateway.proxy()).await;
    client.until("first").await;
    let begun = Instant::now();
    let revoked = operator.delete("/control/keys/ci").await;
    assert_eq!((revoked.status(), &revoked.json()["legs_cut"]), (200, &json!(1)), "{}", revoked.text());
    let answer = client.message(Unframed::UntilEnd).await.expect("an answer");
    assert!(answer.ended.duration_since(begun) < Duration::from_secs(1));
    assert!(answer.text().contains("key_revoked"), "{}", answer.text());
    for key in [third, &second] {
        assert_eq!(status(&gateway, key).await, (401, json!("key_revoked")));
    }
    assert_eq!(operator.delete("/control/keys/ci").await.json()["code"], "key_not_found");
    assert_eq!(operator.delete("/control/keys/fixed").await.json()["code"], "managed_by_file");
    assert_eq!(operator.delete("/control/keys/old").await.status(), 200);
    assert_eq!(status(&gateway, foreign).await, (401, json!("key_revoked")), "it never falls through");
    let other = operator.post("/control/keys", &json!({"id": "ci", "tenant": "other"})).await;
    assert_eq!(other.json()["code"], "key_exists", "what it left is its tenant's: {}", other.text());
    let again = gateway
        .elida(&["key", "create", "--id", "ci", "--tenant", "acme", "--models", "o3", "--expires", "1h"])
        .await;
    assert_eq!(status(&gateway, again.trim()).await, (403, json!("model_denied")));
    let all = gateway.log_text() + &listed.to_string() + &table;
    for key in [&first, &second, third, again.trim(), foreign] {
        assert!(!all.contains(key), "a key is shown once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_survive_a_crash_and_revoked_ones_do_not_come_back() {
    let demo = Demo::start().await;
    let yaml = yaml(&demo, &crate::callers::keys::key());
    let mut gateway = Gateway::with(&yaml).await;
    let make = async |gateway: &Gateway, id: &str| {
        gateway.elida(&["key", "create", "--id", id]).await.trim().to_owned()
    };
    let (kept, gone) = (make(&gateway, "kept").await, make(&gateway, "gone").await);
    assert_eq!(status(&gateway, &gone).await.0, 200);
    gateway.elida(&["key", "revoke", "gone"]).await;
    let file = std::fs::read(gateway.data().join("state.db")).expect("the file");
    let has = |text: &str| file.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(has(&sha256(kept.as_bytes())) && !has(&kept) && !has(&gone), "digests only");
    gateway.crash_and_restart(&yaml).await;
    within("the keys", async { while status(&gateway, &kept).await.0 != 200 {} }).await;
    assert_eq!(status(&gateway, &gone).await, (401, json!("key_revoked")));
    // A reload changes nothing of them.
    gateway.rewrite(&(yaml + "models: { discovery: merged }\n"));
    gateway.hangup();
    gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(status(&gateway, &kept).await.0, 200);
    assert_eq!(status(&gateway, &gone).await.0, 401);
}
