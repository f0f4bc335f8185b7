use serde_json::{Value, json};

use super::budgets::{chat, prices};
use crate::callers::keys::key;
use crate::support::collector::{Collector, attributes};
use crate::support::{Backend, Call, Demo, Gateway, sha256};

/// The callers, and what the configuration says of them.
const CALLERS: [(&str, &str); 5] = [
    ("ci", "tenant: acme, groups: [build]"),
    ("lead", "tenant: acme, groups: [build, leads]"),
    ("rival", "tenant: other"),
    ("lone", ""),
    ("money", "tenant: acme"),
];

/// A gateway that knows these callers; a key for each.
struct House {
    gateway: Gateway,
    yaml: String,
    keys: Vec<String>,
    _demo: Demo,
    _prices: tempfile::NamedTempFile,
}

impl House {
    async fn open(more: &str) -> Self {
        let (demo, prices) = (Demo::start().await, prices());
        let keys: Vec<String> = CALLERS.iter().map(|_| key()).collect();
        let mut yaml = String::from("auth:\n  proxy: required\n  principals:\n");
        for ((id, more), key) in CALLERS.iter().zip(&keys) {
            yaml += &format!("    - {{ id: {id}, key_sha256: '{}', {more} }}\n", sha256(key.as_bytes()));
        }
        yaml += &format!(
            "backends:\n  demo: {{ url: {:?}, type: openai, default: true, auth: {{ mode: inject, api_key: sk-house }} }}\n\
             usage: {{ prices_file: {:?}, max_tenants: 1 }}\n{more}\n",
            demo.url(),
            prices.path().display(),
        );
        let gateway = Gateway::with(&yaml).await;
        Self { gateway, yaml, keys, _demo: demo, _prices: prices }
    }

    fn key(&self, id: &str) -> &str {
        let at = CALLERS.iter().position(|(known, _)| *known == id).expect("a caller");
        &self.keys[at]
    }

