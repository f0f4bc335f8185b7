//! What rules may ask of the caller: its labels, and what its budgets have left.

use serde_json::json;

use super::rules::ruled;
use crate::callers::keys::{auth, injected, key, with_key};
use crate::governance::budgets::{chat, prices, settled};
use crate::support::{Backend, Call, Demo, Gateway};

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_keys_are_known_to_rules_and_records_show_them() {
    let demo = Demo::start().await;
    let (web, other) = (key(), key());
    let keys =
        auth("required", &[("a", &web, "labels: { team: web, cost-center: '42' }"), ("b", &other, "")]);
    let policy = r#"policy:
  rules:
    - { id: no-web, on: connect, when: 'principal.labels.team == "web" && request.method == "GET"', action: block }
    - { id: no-center, on: request, when: '"cost-center" in principal.labels && principal.labels["cost-center"] == "42"', action: block }
    - { id: named, on: request, when: '!has(principal.labels.team) && request.path == "/v1/messages"', action: block }
"#;
    let gateway = Gateway::with(keys + &injected(&[("main", &demo.url(), "")]) + policy).await;
    let rule = |answer: crate::support::wire::Message| {
        let text = answer.text();
        ["no-web", "no-center", "named"].into_iter().find(|rule| text.contains(rule)).map(str::to_owned)
    };
    let ask = async |key: &str, call: Call| rule(with_key(call, key).send(gateway.proxy()).await);
    assert_eq!(ask(&web, Call::get("/v1/models")).await.as_deref(), Some("no-web"));
    assert_eq!(ask(&other, Call::get("/v1/models")).await, None);
    assert_eq!(ask(&web, Call::chat("hi").session("s")).await.as_deref(), Some("no-center"));
    assert_eq!(ask(&other, Call::chat("hi")).await, None);
    assert_eq!(ask(&other, Call::messages_stream("hi")).await.as_deref(), Some("named"));
    let view = gateway.operator().await.get("/control/sessions/s").await.json();
    assert_eq!(view["principal"]["labels"], json!({"team": "web", "cost-center": "42"}), "{view}");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_keys_that_the_api_makes_are_known_too() {
    let demo = Demo::start().await;
    let yaml = format!(
        "auth: {{ proxy: required }}\n{}policy:\n  rules: [{{ id: web, on: request, when: 'principal.labels.team == \"web\"', action: block }}]\n",
        injected(&[("main", &demo.url(), "")])
    );
    let gateway = Gateway::with(yaml).await;
    let key = gateway.elida(&["key", "create", "--id", "w", "--label", "team=web"]).await;
    let answer = with_key(Call::chat("hi"), key.trim()).send(gateway.proxy()).await;
    assert_eq!(answer.status(), 403, "{}", answer.text());
    let listed = gateway.operator().await.get("/control/keys").await.json();
    assert_eq!(listed["keys"][0]["labels"], json!({"team": "web"}), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_know_what_is_left_of_the_budgets_of_a_request() {
    let (demo, prices) = (Demo::start().await, prices());
    let gateway = Gateway::with(format!(
        r#"backend: {:?}
usage: {{ prices_file: {:?} }}
budgets:
  - {{ name: tokens, by: request.model, period: month, limit: 1000 tokens }}
  - {{ name: money, by: '"all"', when: 'request.headers["x-paid"] == "yes"', period: month, limit: 1 USD }}
policy:
  rules:
    - {{ id: low, on: request, when: 'budget.left_ratio < 1.0', action: block, message: "the budget is low" }}
    - {{ id: rich, on: request, when: 'has(budget.left_usd) && budget.left_usd > 0.9 && budget.left_usd <= 1.0', action: block }}
"#,
        demo.url(),
        prices.path().display().to_string()
    ))
    .await;
    let first = chat("one two three", 100, false).send(gateway.proxy()).await;
    assert_eq!(first.status(), 200, "{}", first.text());
    assert!(settled(&gateway).await > 0.0);
    let second = chat("one two three", 100, false).send(gateway.proxy()).await;
    assert!(second.status() == 403 && second.text().contains("the budget is low"), "{}", second.text());
    let paid = chat("four", 100, false)
        .session("paid")
        .header("x-paid", "yes")
        .header("content-type", "application/json");
    let refused = paid.send(gateway.proxy()).await;
    assert_eq!(refused.status(), 403, "{}", refused.text());
    let flags = gateway.operator().await.get("/control/flags?rule=rich").await.json();
    assert_eq!(flags["flags"].as_array().map(Vec::len), Some(1), "{flags}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_budgets_nothing_is_left_or_missing() {
    let demo = Demo::start().await;
    let rule = "  rules: [{ id: low, on: request, when: 'budget.left_ratio < 0.5 || budget.left_usd < 5.0', action: block }]";
    let gateway = ruled(&demo, rule).await;
    let answer = Call::chat("hi").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}
