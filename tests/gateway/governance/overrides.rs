use std::time::Duration;

use serde_json::{Value, json};

use super::budgets::{accounts, chat, code, settled};
use crate::fleet::shared::{self, fleet_with, store_is_up};
use crate::support::redis::Redis;
use crate::support::wire::Message;
use crate::support::{Backend, Demo, Gateway, within};

/// A budget that does not last for a request of 2000 tokens.
const BUDGETS: &str = "budgets:\n  - { name: team, by: request.model, period: month, limit: 1000 tokens }\n";

async fn ask(gateway: &Gateway) -> Message {
    chat("one two three", 2000, false).send(gateway.proxy()).await
}

async fn is_refused(gateway: &Gateway) {
    let refusal = ask(gateway).await;
    assert_eq!((refusal.status(), code(&refusal).as_str()), (403, "budget_exceeded"), "{}", refusal.text());
}

/// Waits until a request of 2000 tokens is admitted, or until it is not.
async fn until_admitted(gateway: &Gateway, admitted: bool) {
    within(&format!("admitted: {admitted}"), async {
        loop {
            let answer = ask(gateway).await;
            let is_busy = answer.status() == 429;
            if !is_busy && (answer.status() == 200) == admitted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn raise(gateway: &Gateway, body: &Value) -> Message {
    gateway.operator().await.post("/control/budgets/team/override", body).await
}

async fn list(gateway: &Gateway) -> Vec<Value> {
    let list = gateway.operator().await.get("/control/budgets/team/override").await.json();
    list["overrides"].as_array().cloned().expect("a list")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_adds_to_the_limit_until_its_end_and_survives_a_crash() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\n{BUDGETS}", demo.url());
    let mut gateway = Gateway::with(&yaml).await;
    assert_eq!(chat("one", 100, false).send(gateway.proxy()).await.status(), 200);
    let spent = settled(&gateway).await;
    is_refused(&gateway).await;
    let words = ["budget", "override", "team", "--add", "5000tokens", "--until", "24h"];
    let id = gateway.elida(&words).await.trim().to_owned();
    let listed = accounts(&gateway).await;
    assert_eq!(
        (&listed[0]["limit"], &listed[0]["added"], &listed[0]["spent"]),
        (&json!(6000.0), &json!(5000.0), &json!(spent)),
        "{listed:?}"
    );
    gateway.crash_and_restart(&yaml).await;
    assert_eq!(ask(&gateway).await.status(), 200, "it is on disk before it is answered");
    let table = gateway.elida(&["budget", "overrides", "team"]).await;
    assert!(table.contains(&id) && table.contains("5000 tokens"), "{table}");

    let gone = gateway.elida(&["budget", "restore", "team", &id]).await;
    assert!(gone.contains("5000 tokens of team are taken back"), "{gone}");
    is_refused(&gateway).await;
    assert!(settled(&gateway).await > spent, "what was spent stays");
    gateway.crash_and_restart(&yaml).await;
    is_refused(&gateway).await;
    assert_eq!(list(&gateway).await, [] as [Value; 0]);
    let mut operator = gateway.operator().await;
    let again = operator.delete(&format!("/control/budgets/team/override/{id}")).await;
    assert_eq!((again.status(), &again.json()["code"]), (404, &json!("override_not_found")));

    // One for another account changes nothing, and one ends by itself.
    let other = json!({"add": "5000 tokens", "until": "1h", "account": "gpt-other"});
    assert_eq!(raise(&gateway, &other).await.status(), 201);
    is_refused(&gateway).await;
    let own = json!({"add": "5000 tokens", "until": "2s", "account": "gpt-demo"});
    assert_eq!(raise(&gateway, &own).await.status(), 201);
    assert_eq!(ask(&gateway).await.status(), 200);
    until_admitted(&gateway, false).await;
    let left = list(&gateway).await;
    assert_eq!((left.len(), &left[0]["account"]), (1, &json!("gpt-other")), "{left:?}");

    let audit = operator.get("/control/audit?action=removeOverride").await.json();
    let line = &audit["lines"][1];
    assert_eq!(line["target"], format!("/control/budgets/team/override/{id}"), "{audit}");
    assert!(line["before"].is_string() && line["status"] == 200, "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_override_is_refused() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!("backend: {:?}\n{BUDGETS}", demo.url())).await;
    for (body, part) in [
        (json!({"add": "100 USD", "until": "24h"}), "the budget 'team' is in tokens"),
        (json!({"add": "100 EUR", "until": "24h"}), "an amount above zero"),
        (json!({"until": "24h"}), "add: write what to add"),
        (json!({"add": "1k tokens", "until": "2020-01-01T00:00:00Z"}), "until: write a time to come"),
        (json!({"add": "1k tokens", "until": "soon"}), "until: write a time to come"),
        (json!({"add": "1k tokens"}), "until: write a time to come"),
        (json!({"add": "1k tokens", "until": "24h", "more": 1}), "more"),
    ] {
        let answer = raise(&gateway, &body).await;
        assert_eq!((answer.status(), &answer.json()["code"]), (400, &json!("bad_request")), "{body}");
        assert!(answer.text().contains(part), "{body}: {}", answer.text());
    }
    let mut operator = gateway.operator().await;
    let body = json!({"add": "1k tokens", "until": "24h"});
    let answer = operator.post("/control/budgets/nobody/override", &body).await;
    assert_eq!((answer.status(), &answer.json()["code"]), (404, &json!("budget_not_found")));
    assert_eq!(operator.get("/control/budgets/nobody/override").await.status(), 404);
    assert_eq!(list(&gateway).await, [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_holds_on_all_instances_and_a_wiped_redis_loses_and_revives_none() {
    let (demo, mut redis) = (Demo::start().await, Redis::start().await);
    let mut gateways = fleet_with(&demo, &redis, 2, BUDGETS).await;
    is_refused(&gateways[1]).await;
    let made = raise(&gateways[0], &json!({"add": "9000 tokens", "until": "1h"})).await.json();
    let id = made["id"].as_str().expect("an id").to_owned();
    until_admitted(&gateways[1], true).await;
    assert_eq!(list(&gateways[1]).await, std::slice::from_ref(&made));

    redis.ask(&["FLUSHALL"]).await;
    within("the override in redis", async {
        while !redis.ask(&["HGETALL", "elida:keys"]).await.contains(&id) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // An instance with an empty folder learns it.
    gateways.push(Gateway::with(shared::yaml(&demo, &redis, BUDGETS)).await);
    store_is_up(&gateways[2], true).await;
    until_admitted(&gateways[2], true).await;

    // An instance misses that it is taken back, and Redis forgets that.
    gateways[1].signal("STOP");
    let target = format!("/control/budgets/team/override/{id}");
    assert_eq!(gateways[0].operator().await.delete(&target).await.status(), 200);
    redis.stop();
    redis.run().await;
    store_is_up(&gateways[0], true).await;
    let yaml = shared::yaml(&demo, &redis, BUDGETS);
    gateways[1].crash_and_restart(&yaml).await;
    store_is_up(&gateways[1], true).await;
    for gateway in &gateways {
        until_admitted(gateway, false).await;
        within("no override", async {
            while !list(gateway).await.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}
