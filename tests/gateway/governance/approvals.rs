use std::time::Duration;

use serde_json::{Value, json};

use crate::callers::keys::{auth, injected, key};
use crate::fleet::shared::{self, fleet_with, store_is_up};
use crate::support::redis::Redis;
use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, within};

/// The callers: an id, and what the configuration says of it.
const PEOPLE: [(&str, &str); 5] = [
    ("agent", "tenant: acme"),
    ("soc", "tenant: acme"),
    ("lead", "tenant: acme"),
    ("rival", "tenant: other"),
    ("viewer", ""),
];

const ROLES: &str = "  roles:
    - { role: operator, principals: ['key:soc', 'key:lead', 'key:agent'] }
    - { role: operator, principals: ['key:rival'], tenant: other }
    - { role: viewer, principals: ['key:viewer'] }
";

/// A document as a held call leaves it.
fn document(id: &str, need: u8) -> Value {
    let now = jiff::Timestamp::now();
    let expires = now + jiff::SignedDuration::from_hours(1);
    json!({
        "id": format!("appr_{id}"), "revision": 1, "uid": "s_019abf3e2c9a7d10b8f4c1d2e3f40516",
        "call": {"session": {"scope": "key:agent", "id": "one"}, "principal": "key:agent", "tenant": "acme",
            "rule": "no-prod", "phase": "tool_call", "tool": "Bash", "args_sha256": format!("sha-{id}")},
        "dialect": "anthropic", "message": "Ask first", "arguments": "{\"command\":\"terraform destroy\"}",
        "asked": now, "expires": expires, "need": need,
    })
}

/// Puts documents into `state.db`, as a gateway that has ended left them.
fn leave(gateway: &Gateway, documents: &[Value]) {
    let file = rusqlite::Connection::open(gateway.data().join("state.db")).expect("state.db");
    file.execute_batch(
        "CREATE TABLE IF NOT EXISTS documents (kind TEXT NOT NULL, id TEXT NOT NULL, revision INTEGER NOT NULL,
         body TEXT NOT NULL, PRIMARY KEY (kind, id)) STRICT",
    )
    .expect("a table");
    for document in documents {
        // Members in the order of the program.
        let mut body = document.clone();
        let (id, revision) = (document["id"].as_str().expect("an id"), document["revision"].as_i64());
        let rest = body.as_object_mut().expect("an object");
        rest.remove("id");
        let rest = body.to_string();
        let body = format!("{{\"id\":\"{id}\",{}", &rest[1..]);
        let row = rusqlite::params![format!("approval:{id}"), revision, body];
        file.execute("INSERT INTO documents VALUES ('approval', ?1, ?2, ?3)", row).expect("a row");
    }
}

struct House {
    gateway: Gateway,
    keys: Vec<String>,
    yaml: String,
    _demo: Demo,
}

impl House {
    async fn with(documents: &[Value]) -> Self {
        let demo = Demo::start().await;
        let keys: Vec<String> = PEOPLE.iter().map(|_| key()).collect();
        let principals: Vec<_> =
            PEOPLE.iter().zip(&keys).map(|((id, more), key)| (*id, key.as_str(), *more)).collect();
        let yaml = format!("backend: {:?}\n{}{ROLES}", demo.url(), auth("optional", &principals));
        let mut gateway = Gateway::with(&yaml).await;
        leave(&gateway, documents);
        gateway.crash_and_restart(&yaml).await;
        Self { gateway, keys, yaml, _demo: demo }
    }

    async fn call(&self, id: &str, call: Call) -> Message {
        let at = PEOPLE.iter().position(|(known, _)| *known == id).expect("a caller");
        call.header("authorization", &format!("Bearer {}", self.keys[at])).send(self.gateway.control()).await
    }

    async fn decide(&self, by: &str, id: &str, decision: &str) -> Message {
        let body = json!({"decision": decision, "reason": "because"});
        self.call(by, Call::post(&format!("/control/approvals/appr_{id}")).json(&body)).await
    }

    async fn state(&self, id: &str) -> Value {
        self.call("soc", Call::get(&format!("/control/approvals/appr_{id}"))).await.json()["state"].clone()
    }
}

fn outcome(answer: &Message) -> (u16, Value) {
    (answer.status(), answer.json()["code"].clone())
}

