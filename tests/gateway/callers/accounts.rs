use serde_json::json;

use crate::callers::people::{House, code, login};
use crate::support::Call;

#[tokio::test(flavor = "multi_thread")]
async fn nobody_registers_a_name_that_has_a_role() {
    let house = House::open("open").await;
    let yaml = house
        .yaml
        .replace("people: {", "roles: [{ role: admin, principals: ['user:boss@elida'] }]\n  people: {");
    house.gateway.rewrite(&yaml);
    house.gateway.hangup();
    house.gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    let register = async |name: &str| {
        house.post("", "/auth/register", &json!({"username": name, "password": "attacker-password"})).await
    };
    for name in ["boss", " Boss "] {
        assert_eq!(code(&register(name).await), (409, "user_exists".into()), "{name}");
    }
    assert_eq!(code(&house.try_log_in("boss", "attacker-password").await), (401, "login_failed".into()));
    let other = login(&register("other").await);
    assert_eq!(house.get(&other.access, "/auth/me").await.json()["roles"], json!([]));
    let password = house.admin("boss", &[]).await;
    house.log_in("boss", &password).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_is_found_in_any_form_and_place_and_never_forwarded() {
    let house = House::open("closed").await;
    let yaml = house
        .yaml
        .replace("proxy: required", "proxy: optional")
        .replace("mode: inject, api_key: sk-house", "mode: passthrough");
    house.gateway.rewrite(&yaml);
    house.gateway.hangup();
    house.gateway.log_until(|line| line["message"] == "configuration reloaded").await;
    let root = house.admin("root", &[]).await;
    let (one, other) = (house.log_in("root", &root).await.access, house.log_in("root", &root).await.access);
    let ask = async |fields: &[(&str, &str)]| {
        let call = fields.iter().fold(Call::chat("x"), |call, (name, value)| call.header(name, value));
        let answer = call.send(house.gateway.proxy()).await;
        (answer.status(), answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let with_scheme = format!("Bearer {one}");
    let provider = ("authorization", "Bearer sk-provider");
    for (name, value) in [
        ("x-api-key", with_scheme.clone()),
        ("x-api-key", format!("\"{one}\"")),
        ("x-elida-key", format!("Bearer {with_scheme}")),
    ] {
        assert_eq!(ask(&[(name, &value), provider]).await, (200, String::new()), "{name}: {value}");
    }
    let last = format!("a b c d e f g h i {one}");
    let damaged = format!("{with_scheme}x");
    for (fields, refused) in [
        (vec![("x-api-key", last.as_str()), provider], (401, "key_unknown")),
        (vec![("x-api-key", damaged.as_str()), provider], (401, "token_invalid")),
        (vec![("x-session-id", one.as_str()), provider], (400, "bad_request")),
        (vec![("x-request-id", one.as_str()), provider], (400, "bad_request")),
        (vec![("x-foo", one.as_str()), provider], (400, "bad_request")),
        (vec![("x-api-key", one.as_str()), ("x-foo", other.as_str()), provider], (400, "bad_request")),
    ] {
        let (status, code) = ask(&fields).await;
        assert_eq!((status, code.as_str()), refused, "{fields:?}");
    }
    for seen in house.demo.ledger().requests() {
        let fields = format!("{:?}", seen.headers);
        assert!(![&one, &other].iter().any(|token| fields.contains(token.as_str())), "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_made_is_answered_with_tokens_also_at_the_limit() {
    let house = House::open("open").await;
    let register = async |name: &str| {
        house
            .post("", "/auth/register", &json!({"username": name, "password": "correct horse battery"}))
            .await
    };
    let mut last = None;
    for number in 0..5 {
        last = Some(login(&register(&format!("N{number}")).await));
    }
    assert_eq!(code(&register("n5").await), (429, "too_many_attempts".into()));
    let me = house.get(&last.expect("tokens").access, "/auth/me").await;
    assert_eq!(me.json()["username"], "n4");
    // It says so if there is such an account.
    house.admin("n5", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_the_password_is_let_in_whatever_many_log_in_at_the_same_time() {
    let house = House::open("closed").await;
    let root = house.admin("root", &[]).await;
    let answers = futures::future::join_all((0..12).map(|_| house.try_log_in("root", &root))).await;
    let codes: Vec<_> = answers.iter().map(code).collect();
    assert!(codes.iter().all(|(status, _)| *status == 200), "{codes:?}");
}
