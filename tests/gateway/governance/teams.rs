//! `conf/examples/teams.yaml`, with keys and a provider.

use std::time::Duration;

use serde_json::json;

use crate::callers::keys::key;
use crate::support::{Backend, Call, Demo, Gateway, sha256, within};

use super::budgets::code;

fn ask(key: &str, model: &str) -> Call {
    let user = json!([{"role": "user", "content": "one two three"}]);
    Call::post("/v1/messages")
        .header("x-api-key", key)
        .json(&json!({"model": model, "max_tokens": 100, "messages": user}))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_teams_does_what_it_says() {
    let demo = Demo::start().await;
    let [ci, ada, soc, cfo, auditor, root] = [(); 6].map(|()| key());
    let mut yaml = include_str!("../../../conf/examples/teams.yaml").to_owned();
    for (letter, key) in
        ["a", "b", "c", "d", "e", "f"].into_iter().zip([&ci, &ada, &soc, &cfo, &auditor, &root])
    {
        yaml = yaml.replace(&letter.repeat(64), &sha256(key.as_bytes()));
    }
    let yaml = yaml.replace("https://api.anthropic.com", &demo.url());
    let yaml = yaml.replace("listen: \"127.0.0.1:8080\"\n", "").replace("data_dir: /var/lib/elida", "#");
    let house = [("ANTHROPIC_API_KEY", "sk-house".as_ref())];
    let gateway = Gateway::with_variables(&yaml, &house).await;

    let served = ask(&ci, "claude-haiku-4-5").session("build-1").send(gateway.proxy()).await;
    assert_eq!(served.status(), 200, "{}", served.text());
    assert!(
        served.head.field("ratelimit").is_some_and(|state| state.contains("\"key\"")),
        "{:?}",
        served.head
    );
    let denied = ask(&ci, "claude-opus-4-5").send(gateway.proxy()).await;
    assert_eq!((denied.status(), code(&denied).as_str()), (403, "model_denied"), "{}", denied.text());
    assert_eq!(ask(&ada, "claude-opus-4-5").send(gateway.proxy()).await.status(), 200);
    assert_eq!(demo.ledger().arrived(), 2);

    let as_role = async |key: &str, call: Call| {
        call.header("authorization", &format!("Bearer {key}")).send(gateway.control()).await
    };
    let accounts = within("nothing to be held", async {
        loop {
            let list = as_role(&cfo, Call::get("/control/budgets")).await.json();
            let accounts = list["budgets"].as_array().cloned().unwrap_or_default();
            if !accounts.is_empty() && accounts.iter().all(|account| account["held"] == 0.0) {
                return accounts;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let spent = |budget: &str| {
        accounts
            .iter()
            .filter(|one| one["budget"] == budget)
            .filter_map(|one| one["spent"].as_f64())
            .sum::<f64>()
    };
    assert!(spent("build") > 0.0 && spent("research") > spent("build"), "{accounts:?}");
    assert!((spent("tenant") - spent("build") - spent("research")).abs() < 1e-9, "{accounts:?}");

    let kill = || Call::post("/control/sessions/build-1/kill").json(&json!({"reason": "enough"}));
    assert_eq!(as_role(&cfo, kill()).await.status(), 403);
    assert_eq!(as_role(&soc, kill()).await.status(), 200);
    let made = json!({"id": "nightly", "tenant": "acme", "groups": ["build"]});
    let make = || Call::post("/control/keys").json(&made);
    assert_eq!(as_role(&soc, make()).await.status(), 403);
    assert_eq!(as_role(&root, make()).await.status(), 201);
    let audit = as_role(&auditor, Call::get("/control/audit")).await.json();
    let actions: Vec<_> =
        audit["lines"].as_array().into_iter().flatten().map(|line| &line["action"]).collect();
    assert!(actions.contains(&&json!("killSession")) && actions.contains(&&json!("createKey")), "{audit}");
    let killed = ask(&ci, "claude-haiku-4-5").session("build-1").send(gateway.proxy()).await;
    assert_eq!(code(&killed), "session_killed");
}