    async fn ask(&self, id: &str, call: Call) {
        let call = call.header("x-api-key", self.key(id)).session(&format!("of-{id}"));
        let answer = call.send(self.gateway.proxy()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
}

/// The lines of a report: the name and the number of requests of each.
fn lines(report: &Value) -> Vec<(Value, u64)> {
    let lines = report["usage"].as_array().expect("lines").iter();
    let mut lines: Vec<_> =
        lines.map(|line| (line["name"].clone(), line["requests"].as_u64().expect("a number"))).collect();
    lines.sort_by_key(|(name, _)| name.to_string());
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_told_by_tenant_and_group() {
    let mut house = House::open("").await;
    for (id, times) in [("ci", 3), ("lead", 2), ("rival", 4), ("lone", 1)] {
        for _ in 0..times {
            house.ask(id, chat("one two", 50, false)).await;
        }
    }
    let view = house.gateway.session_until("of-lead", |_| true).await;
    let of_caller = json!({"id": "key:lead", "via": "key", "tenant": "acme", "groups": ["build", "leads"]});
    assert_eq!(view["principal"], of_caller, "{view}");
    for id in ["ci", "lead", "rival", "lone"] {
        assert_eq!(house.gateway.kill(&format!("of-{id}")).await.status, 200);
    }
    let all = |page: &Value| page["records"].as_array().is_some_and(|records| records.len() == 4);
    house.gateway.answer_until("/control/history", all).await;
    let mut operator = house.gateway.operator().await;
    let mut report = async |query: &str| {
        let answer = operator.get(&format!("/control/usage?{query}")).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        lines(&answer.json())
    };
    let by_tenant = [(json!("acme"), 5), (json!("other"), 4), (Value::Null, 1)];
    assert_eq!(report("by=tenant").await, by_tenant);
    let by_group = [(json!("build"), 5), (json!("leads"), 2), (Value::Null, 5)];
    assert_eq!(report("by=group").await, by_group, "who is in two groups is counted in both");
    assert_eq!(report("by=principal&group=leads").await, [(json!("key:lead"), 2)]);
    assert_eq!(report("by=model&tenant=acme").await, [(json!("gpt-demo"), 5)]);
    let table = house.gateway.elida(&["usage", "--by", "tenant", "--from", "1h"]).await;
    assert!(table.contains("acme") && table.contains("other") && table.contains("USD"), "{table}");

    let records = operator.get("/control/history?group=leads").await.json();
    let record = &records["records"][0];
    assert_eq!((&record["tenant"], &record["groups"]), (&json!("acme"), &json!(["build", "leads"])));

    // One tenant has series of its own, as configured; the other one is counted without its name.
    let requests = async |tenant: &str| {
        house.gateway.metric(&format!("elida_tenant_requests_total{{tenant={tenant:?}}}")).await
    };
    assert_eq!((requests("acme").await, requests("other").await), (5.0, 4.0));
    let metrics = house.gateway.metrics().await;
    assert!(metrics.contains(r#"elida_tenant_tokens_total{tenant="acme",type="input"}"#), "{metrics}");
    let cost = house.gateway.metric(r#"elida_tenant_cost_usd_total{tenant="acme"}"#).await;
    let told = operator.get("/control/usage?by=tenant&tenant=acme").await.json();
    assert!((told["usage"][0]["cost_usd"].as_f64().expect("a cost") - cost).abs() < 1e-12, "{told} {cost}");

    // A role of one tenant sees the numbers of this tenant only.
    let roles = "  roles: [{ role: finops, principals: ['key:money'], tenant: acme }]\nbackends:";
    let yaml = house.yaml.replacen("backends:", roles, 1);
    house.gateway.crash_and_restart(&yaml).await;
    let own = async |query: &str| {
        let call = Call::get(&format!("/control/usage?{query}"));
        let call = call.header("authorization", &format!("Bearer {}", house.key("money")));
        lines(&call.send(house.gateway.control()).await.json())
    };
    assert_eq!(own("by=tenant").await, [(json!("acme"), 5)]);
    assert_eq!(own("by=principal&tenant=other").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimate_is_marked_in_records_and_requests() {
    let house = House::open(
        "history: { legs: all }\nbudgets:\n  - { name: t, by: principal.id, period: month, limit: 1M tokens }",
    )
    .await;
    house.ask("ci", chat("one two three", 50, false)).await;
    // A stream without token counts.
    let user = json!([{"role": "user", "content": "one two three four five six seven"}]);
    let uncounted = Call::post("/v1/chat/completions")
        .json(&json!({"model": "gpt-demo", "max_tokens": 50, "messages": user, "stream": true}));
    house.ask("ci", uncounted).await;
    let ended = |session: &Value| session["open_legs"] == 0 && session["request_count"] == 2;
    let session = house.gateway.session_until("of-ci", ended).await;
    assert_eq!(session["usage"]["estimated_answers"], 1, "{session}");
    assert_eq!(house.gateway.kill("of-ci").await.status, 200);
    let some = |page: &Value| page["records"].as_array().is_some_and(|records| !records.is_empty());
    let page = house.gateway.answer_until("/control/history", some).await;
    let usage = &page["records"][0]["usage"];
    assert_eq!(usage["estimated_answers"], 1, "{page}");
    let spent = super::budgets::settled(&house.gateway).await;
    let told = usage["input_tokens"].as_u64().zip(usage["output_tokens"].as_u64()).map(|(a, b)| a + b);
    assert_eq!(told.map(|told| told as f64), Some(spent), "the record agrees with the budget: {page}");
    let both = |page: &Value| page["requests"].as_array().is_some_and(|requests| requests.len() == 2);
    let requests = house.gateway.answer_until("/control/records/of-ci/requests", both).await;
    assert_eq!(requests["requests"][0]["usage"]["estimated_answers"], Value::Null, "{requests}");
    assert_eq!(requests["requests"][1]["usage"]["estimated_answers"], 1, "{requests}");
    let report = house.gateway.operator().await.get("/control/usage").await.json();
    assert_eq!(report["usage"][0]["estimated_answers"], 1, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_name_tenant_and_groups() {
    let collector = Collector::grpc().await;
    let telemetry = format!(
        "telemetry: {{ enabled: true, endpoint: {:?} }}\nbudgets:\n  - {{ name: t, by: principal.id, period: day, limit: 1M tokens }}",
        collector.address().to_string()
    );
    let house = House::open(&telemetry).await;
    house.ask("lead", chat("one two", 50, true).header("x-request-id", "r-1")).await;
    house.ask("lone", chat("one two", 50, false).header("x-request-id", "r-2")).await;
    assert_eq!(house.gateway.kill("of-lead").await.status, 200);
    let session = collector
        .span("the session", |span, of| span.name == "session" && of["session.id"] == "of-lead")
        .await;
    let of = attributes(&session.attributes);
    assert_eq!(
        (&of["elida.session.tenant"], &of["elida.session.groups"]),
        (&json!("acme"), &json!(["build", "leads"]))
    );
    let request = collector.span("the request", |_, of| of["elida.request_id"] == "r-1").await;
    let of = attributes(&request.attributes);
    assert_eq!((&of["elida.tenant"], &of["elida.groups"]), (&json!("acme"), &json!(["build", "leads"])));
    assert_eq!(of["elida.usage.estimated"], Value::Null, "the provider has counted: {of}");
    let request = collector.span("the request", |_, of| of["elida.request_id"] == "r-2").await;
    let of = attributes(&request.attributes);
    assert_eq!((&of["elida.tenant"], &of["elida.groups"]), (&Value::Null, &Value::Null), "{of}");
}