fn ids(list: &Value) -> Vec<&str> {
    let all = list["approvals"].as_array().expect("a list");
    all.iter().map(|one| one["id"].as_str().expect("an id")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_answer_what_is_held_but_never_the_caller_and_answers_survive_a_crash() {
    let mut house = House::with(&[document("a", 1), document("b", 1), document("c", 2)]).await;
    let listed = house.call("soc", Call::get("/control/approvals")).await.json();
    assert_eq!(ids(&listed).len(), 3, "{listed}");
    assert_eq!(listed["approvals"][0]["arguments"], "{\"command\":\"terraform destroy\"}");
    assert_eq!(listed["approvals"][0]["state"], "pending");

    let own = house.decide("agent", "a", "approve").await;
    assert_eq!(outcome(&own), (403, json!("own_approval")), "{}", own.text());
    assert_eq!(outcome(&house.decide("viewer", "a", "approve").await), (403, json!("role_required")));
    let seen = house.call("viewer", Call::get("/control/approvals")).await;
    assert_eq!(outcome(&seen), (403, json!("role_required")), "arguments are content");
    // To an operator of another tenant there is nothing.
    assert_eq!(outcome(&house.decide("rival", "a", "approve").await), (404, json!("approval_not_found")));
    let seen = house.call("rival", Call::get("/control/approvals/appr_a")).await;
    assert_eq!(outcome(&seen), (404, json!("approval_not_found")));
    assert_eq!(ids(&house.call("rival", Call::get("/control/approvals?state=all")).await.json()), [""; 0]);
    assert_eq!(house.state("a").await, "pending");

    let approved = house.decide("soc", "a", "approve").await;
    assert_eq!((approved.status(), &approved.json()["state"]), (200, &json!("approved")));
    assert_eq!(outcome(&house.decide("lead", "a", "approve").await), (409, json!("approval_over")));
    assert_eq!(house.decide("soc", "b", "deny").await.json()["state"], "denied");
    assert_eq!(outcome(&house.decide("lead", "b", "approve").await), (409, json!("approval_over")));
    // Two are needed, and they are two.
    assert_eq!(house.decide("soc", "c", "approve").await.json()["state"], "pending");
    assert_eq!(outcome(&house.decide("soc", "c", "approve").await), (409, json!("approval_over")));
    for (body, part) in [
        (json!({}), "decision: write approve or deny"),
        (json!({"decision": "maybe"}), "maybe"),
        (json!({"decision": "approve", "reason": "x".repeat(1025)}), "reason is longer"),
    ] {
        let answer = house.call("lead", Call::post("/control/approvals/appr_c").json(&body)).await;
        assert_eq!(outcome(&answer), (400, json!("bad_request")), "{body}");
        assert!(answer.text().contains(part), "{body}: {}", answer.text());
    }

    let yaml = house.yaml.clone();
    house.gateway.crash_and_restart(&yaml).await;
    for (id, state) in [("a", "approved"), ("b", "denied"), ("c", "pending")] {
        assert_eq!(house.state(id).await, state, "{id}");
    }
    let last = house.decide("lead", "c", "approve").await.json();
    assert_eq!((&last["state"], last["decisions"].as_array().map(Vec::len)), (&json!("approved"), Some(2)));
    // Who has approved may think better of it until it is used.
    assert_eq!(house.decide("soc", "c", "deny").await.json()["state"], "denied");
    assert_eq!(outcome(&house.decide("soc", "none", "approve").await), (404, json!("approval_not_found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_is_audited_told_and_kept_in_the_history() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\n", demo.url());
    let mut gateway = Gateway::with(&yaml).await;
    leave(&gateway, &[document("a", 1), document("b", 2)]);
    gateway.crash_and_restart(&yaml).await;
    let mut feed = Call::get("/control/events").open(gateway.control()).await;
    feed.head().await.expect("a feed");
    let table = gateway.elida(&["approvals"]).await;
    for part in ["appr_a", "no-prod", "Bash", "terraform destroy", "key:agent"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let said = gateway.elida(&["approve", "appr_a", "--reason", "agreed"]).await;
    assert_eq!(said, "Bash of session one: approved\n");
    let said = gateway.elida(&["approve", "appr_b"]).await;
    assert_eq!(said, "Bash of session one: 1 of 2 operators have approved\n");
    assert_eq!(gateway.elida(&["deny", "appr_b"]).await, "Bash of session one: denied\n");
    assert_eq!(gateway.elida(&["approvals"]).await, "no such call is held\n");
    let all = gateway.elida(&["approvals", "--state", "all"]).await;
    assert!(all.contains("approved") && all.contains("denied"), "{all}");

    // The readers of the feed need not have the role operator.
    feed.until("\"decision\":\"deny\"").await;
    let told = String::from_utf8_lossy(feed.rest());
    assert_eq!(told.matches("event: approval.decided").count(), 3, "{told}");
    assert!(told.contains("\"reason\":\"agreed\"") && !told.contains("terraform"), "{told}");
    let mut operator = gateway.operator().await;
    let audit = operator.get("/control/audit?action=decideApproval").await.json();
    let lines = audit["lines"].as_array().expect("lines");
    assert_eq!(lines.len(), 3, "{audit}");
    let first = &lines[2];
    assert_eq!((&first["target"], &first["reason"]), (&json!("/control/approvals/appr_a"), &json!("agreed")));
    assert!(first["before"].is_string() && first["before"] != first["after"], "{first}");
    let events = gateway.answer_until("/control/history/events?type=approval_decided", |page| {
        page["events"].as_array().is_some_and(|events| events.len() == 3)
    });
    let events = events.await;
    assert_eq!(events["events"][2]["detail"]["decision"], "approve", "{events}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_holds_on_all_instances_and_a_wiped_redis_loses_and_revives_none() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let mut gateways = fleet_with(&demo, &redis, 2, "").await;
    let yaml = shared::yaml(&demo, &redis, "");
    leave(&gateways[0], &[document("a", 2), document("b", 1)]);
    gateways[0].crash_and_restart(&yaml).await;
    store_is_up(&gateways[0], true).await;
    let state = async |gateway: &Gateway, id: &str| {
        let mut operator = gateway.operator().await;
        operator.get(&format!("/control/approvals/appr_{id}")).await.json()["state"].clone()
    };
    let until = async |gateway: &Gateway, id: &str, wanted: &str| {
        within(&format!("{id} to be {wanted}"), async {
            while state(gateway, id).await != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    };
    until(&gateways[1], "a", "pending").await;
    let decide = async |gateway: &Gateway, id: &str, decision: &str| {
        let body = json!({"decision": decision});
        gateway.operator().await.post(&format!("/control/approvals/appr_{id}"), &body).await.json()
    };
    decide(&gateways[1], "b", "approve").await;
    until(&gateways[0], "b", "approved").await;
    redis.ask(&["FLUSHALL"]).await;
    within("the approvals in redis", async {
        while !redis.ask(&["HGETALL", "elida:approvals"]).await.contains("\"decision\":\"approve\"") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // An instance with an empty folder learns them, and what it denies is denied everywhere.
    gateways.push(Gateway::with(&yaml).await);
    store_is_up(&gateways[2], true).await;
    until(&gateways[2], "b", "approved").await;
    decide(&gateways[2], "a", "deny").await;
    for gateway in &gateways {
        until(gateway, "a", "denied").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suppression_does_not_hold_for_whoever_makes_it() {
    let demo = Demo::start().await;
    let keys: Vec<String> = PEOPLE.iter().map(|_| key()).collect();
    let principals: Vec<_> =
        PEOPLE.iter().zip(&keys).map(|((id, more), key)| (*id, key.as_str(), *more)).collect();
    let policy =
        "policy:\n  rules: [{ id: stops, on: request, when: 'request.path != \"/\"', action: block }]\n";
    let backends = injected(&[("own", &demo.url(), "")]);
    let gateway = Gateway::with(format!("{backends}{}{ROLES}{policy}", auth("optional", &principals))).await;
    let shown = |at: usize| format!("Bearer {}", keys[at]);
    let suppress = |by: usize, more: Value| {
        let mut body = json!({"rule": "stops", "until": "1h", "reason": "mine"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let call = Call::post("/control/policy/suppressions").json(&body).header("authorization", &shown(by));
        let control = gateway.control();
        async move { call.send(control).await }
    };
    let call = |at: usize| Call::chat("hello").session("s").header("authorization", &shown(at));
    let own = suppress(0, json!({"principal": "key:agent"})).await;
    assert_eq!(outcome(&own), (403, json!("own_suppression")), "{}", own.text());
    for more in [json!({}), json!({"session": "s"})] {
        let made = suppress(0, more).await;
        assert_eq!((made.status(), &made.json()["not_for"]), (201, &json!("key:agent")), "{}", made.text());
    }
    assert_eq!(call(0).send(gateway.proxy()).await.status(), 403, "its own calls stay refused");
    assert_eq!(call(1).send(gateway.proxy()).await.status(), 200, "those of others are free");
    let made = suppress(1, json!({"principal": "key:agent"})).await;
    assert_eq!(made.status(), 201, "{}", made.text());
    assert_eq!(call(0).send(gateway.proxy()).await.status(), 200);
}
