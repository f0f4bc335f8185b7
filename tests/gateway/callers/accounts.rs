use serde_json::json;

use crate::callers::people::{House, code, login};

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
